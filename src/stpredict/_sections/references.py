"""Counts of sections and cells without images: what everything that learns from them starts with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stpredict._core import keys
from stpredict._core.checks import check_unique_genes, raw_counts
from stpredict._core.expansion import check_arrays
from stpredict._core.labels import as_text
from stpredict._sections.by_rows import ByRows
from stpredict._sections.open import listed, table_of
from stpredict._sections.stored import Store, are_stored, stores_in
from stpredict._sections.totals import recorded_totals, row_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from anndata import AnnData

    from stpredict._core.typing import Data, Matrix
    from stpredict._sections.open import Where

STUDY_KEY = "library_id"
"""Column of ``obs`` that splits a reference into studies, where it is there and no other is named."""

ROWS = 4096
"""Spots or cells in memory at a time."""


@dataclass(frozen=True)
class Reference:
    """Counts of one object in memory or on disk, read in blocks of rows.

    Attributes
    ----------
    name
        What messages call it.
    genes
        Names of its genes.
    study
        Number of the study that every row belongs to.
    obs
        Table of its rows, which may tell their totals.
    read
        Gives the raw counts of a slice of rows.
    """

    name: str
    genes: pd.Index
    study: np.ndarray
    obs: pd.DataFrame
    read: Callable[[slice], Matrix]

    def blocks(
        self, min_counts: int, columns: np.ndarray | slice = slice(None)
    ) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Studies and log1p counts per 10,000, in `columns`, of all rows with enough counts, block by block."""
        for rows, counts in self.counts():
            values, enough = log_rows(counts, self.obs.iloc[rows], min_counts, columns)
            yield self.study[rows][enough], values

    def counts(self) -> Iterator[tuple[slice, Matrix]]:
        """Raw counts, block by block, and which rows these are."""
        for start in range(0, len(self.study), ROWS):
            rows = slice(start, start + ROWS)
            yield rows, self.read(rows)

    def take(self, chosen: np.ndarray) -> Reference:
        """Only some rows, of which a mask tells."""
        kept, read = np.flatnonzero(chosen), self.read

        def read_kept(rows: slice) -> Matrix:
            own, parts = kept[rows], []
            while own.size:
                start, here = own[0], own[own < own[0] + ROWS]
                parts.append(read(slice(start, start + ROWS))[here - start])
                own = own[len(here) :]
            return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)

        return replace(self, study=self.study[kept], obs=self.obs.iloc[kept], read=read_kept)


def open_references(data: Any, where: Where) -> list[Reference]:
    """Open one or several objects, or paths of stores and of folders of stores, see `open_reference`; those open already stay so.

    Raises TypeError, FileNotFoundError or ValueError as `open_reference` does, or if objects and stores are mixed.
    """
    several = listed(data)
    if all(isinstance(one, Reference) for one in several):
        return several
    if are_stored(several):
        several = [store for path in several for store in stores_in(Path(path).expanduser())]
    return [open_reference(one, f"reference[{number}]", where) for number, one in enumerate(several)]


def open_reference(data: Data | str | Path, name: str, where: Where) -> Reference:
    """Open one AnnData or SpatialData, or one AnnData's store. Counts that are on disk, as those of a backed AnnData, stay there.

    Raises TypeError if it is neither; FileNotFoundError or ValueError if there is no such store, or it cannot be read,
    or it has duplicated genes or no raw counts, or is a part of one in backed mode.
    """
    if isinstance(data, (str, Path)):
        return _stored(Path(data).expanduser(), where.library_key)
    adata = table_of(data, where.table_key)
    studies = study_codes(adata.obs, where.library_key)
    if getattr(adata, "isbacked", False):
        if adata.is_view:
            msg = f"{name} is a part of an AnnData in backed mode, which cannot be read block by block: pass its .to_memory()."
            raise ValueError(msg)
        check_unique_genes(adata.var_names, name)
        return Reference(name, adata.var_names, studies, adata.obs, _backed(adata, name))
    counts = checked_counts(adata, name)
    return Reference(name, adata.var_names, studies, adata.obs, lambda rows: counts[rows])


def checked_counts(adata: AnnData, name: str) -> Matrix:
    """Raw counts of a reference; one that has none is refused, by `name`.

    Raises ValueError if it has duplicated genes, or no raw counts.
    """
    check_unique_genes(adata.var_names, name)
    try:
        return raw_counts(adata)
    except ValueError as error:
        msg = f"{name}: {error}"
        raise ValueError(msg) from error


def study_codes(obs: pd.DataFrame, key: str | None) -> np.ndarray:
    """Number of every row's study: those that column `key` names, where there is one, else all rows are one.

    Rows whose study is missing count as one more study.
    """
    import pandas as pd

    if key is None or key not in obs:
        return np.zeros(len(obs), dtype=int)
    codes: np.ndarray = pd.factorize(as_text(obs[key]), use_na_sentinel=False)[0]
    return codes


def log_rows(
    counts: Matrix, obs: pd.DataFrame, min_counts: int, columns: Sequence[int] | np.ndarray | slice = slice(None)
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """log1p counts per 10,000 (float64), of the rows with enough counts, in `columns`; and which rows these are.

    Totals are those in `obs`, the table of these rows, where genes were dropped since they were written.
    """
    part = sparse.csr_matrix(counts, dtype=np.float64)
    depth = row_sums(part)
    known = recorded_totals(obs, depth)
    depth = depth if known is None else known
    enough = depth >= max(min_counts, 1)
    values = sparse.csr_matrix(part[enough][:, columns])
    values.data = np.log1p(values.data * np.repeat(1e4 / depth[enough], np.diff(values.indptr)))
    return values, enough


def _stored(path: Path, library_key: str | None) -> Reference:
    from anndata import AnnData

    store, by_rows = Store(path, ("obs", "var")), ByRows()
    check_unique_genes(store.adata.var_names, path.name)
    with store.reading() as group:
        check_arrays(group, ("X", "layers"), path, in_parts=True)

    def read(rows: slice) -> Matrix:
        with store.reading() as group:
            element = group["layers"][keys.COUNTS] if keys.COUNTS in group.get("layers", {}) else group["X"]
            counts = by_rows.read(element, rows)
        return checked_counts(AnnData(counts), path.name)

    obs = store.adata.obs
    return Reference(path.name, store.adata.var_names, study_codes(obs, library_key), obs, read)


def _backed(adata: AnnData, name: str) -> Callable[[slice], Matrix]:
    """What gives raw counts of some rows of an AnnData in backed mode, of which only these are read."""
    from anndata import AnnData

    by_rows, layer = ByRows(), adata.layers.get(keys.COUNTS)  # (layers are in memory)

    def read(rows: slice) -> Matrix:
        counts = by_rows.read(getattr(adata.X, "group", adata.X), rows) if layer is None else layer[rows]
        return checked_counts(AnnData(counts), name)

    return read
