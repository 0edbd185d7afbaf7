"""Sections to try things on: simulated ones, and named real ones."""

from __future__ import annotations

from stpredict._core.offered import offers
from stpredict._genes.facts import gene_facts
from stpredict._genes.markers import marker_sets
from stpredict._genes.symbols import genes
from stpredict.datasets._real import (
    available,
    her2st,
    her2st_counts_only,
    her2st_midres,
    mob,
    mob_stutility,
    mouse_colon,
)
from stpredict.datasets._simulate import simulate

__all__ = [
    "available",
    "gene_facts",
    "genes",
    "her2st",
    "her2st_counts_only",
    "her2st_midres",
    "marker_sets",
    "mob",
    "mob_stutility",
    "mouse_colon",
    "simulate",
]

__getattr__, __dir__ = offers(__name__, __all__)
