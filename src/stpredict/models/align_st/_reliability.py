"""What to expect of unseen genes, learned from genes that were hidden."""

from __future__ import annotations

import numpy as np

MIN_HIDDEN = 10
"""Fewer hidden genes tell nothing."""

MEASURED, TOLD = 0, 1
"""Rows of what is learned: genes that a reference places, and genes that only text does."""


def learn_reliability(pcc: np.ndarray, nearest: np.ndarray, level: np.ndarray) -> np.ndarray:
    """(3,) intercept and slopes of the PCC that hidden genes reach, on `nearest` and `level`; NaN where they are few."""
    if len(pcc) <= MIN_HIDDEN:
        return np.full(3, np.nan)
    return np.linalg.lstsq(np.column_stack([np.ones(len(pcc)), nearest, level]), pcc, rcond=None)[0]


def expected_pcc(learned: np.ndarray, told: np.ndarray, nearest: np.ndarray, level: np.ndarray) -> np.ndarray:
    """float32 (genes,) in 0 to 1: PCC to expect of unseen genes, by the row of `learned` (2, 3) that `told` chooses."""
    start, by_nearest, by_level = learned[told.astype(int)].T
    return np.clip(start + by_nearest * nearest + by_level * level, 0, 1).astype(np.float32)
