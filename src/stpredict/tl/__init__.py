"""Train, predict, evaluate and localise."""

from __future__ import annotations

from stpredict.tl._tumor import localize_tumor

__all__ = ["localize_tumor"]
