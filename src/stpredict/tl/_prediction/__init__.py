"""Writing predictions to where they belong."""
