"""Total counts of spots over the whole measured transcriptome, also where genes were dropped since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.warning import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict._core.typing import Matrix

FEW_GENES = 2000
"""Sections with fewer genes may be a part of a transcriptome, or all of a panel: their counts do not tell."""

N_GENES = ("n_genes_by_counts", "n_genes")
"""Columns of ``obs`` with the number of genes that a spot had, as scanpy writes them."""


MEND = f"Set adata.obs[{keys.TOTAL_COUNTS!r}] to the sum of every spot's counts over all genes that were measured"


def row_sums(counts: Matrix) -> np.ndarray:
    """float64 (n spots,): sum of the counts of every spot."""
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()


def recorded_totals(obs: pd.DataFrame, own: np.ndarray) -> np.ndarray | None:
    """``obs["total_counts"]``, where it can be the totals of spots whose counts sum to `own` now, else None."""
    if keys.TOTAL_COUNTS not in obs:
        return None
    known = _numbers(obs[keys.TOTAL_COUNTS])
    are_counts = np.isfinite(known).all() and (known == np.rint(known)).all() and len(np.unique(known)) > 1
    return known if are_counts and (known >= own).all() else None


def known_totals(adata: AnnData, rows: np.ndarray | slice, own: np.ndarray, what: str) -> np.ndarray | None:
    """``obs["total_counts"]`` of the spots in `rows`, whose counts sum to `own`; None where it does not say.

    Raises ValueError if it does not say, and genes were dropped.
    """
    known = recorded_totals(adata.obs.iloc[rows], own)
    if known is None and (sign := _dropped(adata, rows)):
        msg = (
            f"Genes were dropped from {what} ({sign}), so its counts no longer sum to the totals that log1p CP10k divides "
            f"by. {MEND}, or run stpredict.pp.qc before genes are dropped."
        )
        raise ValueError(msg)
    return known


def warn_of_few_genes(adata: AnnData) -> None:
    """Warn of so few genes that some may have been dropped, where nothing tells the totals."""
    if adata.n_vars < FEW_GENES:
        msg = (
            f"There are only {adata.n_vars} genes and no totals in obs[{keys.TOTAL_COUNTS!r}], so log1p CP10k divides by the "
            f"sum over these genes. If they are all that was measured, run stpredict.pp.qc, which records that. If genes "
            f"were dropped: {MEND[0].lower()}{MEND[1:]}."
        )
        warn(msg)


def _dropped(adata: AnnData, rows: np.ndarray | slice) -> str:
    """What says that the object had more genes once; empty where nothing does."""
    n = adata.n_vars
    variable: Any = adata.var.get("highly_variable")
    if variable is not None and n and variable.astype(str).eq("True").all():
        return "only highly variable ones are left"
    if n >= FEW_GENES:
        return ""
    if adata.raw is not None and adata.raw.n_vars > n:
        return f"adata.raw has {adata.raw.n_vars}, of which {n} are left"
    for column in N_GENES:
        if column in adata.obs and (_numbers(adata.obs[column].iloc[rows]) > n).any():
            return f"obs[{column!r}] counts more genes in a spot than the {n} that are left"
    return ""


def _numbers(column: pd.Series) -> np.ndarray:
    """float64; NaN for what is no number."""
    import pandas as pd

    values: np.ndarray = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    return values
