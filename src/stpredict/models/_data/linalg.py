"""Linear algebra that several models share."""

from __future__ import annotations

import numpy as np

_ROWS = 8192


def cross(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``left.T @ right`` in float64, without a float64 copy of either."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), _ROWS):
        rows = slice(start, start + _ROWS)
        total += left[rows].astype(np.float64).T @ right[rows].astype(np.float64)
    return total


def principal_axes(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values (r,), largest first, and right singular vectors (d, r) of a centred matrix (n, d).

    The smaller of its two Gram matrices is decomposed; directions without variance are left out.
    """
    n, d = centred.shape
    if n >= d:
        squares, axes = np.linalg.eigh(cross(centred, centred))
    else:
        rows = np.ascontiguousarray(centred.T)
        squares, left = np.linalg.eigh(cross(rows, rows))
        axes = cross(centred, left) / np.sqrt(np.maximum(squares, np.finfo(float).tiny))
    order = np.argsort(-squares)
    kept = order[squares[order] > 1e-7 * max(squares.max(initial=0.0), np.finfo(float).tiny)]
    return squares[kept], axes[:, kept]
