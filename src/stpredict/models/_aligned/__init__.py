"""What models share that bring images and expression into one space: options, inputs, training and the contract."""

from __future__ import annotations
