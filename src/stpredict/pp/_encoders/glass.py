"""Which tiles show nothing but bare glass."""

from __future__ import annotations

import numpy as np

GLASS = 0.08
"""Optical densities of the three colours lie less apart than this on glass, as for the tissue mask."""

BRIGHT = 180
"""Glass is at least so bright: what is as grey but darker may be tissue on a slide without colour."""

GRAIN = 8
"""Glass is judged by the mean of so many pixels across."""


def is_glass(crop: np.ndarray) -> bool:
    """Whether a tile (side, side, 3), uint8, shows nothing: no grain of it is darker than glass, or of another colour."""
    high, wide = crop.shape[0] // GRAIN * GRAIN, crop.shape[1] // GRAIN * GRAIN
    middle = crop[crop.shape[0] // 2, ::GRAIN].astype(np.float32)
    if _stained(middle).mean() > 0.5 or not high or not wide:  # most tiles, at once
        return False
    grains = (
        crop[:high, :wide].reshape(high // GRAIN, GRAIN, wide // GRAIN, GRAIN, 3).mean(axis=(1, 3), dtype=np.float32)
    )
    return not (_stained(grains).any() or grains.min() < BRIGHT)


def _stained(rgb: np.ndarray) -> np.ndarray:
    return np.ptp(np.log(rgb + 20), axis=-1) > GLASS
