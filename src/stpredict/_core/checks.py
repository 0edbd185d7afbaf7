"""Checks of user input that several modules share; each message says how to mend what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stpredict._core import keys
from stpredict._core.names import meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from anndata import AnnData

    from stpredict._core.typing import Matrix


def check_unique_genes(names: pd.Index, what: str) -> None:
    """Refuse duplicated gene names."""
    if not names.is_unique:
        twice = sorted(set(names[names.duplicated()]))[:5]
        msg = f"{what} has duplicated gene names ({', '.join(twice)}, …). Call adata.var_names_make_unique() first."
        raise ValueError(msg)


def check_column_name(name: object, argument: str) -> None:
    """Refuse what names no column of ``obs``, such as the column itself. Raises TypeError if it is no text."""
    if not isinstance(name, str):
        msg = (
            f"{argument}= is the name of a column of obs; got a {type(name).__name__}. Write the values into a column, "
            f"adata.obs['name'] = …, and pass {argument}='name'."
        )
        raise TypeError(msg)


def check_sparse(matrix: Any, where: str) -> None:
    """Refuse a sparse matrix whose indices point out of it: libraries in C would read there, and end the process.

    Raises ValueError if so, or if it is damaged otherwise.
    """
    if not sparse.issparse(matrix) or matrix.format not in ("csr", "csc"):
        return
    rows, columns = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
    starts, indices = matrix.indptr, matrix.indices
    fits = len(starts) == rows + 1 and starts[0] == 0 and starts[-1] == len(indices) == len(matrix.data)
    fits = fits and not (starts[1:] < starts[:-1]).any()
    if not fits or (len(indices) and not 0 <= indices.min() <= indices.max() < columns):
        msg = f"{where} is damaged: its sparse matrix has indices outside of its {matrix.shape} values. Get it again."
        raise ValueError(msg)


def raw_counts(adata: AnnData) -> Matrix:
    """Raw counts of `adata`: ``layers['counts']`` where present, else ``X``.

    Raises ValueError if there is no matrix, or it has NaN, negative or fractional values.
    """
    where = f"layers[{keys.COUNTS!r}]" if keys.COUNTS in adata.layers else "X"
    matrix = adata.layers.get(keys.COUNTS, adata.X)
    if matrix is None or adata.n_vars == 0:
        msg = "This section has no expression matrix: counts are needed in X or layers['counts']."
        raise ValueError(msg)
    if getattr(adata, "isbacked", False) or hasattr(matrix, "dask") or hasattr(matrix, "to_memory"):
        msg = f"{where} is on disk or lazy (backed, dask); load it first: adata = adata.to_memory()."
        raise ValueError(msg)
    check_sparse(matrix, where)
    values = matrix.data if sparse.issparse(matrix) else np.asarray(matrix)
    if values.size and not np.isfinite(values).all():
        msg = f"{where} holds NaN or infinite values; raw counts are needed. Fill or drop them first."
        raise ValueError(msg)
    if values.size and values.min() < 0:
        msg = f"{where} holds negative values; raw counts are needed, in X or layers['counts']."
        raise ValueError(msg)
    if values.size and not np.array_equal(values, np.rint(values)):
        msg = (
            f"{where} holds fractional values, as log-normalised data do; raw counts are needed. "
            "Put the counts into layers['counts'] (for example from adata.raw) and call again."
        )
        raise ValueError(msg)
    return matrix


def one_of(value: Any, allowed: Iterable[Any], name: str) -> None:
    """Refuse a `value` outside of `allowed`."""
    if value not in (choices := list(allowed)):
        msg = f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.{meant(value, choices)}"
        raise ValueError(msg)


def check_named_once(genes: Sequence[str]) -> None:
    """Refuse genes of which one is named more than once."""
    if twice := sorted(name for name, n in Counter(genes).items() if n > 1):
        msg = f"genes names {', '.join(twice[:5])} more than once; name every gene once."
        raise ValueError(msg)


def check_section_names(names: Iterable[str], *, as_elements: bool = False) -> None:
    """Refuse names of sections that are no keys in a file or, `as_elements`, no names of elements of a SpatialData."""
    allowed, wrong = r"[^/]+", "'/'"
    if as_elements:
        allowed, wrong = r"[\w.-]+", "characters other than letters, digits, '_', '.' and '-'"
    if bad := [name for name in names if not re.fullmatch(allowed, name)]:
        msg = (
            f"Sections whose names hold {wrong} cannot be written: {', '.join(bad[:5])}. Rename them right after reading: "
            "the key in adata.uns['spatial'], and the values of the obs column that names each spot's section."
        )
        raise ValueError(msg)


RESERVED = frozenset(
    {"counts", "spatial", "tiles", "niches", "nuclei", "spatialdata_attrs", "slide_job", "total_counts"}
)
"""Names of slots that mean something else, so that no result may take them."""


def check_key_added(adata: AnnData, key: str, *, mark: str, **slots: Iterable[str]) -> None:
    """Refuse a name whose results would replace what somebody else wrote.

    Parameters
    ----------
    adata
        What is written to.
    key
        The name, under which ``uns`` records how a result was made.
    mark
        An entry that this record has where it is ours: such results may be replaced.
    **slots
        Names that are written, by slot: ``obs=["tumor", "tumor_score"]``.

    Raises
    ------
    ValueError
        If the name cannot be stored, is reserved, or one of the slots holds something of another origin.
    """
    slot_name(key)
    if key in RESERVED:
        msg = f"key_added={key!r} is the name of a slot that means something else; choose another name."
        raise ValueError(msg)
    record = adata.uns.get(key)
    if hasattr(record, "keys") and mark in record:
        return
    for slot, names in slots.items():
        if taken := [name for name in names if name in getattr(adata, slot)]:
            msg = f"{slot}[{taken[0]!r}] is there already and was not written by this function; choose another key_added=."
            raise ValueError(msg)


def slot_name(key: str) -> None:
    """Refuse a name under which results could not be stored."""
    if not key or "/" in key:
        msg = f"key_added must be a name without '/', got {key!r}."
        raise ValueError(msg)
