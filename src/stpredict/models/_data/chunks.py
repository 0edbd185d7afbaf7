"""Rows of a section part by part, so that what is as large as spots × genes never exists as a whole."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
U = TypeVar("U")

VALUES = 2**23
"""Values of one matrix in memory at a time: 32 MiB of float32."""

FEWEST = 256


def rows_of(n_columns: int) -> int:
    """How many rows of so many columns are worth doing at a time."""
    return max(FEWEST, VALUES // max(n_columns, 1))


class Parts(Generic[T]):
    """What `make` gives for the rows of a section, a few at a time, and as often as it is gone through.

    Only what was made last is kept: a section that is one part is made once, of a larger one nothing piles up.

    Parameters
    ----------
    make
        Gives what belongs to a slice of rows.
    n
        Rows of the section.
    size
        Rows of a part.

    Attributes
    ----------
    rows
        The slice of every part.
    """

    def __init__(self, make: Callable[[slice], T], n: int, size: int) -> None:
        rows = [slice(start, min(start + size, n)) for start in range(0, max(n, 1), size)]
        self.rows = rows
        self._made = lru_cache(maxsize=1)(lambda number: make(rows[number]))  # (self in here would outlive its use)

    def __iter__(self) -> Iterator[T]:
        return map(self._made, range(len(self.rows)))

    def map(self, function: Callable[[T], U]) -> Parts[U]:
        """`function` of every part."""
        parts: Parts[U] = object.__new__(Parts)
        made = self._made
        parts.rows = self.rows
        parts._made = lru_cache(maxsize=1)(lambda number: function(made(number)))
        return parts

    @staticmethod
    def side_by_side(several: Sequence[Parts[T]]) -> Parts[list[T]]:
        """What all of `several`, which have the same parts, give for each."""
        parts: Parts[list[T]] = object.__new__(Parts)
        made = [one._made for one in several]
        parts.rows = several[0].rows
        parts._made = lru_cache(maxsize=1)(lambda number: [of(number) for of in made])
        return parts
