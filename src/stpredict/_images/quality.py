"""Blur and folds on a slide, as maps from which any window is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stpredict._images.readers import SlideImage

MPP = 2.0
"""At which sharpness is measured, µm, as the default encoder sees the slide; coarser images keep their own."""

CELL = 4
"""Pixels along each side of a cell of the maps."""

TILE = 128
"""Cells along each side of what is read at a time, where there are windows: much of a slide is glass."""

FOLD_DENSITY = 1.8
"""Optical density of a fold, where tissue lies twice, against the denser tissue of the slide (its upper quartile)."""

TINY = 1e-8


def sharpness(
    image: SlideImage, image_mpp: float, centres: np.ndarray, window: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fine and coarse contrast (y, x) by cell, and µm per cell; known in windows around `centres` (n, 2), all in µm.

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
    cell = image_mpp * downsample * side
    for rows, columns in _tiles(centres / cell, window / cell, (height, width)):
        y0, y1, x0, x1 = (
            end
            for own, n in ((rows, height), (columns, width))
            for end in (max(0, own.start - 1), min(n, own.stop + 1))
        )  # one cell around, for the Laplacian
        pixels = image.read(x0 * side, y0 * side, x1 * side, y1 * side, level=level)
        density = _density(_means(_brightness(pixels), step))
        inside = slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0)
        fine[rows, columns] = _means(np.square(laplace(density)), CELL)[inside]
        coarse[rows, columns] = np.square(laplace(_means(density, CELL)))[inside]
    return fine, coarse, cell


def _tiles(centres: np.ndarray, window: float, shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles of a map of `shape` that windows around `centres` touch, all in its cells."""
    n_tiles = np.array([-(-n // TILE) for n in shape[::-1]])
    ends = [np.clip((centres + sign * (window / 2 + 2)) // TILE, 0, n_tiles - 1).astype(int) for sign in (-1, 1)]
    touched = np.zeros(n_tiles + 1, dtype=int)
    for x_end, x_sign in ((ends[0][:, 0], 1), (ends[1][:, 0] + 1, -1)):
        for y_end, y_sign in ((ends[0][:, 1], 1), (ends[1][:, 1] + 1, -1)):
            np.add.at(touched, (x_end, y_end), x_sign * y_sign)
    for y, x in np.argwhere(touched.cumsum(axis=0).cumsum(axis=1)[:-1, :-1].T > 0).tolist():
        top, left = y * TILE, x * TILE
        yield slice(top, min(top + TILE, shape[0])), slice(left, min(left + TILE, shape[1]))


def folded(rgb: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Boolean mask of the folds on a small RGB image: what is both dark and saturated against the rest of the `tissue`."""
    from scipy.ndimage import gaussian_filter
    from skimage.color import rgb2hsv

    density = gaussian_filter(_density(_brightness(rgb)), 1.0)
    saturation = gaussian_filter(rgb2hsv(rgb)[..., 1].astype(np.float32), 1.0)
    if not tissue.any():
        return np.zeros(tissue.shape, dtype=bool)
    dense = density > FOLD_DENSITY * np.percentile(density[tissue], 75)
    return tissue & dense & (saturation > np.median(saturation[tissue]))


def _brightness(rgb: np.ndarray) -> np.ndarray:
    """Mean of the colours; numpy's own ``mean`` along so short an axis takes several times as long."""
    total = rgb[..., 0].astype(np.float32)
    total += rgb[..., 1]
    total += rgb[..., 2]
    total /= 3
    return total


def _density(values: np.ndarray) -> np.ndarray:
    return -np.log((values + 1) / 256)


def _means(values: np.ndarray, side: int) -> np.ndarray:
    """Means of square blocks, which `values` holds a whole number of."""
    height, width = values.shape[0] // side, values.shape[1] // side
    return values.reshape(height, side, width, side).mean(axis=(1, 3))
