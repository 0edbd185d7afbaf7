"""Where there is tissue on a slide: Otsu's threshold on a coarse view of the stain, or what the user says."""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._images.outlines import given_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from stpredict._images.outlines import Tissue
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


STRIP_PIXELS = 2**18
"""Of a mask, worked on at a time: distances and hues need many bytes for each."""

MOST_STAIN = 2.6
"""No colour has more, so that no threshold may be above."""

DARKEST = 30
"""Pixels with no colour above this are a blackened background, whatever their hue."""

MIN_PEN_MM2 = 0.01
"""Smaller pieces of a pen's colour are pigment or noise."""

PEN_RIM_UM = 25.0
"""The rim of a pen mark, which is paler, is left out too."""


def find_tissue(
    image: SlideImage, *, image_mpp: float, mpp: float, tissue: Tissue | None = None, outline_scale: float = 1.0
) -> tuple[np.ndarray, float]:
    """Boolean mask (y, x) of the whole image at about `mpp`, and the µm per pixel that it really has.

    Parameters
    ----------
    image
        The slide.
    image_mpp, mpp
        µm per pixel of the slide and of the mask.
    tissue
        A threshold of the stain in place of Otsu's, or the tissue itself: a mask or outlines.
    outline_scale
        Pixels of `image` per unit of the outlines.
    """
    check_tissue(tissue)
    mpp = max(mpp, image_mpp * float(np.sqrt(np.prod(image.shape, dtype=float) / MOST_PIXELS)))
    max_side = max(1, round(max(image.shape) * min(1.0, image_mpp / mpp)))
    if tissue is not None and not _is_number(tissue):
        factor = max(1.0, max(image.shape) / max_side)
        shape = tuple(max(1, round(n / factor)) for n in image.shape)
        return given_mask(tissue, image.shape, shape, outline_scale), image_mpp * max(image.shape) / max(shape)
    small = image.thumbnail(max_side)
    mpp = image_mpp * max(image.shape) / max(small.shape[:2])
    return mask_tissue(small, mpp, tissue), mpp


def check_tissue(tissue: Tissue | None) -> None:
    """Refuse a threshold that none can be; masks and outlines are checked against their slide.

    Raises ValueError if it is no number between 0 and 2.6.
    """
    if _is_number(tissue) and (isinstance(tissue, bool | np.bool_) or not 0 < tissue < MOST_STAIN):
        msg = f"tissue={tissue!r} is no threshold of the stain: it is a number between 0 and {MOST_STAIN}, 0.08 to 0.25 by default."
        raise ValueError(msg)


def _is_number(tissue: object) -> bool:
    return isinstance(tissue, int | float | np.number | np.bool_)


def mask_tissue(rgb: np.ndarray, mpp: float, threshold: float | None = None) -> np.ndarray:
    """Boolean mask of the stained pixels of a small RGB image.

    What is measured is how far the optical densities of the three colours lie apart: H&E takes up green light most of
    all, while glass, shadows and blackened background are grey, however dark. Pen is left out, see `find_pen`.
    """
    pixels_per_mm2 = 1e6 / mpp**2
    pen = find_pen(rgb, mpp)
    mask = stained(rgb, mpp, threshold, pen)
    mask = _drop_small(mask, min(MIN_TISSUE_MM2 * pixels_per_mm2, 0.01 * mask.size))
    return ~_drop_small(~mask, MAX_HOLE_MM2 * pixels_per_mm2) & ~pen


def stained(rgb: np.ndarray, mpp: float, threshold: float | None = None, pen: np.ndarray | None = None) -> np.ndarray:
    """Boolean mask of what is stained, in pieces of any size, with narrow gaps closed."""
    from skimage.filters import gaussian, threshold_otsu

    stain = _by_strips(_stain, rgb, np.float32)
    if pen is not None:
        stain[pen] = 0
    if threshold is None:
        threshold = np.clip(threshold_otsu(gaussian(stain, max(1.0, 8.0 / mpp))), *PLAUSIBLE_THRESHOLD)
    # Smoothed less than for the threshold: the strands of fat are thinner than the tissue that sets it.
    over = gaussian(stain, max(0.5, 4.0 / mpp)) > threshold
    del stain
    return _by_strips(partial(_closed, radius=BRIDGE_UM / mpp), over, bool, reach=2 * ceil(BRIDGE_UM / mpp) + 1)


