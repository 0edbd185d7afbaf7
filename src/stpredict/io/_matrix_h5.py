"""Read h5 count matrices of Space Ranger piece by piece: at 2 µm a section of Visium HD has 10⁸ values and more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

VALUES = 2**22
"""Values that are read at a time: 32 MiB of indices as they are on disk."""

OWN_NAMES = ("name", "id", "feature_type", "_all_tag_keys")
"""Datasets of features that are no columns of ``var``, or are so under other names."""


def read_h5(path: Path) -> AnnData | None:
    """A count matrix of spots and genes, float32, as scanpy reads it, in the memory that it takes and little more.

    None where it is of another kind: of version 2 and earlier, or of probes. Raises ValueError if its indices do not
    fit its shape.
    """
    import h5py
    from anndata import AnnData
    from scipy import sparse

    with h5py.File(path, "r") as file:
        group = file.get("matrix")
        if group is None or "features" not in group or "gene_id" in group["features"] or "filtered_barcodes" in group:
            return None
        n_features, n_spots = (int(n) for n in group["shape"][()])
        starts, n = group["indptr"][()], len(group["data"])
        if len(starts) != n_spots + 1 or starts[0] != 0 or starts[-1] != n or (starts[1:] < starts[:-1]).any():
            msg = "its indptr does not fit its values"
            raise ValueError(msg)
        if len(group["indices"]) != n:
            msg = f"it has {n} values and {len(group['indices'])} indices"
            raise ValueError(msg)
        values = np.empty(n, dtype=np.float32)
        columns = np.empty(n, dtype=np.int32 if n < 2**31 else np.int64)
        for first in range(0, n, VALUES):
            some = slice(first, first + VALUES)
            values[some], read = group["data"][some], group["indices"][some]
            if not 0 <= read.min() <= read.max() < n_features:
                msg = f"it has indices outside of its {n_features} features"
                raise ValueError(msg)
            columns[some] = read
        rows = starts.astype(columns.dtype)
        counts = sparse.csr_matrix((values, columns, rows), shape=(n_spots, n_features))
        obs = pd.DataFrame(index=pd.Index(_texts(group["barcodes"])))
        return AnnData(counts, obs=obs, var=_var(group["features"]))


def _var(features: Any) -> pd.DataFrame:
    columns = {"gene_ids": _texts(features["id"]), "feature_types": _texts(features["feature_type"])}
    for name, values in features.items():
        if name not in OWN_NAMES and hasattr(values, "shape"):
            columns[name] = values[()] if values.dtype.kind == "b" else _texts(values)
    return pd.DataFrame(columns, index=pd.Index(_texts(features["name"])))


def _texts(values: Any) -> np.ndarray:
    """Texts of a dataset."""
    texts: np.ndarray = values[()].astype(str).astype(object)
    return texts
