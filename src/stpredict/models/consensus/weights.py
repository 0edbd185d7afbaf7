"""How much each of several predictions counts: least squares on held-out spots, without negative weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._evaluation.metrics import pearson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EQUAL_SPOTS = 30
"""How strongly weights are drawn to equal ones: as by so many held-out spots at which all parts are equally good."""

FEW = 20
"""Sections with fewer held-out spots than this are not looked at."""

LEAST_SPREAD = 1e-4
"""Standard deviation, in log1p CP10k, below which a prediction is taken for constant."""

MOST_APART = 3.0
"""How many times larger or smaller the spread of a part may be than the mean of all."""


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


def levels_and_spreads(predicted: Sequence[np.ndarray], section: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (parts, genes) each: mean of every prediction over spots, and its standard deviation within sections.

    Spots count for a gene where all parts predict it, in sections with at least `FEW` of them. Spreads of a gene are no more than
    `MOST_APART` times larger or smaller than their mean. Where so little is known of a gene, or a part predicts it as constant,
    levels are 0 and spreads 1 for all parts: their predictions are then added as they are.
    """
    values = np.stack(predicted).astype(np.float64)
    known = np.asarray(np.isfinite(values).all(axis=0))
    levels, variances = np.zeros((2, *values[:, 0].shape))
    n_spots, n_sections = np.zeros((2, values.shape[2]))
    for number in np.unique(section):
        own, there = values[:, section == number], known[section == number]
        enough = there.sum(axis=0) >= FEW
        own, there = own[..., enough], there[:, enough]
        levels[:, enough] += own.sum(axis=1, where=there)
        variances[:, enough] += own.var(axis=1, where=there)
        n_spots[enough] += there.sum(axis=0)
        n_sections += enough
    with np.errstate(invalid="ignore"):  # (0 / 0)
        levels, spreads = levels / n_spots, np.sqrt(variances / n_sections)
    usable = (spreads > LEAST_SPREAD).all(axis=0)
    usual = spreads.mean(axis=0)
    spreads = np.clip(spreads, usual / MOST_APART, usual * MOST_APART)
    return np.where(usable, levels, 0).astype(np.float32), np.where(usable, spreads, 1).astype(np.float32)


def added(predicted: Sequence[np.ndarray], weights: np.ndarray, scales: Mapping[str, np.ndarray]) -> np.ndarray:
    """float32 (spots, genes): weighted sum of predictions, each brought to the mean level and spread of all.

    `scales` has the ``levels`` and ``spreads`` (parts, genes) of them.
    """
    level, spread = weights @ scales["levels"], weights @ scales["spreads"]
    out = np.repeat(level[None].astype(np.float32), len(predicted[0]), axis=0)
    for values, weight, own_level, own in zip(predicted, weights, scales["levels"], scales["spreads"], strict=True):
        out += (values - own_level) * (weight * spread / own).astype(np.float32)
    return out


def mean_pcc(predicted: np.ndarray, measured: np.ndarray, section: np.ndarray) -> float:
    """Mean PCC over genes within sections, of genes that are known in all of a section's spots."""
    scores = []
    for number in np.unique(section):
        rows = section == number
        known = np.isfinite(predicted[rows] + measured[rows]).all(axis=0)
        if known.any():
            scores.append(pearson(measured[rows][:, known], predicted[rows][:, known])[0].mean())
    return float(np.mean(scores)) if scores else np.nan
