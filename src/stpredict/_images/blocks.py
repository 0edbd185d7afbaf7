"""Decoded blocks of an image, kept for as long as neighbouring windows are likely to ask for them."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

CACHE_BYTES = 64 * 2**20
"""Decoded pixels kept, of all images: five blocks of 2,048 × 2,048, enough for those around the one in work."""

SIDE = 512
"""Blocks are about this many pixels wide and high, of whole chunks of the file."""

LARGEST = 2**22
"""Pixels of a block that is more than one chunk."""


class BlockCache:
    """Blocks by key, the ones used last; each is made once, however many threads ask for it at the same time."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.made = 0
        """Blocks made so far."""
        self._blocks: OrderedDict[tuple[int, ...], Future[np.ndarray]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: tuple[int, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the block `key`, made by `make` where it is not kept."""
        with self._lock:
            mine = key not in self._blocks
            future = self._blocks.setdefault(key, Future())
            self._blocks.move_to_end(key)
        if mine:
            self._fill(key, future, make)
        return future.result()

    def clear(self) -> None:
        """Forget all blocks."""
        with self._lock:
            self._blocks = OrderedDict((key, future) for key, future in self._blocks.items() if not future.done())
            self._bytes = 0

    def _fill(self, key: tuple[int, ...], future: Future[np.ndarray], make: Callable[[], np.ndarray]) -> None:
        try:
            block = make()
        except BaseException as error:
            with self._lock:
                self._blocks.pop(key, None)
            future.set_exception(error)
            raise
        with self._lock:
            self.made += 1
            self._bytes += block.nbytes
            future.set_result(block)
            self._forget()

    def _forget(self) -> None:
        """Drop the blocks that were used longest ago, until the others fit."""
        for key in list(self._blocks):
            if self._bytes <= self.limit:
                return
            future = self._blocks[key]
            if future.done():
                self._bytes -= future.result().nbytes
                del self._blocks[key]


def block_shape(chunk: tuple[int, int]) -> tuple[int, int]:
    """Height and width of blocks of whole chunks."""
    width = chunk[1] * max(1, SIDE // chunk[1])
    tallest = max(1, min(SIDE, LARGEST // width) // chunk[0])
    return chunk[0] * tallest, width


def covering(
    window: tuple[int, int, int, int], block: tuple[int, int], shape: tuple[int, int]
) -> Iterator[tuple[int, int, int, int]]:
    """Blocks (top, left, bottom, right), cut at `shape`, that a window (top, left, bottom, right) touches."""
    top, left, bottom, right = window
    for y in range(top // block[0] * block[0], bottom, block[0]):
        for x in range(left // block[1] * block[1], right, block[1]):
            yield y, x, min(y + block[0], shape[0]), min(x + block[1], shape[1])
