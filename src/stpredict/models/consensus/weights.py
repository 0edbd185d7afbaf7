"""How much each of several predictions counts: least squares on held-out spots, without negative weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EQUAL_SPOTS = 30
"""How strongly weights are drawn to equal ones: as by so many held-out spots at which all parts are equally good."""

FEW = 20
"""Sections with fewer held-out spots than this are not looked at."""


def learn_weights(predicted: Sequence[np.ndarray], measured: np.ndarray, section: np.ndarray) -> np.ndarray:
    """float32 (parts,), the weights of several predictions, which sum to 1.

    Within each section, every gene of all predictions and of what was measured is standardised. The weights minimise the
    squared error of the weighted sum, a mean over genes and sections, plus their squared distance to equal weights times
    `EQUAL_SPOTS` over the number of spots; none is negative. Genes with missing values, or that do not vary, are left out.

    Parameters
    ----------
    predicted
        (n, genes), for the same spots, of every part.
    measured
        (n, genes), log1p CP10k.
    section
        (n,), number of the section of each spot.
    """
    from scipy.optimize import nnls

    n_parts = len(predicted)
    equal = np.full(n_parts, 1 / n_parts)
    with_measured, among, n_spots = [], [], 0
    for values, target in _standardised(predicted, measured, section):
        with_measured.append((values * target).mean(axis=(1, 2)))
        n_spots += len(target)
        among.append(np.einsum("ing,jng->ij", values, values) / target.size)
    if not among:
        return equal.astype(np.float32)
    own, shared = np.mean(with_measured, axis=0), np.mean(among, axis=0)
    drawn_to = max(own @ equal / (equal @ shared @ equal), 0.0) * equal  # equal weights, in the size that fits best
    pull = EQUAL_SPOTS / n_spots
    root = np.linalg.cholesky(shared + pull * np.eye(n_parts))
    weights, _ = nnls(root.T, np.linalg.solve(root, own + pull * drawn_to))
    total = weights.sum()
    return (weights / total if total > 0 else equal).astype(np.float32)


def _standardised(
    predicted: Sequence[np.ndarray], measured: np.ndarray, section: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of every section with spots enough: predictions (parts, n, genes) and measured expression (n, genes)."""
    for number in np.unique(section):
        rows = section == number
        if rows.sum() < FEW:
            continue
        values = np.stack([*(part[rows] for part in predicted), measured[rows]]).astype(np.float64)
        values -= values.mean(axis=1, keepdims=True)
        sd = values.std(axis=1, keepdims=True)
        usable = (sd > 1e-6).all(axis=(0, 1))  # (False where there is NaN)
        if usable.any():
            values = values[..., usable] / sd[..., usable]
            yield values[:-1], values[-1]


def level_and_spread(predicted: np.ndarray, section: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (genes,) each: mean of a prediction over spots, and its standard deviation within sections."""
    variances = [predicted[section == number].var(axis=0, dtype=np.float64) for number in np.unique(section)]
    return predicted.mean(axis=0), np.sqrt(np.mean(variances, axis=0)).astype(np.float32)
