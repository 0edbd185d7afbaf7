"""Reading windows of a slide in an order that touches each part of the image once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stpredict._section import Section

BLOCK_PX = 2048
"""Spots are visited block by block of this many pixels, so that neighbouring tiles share one read."""


def block_groups(centres: np.ndarray, side: float) -> list[np.ndarray]:
    """Row numbers of the spots in each square block of `side` pixels, blocks in reading order."""
    blocks = np.floor(centres / side).astype(np.int64)
    order = np.lexsort((blocks[:, 0], blocks[:, 1]))
    edges = np.flatnonzero(np.any(np.diff(blocks[order], axis=0) != 0, axis=1)) + 1
    return np.split(order, edges)


@dataclass(frozen=True)
class Windows:
    """A square window for every spot of a section."""

    um: float | np.ndarray
    """Side in µm: one for all, or one per spot."""
    centres: np.ndarray
    """(n, 2), pixels of the image."""

    def at(self, rows: np.ndarray) -> Windows:
        """Windows of some spots."""
        return Windows(self.um if np.ndim(self.um) == 0 else self.um[rows], self.centres[rows])


def read_crops(
    section: Section,
    rows: np.ndarray,
    um: float | np.ndarray,
    target_mpp: float | np.ndarray,
    *,
    centres: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Square windows of `um` around the spots `rows`, from the pyramid level nearest `target_mpp`.

    Side and resolution may differ from row to row, and `centres` (pixels) may lie elsewhere than the spots.

    Yields (rows of a block, uint8 array (n, side, side, 3)), block by block; each block of the image is read once.
    """
    image = section.image
    centres = section.centres[rows] if centres is None else centres
    um = np.broadcast_to(um, len(rows))
    targets, which = np.unique(np.broadcast_to(target_mpp, len(rows)), return_inverse=True)
    levels = np.array([image.best_level(target / section.mpp) for target in targets], dtype=int)[which]
    for level in np.unique(levels):
        here = np.flatnonzero(levels == level)
        downsample = image.downsamples[level]
        sides = np.maximum(1, np.rint(um[here] / (section.mpp * downsample))).astype(np.int64)
        corners = np.rint(centres[here] / downsample - sides[:, None] / 2).astype(np.int64)
        for group in block_groups(centres[here] / downsample, max(BLOCK_PX, 2 * sides.max())):
            left, top = corners[group].min(axis=0)
            right, bottom = (corners[group] + sides[group, None]).max(axis=0)
            region = image.read(left, top, right, bottom, level=level)
            for side in np.unique(sides[group]):
                same = group[sides[group] == side]
                crops = [region[y - top : y - top + side, x - left : x - left + side] for x, y in corners[same]]
                yield rows[here[same]], np.stack(crops)
