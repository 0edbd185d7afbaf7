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
    both = np.einsum("ng,ng->g", unit_columns(measured), unit_columns(predicted))
    return np.clip(np.nan_to_num(both), -1, 1), int(np.isnan(both).sum())


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
    from scipy.linalg import orth

    if len(totals) < 5:
        return np.full(measured.shape[1], np.nan)
    axes = orth(np.vander(np.log1p(np.asarray(totals, dtype=np.float64)), 3), rcond=1e-9)
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

    finite = (np.where(np.isfinite(values), values, np.nan) for values in (measured, predicted))
    return pearson(*(rankdata(values, axis=0) for values in finite))


def mse(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean squared error of every gene; NaN where the prediction is."""
    return np.square(np.asarray(predicted, dtype=np.float64) - measured).mean(axis=0)


def sd_ratio(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Standard deviation of the prediction over that of the measurement: below 1 where contrast is lost.

    NaN where the measurement is constant or the prediction is not finite.
    """
    spread = measured.std(axis=0, dtype=np.float64)
    return predicted.std(axis=0, dtype=np.float64) / np.where(spread > 0, spread, np.nan)


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

    Columns have length 1, so that each adds 1 to every sum. The sum of squared products of columns is that of rows: ‖aᵀa‖ = ‖aaᵀ‖, and the sum of x y is ‖abᵀ‖².
    """
    whole = [np.square(one.sum(axis=1)).sum() for one in (a, b)]
    whole += [np.square(left @ right.T).sum() for left, right in ((a, a), (b, b), (a, b))]
    return (np.array(whole) - a.shape[1]) / 2


def morans_i(values: np.ndarray, adjacency: sparse.csr_matrix) -> np.ndarray:
    """Moran's I of every column of `values` (spots, genes) on a spot graph; NaN for constant columns, and without edges.

    References
    ----------
    Moran, Notes on continuous stochastic phenomena. Biometrika 37, 17–23 (1950).
    """
    centred = values - values.mean(axis=0, dtype=np.float64)
    power = np.square(centred).sum(axis=0)
    with np.errstate(invalid="ignore"):  # (0 / 0)
        return len(values) * (centred * (adjacency @ centred)).sum(axis=0) / (power * adjacency.sum())


def spatial_structure(measured: np.ndarray, predicted: np.ndarray, adjacency: sparse.csr_matrix) -> float:
    """Correlation over genes between Moran's I of the measurement and of the prediction; NaN below three genes."""
    a, b = morans_i(measured, adjacency), morans_i(predicted, adjacency)
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3:
        return np.nan
    (correlation,), undefined = pearson(a[known, None], b[known, None])
    return np.nan if undefined else float(correlation)


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
    _, reach = norm.interval(nominal)
    inside = np.stack([(known & (away <= r)).sum(axis=0) for r in reach])
    with np.errstate(invalid="ignore"):  # (0 / 0)
        return inside / known.sum(axis=0)


def interval_width(std: np.ndarray, nominal: float) -> np.ndarray:
    """Mean width over spots of the central interval of probability `nominal`, (genes,); NaN where `std` is."""
    from scipy.stats import norm

    low, high = norm.interval(nominal)
    return (high - low) * np.asarray(std, dtype=np.float64).mean(axis=0)


def unit_columns(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and length 1; NaN for those that are constant up to rounding, or not finite."""
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        mean = values.mean(axis=0)
        centred = values - mean
        length = np.sqrt(np.square(centred).sum(axis=0))
        constant = length <= 1e-6 * np.sqrt(len(values)) * np.abs(mean) + 1e-12
        return centred / np.where(constant, np.nan, length)
