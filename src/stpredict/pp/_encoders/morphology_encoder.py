"""The morphology descriptor as an encoder.

An encoder splits a section into `parts` (rows that are worth doing together and can be resumed one by one), and
`encode` turns the windows of these parts into features, one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
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

BLOCK_PX = 1024
"""Side of the blocks that the morphology descriptor works on, in pixels of its own resolution."""

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
        centres, side = section.centres / step, max(BLOCK_PX, 2 * math.ceil(widest))
        parts = block_groups(centres, side)
        while max(map(len, parts)) > SPOTS_PER_BLOCK and side > LEAST_BLOCK_PX:
            side //= 2
            parts = block_groups(centres, side)
        return parts

    def encode(
        self,
        section: Section,
        parts: Sequence[np.ndarray],
        windows: Sequence[Windows],
        progress: Callable[[int], object],
    ) -> Iterator[list[np.ndarray]]:
        """Features (rows, d) of each kind of window, part after part; a thread reads one part ahead."""

        def opened(rows: np.ndarray) -> _Block:
            return self._open(section, rows, windows)

        for rows, block in zip(parts, ahead(opened, parts, threads=1, depth=1), strict=True):
            yield block.describe()
            progress(len(rows))
            release()

    @cached_property
    def feature_names(self) -> list[str]:
        """Names of the features."""
        import torch

        names, cells = morphology.describe(torch.ones(3, morphology.HALO, morphology.HALO))
        nowhere = np.zeros(1)
        return morphology.features_of(names, morphology.sums(cells), nowhere, nowhere, 1.0)[0]

    def _open(self, section: Section, rows: np.ndarray, windows: Sequence[Windows]) -> _Block:
        """Pixels of all windows of some spots, with what surrounds them."""
        step = self._step(section)
        mpp = step * section.mpp
        boxes = [(part.centres / step, part.um / mpp) for part in (kind.at(rows) for kind in windows)]
        reaches = [np.reshape(side / 2 + morphology.HALO, (-1, 1)) for _, side in boxes]
        low = np.min([(c - r).min(axis=0) for (c, _), r in zip(boxes, reaches, strict=True)], axis=0)
        high = np.max([(c + r).max(axis=0) for (c, _), r in zip(boxes, reaches, strict=True)], axis=0)
        start = np.floor(low / morphology.ALIGN).astype(int) * morphology.ALIGN
        stop = np.ceil(high / morphology.ALIGN).astype(int) * morphology.ALIGN
        corners = [(centres - np.reshape(side / 2, (-1, 1)) - start, side) for centres, side in boxes]
        return _Block(self._read(section, start, stop, step), corners)

    def _read(self, section: Section, start: np.ndarray, stop: np.ndarray, step: float) -> torch.Tensor:
        """(3, h, w) in [0, 1] at the working resolution, read in strips so that fine pixels never pile up."""
        import torch

        level = self._level(section)
        factor = step / section.image.downsamples[level]
        pad, tall = morphology.ALIGN, 16 * morphology.ALIGN
        width, height = stop - start
        out = torch.empty((3, height, width), device=self.device)
        x0, x1 = round((start[0] - pad) * factor), round((stop[0] + pad) * factor)
        for top in range(0, height, tall):
            bottom = min(top + tall, height)
            y0, y1 = round((start[1] + top - pad) * factor), round((start[1] + bottom + pad) * factor)
            strip = torch.from_numpy(section.image.read(x0, y0, x1, y1, level=level)).to(self.device)
            rows = _area_means(strip.flatten(1), bottom - top + 2 * pad, 0).unflatten(1, (-1, 3))
            strip = _area_means(rows, width + 2 * pad, 1).permute(2, 0, 1)
            torch.div(strip[:, pad:-pad, pad:-pad], 255, out=out[:, top:bottom])
        return out


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


@dataclass(frozen=True)
class _Block:
    """Pixels at the working resolution, (3, h, w) in [0, 1], and the windows in them: upper left corners, and side."""

    pixels: torch.Tensor
    windows: list[tuple[np.ndarray, float | np.ndarray]]

    def describe(self) -> list[np.ndarray]:
        """Features (n, d) of each kind of window."""
        names, cells = morphology.describe(self.pixels)
        table = morphology.sums(cells)
        features = []
        for corners, side in self.windows:
            left, top = (corners / morphology.CELL).T
            features.append(morphology.features_of(names, table, left, top, side / morphology.CELL)[1])
        return features
