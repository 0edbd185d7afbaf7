"""Classical nuclei of H&E: colour deconvolution, a local threshold, watershed, and pieces put together again.

All sizes are in µm, so that images of 0.25 to 2 µm per pixel are treated alike. What is called a nucleus depends on the
section (its two levels of stain) and on the nearest 50 µm, never on how the slide is cut into blocks.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage, sparse

if TYPE_CHECKING:
    from collections.abc import Iterable

BRIGHTEN = 40.0
"""Added to intensities before the logarithm: the darkest nuclei must not outweigh pale ones."""

SMOOTH_UM = 0.6
"""Blur of the stain before the threshold, against noise and the texture of chromatin."""

WINDOW_UM = 50.0
"""Width of the window in which nuclei are told from their surroundings."""

BETWEEN = 0.45
"""The threshold lies at this share of the way from the surroundings to the nuclei."""

PRIOR = 0.02
"""Weight of the section's own levels, in windows: they speak where a window holds no nuclei, or nothing else."""

LEAST_RISE = 0.2
"""A nucleus rises above its surroundings by at least this share of the section's contrast."""

LEAST_CONTRAST = 0.2
"""Contrast (optical density of haematoxylin) assumed at least: without it noise would pass for nuclei."""

DISTANCE_BLUR_UM, MAX_DISTANCE_UM = 0.6, 4.5
CORE_UM, AROUND_UM = 1.25, 4.0
DARKNESS_UM = 14.0
"""Nuclei in a heap are told apart by shape (distance to the border) and darkness (difference of two blurs); one
contrast of darkness counts as many µm of distance. Farther from the border than a nucleus is wide, darkness decides."""

DIP_UM = 0.18
"""A dip between two summits that is shallower is noise."""

ROUND, LONG = 2.3, 3.0
ROUND_FILL, LONG_FILL = 0.97, 0.92
"""Pieces that together fill an ellipse of such axes (long over short) to this share are one nucleus. Two discs that touch
fill one of 2.2 to 0.89; long ellipses are rarely two nuclei, and thin ones are ragged."""

MIN_AREA_UM2, MAX_AREA_UM2 = 8.0, 250.0
MAX_HOLE_UM2 = 30.0
GREYER = 0.3
"""Dirt, pigment and ink take up as much blue light as red; nuclei take up less. What takes up more blue, by this share of
red, than the section's nuclei do is none of them."""

CELL = 4
"""Pixels; local levels are found on a grid this much coarser."""


class Levels(NamedTuple):
    """Haematoxylin of a section outside and inside of nuclei."""

    ground: float
    nucleus: float
    blue: float
    """Optical density of nuclei in blue light over that in red."""

    @property
    def contrast(self) -> float:
        """How much darker nuclei are."""
        return self.nucleus - self.ground


@cache
def _optical_density() -> np.ndarray:
    """Optical density of each of 256 intensities."""
    return -np.log((np.arange(256, dtype=np.float32) + BRIGHTEN) / (255 + BRIGHTEN))


@cache
def _unmixing() -> np.ndarray:
    """(3, 256): what an intensity of red, green and blue adds to haematoxylin (Ruifrok and Johnston's stains)."""
    from skimage.color import hed_from_rgb

    return (hed_from_rgb[:, :1] * _optical_density()).astype(np.float32)


def hematoxylin(rgb: np.ndarray) -> np.ndarray:
    """Optical density of haematoxylin, float32 (h, w)."""
    red, green, blue = _unmixing()
    return red[rgb[..., 0]] + green[rgb[..., 1]] + blue[rgb[..., 2]]


