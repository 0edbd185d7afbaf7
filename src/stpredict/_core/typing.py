"""Shared type aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from scipy import sparse
    from spatialdata import SpatialData

    Matrix: TypeAlias = np.ndarray | sparse.spmatrix | sparse.sparray
    Data: TypeAlias = AnnData | SpatialData
