"""Figures: tiles, expression, measured against predicted, tumour maps and scores."""

from __future__ import annotations

from stpredict.pl._compare import compare
from stpredict.pl._expression import expression
from stpredict.pl._retrieval import retrieval
from stpredict.pl._scores import scores
from stpredict.pl._tiles import tiles
from stpredict.pl._tumor import tumor

__all__ = ["compare", "expression", "retrieval", "scores", "tiles", "tumor"]
