"""Copies of a user's data, for ``copy=True``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stpredict._typing import Data


def copy_of(data: Data) -> Data:
    """Copy what we write to: an AnnData, or the tables of a SpatialData, whose elements the copy shares.

    Raises
    ------
    TypeError
        If `data` is neither.
    """
    if hasattr(data, "tables") and hasattr(data, "shapes"):
        from spatialdata import SpatialData

        from stpredict._wsidata import of_same_slide

        copy = SpatialData(
            images=dict(data.images),
            labels=dict(data.labels),
            points=dict(data.points),
            shapes=dict(data.shapes),
            tables={name: table.copy() for name, table in data.tables.items()},
            attrs=dict(data.attrs),
        )
        return of_same_slide(copy, data)
    if hasattr(data, "obsm") and hasattr(data, "uns"):
        return data.copy()
    msg = f"Expected an AnnData or a SpatialData, got {type(data).__name__}."
    raise TypeError(msg)
