"""Gene symbols, what is known about genes, and marker sets."""
