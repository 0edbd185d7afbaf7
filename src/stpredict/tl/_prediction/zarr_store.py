"""A zarr store of predictions that is filled part by part."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict._core.files import expanded, recovered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData

ENDING = ".zarr"
MARK = {"stpredict": "predict_expression"}
"""Attribute of the stores that are written here: these, and no others, are replaced."""

REPLACES_FILES = (3, 1, 6)
"""The oldest zarr that is known to write another file where a part of an array is changed."""

ANNDATA = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
"""Attributes of a store's root, by which anndata knows it."""

CHUNK = 2**21
"""Values of a chunk: 8 MiB before compression."""


def checked_path(out: str | Path) -> Path:
    """Where a store is to be written.

    Raises ValueError if it is not named like one, FileExistsError if something else is there already.
    """
    path = recovered(expanded(out))
    if path.suffix != ENDING:
        msg = f"out must name a zarr store, such as 'predicted{ENDING}'; got {str(out)!r}."
        raise ValueError(msg)
    if path.exists() and not _is_ours(path):
        msg = (
            f"{path} exists and was not written by stpredict.tl.predict_expression; choose another out=, or remove it."
        )
        raise FileExistsError(msg)
    return path


def _is_ours(path: Path) -> bool:
    import zarr

    try:
        attributes = zarr.open_group(path, mode="r").attrs.asdict()
    except (OSError, ValueError, KeyError):
        return False
    return MARK.items() <= attributes.items()


class RowsOnDisk:
    """A float32 matrix of a store, written by ``matrix[rows] = values``."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __setitem__(self, rows: slice | np.ndarray, values: np.ndarray) -> None:
        if isinstance(rows, slice):
            self._array[rows] = values
        else:
            self._array.oindex[rows, slice(None)] = values


def new_store(path: Path) -> None:
    """Make a store that has nothing yet, in the format that anndata's settings name."""
    from anndata import AnnData

    with whichever_format():
        AnnData().write_zarr(path)
    for name in ("obs", "var"):  # (their index may get another name)
        shutil.rmtree(path / name)


def matrices_of(path: Path, shape: tuple[int, int], names: Sequence[str], rows: int) -> list[RowsOnDisk]:
    """New layers of a store, to be filled so many `rows` at a time."""
    import zarr
    from anndata.io import write_elem

    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    with whichever_format():
        write_elem(group, "layers", {})
    return [RowsOnDisk(_array(group, f"layers/{name}", shape, rows)) for name in names]


def finish_store(path: Path, adata: AnnData, layer: str) -> None:
    """Write all of `adata` but its layers, which are there by now; the `layer` of the prediction is ``X`` too.

    Both have the same files, where the file system has names of one file in several places and zarr never changes a file,
    but writes another one.
    """
    import zarr

    version = tuple(map(int, re.findall(r"\d+", zarr.__version__)[:3]))
    place = _same_file if version >= REPLACES_FILES else _copied
    for file in (path / "layers" / layer).rglob("*"):
        if file.is_file():
            place(file, path / "X" / file.relative_to(path / "layers" / layer))
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    _write_all_else(path, adata, group.metadata.zarr_format)
    group.attrs.update(ANNDATA)


def _write_all_else(path: Path, adata: AnnData, version: Literal[2, 3]) -> None:
    """Write what has no matrices: many small files, each of which zarr writes several times, so they are made in memory."""
    import zarr
    from anndata.io import write_elem

    made: dict[str, Any] = {}
    with whichever_format():
        group = zarr.open_group(zarr.storage.MemoryStore(made), mode="w", zarr_format=version)
        for name in ("obs", "var"):
            write_elem(group, name, getattr(adata, name))
        for name in ("obsm", "varm", "obsp", "varp", "uns"):
            write_elem(group, name, dict(getattr(adata, name)))
    for name, content in made.items():
        if "/" in name:  # (others say what is in the root of a store)
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content.to_bytes())


def _copied(file: Path, other: Path) -> None:
    other.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, other)


def _same_file(file: Path, other: Path) -> None:
    """Give a file another name; where the file system knows no such names, a copy has it."""
    other.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, other)
    except OSError:
        _copied(file, other)


def mark_store(path: Path) -> None:
    """Mark a store as one that `stpredict.tl.predict_expression` may replace, and make it quick to open."""
    import zarr

    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    group.attrs.update(MARK)
    with whichever_format():
        zarr.consolidate_metadata(group.store)


def columns_of(path: Path, layer: str, columns: Sequence[int] | np.ndarray) -> np.ndarray:
    """float32 (spots, columns): some genes of a layer."""
    import zarr

    array: Any = zarr.open_group(path, mode="r", use_consolidated=False)[f"layers/{layer}"]
    values: np.ndarray = array.oindex[slice(None), np.asarray(columns, dtype=int)]
    return values


def most_variable(path: Path, layer: str) -> int:
    """Number of the gene whose values vary most; read a few spots at a time."""
    import zarr

    array: Any = zarr.open_group(path, mode="r", use_consolidated=False)[f"layers/{layer}"]
    total, squares = np.zeros((2, array.shape[1]))
    for first in range(0, array.shape[0], array.chunks[0]):
        values = array[first : first + array.chunks[0]].astype(np.float64)
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
    variance = squares / array.shape[0] - (total / array.shape[0]) ** 2
    return int(np.argmax(np.nan_to_num(variance)))


@contextmanager
def whichever_format() -> Iterator[None]:
    """No warning about versions of the format: which one is for anndata's settings to say."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data")
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", "zarr v3 autosharding")
        warnings.filterwarnings("ignore", "zarr v3 will become the only option")
        yield


def _array(group: Any, name: str, shape: tuple[int, int], rows: int) -> Any:
    chunk = (min(rows, max(shape[0], 1)), max(1, min(shape[1], CHUNK // rows)))
    array = group.create_array(name, shape=shape, chunks=chunk, dtype="float32", fill_value=np.nan)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array
