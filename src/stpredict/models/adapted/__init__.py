"""A trained model, corrected by a few measured spots."""
