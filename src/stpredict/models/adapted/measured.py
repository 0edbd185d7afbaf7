"""What was measured at the spots that a model is adapted on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stpredict._sections.section import Section

LEAST_SPOTS = 2
"""Fewer measured spots teach nothing."""


def well_measured(section: Section, mask: np.ndarray, min_counts: int) -> np.ndarray:
    """Row numbers of the spots in `mask` with at least `min_counts` counts; those of others are not looked at."""
    rows = np.flatnonzero(mask)
    if not len(rows):
        return rows
    totals = section.part(rows).totals()
    return rows[totals >= max(min_counts, 1)]


def measured_expression(
    sections: Sequence[Section], rows: Sequence[np.ndarray], called: Sequence[Mapping[str, str]], genes: Sequence[str]
) -> np.ndarray:
    """float32 (spots, genes): log1p CP10k at the `rows` of each section, which may have names of its own for `genes`."""
    return np.concatenate(
        [
            section.part(own).log_expression([theirs[gene] for gene in genes])
            for section, own, theirs in zip(sections, rows, called, strict=True)
        ]
    )
