"""Exact nearest neighbours by cosine similarity, in pieces that fit the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._device import resolve_device

if TYPE_CHECKING:
    import torch

QUERIES = 1024
REFERENCES = 65_536
"""Similarities held at once: 1024 × 65,536 float32 are 256 MiB."""


def normalise(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; rows of length 0 stay 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def nearest(queries: np.ndarray, bank: np.ndarray, k: int, *, device: str | None = None) -> np.ndarray:
    """Row numbers (n, k) in `bank` of the k most similar vectors, best first; all rows have length 1."""
    import torch

    where = resolve_device(device)
    found = np.empty((len(queries), k), dtype=np.int64)
    with torch.inference_mode():
        for start in range(0, len(queries), QUERIES):
            rows = slice(start, start + QUERIES)
            found[rows] = _nearest(torch.from_numpy(queries[rows]).to(where), bank, k).cpu().numpy()
    return found


def _nearest(queries: torch.Tensor, bank: np.ndarray, k: int) -> torch.Tensor:
    """Best k over the pieces of the bank, merged piece by piece."""
    import torch

    best = index = None
    for start in range(0, len(bank), REFERENCES):
        piece = torch.from_numpy(bank[start : start + REFERENCES]).to(queries.device)
        values, places = (queries @ piece.T).topk(min(k, len(piece)), dim=1)
        places += start
        if best is not None:
            values, places = torch.cat([best, values], 1), torch.cat([index, places], 1)
            values, order = values.topk(min(k, values.shape[1]), dim=1)
            places = places.gather(1, order)
        best, index = values, places
    return index
