"""Rows of sparse counts that a store keeps by columns."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from stpredict._core.settings import settings

if TYPE_CHECKING:
    from stpredict._core.typing import Matrix

AT_ONCE = 2**23
"""Values that are moved at a time."""


class _Sorted(NamedTuple):
    """Where every row starts, and the columns and values of all rows, in files."""

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class ByRows:
    """Reads rows of a matrix on disk; of one that is stored by columns (CSC), from a copy by rows.

    The copy is made when rows are first asked for. It lies in ``settings.cache_dir``, in files without a name whose room is
    given back when this is forgotten.
    """

    def __init__(self) -> None:
        self._sorted: _Sorted | None = None

    def read(self, element: Any, rows: slice) -> Matrix:
        """`rows` of `element`, always the same one: a dense array, or a group with a sparse matrix.

        Raises OSError if the disk has no room for the copy.
        """
        from anndata.io import sparse_dataset

        if not hasattr(element, "keys"):
            return element[rows]
        dataset = sparse_dataset(element)
        if dataset.format != "csc":
            return dataset[rows]
        if self._sorted is None:
            self._sorted = _sorted_by_rows(element, dataset.shape)
        starts, columns, values = self._sorted
        first, last, _ = rows.indices(dataset.shape[0])
        own = starts[first : last + 1]
        part = slice(own[0], own[-1])
        return sparse.csr_matrix(
            (np.array(values[part]), np.array(columns[part]), own - own[0]), shape=(len(own) - 1, dataset.shape[1])
        )

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return ByRows, ()  # (another process makes a copy of its own)


def _sorted_by_rows(element: Any, shape: tuple[int, int]) -> _Sorted:
    """Write a matrix that is stored by columns by rows: columns are gone through in order, and so stay so in every row."""
    ends, total = np.asarray(element["indptr"][:]), element["indices"].shape[0]
    parts = [slice(first, min(first + AT_ONCE, total)) for first in range(0, total, AT_ONCE)]
    sizes = np.zeros(shape[0], dtype=np.int64)
    for part in parts:
        sizes += np.bincount(np.asarray(element["indices"][part]).astype(np.int64, copy=False), minlength=shape[0])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    columns, values = _in_file(total, np.dtype(np.int32)), _in_file(total, element["data"].dtype)
    free = starts[:-1].copy()
    for part in parts:
        row = np.asarray(element["indices"][part]).astype(np.int64, copy=False)
        column = np.repeat(np.arange(shape[1], dtype=np.int32), np.diff(np.clip(ends, part.start, part.stop)))
        order = np.argsort(row, kind="stable")
        number, first, size = np.unique(row[order], return_index=True, return_counts=True)
        place = np.repeat(free[number] - first, size) + np.arange(len(row))
        columns[place], values[place] = column[order], np.asarray(element["data"][part])[order]
        free[number] += size
    return _Sorted(starts, columns, values)


def _in_file(size: int, dtype: np.dtype) -> np.ndarray:
    """Values in a file without a name."""
    if not size:
        return np.zeros(0, dtype)
    folder = settings.cache_dir
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):  # (a full disk would end the process otherwise, as it is written to)
                os.posix_fallocate(file.fileno(), 0, size * dtype.itemsize)
            file.truncate(size * dtype.itemsize)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            msg = (
                f"{folder} has no room left for counts that are stored by columns and are sorted by rows there. Free some, set "
                "stpredict.settings.cache_dir to a folder on a larger disk, or store the counts by rows: adata.X = adata.X.tocsr()."
            )
            raise OSError(error.errno, msg) from error
        return np.memmap(file, dtype=dtype, mode="r+", shape=(size,))