def find_levels(crops: Iterable[np.ndarray], mpp: float) -> Levels | None:
    """Levels of stain in crops (h, w, 3) of one section, by Otsu's threshold; None where there is no tissue."""
    from skimage.filters import threshold_otsu

    density = _optical_density()
    pixels = []
    for rgb in crops:
        stained = np.ptp(density[rgb], axis=-1) > 0.08  # the colours differ: neither glass nor shadow
        stain = _blur(hematoxylin(rgb), SMOOTH_UM / mpp)
        pixels.append(np.column_stack([stain[stained], density[rgb[stained][:, [0, 2]]]]))
    stain, red, blue = np.concatenate(pixels).T if pixels else np.empty((3, 0))
    if len(stain) < 100:
        return None
    dark = stain > threshold_otsu(stain)
    ground, nucleus = float(stain[~dark].mean()), float(stain[dark].mean())
    return Levels(ground, max(nucleus, ground + LEAST_CONTRAST), float(blue[dark].sum() / max(red[dark].sum(), 1e-6)))


def segment(rgb: np.ndarray, mpp: float, levels: Levels) -> np.ndarray:
    """Label the nuclei of a block (h, w, 3) of `mpp` µm per pixel: int32 (h, w), 0 outside of nuclei."""
    from skimage.morphology import local_maxima
    from skimage.segmentation import watershed

    raw = hematoxylin(rgb)
    stain = _blur(raw, SMOOTH_UM / mpp)
    inside = _without_holes(stain > _threshold(stain, mpp, levels), MAX_HOLE_UM2 / mpp**2)
    if not inside.any():
        return np.zeros(inside.shape, np.int32)
    distance = np.minimum(ndimage.distance_transform_edt(inside) * mpp, MAX_DISTANCE_UM).astype(np.float32)
    height = _blur(distance, DISTANCE_BLUR_UM / mpp)
    darkness = _blur(raw, CORE_UM / mpp) - _blur(raw, AROUND_UM / mpp)
    height += np.float32(DARKNESS_UM / levels.contrast) * darkness
    seeds, n = ndimage.label(local_maxima(height) & inside, np.ones((3, 3)))
    peak = np.zeros(n + 1, np.float32)
    peak[seeds[seeds > 0]] = height[seeds > 0]
    labels = watershed(-height, seeds, mask=inside)
    labels = _join_pieces(labels, height, peak, MAX_AREA_UM2 / mpp**2)
    return _keep_nuclei(labels, rgb, levels.blue + GREYER, MIN_AREA_UM2 / mpp**2)


