"""Nuclei of a section, block by block of the slide: each found once, whatever border it lies on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from stpredict.pp._nuclei_detection import watershed as classical
from stpredict.pp._nuclei_detection.backends import check_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from stpredict._sections.section import Section
    from stpredict.pp._nuclei_detection.backends import Segmenter

COLUMNS = ("x", "y", "area", "eccentricity", "orientation", "hematoxylin")
"""Of the table of nuclei."""

MPP = 0.5
"""Resolution at which nuclei are looked for, µm; coarser images keep their own."""

BLOCK_PX = 1024
HALO_UM = 40.0
"""Seen around a block: what a threshold at its border depends on."""

SAMPLE = 24
"""Spot windows from which the levels of stain are taken."""


@dataclass
class WorkingSlide:
    """A section at the resolution at which its nuclei are looked for."""

    section: Section
    spot_um: float
    """Side of the spot windows: blocks that none of them touches are left out."""
    target: float = MPP
    level: int = field(init=False)
    factor: int = field(init=False)
    """Pixels of the level averaged to one."""
    step: float = field(init=False)
    """Pixels of the image to one."""

    def __post_init__(self) -> None:
        image, mpp = self.section.image, self.section.mpp
        self.level = image.best_level(max(self.target / mpp, 1.0))
        self.factor = max(1, int(1.05 * self.target / (mpp * image.downsamples[self.level])))
        self.step = image.downsamples[self.level] * self.factor

    @property
    def mpp(self) -> float:
        """Microns per pixel of what is read."""
        return self.section.mpp * self.step

    @property
    def size(self) -> np.ndarray:
        """Width and height in pixels of what is read."""
        return np.ceil(np.array(self.section.image.shape[::-1]) / self.step).astype(int)

    def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """Window in pixels of this resolution, uint8."""
        f = self.factor
        rgb = self.section.image.read(left * f, top * f, right * f, bottom * f, level=self.level)
        if f == 1:
            return rgb
        means = rgb.reshape(bottom - top, f, right - left, f, 3).mean(axis=(1, 3), dtype=np.float32)
        return (means + 0.5).astype(np.uint8)

    def blocks(self) -> list[tuple[int, int]]:
        """Column and row of every block that a spot window touches, in reading order."""
        centres, half = self.section.centres / self.step, self.spot_um / self.mpp / 2
        side = self.block_px
        corners = [np.floor((centres + np.array([x, y])) / side) for x in (-half, half) for y in (-half, half)]
        last = (self.size - 1) // side
        blocks = np.unique(np.concatenate(corners)[:, ::-1], axis=0)[:, ::-1].astype(int)
        return [(int(x), int(y)) for x, y in blocks if 0 <= x <= last[0] and 0 <= y <= last[1]]

    @property
    def block_px(self) -> int:
        """Side of a block: no narrower than a spot window, so that its corners touch every block that it lies on."""
        return max(BLOCK_PX, -(-int(np.ceil(self.spot_um / self.mpp)) // classical.CELL) * classical.CELL)

    def sample(self) -> list[np.ndarray]:
        """Spot windows from all over the section."""
        rows = np.unique(np.linspace(0, len(self.section) - 1, SAMPLE).astype(int))
        side = max(1, round(self.spot_um / self.mpp))
        corners = np.rint(self.section.centres[rows] / self.step - side / 2).astype(int)
        return [self.read(x, y, x + side, y + side) for x, y in corners.tolist()]


def find_nuclei(
    slide: WorkingSlide, label: Segmenter | None, name: str, *, outlines: bool, progress: Callable[[], object]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Table of nuclei, float32 (n, `COLUMNS`), x and y in pixels of the image; and their outlines, if wanted."""
    levels: Any = classical.find_levels(slide.sample(), slide.mpp) if label is None else ()
    if levels is None:  # no tissue
        return np.empty((0, len(COLUMNS)), np.float32), []

    tables, shapes = [np.empty((0, len(COLUMNS)))], []
    halo = -(-int(np.ceil(HALO_UM / slide.mpp)) // classical.CELL) * classical.CELL
    for column, row in slide.blocks():
        corner = np.array([column, row]) * slide.block_px
        stop = np.minimum(corner + slide.block_px, slide.size)
        rgb = slide.read(*(corner - halo).tolist(), *(stop + halo).tolist())
        if label is None:
            labels = classical.segment(rgb, slide.mpp, levels)
        else:
            labels = check_labels(label(rgb, slide.mpp), rgb.shape[:2], name)
        table = measure(labels, rgb, slide.mpp)
        own: Any = ((table[:, :2] >= halo) & (table[:, :2] < halo + slide.block_px)).all(axis=1)
        origin = corner - halo
        if outlines:
            shapes += [(outline + origin) * slide.step for outline in _outlines(labels, own)]
        table = table[own]
        table[:, :2] = (table[:, :2] + origin) * slide.step
        tables.append(table)
        progress()
    return np.concatenate(tables).astype(np.float32), shapes


def measure(labels: np.ndarray, rgb: np.ndarray, mpp: float) -> np.ndarray:
    """One row of `COLUMNS` per label; x and y in pixels of the block, area in µm², orientation in radians."""
    n = int(labels.max(initial=0)) + 1
    sums = classical.moments(labels, n)[1:]
    area = sums[:, 0]
    x, y = sums[:, 1:3].T / np.maximum(area, 1) + 0.5
    long, short, orientation = classical.axes(sums)
    eccentricity = np.sqrt(np.maximum(1 - (short / np.maximum(long, short)) ** 2, 0))
    inside = labels > 0
    stain = np.bincount(labels[inside], classical.hematoxylin(rgb)[inside], minlength=n)[1:] / np.maximum(area, 1)
    return np.column_stack([x, y, area * mpp**2, eccentricity, orientation, stain])


def _outlines(labels: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Closed outlines (k, 2), x and y in pixels of the block, of the wanted labels."""
    from skimage.measure import find_contours

    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if wanted[number - 1]:
            mask = np.pad(labels[box] == number, 1)
            longest = max(find_contours(mask, 0.5), key=len)
            found.append(longest[:, ::-1] + [box[1].start - 0.5, box[0].start - 0.5])
    return found
