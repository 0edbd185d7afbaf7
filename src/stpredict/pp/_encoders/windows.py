"""Cutting windows out of a slide, in an order in which neighbours follow each other."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from stpredict._images import SlideImage
    from stpredict._sections.section import Section

    A = TypeVar("A")
    B = TypeVar("B")

BAND_PX, COLUMN_PX = 8192, 512
"""Spots are visited column by column in bands so high, so that what neighbouring tiles share is still decoded.

The blocks of two columns fit into the cache. Those along the edge of a band are decoded twice: one row of sixteen.
"""

TILES_PER_CUT, BYTES_PER_CUT = 32, 32 * 2**20
"""Most that is cut out at once. Several threads at work on as many tiles each stay in one or two columns."""


def block_groups(centres: np.ndarray, side: float) -> list[np.ndarray]:
    """Row numbers of the spots in each square block of `side` pixels, along a curve that stays among neighbours."""
    if not len(centres):
        return []
    blocks = np.floor(centres / side).astype(np.int64)
    along = _interleaved(blocks - blocks.min(axis=0))
    order = np.argsort(along, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(along[order])) + 1)


def columns(centres: np.ndarray) -> list[np.ndarray]:
    """Row numbers of the windows (n, 2), in pixels of their level, in each column, in the order in which they are cut out."""
    band, column = np.floor(centres / [COLUMN_PX, BAND_PX]).T[::-1]
    column = np.where(band % 2, -column, column)  # there and back
    order = np.lexsort((centres[:, 1], column, band))
    changes = np.diff(band[order]).astype(bool) | np.diff(column[order]).astype(bool)
    return np.split(order, np.flatnonzero(changes) + 1)


def _interleaved(blocks: np.ndarray) -> np.ndarray:
    """Place of every block (n, 2) along the Z-order curve (Morton 1966): the bits of column and row in turns."""
    along = np.zeros(len(blocks), dtype=np.int64)
    for bit in range(int(blocks.max(initial=0)).bit_length()):
        along |= (blocks[:, 0] >> bit & 1) << 2 * bit | (blocks[:, 1] >> bit & 1) << (2 * bit + 1)
    return along


@dataclass(frozen=True)
class Windows:
    """A square window for every spot of a section."""

    um: float | np.ndarray
    """Side in µm: one for all, or one per spot."""
    centres: np.ndarray
    """(n, 2), pixels of the image."""

    def at(self, rows: np.ndarray) -> Windows:
        """Windows of some spots."""
        return Windows(self.um[rows] if isinstance(self.um, np.ndarray) else self.um, self.centres[rows])


@dataclass(frozen=True)
class Cut:
    """Windows that are cut out together: all of one size, and near each other."""

    rows: np.ndarray
    """Whose windows they are."""
    corners: np.ndarray
    """Upper left, (n, 2), pixels of the level."""
    side: int
    """Pixels of the level."""
    um: float
    level: int

    def crops(self, image: SlideImage) -> np.ndarray:
        """uint8 (n, side, side, 3)."""
        out = np.empty((len(self.rows), self.side, self.side, 3), dtype=np.uint8)
        for crop, (x, y) in zip(out, self.corners.tolist(), strict=True):
            crop[...] = image.read(x, y, x + self.side, y + self.side, level=self.level)
        return out


def plan_cuts(
    section: Section,
    rows: np.ndarray,
    um: float | np.ndarray,
    target_mpp: float | np.ndarray,
    *,
    centres: np.ndarray | None = None,
) -> Iterator[Cut]:
    """Square windows of `um` around the spots `rows`, each from the pyramid level nearest its `target_mpp`.

    Side and resolution may differ from row to row, and `centres` (pixels) may lie elsewhere than the spots.
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
        for group in columns(centres[here] / downsample):
            for side in np.unique(sides[group]).tolist():
                same = group[sides[group] == side]
                at_once = max(1, min(TILES_PER_CUT, BYTES_PER_CUT // (3 * side**2)))
                for part in np.split(same, range(at_once, len(same), at_once)):
                    first = float(um[here[part[0]]])
                    yield Cut(rows[here[part]], corners[part], side, first, int(level))


def read_crops(
    section: Section, rows: np.ndarray, um: float | np.ndarray, target_mpp: float | np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the windows that `plan_cuts` plans: rows, and their pixels, uint8 (n, side, side, 3)."""
    for cut in plan_cuts(section, rows, um, target_mpp):
        yield cut.rows, cut.crops(section.image)


def ahead(work: Callable[[A], B], items: Iterable[A], *, threads: int, depth: int) -> Iterator[B]:
    """Yield ``work(item)`` in order, done by `threads`, at most `depth` results waiting; errors surface here."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
