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


def nearest(
    queries: np.ndarray, bank: np.ndarray, k: int, *, device: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k vectors of `bank` that are most similar to each query; all rows have length 1.

    Returns
    -------
    Row numbers in `bank`, int64 (n, k), best first, and their cosine similarities, float32 (n, k).

    Raises
    ------
    ValueError
        If the bank holds fewer than `k` vectors, or `k` is not positive.
    """
    import torch

    if not 1 <= k <= len(bank):
        msg = f"k must lie between 1 and the {len(bank)} spots of the reference bank, got {k!r}."
        raise ValueError(msg)
    where = resolve_device(device)
    similarity = torch.full((len(queries), k), -torch.inf)
    rows = torch.zeros((len(queries), k), dtype=torch.int64)
    with torch.inference_mode():
        for first in range(0, len(bank), REFERENCES):
            piece = torch.from_numpy(bank[first : first + REFERENCES]).to(where)
            for start in range(0, len(queries), QUERIES):
                block = slice(start, start + QUERIES)
                found = _best(torch.from_numpy(queries[block]).to(where), piece, k)
                similarity[block], rows[block] = _merged(
                    (similarity[block], rows[block]), (found[0].cpu(), found[1].cpu() + first)
                )
    return rows.numpy(), similarity.numpy()


def _best(queries: torch.Tensor, piece: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity and place of the best k, or of all where there are fewer."""
    return (queries @ piece.T).topk(min(k, len(piece)), dim=1)


def _merged(
    before: tuple[torch.Tensor, torch.Tensor], found: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best of both, as many as there were before."""
    import torch

    values, places = (torch.cat(pair, dim=1) for pair in zip(before, found, strict=True))
    values, order = values.topk(before[0].shape[1], dim=1)
    return values, places.gather(1, order)


def retrieve(
    queries: np.ndarray, bank: np.ndarray, expression: np.ndarray, *, k: int, temperature: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Expression of the `k` most similar spots of the bank: mean and standard deviation, float32 (n, genes).

    They count equally, or with a `temperature` by exp(cosine / temperature). A bank of fewer spots is taken whole.
    """
    rows, similarity = nearest(queries, bank, min(k, len(bank)))
    weights = None if temperature is None else np.exp((similarity - similarity[:, :1]) / temperature)
    mean = average(rows, expression, weights)
    level = expression.mean(axis=0)
    square = average(rows, np.square(expression - level), weights)
    return mean, np.sqrt(np.maximum(square - np.square(mean - level), 0))


def average(neighbours: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """float32 (n, genes): mean of the rows of `values` that `neighbours` (n, k) names, weighted by `weights` (n, k)."""
    from scipy import sparse

    n, k = neighbours.shape
    weights = np.ones((n, k), dtype=np.float32) if weights is None else weights
    shares = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    chooser = sparse.csr_matrix(
        (shares.ravel(), neighbours.ravel(), np.arange(0, n * k + 1, k)), shape=(n, len(values))
    )
    return chooser @ values
