"""The morphology descriptor as an encoder.

An encoder splits a section into `parts` (rows that are worth doing together and can be resumed one by one), and
`encode` turns the windows of these parts into features, one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, tee
from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.device import release
from stpredict.pp._encoders import morphology
from stpredict.pp._encoders.windows import ahead, block_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from stpredict._sections.section import Section
    from stpredict.pp._encoders.windows import Windows

BLOCK_PX = 2048
"""Largest side of the blocks that the morphology descriptor works on, in pixels of its own resolution."""

SPOTS_PER_BLOCK = 2**18
"""More than that are described in smaller blocks: bins of 2 µm are, those of 8 µm never."""

LEAST_BLOCK_PX = 256
"""Smaller blocks would mostly be what surrounds them."""


@dataclass
class MorphologyEncoder:
    """The weight-free descriptor of `stpredict.pp._encoders.morphology`."""

    device: torch.device
    mpp: float | None = None
    name: str = "morphology"
    hash: str = "morphology-1"

    def mpp_of(self, section: Section, um: float) -> float:
        """Resolution (µm/px) at which windows of `section` are described."""
        return self._step(section) * section.mpp

    def _level(self, section: Section) -> int:
        """Pyramid level to read."""
        return section.image.best_level(max(self.mpp or morphology.MPP, section.mpp) / section.mpp)

    def _step(self, section: Section) -> float:
        """Image pixels per working pixel, such that `ALIGN` working pixels are whole pixels of the level read.

        So every block samples the image on one lattice, and a spot's features do not depend on the others.
        """
        downsample = section.image.downsamples[self._level(section)]
        step = max(self.mpp or morphology.MPP, section.mpp) / section.mpp
        return round(step / downsample * morphology.ALIGN) / morphology.ALIGN * downsample

    def parts(self, section: Section, windows: Sequence[Windows]) -> list[np.ndarray]:
        """One part per block.

        Blocks are larger where windows are so wide that most of a block would be described again for the next one, and
        smaller where spots are so dense that their features would pile up.
        """
        step = self._step(section)
        widest = max(float(np.max(kind.um)) for kind in windows) / (step * section.mpp)
        centres = section.centres / step
        centres = centres - centres.min(axis=0)
        extent, side = centres.max() + 1, max(BLOCK_PX, 2 * widest)
        side = extent / math.ceil(extent / side)  # blocks of one size, none of them a narrow rest
        parts = block_groups(centres, side)
        while max(map(len, parts)) > SPOTS_PER_BLOCK and side > LEAST_BLOCK_PX:
            side /= 2
            parts = block_groups(centres, side)
        return parts

    def encode(
        self,
        section: Section,
        parts: Sequence[np.ndarray],
        windows: Sequence[Windows],
        progress: Callable[[int], object],
    ) -> Iterator[list[np.ndarray]]:
        """Features (rows, d) of each kind of window, part after part; a thread reads some strips ahead."""
        blocks, to_read = tee(self._open(section, rows, windows) for rows in parts)
        places = ((block, top) for block in to_read for top in block.tops)
        strips = ahead(lambda place: self._read(section, *place), places, threads=1, depth=2)
        for rows, block in zip(parts, blocks, strict=True):
            names, cells = morphology.describe(islice(strips, len(block.tops)), block.height)
            yield morphology.features_of(names, cells, block.boxes)[1]
            progress(len(rows))
            del cells
            release()

    @cached_property
    def feature_names(self) -> list[str]:
        """Names of the features."""
        import torch

        side = morphology.ALIGN
        names, cells = morphology.describe([torch.ones(3, side + 2 * morphology.REACH, side)], side)
        return morphology.features_of(names, cells, [(np.zeros(1), np.zeros(1), 1.0)])[0]

    def _open(self, section: Section, rows: np.ndarray, windows: Sequence[Windows]) -> _Block:
        """Where all windows of some spots lie, and what surrounds them."""
        step = self._step(section)
        mpp = step * section.mpp
        kinds = [(part.centres / step, part.um / mpp) for part in (kind.at(rows) for kind in windows)]
        reaches = [np.reshape(side / 2 + morphology.HALO, (-1, 1)) for _, side in kinds]
        low = np.min([(c - r).min(axis=0) for (c, _), r in zip(kinds, reaches, strict=True)], axis=0)
        high = np.max([(c + r).max(axis=0) for (c, _), r in zip(kinds, reaches, strict=True)], axis=0)
        start = np.floor(low / morphology.ALIGN).astype(int) * morphology.ALIGN
        stop = np.ceil(high / morphology.ALIGN).astype(int) * morphology.ALIGN
        boxes = []
        for centres, side in kinds:
            left, top = (centres - np.reshape(side / 2, (-1, 1)) - start).T / morphology.CELL
            boxes.append((left, top, side / morphology.CELL))
        return _Block(start, stop, boxes)

    def _read(self, section: Section, block: _Block, top: int) -> torch.Tensor:
        """A strip of a block for `morphology.describe`, (3, h, w) in [0, 1] at the working resolution."""
        import torch

        level = self._level(section)
        factor = self._step(section) / section.image.downsamples[level]
        pad, spare = morphology.ALIGN, morphology.ALIGN - morphology.REACH
        (left, right), bottom = (block.start[0], block.stop[0]), min(top + morphology.STRIP, block.stop[1])
        x0, x1, y0, y1 = (round(v * factor) for v in (left - pad, right + pad, top - pad, bottom + pad))
        strip = torch.from_numpy(section.image.read(x0, y0, x1, y1, level=level)).to(self.device)
        rows = _area_means(strip.flatten(1), bottom - top + 2 * pad, 0).unflatten(1, (-1, 3))
        strip = _area_means(rows, right - left + 2 * pad, 1).permute(2, 0, 1)
        return (strip[:, spare:-spare, pad:-pad] / 255).contiguous()


@dataclass(frozen=True)
class _Block:
    """A part of the slide that is described together, in pixels of the working resolution."""

    start: np.ndarray
    """Upper left corner (x, y)."""
    stop: np.ndarray
    """Lower right corner."""
    boxes: list[tuple[np.ndarray, np.ndarray, float | np.ndarray]]
    """Left, top and side of each kind of window, in cells of the block."""

    @property
    def height(self) -> int:
        """In rows."""
        return int(self.stop[1] - self.start[1])

    @property
    def tops(self) -> range:
        """First rows of the strips that it is read in, so that fine pixels never pile up."""
        return range(int(self.start[1]), int(self.stop[1]), morphology.STRIP)


def _area_means(pixels: torch.Tensor, n: int, axis: int) -> torch.Tensor:
    """float32, `n` means along an axis, as pyramids are made of (a level more or less changes little).

    Each is of all pixels that it touches, like those of torch's adaptive pooling, which takes four times as long.
    """
    import torch

    have = pixels.shape[axis]
    if n == have:
        return pixels.float()
    each = torch.arange(n, device=pixels.device)
    first, stop = each * have // n, -(-(each + 1) * have // n)
    along = [-1 if i == axis else 1 for i in range(pixels.ndim)]
    total = pixels.index_select(axis, first).float()
    for k in range(1, int((stop - first).max())):
        touched = first + k < stop
        further = pixels.index_select(axis, (first + k).clamp(max=have - 1))
        total += further if bool(touched.all()) else further * touched.view(along)
    return total / (stop - first).view(along)
