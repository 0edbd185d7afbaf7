"""Where there is tissue on a slide: Otsu's threshold on a coarse view of the stain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stpredict._images.readers import SlideImage

PLAUSIBLE_THRESHOLD = (0.08, 0.25)
"""Bounds of the threshold, for images that are all glass or all tissue, where Otsu would split either of them."""

BRIDGE_UM = 40.0
"""Gaps up to twice as wide are closed: fat and loose tissue are a net of thin strands."""

MIN_TISSUE_MM2 = 0.1
MAX_HOLE_MM2 = 0.01
"""Smaller pieces (dust, fiducial marks) are dropped and smaller holes (lumina) are closed."""


MOST_PIXELS = 4_000_000
"""Of a mask: larger slides are looked at more coarsely, 25 µm per pixel at 5 × 5 cm, so that memory stays as it is."""


def find_tissue(image: SlideImage, *, image_mpp: float, mpp: float) -> tuple[np.ndarray, float]:
    """Boolean mask (y, x) of the whole image at about `mpp`, and the µm per pixel that it really has."""
    mpp = max(mpp, image_mpp * float(np.sqrt(np.prod(image.shape, dtype=float) / MOST_PIXELS)))
    max_side = max(1, round(max(image.shape) * min(1.0, image_mpp / mpp)))
    small = image.thumbnail(max_side)
    mpp = image_mpp * max(image.shape) / max(small.shape[:2])
    return mask_tissue(small, mpp), mpp


def mask_tissue(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """Boolean mask of the stained pixels of a small RGB image.

    What is measured is how far the optical densities of the three colours lie apart: H&E takes up green light most of
    all, while glass, shadows and blackened background are grey, however dark.
    """
    from skimage.filters import gaussian, threshold_otsu
    from skimage.morphology import isotropic_closing

    stain = _stain(rgb)
    threshold = np.clip(threshold_otsu(gaussian(stain, max(1.0, 8.0 / mpp))), *PLAUSIBLE_THRESHOLD)
    # Smoothed less than for the threshold: the strands of fat are thinner than the tissue that sets it.
    mask = isotropic_closing(gaussian(stain, max(0.5, 4.0 / mpp)) > threshold, BRIDGE_UM / mpp)
    pixels_per_mm2 = 1e6 / mpp**2
    mask = _drop_small(mask, min(MIN_TISSUE_MM2 * pixels_per_mm2, 0.01 * mask.size))
    return ~_drop_small(~mask, MAX_HOLE_MM2 * pixels_per_mm2)


def _stain(rgb: np.ndarray) -> np.ndarray:
    """float32 (y, x): how far the optical densities of the three colours lie apart."""
    scale = -np.log((np.arange(256, dtype=np.float32) + 20) / 275)  # + 20: the hue of nearly black pixels is noise
    return scale[rgb.min(axis=-1)] - scale[rgb.max(axis=-1)]


def tissue_fraction(mask: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """Share of tissue in square windows of `width` around `centres` (n, 2), (x, y), all in pixels of the mask."""
    from scipy.ndimage import uniform_filter

    share = uniform_filter(mask.astype(np.float32), size=max(1, round(width)), mode="constant")
    x, y = np.floor(centres).astype(int).T
    height, width_px = mask.shape
    return np.clip(share[np.clip(y, 0, height - 1), np.clip(x, 0, width_px - 1)], 0, 1)


def _drop_small(mask: np.ndarray, min_pixels: float) -> np.ndarray:
    """Keep connected pieces of at least `min_pixels`."""
    from scipy.ndimage import label

    pieces, _ = label(mask)
    keep = np.bincount(pieces.ravel()) >= min_pixels
    keep[0] = False
    return keep[pieces]
