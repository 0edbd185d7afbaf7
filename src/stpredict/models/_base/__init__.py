"""The contract of a model, its storage, and what kinds of models share."""
