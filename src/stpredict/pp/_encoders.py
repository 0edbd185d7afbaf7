"""Image encoders: the morphology descriptor, and any network, each with the preprocessing that belongs to it.

An encoder splits a section into `parts` (rows that are worth doing together and can be resumed one by one), and
`encode` turns the windows of one part into features.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.pp import _morphology as morphology
from stpredict.pp._windows import block_groups, read_crops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import nn

    from stpredict._section import Section
    from stpredict.pp._windows import Windows

SPOTS_PER_PART = 1024
BLOCK_PX = 1024
"""Side of the blocks that the morphology descriptor works on, in pixels of its own resolution."""

SPOTS_PER_BLOCK = 2**18
"""More than that are described in smaller blocks: bins of 2 µm are, those of 8 µm never."""

LEAST_BLOCK_PX = 256
"""Smaller blocks would mostly be what surrounds them."""


@dataclass
class MorphologyEncoder:
    """The weight-free descriptor of `stpredict.pp._morphology`."""

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

    def parts(self, section: Section) -> list[np.ndarray]:
        """One part per block; blocks are smaller where spots are so dense that their features would pile up."""
        centres, side = section.centres / self._step(section), BLOCK_PX
        parts = block_groups(centres, side)
        while max(map(len, parts)) > SPOTS_PER_BLOCK and side > LEAST_BLOCK_PX:
            side //= 2
            parts = block_groups(centres, side)
        return parts

    def encode(
        self, section: Section, rows: np.ndarray, windows: Sequence[Windows], progress: Callable[[int], object]
    ) -> list[np.ndarray]:
        """Features (rows, d) of each kind of window."""
        step = self._step(section)
        mpp = step * section.mpp
        boxes = [(part.centres / step, part.um / mpp) for part in (kind.at(rows) for kind in windows)]
        reaches = [np.reshape(side / 2 + morphology.HALO, (-1, 1)) for _, side in boxes]
        low = np.min([(c - r).min(axis=0) for (c, _), r in zip(boxes, reaches, strict=True)], axis=0)
        high = np.max([(c + r).max(axis=0) for (c, _), r in zip(boxes, reaches, strict=True)], axis=0)
        start = np.floor(low / morphology.ALIGN).astype(int) * morphology.ALIGN
        stop = np.ceil(high / morphology.ALIGN).astype(int) * morphology.ALIGN
        pixels = self._read(section, start, stop, step)
        self.feature_names, features = [], []
        names, cells = morphology.describe(pixels)
        table = morphology.sums(cells)
        for centres, side in boxes:
            left, top = ((centres - np.reshape(side / 2, (-1, 1)) - start) / morphology.CELL).T
            self.feature_names, values = morphology.features_of(names, table, left, top, side / morphology.CELL)
            features.append(values)
        progress(len(rows))
        return features

    def _read(self, section: Section, start: np.ndarray, stop: np.ndarray, step: float) -> torch.Tensor:
        """(3, h, w) in [0, 1] at the working resolution, read in strips so that fine pixels never pile up."""
        import torch
        import torch.nn.functional as F

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
            strip = strip.permute(2, 0, 1)[None].float()
            size = (bottom - top + 2 * pad, width + 2 * pad)
            if strip.shape[-2:] != size:  # area means, as pyramids are made of: a level more or less changes little
                strip = F.interpolate(strip, size=size, mode="area")
            out[:, top:bottom] = strip[0, :, pad:-pad, pad:-pad] / 255
        return out


@dataclass
class NetworkEncoder:
    """A torch module that maps (batch, 3, size, size) to (batch, d)."""

    module: nn.Module
    name: str
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    precision: str
    batch_size: int
    trained_mpp: float | None = None
    mpp: float | None = None
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None
    feature_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        digest = hashlib.sha256(repr((type(self.module).__name__, self.size, *self.mean, *self.std)).encode())
        for key, value in sorted(self.module.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(-1).numpy().tobytes())
        self.hash = digest.hexdigest()[:16]
        self._runner = _folded(self.module, self.size) if self.device.type == "cpu" else self.module

    def mpp_of(self, section: Section, um: float | np.ndarray) -> float | np.ndarray:
        """Resolution (µm/px) of the content of an input tile."""
        return np.maximum(um / self.size, max(self.mpp or 0.0, section.mpp))

    def parts(self, section: Section) -> list[np.ndarray]:
        """Runs of neighbouring spots."""
        order = np.concatenate(block_groups(section.centres, 2048))
        return np.split(order, range(SPOTS_PER_PART, len(order), SPOTS_PER_PART))

    def encode(
        self, section: Section, rows: np.ndarray, windows: Sequence[Windows], progress: Callable[[int], object]
    ) -> list[np.ndarray]:
        """Features (rows, d) of each kind of window; reading runs ahead of the network in a thread."""
        import torch

        position = np.empty(len(section), dtype=np.int64)
        position[rows] = np.arange(len(rows))
        features: list[np.ndarray | None] = [None] * len(windows)
        with torch.inference_mode():
            for which, tile_rows, tiles in _ahead(self._batches(section, rows, windows)):
                values = self._forward(tiles)
                if features[which] is None:
                    features[which] = np.empty((len(rows), values.shape[1]), dtype=np.float32)
                features[which][position[tile_rows]] = values
                if which == len(windows) - 1:
                    progress(len(tile_rows))
        return features

    def _batches(
        self, section: Section, rows: np.ndarray, windows: Sequence[Windows]
    ) -> Iterator[tuple[int, np.ndarray, torch.Tensor]]:
        """(which kind of window, rows, uint8 tiles): full batches of input-sized tiles."""
        import torch

        for which, kind in enumerate(windows):
            part, sides = kind.at(rows), np.broadcast_to(kind.um, len(section))
            held_rows: list[np.ndarray] = []
            held: list[torch.Tensor] = []
            targets = self.mpp_of(section, part.um)
            for block_rows, crops in read_crops(section, rows, part.um, targets, centres=part.centres):
                held_rows.append(block_rows)
                held.append(self._resize(crops, float(sides[block_rows[0]])))
                while (n := sum(map(len, held))) >= self.batch_size:
                    ready_rows, ready = np.concatenate(held_rows), torch.cat(held)
                    yield which, ready_rows[: self.batch_size], ready[: self.batch_size]
                    held_rows, held = [ready_rows[self.batch_size :]], [ready[self.batch_size :]]
            if n := sum(map(len, held)):
                yield which, np.concatenate(held_rows)[:n], torch.cat(held)

    def _resize(self, crops: np.ndarray, um: float) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        tiles = torch.from_numpy(crops).permute(0, 3, 1, 2)  # channels last in memory
        coarse = round(um / self.mpp) if self.mpp else 0
        if 0 < coarse < tiles.shape[-1]:
            tiles = F.interpolate(tiles, size=(coarse, coarse), mode="bilinear", antialias=True)
        if tiles.shape[-1] != self.size:
            tiles = F.interpolate(tiles, size=(self.size, self.size), mode="bilinear", antialias=True)
        return tiles

    def _forward(self, tiles: torch.Tensor) -> np.ndarray:
        import torch

        scale = torch.tensor(self.std, device=self.device).view(1, 3, 1, 1) * 255
        shift = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1) * 255
        inputs = tiles.to(self.device, non_blocking=True).float().sub_(shift).div_(scale)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            output = self.forward(self.module, inputs) if self.forward else self._runner(inputs)
        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 4) or len(output) != len(tiles):
            what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            msg = (
                f"Encoder {self.name!r} returned {what} for {len(tiles)} tiles; it must return one vector per tile. "
                "Wrap it in a module whose forward pools to (batch, d)."
            )
            raise ValueError(msg)
        if output.ndim == 4:
            output = output.mean(dim=(2, 3))
        return output.float().cpu().numpy()


def _folded(module: nn.Module, size: int) -> nn.Module:
    """Copy of a network with batch normalisation folded into its convolutions, which a CPU runs about 8 % faster.

    The network itself where it has none, cannot be traced, or a trial tile shows that the copy differs.
    """
    import torch
    from torch.fx.experimental.optimization import fuse
    from torch.fx.proxy import TraceError

    if not any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules()):
        return module
    trial = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
    try:
        folded = fuse(module).eval().to(memory_format=torch.channels_last)
        with torch.inference_mode():
            same = torch.allclose(folded(trial), module(trial), rtol=1e-3, atol=1e-4)
    except (TraceError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return module
    return folded if same else module


def _ahead(items: Iterator[Any], depth: int = 4) -> Iterator[Any]:
    """Iterate `items` in a background thread, `depth` items ahead; errors surface here."""
    box: queue.Queue[Any] = queue.Queue(maxsize=depth)
    done, stopped = object(), threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                box.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(done)
        except BaseException as error:  # noqa: BLE001 (handed to the caller's thread)
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := box.get()) is not done:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
