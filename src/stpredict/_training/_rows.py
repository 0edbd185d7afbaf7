"""Rows that a network learns from: in memory, or in a file of which only the rows asked for are read."""

from __future__ import annotations

import errno
import tempfile
import weakref
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import FileIO
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    import torch

    Rows: TypeAlias = "np.ndarray | torch.Tensor | DiskRows"

CHUNK = 4096
"""Rows gone through at once."""


class DiskRows:
    """Rows of one shape in a file, read by ``rows[…]`` as a tensor: a slice, a mask or row numbers.

    Nothing is mapped or kept, so memory in use does not grow with what was read.

    Parameters
    ----------
    file
        Unbuffered, readable and writable.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._n = 0
        self._row_shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)
        self._columns = slice(None)
        self._chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return self._n if self._chosen is None else len(self._chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and the shape of each."""
        if self._columns == slice(None):
            return (len(self), *self._row_shape)
        return (len(self), len(range(*self._columns.indices(self._row_shape[0]))))

    def append(self, values: np.ndarray) -> None:
        """Write more rows behind the others.

        Raises
        ------
        OSError
            If the disk is full.
        """
        values = np.ascontiguousarray(values)
        if self._n == 0:
            self._row_shape, self._dtype = values.shape[1:], values.dtype
        if (values.shape[1:], values.dtype) != (self._row_shape, self._dtype):
            msg = f"Rows are {self._row_shape} of {self._dtype}, got {values.shape[1:]} of {values.dtype}."
            raise ValueError(msg)
        left = memoryview(values.reshape(-1).view(np.uint8))
        self._file.seek(self._n * self._row_bytes)
        while len(left):
            left = left[self._file.write(left) :]
        self._n += len(values)

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
        rows = rows if self._chosen is None else self._chosen[rows]
        out = np.empty((len(rows), *self._row_shape), dtype=self._dtype)
        if out.size:
            self._read(rows, out.reshape(len(rows), -1).view(np.uint8))
        out = out if self._columns == slice(None) else np.ascontiguousarray(out[:, self._columns])
        return torch.from_numpy(out)

    def _read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Rows that follow each other are read at once."""
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for first, last in zip(starts, [*starts[1:], len(rows)], strict=True):
            self._file.seek(int(rows[first]) * self._row_bytes)
            left = memoryview(out[first:last].reshape(-1))
            while len(left):
                n = self._file.readinto(left)
                if not n:
                    msg = "The file of rows ends before its last row."
                    raise OSError(msg)
                left = left[n:]

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._row_shape)) * self._dtype.itemsize

    def _view(self, **changed: object) -> DiskRows:
        view = object.__new__(DiskRows)
        vars(view).update(vars(self) | changed)
        return view


class Shelf:
    """Where rows are kept while a model is trained: here in memory."""

    def collect(self) -> Collected:
        """Rows to be appended to, part by part."""
        return Collected()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class Collected:
    """Rows in memory."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def append(self, values: np.ndarray) -> None:
        """Take more rows."""
        self._parts.append(values)

    def rows(self) -> np.ndarray:
        """All of them."""
        return np.concatenate(self._parts)


class DiskShelf(Shelf):
    """Rows in files without a name, which vanish with the last use of them, and at the latest where the shelf is left.

    Parameters
    ----------
    folder
        Where the files take their room.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: weakref.WeakSet[FileIO] = weakref.WeakSet()

    def collect(self) -> Written:
        """Rows to be appended to, part by part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115
        self._files.add(file)
        return Written(DiskRows(file), self.folder)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in list(self._files):
            file.close()


class Written:
    """Rows on disk."""

    def __init__(self, rows: DiskRows, folder: Path) -> None:
        self._rows, self._folder = rows, folder

    def append(self, values: np.ndarray) -> None:
        """Write more rows."""
        try:
            self._rows.append(values)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            msg = (
                f"{self._folder} has no room left for the rows that training reads, {4 * values[0].size:,} bytes or so a "
                "spot and input. Free some, or set stpredict.settings.cache_dir to a folder on a larger disk."
            )
            raise OSError(error.errno, msg) from error

    def rows(self) -> DiskRows:
        """All of them."""
        return self._rows


def take(values: Rows, rows: np.ndarray) -> Rows:
    """Only `rows`, a mask or row numbers; of rows on disk a view."""
    return values.take(rows) if isinstance(values, DiskRows) else values[rows]


def columns(values: Rows, which: slice) -> Rows:
    """Only these columns; of rows on disk a view."""
    return values.columns(which) if isinstance(values, DiskRows) else values[:, which]


def chunks(values: Rows) -> Iterable[np.ndarray]:
    """All rows in order, a few at a time."""
    for first in range(0, len(values), CHUNK):
        yield np.asarray(values[first : first + CHUNK])


def loaded(values: Rows) -> np.ndarray | torch.Tensor:
    """Rows in memory."""
    return values[:] if isinstance(values, DiskRows) else values


def as_tensor(values: Rows) -> torch.Tensor | DiskRows:
    """Rows as networks read them."""
    import torch

    return values if isinstance(values, DiskRows) else torch.as_tensor(np.ascontiguousarray(values))
