"""Simple models that every other one is compared with."""
