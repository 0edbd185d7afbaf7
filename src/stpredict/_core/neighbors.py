"""Scanpy's graph of nearest neighbours, without what it costs to start."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

N_NEIGHBORS = 15


def neighbor_graph(points: np.ndarray, seed: int) -> AnnData:
    """`points` (n, d) in an AnnData of their own, with the graph of their 15 nearest neighbours as scanpy writes it."""
    import scanpy as sc
    from anndata import AnnData

    _keep_compiled()
    apart = AnnData(np.asarray(points, dtype=np.float32))
    sc.pp.neighbors(apart, n_neighbors=min(N_NEIGHBORS, len(points) - 1), use_rep="X", random_state=seed)
    return apart


def _keep_compiled() -> None:
    """Have numba keep on disk the two functions of umap that each new process would compile again, for about 4 s.

    umap keeps its other functions itself, in the same place. Where nothing can be kept, they are compiled.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # (umap looks for TensorFlow)
        from umap import umap_
    for name in ("smooth_knn_dist", "compute_membership_strengths"):
        with suppress(AttributeError, RuntimeError):
            getattr(umap_, name).enable_caching()
