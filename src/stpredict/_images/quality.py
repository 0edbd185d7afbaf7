"""Blur and folds on a slide, as maps from which any window is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stpredict._images.readers import SlideImage

MPP = 2.0
"""At which sharpness is measured, µm, as the default encoder sees the slide; coarser images keep their own."""

CELL = 4
"""Pixels along each side of a cell of the maps."""

ROWS = 128
"""Cells read at a time, from top to bottom."""

FOLD_DENSITY = 1.8
"""Optical density of a fold, where tissue lies twice, against the denser tissue of the slide (its upper quartile)."""

TINY = 1e-8


def sharpness(image: SlideImage, image_mpp: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Fine and coarse contrast (y, x) by cell, and µm per cell.

    Fine is the squared Laplacian of the optical density at 2 µm per pixel, coarse the same at 8 µm. Blur takes the
    fine one away and leaves the coarse one, whatever the tissue.
    """
    from scipy.ndimage import laplace

    level = image.best_level(max(1.0, MPP / image_mpp))
    downsample = image.downsamples[level]
    step = max(1, round(MPP / (image_mpp * downsample)))
    side = step * CELL
    height, width = (int(n / downsample) // side for n in image.shape)
    fine, coarse = np.zeros((height, width), dtype=np.float32), np.zeros((height, width), dtype=np.float32)
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        first, last = max(0, top - 1), min(height, bottom + 1)  # one cell around, for the Laplacian
        pixels = image.read(0, first * side, width * side, last * side, level=level)
        density = _density(_means(pixels.mean(axis=-1, dtype=np.float32), step))
        inside = slice(top - first, bottom - first)
        fine[top:bottom] = _means(np.square(laplace(density)), CELL)[inside]
        coarse[top:bottom] = np.square(laplace(_means(density, CELL)))[inside]
    return fine, coarse, image_mpp * downsample * side


def folded(rgb: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Boolean mask of the folds on a small RGB image: what is both dark and saturated against the rest of the `tissue`."""
    from scipy.ndimage import gaussian_filter
    from skimage.color import rgb2hsv

    density = gaussian_filter(_density(rgb.mean(axis=-1, dtype=np.float32)), 1.0)
    saturation = gaussian_filter(rgb2hsv(rgb)[..., 1].astype(np.float32), 1.0)
    if not tissue.any():
        return np.zeros(tissue.shape, dtype=bool)
    dense = density > FOLD_DENSITY * np.percentile(density[tissue], 75)
    return tissue & dense & (saturation > np.median(saturation[tissue]))


def _density(values: np.ndarray) -> np.ndarray:
    return -np.log((values + 1) / 256)


def _means(values: np.ndarray, side: int) -> np.ndarray:
    """Means of square blocks, which `values` holds a whole number of."""
    height, width = values.shape[0] // side, values.shape[1] // side
    return values.reshape(height, side, width, side).mean(axis=(1, 3))