def _blur(value: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(value, sigma, truncate=3)


def _threshold(stain: np.ndarray, mpp: float, levels: Levels) -> np.ndarray:
    """Level between the nuclei nearby and what surrounds them, found by going back and forth between the two."""
    width = max(3, round(WINDOW_UM / mpp / CELL))
    least = LEAST_RISE * levels.contrast
    mean = ndimage.uniform_filter(_cells(stain), width, mode="nearest")
    level = np.clip(mean, levels.ground + least, levels.ground + 0.7 * levels.contrast)
    for _ in range(2):
        dark = stain > _enlarge(level, stain.shape)
        share = ndimage.uniform_filter(_cells(dark.astype(np.float32)), width, mode="nearest")
        amount = ndimage.uniform_filter(_cells(stain * dark), width, mode="nearest")
        nucleus = (amount + PRIOR * levels.nucleus) / (share + PRIOR)
        ground = (mean - amount + PRIOR * levels.ground) / (1 - share + PRIOR)
        level = ground + np.maximum(BETWEEN * (nucleus - ground), least)
    return _enlarge(level, stain.shape)


def _cells(value: np.ndarray) -> np.ndarray:
    """Means of `CELL` × `CELL` pixels; those at the far ends hold what is left."""
    height, width = (-n % CELL for n in value.shape)
    padded = np.pad(value, ((0, height), (0, width)), mode="edge") if height or width else value
    return padded.reshape(padded.shape[0] // CELL, CELL, -1, CELL).mean(axis=(1, 3))


def _enlarge(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return value.repeat(CELL, axis=0)[: shape[0]].repeat(CELL, axis=1)[:, : shape[1]]


def _without_holes(inside: np.ndarray, max_pixels: float) -> np.ndarray:
    """Close holes of up to `max_pixels`: pale nuclei have a dark rim."""
    holes, _ = ndimage.label(~inside)
    small = np.bincount(holes.ravel()) <= max_pixels
    small[0] = True  # the nuclei themselves
    return small[holes]


def moments(labels: np.ndarray, n: int) -> np.ndarray:
    """(n, 6) per label: area, sums of x and y, of x², xy and y², in pixels; a pixel is a square, not a point."""
    y, x = np.nonzero(labels)
    label = labels[y, x]
    weights = (None, x, y, x * x + 1 / 12, x * y, y * y + 1 / 12)
    return np.stack([np.bincount(label, weight, minlength=n) for weight in weights], axis=1)


def axes(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Long and short semi-axis of the ellipses that have these `moments`, and the angle of the long one from x to y."""
    area, x, y, xx, xy, yy = sums.T
    area = np.maximum(area, 1)
    x, y = x / area, y / area
    xx, xy, yy = xx / area - x * x, xy / area - x * y, yy / area - y * y
    mean, half = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    long, short = 2 * np.sqrt(mean + half), 2 * np.sqrt(np.maximum(mean - half, 1 / 12))
    return long, short, np.arctan2(2 * xy, xx - yy) / 2


def _join_pieces(labels: np.ndarray, height: np.ndarray, peak: np.ndarray, max_pixels: float) -> np.ndarray:
    """Join what watershed cut for nothing: across no real dip first, then neighbours that fill an ellipse together."""
    n = len(peak)
    one, other, dip = _contacts(labels, height, peak)
    name = _union(one[dip < DIP_UM], other[dip < DIP_UM], n)
    sums = _add_up(moments(labels, n), name)
    for _ in range(3):  # best fits first
        a, b = name[one], name[other]
        a, b = a[a != b], b[a != b]
        area = sums[a, 0] + sums[b, 0]
        long, short, _ = axes(sums[a] + sums[b])
        filled = area / (np.pi * long * short)
        fits = (filled > np.interp(long / short, [ROUND, LONG], [ROUND_FILL, LONG_FILL])) & (area <= max_pixels)
        a, b, filled = a[fits], b[fits], filled[fits]
        if len(a) == 0:
            break
        best = np.zeros(n)
        np.maximum.at(best, np.concatenate([a, b]), np.concatenate([filled, filled]))
        mutual = (filled >= best[a]) & (filled >= best[b])
        renamed = _union(a[mutual], b[mutual], n)
        sums, name = _add_up(sums, renamed), renamed[name]
    return name[labels]


def _contacts(labels: np.ndarray, height: np.ndarray, peak: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of labels that touch, each once, and how far one must climb down from the lower peak to reach the other."""
    touching, passes = [], []
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = labels[here], labels[there]
        touch = (a != b) & (a > 0) & (b > 0)
        passes.append(np.minimum(height[here][touch], height[there][touch]))
        a, b = a[touch].astype(np.int64), b[touch]
        touching.append(np.minimum(a, b) * len(peak) + np.maximum(a, b))
    pairs, where = np.unique(np.concatenate(touching), return_inverse=True)
    highest = np.full(len(pairs), -np.inf)
    np.maximum.at(highest, where, np.concatenate(passes))
    one, other = np.divmod(pairs, len(peak))
    return one, other, np.minimum(peak[one], peak[other]) - highest


def _union(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """New name of each of `n` labels when `a` and `b` are joined: the lowest of its group."""
    graph = sparse.coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n))
    _, group = sparse.csgraph.connected_components(graph, directed=False)
    first = np.full(n, n)
    np.minimum.at(first, group, np.arange(n))
    return first[group]


def _add_up(sums: np.ndarray, name: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(name, column, minlength=len(name)) for column in sums.T], axis=1)


def _keep_nuclei(labels: np.ndarray, rgb: np.ndarray, most_blue: float, min_pixels: float) -> np.ndarray:
    """Drop what is too small or takes up too much blue light, and number the others from 1."""
    inside = labels > 0
    label, density = labels[inside], _optical_density()
    area = np.bincount(label, minlength=int(labels.max()) + 1)
    red, blue = (np.bincount(label, density[rgb[..., c][inside]], minlength=len(area)) for c in (0, 2))
    keep = (area >= min_pixels) & (blue <= most_blue * red)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]
