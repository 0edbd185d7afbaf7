"""Any network as an encoder: tiles are cut ahead of it, batches fit its devices, and bare glass never reaches it."""

from __future__ import annotations

import copy
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict.pp._encoders.glass import is_glass
from stpredict.pp._encoders.modules import Input, floating_type, identity_of
from stpredict.pp._encoders.windows import TILES_PER_CUT, ahead, columns, plan_cuts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch
    from torch import nn

    from stpredict._sections.section import Section
    from stpredict.pp._encoders.windows import Cut, Windows

SPOTS_PER_PART = 1024
"""Spots whose features are kept together when encoding is cut short."""

CPU_BATCH, GPU_BATCH = 64, 256
"""Tiles per forward pass where nobody says otherwise; on a GPU half as many, and so on, until they fit."""

SAME, SAME_ROUNDED = 1e-3, 3e-2
"""How far features of one tile may lie apart, as a share of their length: in float32, and with fewer bits."""


class NotAnEncoderError(ValueError):
    """A network that gives no features, or has no room to."""


@dataclass
class NetworkEncoder:
    """A torch module that maps (batch, 3, size, size) to (batch, d), on one device or on several."""

    module: nn.Module
    name: str
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    devices: Sequence[torch.device]
    precision: str
    batch_size: int | None = None
    trained_mpp: float | None = None
    mpp: float | None = None
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None
    feature_names: Sequence[str] = ()
    revision: str = ""

    def __post_init__(self) -> None:
        self.hash = identity_of(self.module, Input(self.size, tuple(self.mean), tuple(self.std)))
        self._runners = [self._runner(device) for device in self.devices]
        self._on_cpu = self.devices[0].type == "cpu"
        self._limit = self.batch_size or (CPU_BATCH if self._on_cpu else GPU_BATCH)
        self._blank: np.ndarray | None = None
        self._tried = False
        self._type = floating_type(self.module)

    def mpp_of(self, section: Section, um: float | np.ndarray) -> float | np.ndarray:
        """Resolution (µm/px) of the content of an input tile."""
        return np.maximum(um / self.size, max(self.mpp or 0.0, section.mpp))

    def parts(self, section: Section, windows: Sequence[Windows]) -> list[np.ndarray]:
        """Runs of neighbouring spots, to be resumed one by one."""
        order = np.concatenate(columns(self._on_level(section, windows)))
        return np.split(order, range(SPOTS_PER_PART, len(order), SPOTS_PER_PART))

    def _on_level(self, section: Section, windows: Sequence[Windows]) -> np.ndarray:
        """Centres in pixels of the finest level that is read."""
        finest = min(float(np.min(self.mpp_of(section, kind.um))) for kind in windows)
        level = section.image.best_level(finest / section.mpp)
        return section.centres / section.image.downsamples[level]

    def encode(
        self,
        section: Section,
        parts: Sequence[np.ndarray],
        windows: Sequence[Windows],
        progress: Callable[[int], object],
    ) -> Iterator[list[np.ndarray]]:
        """Features (rows, d) of each kind of window, part after part.

        Threads cut and resize tiles ahead of the network, and batches run over from one part into the next.
        """
        if parts and not self._tried:
            self._try()
        collected = _Collected(section, parts, len(windows))
        for pieces, features in self._features(self._tiles(section, parts, windows)):
            collected.add(pieces, features)
            progress(sum(len(piece.rows) for piece in pieces if piece.kind == len(windows) - 1))
            yield from collected.complete()

    # ------------------------------------------------------------------ tiles

    def _tiles(
        self, section: Section, parts: Sequence[np.ndarray], windows: Sequence[Windows]
    ) -> Iterator[tuple[_Piece, torch.Tensor | None]]:
        """Input-sized tiles, in the order in which parts want them; None for those that show no tissue."""

        def cut_out(plan: tuple[int, int, Cut]) -> list[tuple[_Piece, torch.Tensor | None]]:
            number, kind, cut = plan
            crops = cut.crops(section.image)
            glass = np.array([is_glass(crop) for crop in crops])
            found: list[tuple[_Piece, torch.Tensor | None]] = []
            if glass.any():
                found.append((_Piece(number, kind, cut.rows[glass]), None))
            if not glass.all():
                kept = crops[~glass] if glass.any() else crops
                found.append((_Piece(number, kind, cut.rows[~glass]), self._resize(kept, cut.um)))
            return found

        threads = _reading_threads(self._on_cpu)
        depth = 2 * threads + 2 * self._limit // TILES_PER_CUT  # two batches, beside what the threads are at
        for found in ahead(cut_out, self._cuts(section, parts, windows), threads=threads, depth=depth):
            yield from found

    def _cuts(
        self, section: Section, parts: Sequence[np.ndarray], windows: Sequence[Windows]
    ) -> Iterator[tuple[int, int, Cut]]:
        """What to cut out in turn, with its part and kind of window: all kinds of one column, then of the next."""
        places = self._on_level(section, windows)
        for number, rows in enumerate(parts):
            for some in columns(places[rows]):
                for kind, window in enumerate(windows):
                    here = window.at(rows[some])
                    targets = self.mpp_of(section, here.um)
                    for cut in plan_cuts(section, rows[some], here.um, targets, centres=here.centres):
                        yield number, kind, cut

    def _resize(self, crops: np.ndarray, um: float) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        tiles = torch.from_numpy(crops).permute(0, 3, 1, 2)  # channels last in memory
        coarse = round(um / self.mpp) if self.mpp else 0
        if 0 < coarse < min(tiles.shape[-1], self.size):  # (else the network sees it coarser anyway)
            tiles = F.interpolate(tiles, size=(coarse, coarse), mode="bilinear", antialias=True)
        if tiles.shape[-1] != self.size:
            tiles = F.interpolate(tiles, size=(self.size, self.size), mode="bilinear", antialias=True)
        return tiles

    # ------------------------------------------------------------------ network

    def _try(self) -> None:
        """Give the network a tile twice, beside different ones, before any work starts.

        Raises ValueError if it does not take tiles of this size, or gives other features the second time.
        """
        import torch

        shape = (1, 3, self.size, self.size)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        pairs = torch.cat([noise, torch.full(shape, 255, dtype=torch.uint8)]), torch.cat([noise, noise])
        try:
            first, second = (self._run(pair, 0)[0] for pair in pairs)
        except NotAnEncoderError:
            raise
        except Exception as error:  # (of the network's own)
            if isinstance(error, RuntimeError) and _is_out_of_memory(error):
                return  # `_forward` finds how many fit
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            msg = (
                f"Encoder {self.name!r} does not take tiles of {self.size} × {self.size} px ({reason}). Pass input_size=, "
                "the size that it was built for."
            )
            raise ValueError(msg) from error
        exact = self._type == torch.float32 and self.precision == "float32"
        apart, length = np.linalg.norm(first - second), np.linalg.norm(first)
        if apart > (SAME if exact else SAME_ROUNDED) * length and np.isfinite(length):
            msg = (
                f"Encoder {self.name!r} gives one tile other features the second time ({apart / length:.1%} apart): "
                "something in it is random or depends on the other tiles, such as dropout or batch normalisation in "
                "training. Switch that off."
            )
            raise ValueError(msg)
        self._tried = True

    def _features(
        self, tiles: Iterable[tuple[_Piece, torch.Tensor | None]]
    ) -> Iterator[tuple[list[_Piece], np.ndarray]]:
        """Features of the tiles, in order, whole batches at a time."""
        batches = _batches(tiles, lambda: self._limit)
        workers = 2 * len(self._runners) if self.devices[0].type == "cuda" else len(self._runners)  # one copies ahead
        if self._on_cpu and len(self._runners) == 1:
            for pieces, batch in batches:
                yield pieces, self._of(pieces, batch, 0)
            return
        turn = threading.local()
        free = iter(range(workers))

        def run(item: tuple[list[_Piece], torch.Tensor | None]) -> tuple[list[_Piece], np.ndarray]:
            if not hasattr(turn, "number"):
                turn.number = next(free)
            pieces, batch = item
            return pieces, self._of(pieces, batch, turn.number % len(self._runners))

        yield from ahead(run, batches, threads=workers, depth=workers)

    def _of(self, pieces: list[_Piece], batch: torch.Tensor | None, which: int) -> np.ndarray:
        if batch is not None:
            return self._forward(batch, which)
        blank = self._blank_features()
        return np.broadcast_to(blank, (sum(len(piece.rows) for piece in pieces), len(blank)))

    def _blank_features(self) -> np.ndarray:
        """What the network makes of white glass."""
        import torch

        if self._blank is None:
            self._blank = self._forward(torch.full((1, 3, self.size, self.size), 255, dtype=torch.uint8), 0)[0]
        return self._blank

    def _runner(self, device: torch.device) -> nn.Module:
        module = self.module if device == self.devices[0] else copy.deepcopy(self.module)
        module = module.to(device)
        plain = device.type != "cpu" or self.forward is not None
        return module if plain else _folded(module, self.size)

    def _forward(self, tiles: torch.Tensor, which: int) -> np.ndarray:
        """float32 (tiles, d); where the device has no room, in halves, and so from then on.

        Raises ValueError if the network does not give one vector per tile, or has no room for a single one.
        """
        at_once = min(self._limit, len(tiles))
        try:
            return np.concatenate([self._run(batch, which) for batch in tiles.split(at_once)])
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if at_once == 1:
                reason = str(error).splitlines()[0]
                msg = (
                    f"Not even one tile fits into the memory of {self.devices[which]} with encoder {self.name!r} "
                    f"({reason}). Use device='cpu', or a smaller encoder."
                )
                raise NotAnEncoderError(msg) from error
        self._limit = min(self._limit, at_once // 2)
        if self.devices[which].type == "cuda":
            import torch

            torch.cuda.empty_cache()
        return self._forward(tiles, which)

    def _run(self, tiles: torch.Tensor, which: int) -> np.ndarray:
        import torch

        device, runner = self.devices[which], self._runners[which]
        with torch.inference_mode():
            scale = torch.tensor(self.std, device=device).view(1, 3, 1, 1) * 255
            shift = torch.tensor(self.mean, device=device).view(1, 3, 1, 1) * 255
            inputs = tiles.to(device).float().sub_(shift).div_(scale)
            inputs = inputs.to(self._type).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                output = self.forward(runner, inputs) if self.forward else runner(inputs)
            if not isinstance(output, torch.Tensor) or output.ndim not in (2, 4) or len(output) != len(tiles):
                what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                msg = (
                    f"Encoder {self.name!r} returned {what} for {len(tiles)} tiles; it must return one vector per tile. "
                    "Wrap it in a module whose forward pools to (batch, d)."
                )
                raise NotAnEncoderError(msg)
            if output.ndim == 4:
                output = output.mean(dim=(2, 3))
            return output.float().cpu().numpy()


@dataclass(frozen=True)
class _Piece:
    """Which spots some tiles belong to."""

    part: int
    kind: int
    rows: np.ndarray

    def split(self, n: int) -> tuple[_Piece, _Piece]:
        """The first `n` of them, and the others."""
        return _Piece(self.part, self.kind, self.rows[:n]), _Piece(self.part, self.kind, self.rows[n:])


class _Collected:
    """Features that came in so far, sorted into parts."""

    def __init__(self, section: Section, parts: Sequence[np.ndarray], n_kinds: int) -> None:
        self._parts, self._n_kinds = parts, n_kinds
        self._position = np.empty(len(section), dtype=np.int64)
        for rows in parts:
            self._position[rows] = np.arange(len(rows))
        self._open: dict[int, list[np.ndarray]] = {}
        self._missing = {number: len(rows) * n_kinds for number, rows in enumerate(parts)}
        self._next = 0

    def add(self, pieces: Sequence[_Piece], features: np.ndarray) -> None:
        """Sort in the features of `pieces`, which follow each other."""
        first = 0
        for piece in pieces:
            values = features[first : first + len(piece.rows)]
            first += len(piece.rows)
            if piece.part not in self._open:
                shape = (len(self._parts[piece.part]), features.shape[1])
                self._open[piece.part] = [np.empty(shape, dtype=np.float32) for _ in range(self._n_kinds)]
            self._open[piece.part][piece.kind][self._position[piece.rows]] = values
            self._missing[piece.part] -= len(piece.rows)

    def complete(self) -> Iterator[list[np.ndarray]]:
        """Parts that became complete, in order."""
        while self._next in self._open and not self._missing[self._next]:
            yield self._open.pop(self._next)
            self._next += 1


def _batches(
    tiles: Iterable[tuple[_Piece, torch.Tensor | None]], size: Callable[[], int]
) -> Iterator[tuple[list[_Piece], torch.Tensor | None]]:
    """Tiles in batches of `size()`, whichever pieces they come from; pieces without tissue by themselves."""
    import torch

    pieces: list[_Piece] = []
    held: list[torch.Tensor] = []
    for piece, own in tiles:
        if own is None:
            yield [piece], None
            continue
        while len(own):
            full = size()  # (another thread may have found that fewer fit)
            n = max(1, full - sum(map(len, held)))
            head, piece = piece.split(n)
            pieces, held, own = [*pieces, head], [*held, own[:n]], own[n:]
            if sum(map(len, held)) >= full:
                yield pieces, torch.cat(held)
                pieces, held = [], []
    if held:
        yield pieces, torch.cat(held)


def _reading_threads(on_cpu: bool) -> int:
    """A network on the CPU leaves little room beside it."""
    cores = os.cpu_count() or 1
    return max(1, min(8, cores // 8 if on_cpu else cores))


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    told = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in told or "can't allocate memory" in told


def _folded(module: nn.Module, size: int) -> nn.Module:
    """Copy of a network with batch normalisation folded into its convolutions, which a CPU runs about 8 % faster.

    The network itself where it has none, cannot be traced, or a trial tile shows that the copy differs.
    """
    import torch
    from torch.fx.experimental.optimization import fuse
    from torch.fx.proxy import TraceError

    batch_norm = any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())
    if not batch_norm or hasattr(module, "_orig_mod"):  # (what is compiled is folded already)
        return module
    trial = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
    try:
        folded = fuse(module).eval().to(memory_format=torch.channels_last)
        with torch.inference_mode():
            same = torch.allclose(folded(trial), module(trial), rtol=1e-3, atol=1e-4)
    except (TraceError, AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return module
    return folded if same else module
