"""Encoders: from windows of a slide to features."""
