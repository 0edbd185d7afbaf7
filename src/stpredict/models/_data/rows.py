"""Rows that a network learns from: in memory, or in a file of which only the rows asked for are read."""

from __future__ import annotations

import errno
import tempfile
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stpredict._core.settings import settings
from stpredict._sections.stored import StoredSections

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    import torch

    from stpredict._sections.section import Section

    Rows: TypeAlias = "np.ndarray | torch.Tensor | DiskRows"

CHUNK = 4096
"""Rows gone through at once, at most."""

CHUNK_VALUES = 2**24
"""Values gone through at once: of tiles, fewer rows."""


class DiskRows:
    """Rows of one shape in a file, read by ``rows[…]`` as a tensor: a slice, a mask or row numbers.

    Nothing is mapped or kept, so memory in use does not grow with what was read. The file has no name: its room is given
    back when the last view of it is forgotten.

    Parameters
    ----------
    file
        Where the rows are written.
    """

    def __init__(self, file: _File) -> None:
        self._file = file
        self._n = 0
        self._row_shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)
        self._columns: slice | None = None
        self._chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return self._n if self._chosen is None else len(self._chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and the shape of each."""
        if self._columns is None:
            return (len(self), *self._row_shape)
        return (len(self), len(range(*self._columns.indices(self._row_shape[0]))))

    def append(self, values: np.ndarray) -> None:
        """Write more rows behind the others. Raises OSError if the disk is full."""
        values = np.ascontiguousarray(values)
        if self._n == 0:
            self._row_shape, self._dtype = values.shape[1:], values.dtype
        if (values.shape[1:], values.dtype) != (self._row_shape, self._dtype):
            msg = f"Rows are {self._row_shape} of {self._dtype}, got {values.shape[1:]} of {values.dtype}."
            raise ValueError(msg)
        self._file.write(values.reshape(-1).view(np.uint8), self._n * self._row_bytes)
        self._n += len(values)

    def done(self) -> DiskRows:
        """All of them."""
        return self

    def take(self, rows: np.ndarray) -> DiskRows:
        """View only `rows`, a mask or row numbers, of the same file."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return self._view(_chosen=rows if self._chosen is None else self._chosen[rows])

    def columns(self, columns: slice) -> DiskRows:
        """View only these columns of the same file."""
        return self._view(_columns=columns)

    def __getitem__(self, rows: slice | np.ndarray | torch.Tensor) -> torch.Tensor:
        import torch

        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.where(rows < 0, rows + len(self), rows)
        out = self._read(rows if self._chosen is None else self._chosen[rows])
        return torch.from_numpy(out if self._columns is None else np.ascontiguousarray(out[:, self._columns]))

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Rows that follow each other are read at once."""
        out = np.empty((len(rows), *self._row_shape), dtype=self._dtype)
        if out.size:
            starts = np.flatnonzero(np.diff(rows, prepend=np.nan) != 1)
            for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):
                self._file.read(out[first:last].reshape(-1).view(np.uint8), int(rows[first]) * self._row_bytes)
        return out

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._row_shape)) * self._dtype.itemsize

    def _view(self, **changed: object) -> DiskRows:
        view = object.__new__(DiskRows)
        vars(view).update(vars(self) | changed)
        return view


class _File:
    """A file without a name in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._raw = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self.close = weakref.finalize(self, self._raw.close)

    def write(self, values: Any, at: int) -> None:
        left = memoryview(values)
        try:
            self._raw.seek(at)
            while len(left):
                left = left[self._raw.write(left) :]
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            msg = (
                f"{self._folder} has no room left for the rows that training reads. Free some, or set "
                "stpredict.settings.cache_dir to a folder on a larger disk."
            )
            raise OSError(error.errno, msg) from error

    def read(self, out: Any, at: int) -> None:
        left = memoryview(out)
        self._raw.seek(at)
        while len(left):
            n = self._raw.readinto(left)
            if not n:
                msg = f"A file in {self._folder} ends before its last row."
                raise OSError(msg)
            left = left[n:]


class Collected:
    """Rows in memory, taken part by part."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def append(self, values: np.ndarray) -> None:
        """Take more rows."""
        self._parts.append(values)

    def done(self) -> np.ndarray:
        """All of them; the parts are given away."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class RowStore:
    """Where rows are kept while a model is trained: here in memory."""

    def collect(self) -> Collected | DiskRows:
        """Rows to be appended to; ``done()`` then gives them all."""
        return Collected()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class DiskRowStore(RowStore):
    """Rows on disk, at the latest until the store is left.

    Parameters
    ----------
    folder
        Where they take their room.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: weakref.WeakSet[_File] = weakref.WeakSet()

    def collect(self) -> DiskRows:
        """Rows to be appended to."""
        file = _File(self.folder)
        self._files.add(file)
        return DiskRows(file)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in list(self._files):
            file.close()


def take(values: Rows, rows: np.ndarray) -> Rows:
    """Only `rows`, a mask or row numbers; of rows on disk a view."""
    return values.take(rows) if isinstance(values, DiskRows) else values[rows]


def columns(values: Rows, which: slice) -> Rows:
    """Only these columns; of rows on disk a view."""
    return values.columns(which) if isinstance(values, DiskRows) else values[:, which]


def chunks(values: Rows) -> Iterable[np.ndarray]:
    """All rows in order, a few at a time."""
    size = max(1, min(CHUNK, CHUNK_VALUES // max(int(np.prod(values.shape[1:])), 1)))
    for first in range(0, len(values), size):
        yield np.asarray(values[first : first + size])


def as_tensor(values: Rows) -> torch.Tensor | DiskRows:
    """Rows as networks read them."""
    import torch

    return values if isinstance(values, DiskRows) else torch.as_tensor(np.ascontiguousarray(values))


def row_store(sections: Sequence[Section]) -> RowStore:
    """Where the rows of these sections are kept in training: on disk as the sections are, or in memory."""
    return DiskRowStore(settings.cache_dir) if isinstance(sections, StoredSections) else RowStore()
