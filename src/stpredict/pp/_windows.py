"""Reading windows of a slide in an order that touches each part of the image once."""

from __future__ import annotations

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


def read_crops(
    section: Section, rows: np.ndarray, um: float, target_mpp: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Square windows of `um` around the spots `rows`, from the pyramid level nearest `target_mpp`.

    Yields (rows of a block, uint8 array (n, side, side, 3)), block by block; each block of the image is read once.
    """
    image = section.image
    level = image.best_level(target_mpp / section.mpp)
    downsample = image.downsamples[level]
    side = max(1, round(um / (section.mpp * downsample)))
    corners = np.rint(section.centres[rows] / downsample - side / 2).astype(np.int64)
    for group in block_groups(section.centres[rows] / downsample, max(BLOCK_PX, 2 * side)):
        left, top = corners[group].min(axis=0)
        right, bottom = corners[group].max(axis=0) + side
        region = image.read(left, top, right, bottom, level=level)
        crops = np.stack([region[y - top : y - top + side, x - left : x - left + side] for x, y in corners[group]])
        yield rows[group], crops
