"""Approximate nearest neighbours in very large banks, by faiss: only the cells nearest to a query are searched."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

LEAST = 50_000
"""Banks of fewer vectors are searched exactly: nothing is gained."""

PROBED = 64
"""Cells that are searched for each query, of √n."""

PER_CELL = 64
"""Vectors that each cell's centre is learned from."""

ROWS = 50_000
"""Vectors put into cells at once."""

_indices: dict[int, Any] = {}


def search(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Most of the k vectors of `bank` that are most similar to each query, as `stpredict.models._retrieval.search.nearest` has them.

    Of queries whose cells hold fewer than k vectors, rows are -1. The cells of a bank are made when it is first
    searched, and kept as long as the bank. Raises ImportError if faiss is not installed.
    """
    faiss = _faiss()
    probed = faiss.SearchParametersIVF(nprobe=PROBED)
    similarity, rows = _index(faiss, bank).search(np.ascontiguousarray(queries, dtype=np.float32), k, params=probed)
    return rows, similarity


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        msg = "settings.search = 'approximate' needs faiss: pip install 'stpredict[faiss]', or set it to 'exact' again."
        raise ImportError(msg) from error
    return faiss


def _index(faiss: ModuleType, bank: np.ndarray) -> Any:
    """Cells with the vectors in them, in half precision."""
    if id(bank) not in _indices:
        n, width = bank.shape
        cells = int(n**0.5)
        how = (faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False)
        index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(width), width, cells, *how)
        index.cp.spherical = True
        index.train(np.asarray(bank[:: n // (PER_CELL * cells)], dtype=np.float32))
        for first in range(0, n, ROWS):
            index.add(np.ascontiguousarray(bank[first : first + ROWS], dtype=np.float32))
        _indices[id(bank)] = index
        weakref.finalize(bank, _indices.pop, id(bank), None)
    return _indices[id(bank)]
