"""How well predicted expression agrees with measured expression, per gene and per section.

All functions take measured and predicted values of the same spots and genes, (spots, genes), in the same units. A
correlation that is undefined, because one side is constant or not finite, is 0 and is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

_ROWS = 512


def pearson(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, int]:
    """Pearson correlation of every gene over spots, and of how many genes it is undefined (and set to 0)."""
    a, b = unit_columns(measured), unit_columns(predicted)
    defined = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    both = np.einsum("ng,ng->g", np.where(defined, a, 0), np.where(defined, b, 0))
    return np.clip(both, -1, 1), int((~defined).sum())


def pearson_given_depth(measured: np.ndarray, predicted: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Pearson correlation of every gene over spots, given how many counts these have: what depth does not explain.

    The log total count of the spots and its square are regressed out of both sides, and what is left is correlated: 0
    for a prediction that follows from depth alone. NaN below five spots, which leave fewer than two free.

    Parameters
    ----------
    measured, predicted
        (spots, genes).
    totals
        Total count of every spot, (spots,).
    """
    if len(totals) < 5:
        return np.full(measured.shape[1], np.nan)
    depth = np.log1p(np.asarray(totals, dtype=np.float64))
    depth = depth - depth.mean()
    axes, lengths, _ = np.linalg.svd(np.column_stack([np.ones(len(depth)), depth, depth**2]), full_matrices=False)
    axes = axes[:, lengths > 1e-9 * lengths[0]]
    return pearson(*(_without(np.asarray(values, dtype=np.float64), axes) for values in (measured, predicted)))[0]


def _without(values: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Columns without what orthonormal `axes` explain; NaN for those of which nothing but rounding is left."""
    with np.errstate(invalid="ignore"):
        left = values - axes @ (axes.T @ values)
        explained = np.linalg.norm(left, axis=0) <= 1e-6 * np.linalg.norm(values, axis=0)
    return np.where(explained, np.nan, left)


def spearman(measured: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, int]:
    """Spearman correlation of every gene over spots, and of how many genes it is undefined (and set to 0)."""
    from scipy.stats import rankdata

    finite = np.isfinite(measured).all(axis=0) & np.isfinite(predicted).all(axis=0)
    ranked = [rankdata(np.where(finite, values, 0), axis=0) for values in (measured, predicted)]
    return pearson(*ranked)


def mse(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean squared error of every gene; NaN where the prediction is."""
    return np.square(np.asarray(predicted, dtype=np.float64) - measured).mean(axis=0)


def sd_ratio(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Standard deviation of the prediction over that of the measurement: below 1 where contrast is lost.

    NaN where the measurement is constant or the prediction is not finite.
    """
    spread = measured.std(axis=0, dtype=np.float64)
    ratio = predicted.std(axis=0, dtype=np.float64) / np.where(spread > 0, spread, 1)
    return np.where(spread > 0, ratio, np.nan)


def gene_structure(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Correlation between the two gene–gene correlation matrices, over pairs of genes; NaN below three genes.

    Genes for which either side is constant or not finite are left out.
    """
    a, b = unit_columns(measured), unit_columns(predicted)
    defined = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    a, b = a[:, defined], b[:, defined]
    g = a.shape[1]
    if g < 3:
        return np.nan
    sums = _over_pairs(a, b) if g < len(a) else _over_pairs_by_spots(a, b)
    n = g * (g - 1) / 2
    sx, sy, sxx, syy, sxy = sums
    power = (sxx - sx**2 / n) * (syy - sy**2 / n)
    return float((sxy - sx * sy / n) / np.sqrt(power)) if power > 0 else np.nan


def _over_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums over pairs of columns of their products x in `a`, y in `b`, and of x², y² and xy."""
    g = a.shape[1]
    sums = np.zeros(5)
    for start in range(0, g, _ROWS):
        rows = slice(start, start + _ROWS)
        above = np.arange(g)[None] > np.arange(g)[rows, None]
        x, y = (a[:, rows].T @ a)[above], (b[:, rows].T @ b)[above]
        sums += [x.sum(), y.sum(), x @ x, y @ y, x @ y]
    return sums


def _over_pairs_by_spots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same where columns are more than rows, from products of rows: the cost does not grow with pairs of columns.

    The sum of squared products of columns is that of rows: ‖aᵀa‖ = ‖aaᵀ‖, and the sum of x y is ‖abᵀ‖².
    """
    own = [np.square(one).sum(axis=0) for one in (a, b)]
    whole = [np.square(one.sum(axis=1)).sum() for one in (a, b)]
    whole += [np.square(left @ right.T).sum() for left, right in ((a, a), (b, b), (a, b))]
    diagonal = [own[0].sum(), own[1].sum(), own[0] @ own[0], own[1] @ own[1], own[0] @ own[1]]
    return (np.array(whole) - diagonal) / 2


def morans_i(values: np.ndarray, adjacency: sparse.csr_matrix) -> np.ndarray:
    """Moran's I of every column of `values` (spots, genes) on a spot graph; NaN for constant columns.

    References
    ----------
    Moran, Notes on continuous stochastic phenomena. Biometrika 37, 17–23 (1950).
    """
    centred = values - values.mean(axis=0, dtype=np.float64)
    power = np.square(centred).sum(axis=0)
    total = adjacency.sum()
    safe = np.where(power > 0, power, 1) * (total if total > 0 else 1)
    moran = len(values) * (centred * (adjacency @ centred)).sum(axis=0) / safe
    return np.where((power > 0) & (total > 0), moran, np.nan)


def spatial_structure(measured: np.ndarray, predicted: np.ndarray, adjacency: sparse.csr_matrix) -> float:
    """Correlation over genes between Moran's I of the measurement and of the prediction; NaN below three genes."""
    both = np.column_stack([morans_i(measured, adjacency), morans_i(predicted, adjacency)])
    both = both[np.isfinite(both).all(axis=1)]
    if len(both) < 3:
        return np.nan
    correlation, undefined = pearson(both[:, :1], both[:, 1:])
    return np.nan if undefined else float(correlation[0])


def coverage(
    measured: np.ndarray, predicted: np.ndarray, std: np.ndarray, nominal: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Fraction of spots inside the central interval of each `nominal` probability, (nominal, genes).

    Intervals are those of a normal distribution about the prediction. Spots where the prediction or its `std` is not
    finite do not count; a gene without any other is NaN.
    """
    from scipy.stats import norm

    away = np.abs(measured - predicted) / np.maximum(std, np.finfo(np.float32).tiny)
    known = np.isfinite(away)
    reach = norm.ppf(0.5 + np.asarray(nominal, dtype=np.float64) / 2)
    inside = np.stack([(known & (away <= r)).sum(axis=0) for r in reach])
    return np.where(known.any(axis=0), inside / np.maximum(known.sum(axis=0), 1), np.nan)


def interval_width(std: np.ndarray, nominal: float) -> np.ndarray:
    """Mean width over spots of the central interval of probability `nominal`, (genes,); NaN where `std` is."""
    from scipy.stats import norm

    return 2 * norm.ppf(0.5 + nominal / 2) * np.asarray(std, dtype=np.float64).mean(axis=0)


def unit_columns(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and length 1; NaN for those that are constant up to rounding, or not finite."""
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        mean = values.mean(axis=0)
        centred = values - mean
        length = np.sqrt(np.square(centred).sum(axis=0))
        constant = length <= 1e-6 * np.sqrt(len(values)) * np.abs(mean) + 1e-12
        return centred / np.where(constant, np.nan, length)
