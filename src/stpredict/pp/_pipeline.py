"""Work done ahead of the one who needs it, by threads, in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    A = TypeVar("A")
    B = TypeVar("B")


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
