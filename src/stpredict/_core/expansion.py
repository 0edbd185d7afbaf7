"""Small files that would fill the memory once they are unpacked."""

from __future__ import annotations

import gzip
import os
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

HARMLESS = 2**29
"""Bytes that a file of any size may hold."""

EXPANSION = 100
"""Times as large as it is, a file may become; matrices and tables of counts become three to ten times as large."""

DENSE = ". If it is, store its matrices sparse: adata.X = scipy.sparse.csr_matrix(adata.X)"
DEFLATE = 1032
"""Times as large as it is, what was deflated may become."""

SHARE_OF_MEMORY = 0.5
"""Share of the memory of the machine that dense matrices of a store may fill; those of few counts are nearly empty."""


def check_expansion(n_bytes: int, path: Path, harmless: float | None = None, advice: str = "") -> None:
    """Refuse a file or folder that holds `n_bytes` once it is unpacked, where no data so large is stored so small.

    What holds no more than `harmless` bytes, by default `HARMLESS`, passes.
    """
    size = bytes_of(path)
    if n_bytes > max(HARMLESS if harmless is None else harmless, EXPANSION * size):
        msg = (
            f"{path} has {size / 1e6:,.1f} MB and holds more than {n_bytes / 1e6:,.0f} MB, which would fill the memory; no data "
            f"of this kind is so empty{advice}"
        )
        raise ValueError(msg)


def bytes_of(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size


def check_gzip(path: Path) -> None:
    """Refuse a gzipped file that becomes much larger than such data do; other files pass.

    Raises ValueError; OSError, EOFError or zlib.error if it is damaged.
    """
    most = max(HARMLESS, EXPANSION * path.stat().st_size)
    if path.suffix != ".gz" or DEFLATE * path.stat().st_size <= most:  # (deflate makes nothing smaller than that)
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
        check_expansion(_unpacked(_arrays(file)), path)


def check_arrays(store: Any, names: Sequence[str], path: Path, *, in_parts: bool = False) -> None:
    """Refuse a store of HDF5 or zarr at `path` whose elements `names` become much larger than such data do.

    A dense matrix, ``X`` or a layer, may be as empty as can be, as far as the memory holds it. With `in_parts`, where only some
    rows are read at a time, it is the largest chunk that counts.
    """
    there = [(name, array) for name in names if name in store for array in _arrays(store[name])]
    dense = [array for name, array in there if name.split("/")[0] in ("X", "layers") and array.ndim > 1]
    others = [array for _, array in there if not any(array is one for one in dense)]
    check_expansion(_unpacked(others, in_parts=in_parts), path)
    as_empty = min(DEFLATE * bytes_of(path), SHARE_OF_MEMORY * _memory())
    check_expansion(_unpacked(dense, in_parts=in_parts), path, max(HARMLESS, as_empty), DENSE)


def _unpacked(arrays: Iterable[Any], *, in_parts: bool = False) -> int:
    """Bytes of all arrays or, read in parts, of their largest chunk."""
    sizes = [(array.nbytes, _bytes_of_a_chunk(array)) for array in arrays]
    return max((chunk for _, chunk in sizes), default=0) if in_parts else sum(map(max, sizes))


def _memory() -> int:
    """Bytes of memory that the machine has; 0 where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
    if not chunk:
        return 0
    said, stored = prod(chunk) * int(array.dtype.itemsize), _largest_stored_chunk(array)
    return DEFLATE * stored if stored > 1.01 * said + 1024 else said


def _largest_stored_chunk(array: Any) -> int:
    """Bytes of the largest chunk of an HDF5 dataset in its file, which may hold more than the dataset says; 0 of others."""
    largest = 0

    def look(chunk: Any) -> None:
        nonlocal largest
        largest = max(largest, chunk.size)

    if hasattr(getattr(array, "id", None), "chunk_iter"):
        array.id.chunk_iter(look)
    return largest


def check_parquet(path: Path) -> None:
    """Refuse a Parquet file whose columns become much larger than such data do.

    Raises ValueError if so, or if it is damaged.
    """
    from pyarrow.parquet import read_metadata

    found = read_metadata(path)
    check_expansion(8 * found.num_rows * found.num_columns, path)