def find_pen(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """Boolean mask of marks of a coloured pen, by hue, saturation and value (HSV, Smith 1978).

    H&E has hues from 210° (blue nuclei) to 335° (pink). Pen is what has

    - a hue of 40–200° (yellow, green, cyan) and a saturation above 0.35, or
    - a hue of 200–245° (blue) and a saturation above 0.75, or
    - a hue of 350–15° (red), a saturation above 0.75 and a value above 0.5, brighter than blood,

    in pieces of at least 0.01 mm², with a rim of 25 µm. The bounds are ours, set by the hues of six H&E
    sections of breast, colon and olfactory bulb, whose blue pixels reach a saturation of 0.71. Black pen is grey, so that it is no tissue anyway.
    """
    pen = _drop_small(_by_strips(_coloured_as_pen, rgb, bool), MIN_PEN_MM2 * 1e6 / mpp**2)
    return _by_strips(partial(_dilated, radius=PEN_RIM_UM / mpp), pen, bool, reach=ceil(PEN_RIM_UM / mpp) + 1)


def _coloured_as_pen(rgb: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2hsv

    hsv = rgb2hsv(rgb).astype(np.float32)
    hue, saturation, value = 360 * hsv[..., 0], hsv[..., 1], hsv[..., 2]
    green = (hue > 40) & (hue < 200) & (saturation > 0.35)
    blue = (hue >= 200) & (hue < 245) & (saturation > 0.75)
    red = ((hue > 350) | (hue < 15)) & (saturation > 0.75) & (value > 0.5)
    return (green | blue | red) & (rgb.max(axis=-1) > DARKEST)


def _by_strips(
    work: Callable[[np.ndarray], np.ndarray], image: np.ndarray, dtype: Any, *, reach: int = 0
) -> np.ndarray:
    """`work` of a whole image (y, x), done strip by strip; its results depend on pixels at most `reach` rows away."""
    out = np.empty(image.shape[:2], dtype=dtype)
    rows = max(1, STRIP_PIXELS // image.shape[1])
    for top in range(0, len(image), rows):
        first = max(0, top - reach)
        out[top : top + rows] = work(image[first : top + rows + reach])[top - first :][:rows]
    return out


def _dilated(mask: np.ndarray, radius: float) -> np.ndarray:
    """Mask grown by `radius` pixels; distances to nothing would be no numbers."""
    from skimage.morphology import isotropic_dilation

    return isotropic_dilation(mask, radius) if mask.any() else mask


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """Mask with gaps up to twice `radius` pixels wide closed."""
    from skimage.morphology import isotropic_erosion

    grown = _dilated(mask, radius)
    return grown if grown.all() else isotropic_erosion(grown, radius)


def _stain(rgb: np.ndarray) -> np.ndarray:
    """float32 (y, x): how far the optical densities of the three colours lie apart."""
    scale = -np.log((np.arange(256, dtype=np.float32) + 20) / 275)  # + 20: the hue of nearly black pixels is noise
    brightest = rgb.max(axis=-1)
    return np.where(brightest > DARKEST, scale[rgb.min(axis=-1)] - scale[brightest], np.float32(0))


def tissue_fraction(mask: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """Share of tissue in square windows of `width` around `centres` (n, 2), (x, y), all in pixels of the mask."""
    return np.clip(window_means(mask, centres, width), 0, 1)


def window_means(values: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """Mean of a map (y, x) in square windows of `width` around `centres` (n, 2), (x, y), in its pixels; 0 beside it."""
    from scipy.ndimage import uniform_filter

    means = uniform_filter(values.astype(np.float32), size=max(1, round(width)), mode="constant")
    x, y = np.floor(centres).astype(int).T
    height, width_px = values.shape
    return means[np.clip(y, 0, height - 1), np.clip(x, 0, width_px - 1)]


def _drop_small(mask: np.ndarray, min_pixels: float) -> np.ndarray:
    """Keep connected pieces of at least `min_pixels`."""
    from scipy.ndimage import label

    pieces, n = label(mask)
    sizes, flat = np.zeros(n + 1, dtype=np.int64), pieces.ravel()
    for start in range(0, flat.size, STRIP_PIXELS):
        sizes += np.bincount(flat[start : start + STRIP_PIXELS], minlength=n + 1)
    keep = sizes >= min_pixels
    keep[0] = False
    return _by_strips(keep.__getitem__, pieces, bool)
