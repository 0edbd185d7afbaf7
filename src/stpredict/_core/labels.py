"""Columns of tables read as text, the same in every generation of pandas and anndata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def as_text(column: pd.Series) -> pd.Series:
    """The values of a column as strings (dtype object); missing values stay missing.

    ``astype(str)`` turns missing values into the label ``"nan"`` before pandas 3 and keeps them since.
    """
    import pandas as pd

    values, missing = column.astype(object), column.isna()
    text = [None if lost else str(value) for value, lost in zip(values, missing, strict=True)]
    return pd.Series(text, index=column.index, name=column.name, dtype=object)


def column_of(adata: AnnData, name: str) -> pd.Series:
    """A column of ``obs`` in memory, also of an AnnData that is read lazily."""
    column: Any = adata.obs[name]
    series: pd.Series = column.to_series() if hasattr(column, "dims") else column  # (of xarray)
    return series


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; anndata 0.13 lists ``X`` among them as None."""
    return [name for name in adata.layers if name is not None]
