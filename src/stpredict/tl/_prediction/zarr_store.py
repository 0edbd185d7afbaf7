"""A zarr store of predictions that is filled part by part."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.files import expanded, recovered, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData

ENDING = ".zarr"
MARK = {"stpredict": "predict_expression"}
"""Attribute of the stores that are written here: these, and no others, are replaced."""

CHUNK = 2**21
"""Values of a chunk: 8 MiB before compression."""


def checked_path(out: str | Path) -> Path:
    """Where a store is to be written.

    Raises
    ------
    ValueError
        If it is not named like one.
    FileExistsError
        If something else is there already.
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


@contextmanager
def predicted_store(path: Path, adata: AnnData, matrices: Sequence[str], rows: int) -> Iterator[list[RowsOnDisk]]:
    """Matrices of a new store to be filled, ``"X"`` or names of layers; it stands at `path` when the block ends well.

    Parameters
    ----------
    path
        Where the store will be.
    adata
        Everything but the matrices. What changes in its ``obs``, ``var`` and ``uns`` meanwhile is stored too.
    matrices
        What to fill.
    rows
        How many rows are written at a time.
    """
    import zarr
    from anndata.io import write_elem

    with replacing(path) as new:
        with _whichever_format():
            adata.write_zarr(new)
        group = zarr.open_group(new, mode="r+", use_consolidated=False)
        group.attrs.update(MARK)
        yield [RowsOnDisk(_array(group, name, adata.shape, rows)) for name in matrices]
        with _whichever_format():
            for name in ("obs", "var", "uns"):
                write_elem(group, name, dict(adata.uns) if name == "uns" else getattr(adata, name))
            zarr.consolidate_metadata(group.store)


@contextmanager
def _whichever_format() -> Iterator[None]:
    """No warning about versions of the format: which one is for anndata's settings to say."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data")
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", "zarr v3 autosharding")
        warnings.filterwarnings("ignore", "zarr v3 will become the only option")
        yield


def _array(group: Any, name: str, shape: tuple[int, int], rows: int) -> Any:
    chunk = (min(rows, max(shape[0], 1)), max(1, min(shape[1], CHUNK // rows)))
    array = group.create_array(
        name if name == "X" else f"layers/{name}", shape=shape, chunks=chunk, dtype="float32", fill_value=np.nan
    )
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array
