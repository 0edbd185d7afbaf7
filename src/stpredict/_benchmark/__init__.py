"""What cross-validation is made of."""
