"""What sections and cells without images tell about genes."""
