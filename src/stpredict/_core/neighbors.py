"""Scanpy's graph of nearest neighbours, without what it costs to start."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

N_NEIGHBORS = 15

MANY = 100_000
"""From so many points on neighbours are approximate: exact ones cost the square of the number, and an approximate search
a minute or more of compiling in each new process."""


def neighbor_graph(points: np.ndarray, seed: int) -> AnnData:
    """`points` (n, d) in an AnnData of their own, with the graph of their 15 nearest neighbours as scanpy writes it."""
    import scanpy as sc
    from anndata import AnnData

    _keep_compiled()
    apart = AnnData(np.asarray(points, dtype=np.float32))
    search = "sklearn" if len(points) < MANY else _approximate(len(points), seed)
    n = min(N_NEIGHBORS, len(points) - 1)
    sc.pp.neighbors(apart, n_neighbors=n, use_rep="X", random_state=seed, transformer=search)
    return apart


def _approximate(n: int, seed: int) -> Any:
    """The search that scanpy does for many points, with its settings.

    Newer versions of pynndescent return a sparse array, which scanpy 1.11 cannot take.
    """
    from pynndescent import PyNNDescentTransformer

    class AsMatrix(PyNNDescentTransformer):
        def fit_transform(self, *points: Any, **how: Any) -> sparse.csr_matrix:
            return sparse.csr_matrix(super().fit_transform(*points, **how))

    trees, rounds = min(64, 5 + round(n**0.5 / 20)), max(5, round(np.log2(n)))
    return AsMatrix(n_neighbors=N_NEIGHBORS, random_state=seed, n_trees=trees, n_iters=rounds)


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
