"""Prediction of many slides."""
