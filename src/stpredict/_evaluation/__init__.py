"""Metrics, noise ceiling and splits."""
