"""Small files that would fill the memory once they are unpacked."""

from __future__ import annotations

import gzip
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HARMLESS = 2**29
"""Bytes that a file of any size may hold."""

EXPANSION = 100
"""Times as large as it is, a file may become; matrices and tables of counts become three to ten times as large."""


def check_expansion(n_bytes: int, path: Path) -> None:
    """Refuse a file or folder that holds `n_bytes` once it is unpacked, where no data so large is stored so small."""
    size = sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size
    if n_bytes > max(HARMLESS, EXPANSION * size):
        msg = (
            f"{path} has {size / 1e6:,.1f} MB and holds more than {n_bytes / 1e6:,.0f} MB, which would fill the memory; no data "
            "of this kind is so empty"
        )
        raise ValueError(msg)


def check_gzip(path: Path) -> None:
    """Refuse a gzipped file that becomes much larger than such data do; other files pass.

    Raises ValueError; OSError, EOFError or zlib.error if it is damaged.
    """
    most = max(HARMLESS, EXPANSION * path.stat().st_size)
    if path.suffix != ".gz" or 1032 * path.stat().st_size <= most:  # (deflate makes nothing smaller than that)
        return
    with gzip.open(path, "rb") as file:
        n = 0
        while block := file.read(2**22):
            n += len(block)
            check_expansion(n, path)


def check_hdf5(path: Path) -> None:
    """Refuse an HDF5 file whose datasets become much larger than such data do.

    Raises ValueError if so, OSError if it is damaged.
    """
    import h5py

    with h5py.File(path, "r") as file:
        check_arrays(file, list(file), path)


def check_arrays(store: Any, names: Sequence[str], path: Path, *, in_parts: bool = False) -> None:
    """Refuse a store of HDF5 or zarr at `path` whose elements `names` become much larger than such data do.

    With `in_parts`, where only some rows are read at a time, it is the largest chunk that counts.
    """
    arrays = [array for name in names if name in store for array in _arrays(store[name])]
    chunks = [_bytes_of_a_chunk(array) for array in arrays]
    check_expansion(max([0, *chunks]) if in_parts else sum(map(max, chunks, (a.nbytes for a in arrays))), path)


def _arrays(element: Any) -> Iterator[Any]:
    """All arrays of an element of a store."""
    if hasattr(element, "keys"):
        for name in element:
            yield from _arrays(element[name])
    else:
        yield element


def _bytes_of_a_chunk(array: Any) -> int:
    """Bytes that are decoded at once."""
    chunk = getattr(array, "shards", None) or getattr(array, "chunks", None)
    return prod(chunk) * int(array.dtype.itemsize) if chunk else 0


def check_parquet(path: Path) -> None:
    """Refuse a Parquet file whose columns become much larger than such data do.

    Raises ValueError if so, or if it is damaged.
    """
    from pyarrow.parquet import read_metadata

    found = read_metadata(path)
    check_expansion(8 * found.num_rows * found.num_columns, path)
