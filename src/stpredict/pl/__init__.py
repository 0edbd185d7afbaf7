"""Figures: tiles, expression, measured against predicted, tumour maps and scores."""

from __future__ import annotations

from stpredict._core.offered import offers
from stpredict.pl._attention import attention
from stpredict.pl._browse import browse
from stpredict.pl._calibration import calibration
from stpredict.pl._compare import compare
from stpredict.pl._domains import domains
from stpredict.pl._embedding import embedding
from stpredict.pl._expression import expression
from stpredict.pl._gene_correlation import gene_correlation
from stpredict.pl._gene_graph import gene_graph
from stpredict.pl._gene_neighbors import gene_neighbors
from stpredict.pl._history import history
from stpredict.pl._learning_curve import learning_curve
from stpredict.pl._niches import niches
from stpredict.pl._nuclei import nuclei
from stpredict.pl._retrieval import retrieval
from stpredict.pl._scores import scores
from stpredict.pl._tiles import tiles
from stpredict.pl._trust import trust
from stpredict.pl._tumor import tumor
from stpredict.pl._vitessce import vitessce

__all__ = [
    "attention",
    "browse",
    "calibration",
    "compare",
    "domains",
    "embedding",
    "expression",
    "gene_correlation",
    "gene_graph",
    "gene_neighbors",
    "history",
    "learning_curve",
    "niches",
    "nuclei",
    "retrieval",
    "scores",
    "tiles",
    "trust",
    "tumor",
    "vitessce",
]

__getattr__, __dir__ = offers(__name__, __all__)
