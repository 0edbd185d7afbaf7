"""Sections of a slide, whichever container they live in."""
