"""Nuclei of an H&E image."""
