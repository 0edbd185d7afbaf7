"""Nearest neighbours by cosine similarity, exact and in pieces that fit the device, and the expression that they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.device import resolve_device
from stpredict._core.settings import settings
from stpredict.models._retrieval import faiss

if TYPE_CHECKING:
    import torch

QUERIES = 512
REFERENCES = 32_768
"""Similarities held at once: 512 × 32,768 float32 are 64 MiB."""

GATHERED = 2**24
"""Values of reference spots held at once, as float32 64 MiB."""

LEVELS = 1000
"""Reference spots that tell about where the expression of a gene lies."""


def normalise(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; rows of length 0 stay 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, np.inf)).astype(np.float32)


def nearest(
    queries: np.ndarray, bank: np.ndarray, k: int, *, device: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k vectors of `bank` that are most similar to each query; all rows have length 1.

    The bank may be float16: its values are compared in float32, a piece at a time, so memory beside the bank stays under
    some 200 MiB. Of equally similar vectors the first comes first. With ``settings.search = "approximate"`` large banks
    are searched by faiss, which misses some.

    Returns
    -------
    Row numbers in `bank`, int64 (n, k), best first, and their cosine similarities, float32 (n, k).

    Raises
    ------
    ValueError
        If the bank holds fewer than `k` vectors, `k` is not positive, or a vector is not finite.
    """
    if not 1 <= k <= len(bank):
        msg = f"The number of spots to retrieve must lie between 1 and the {len(bank)} spots of the reference bank, got {k!r}."
        raise ValueError(msg)
    if settings.search == "exact" or len(bank) < faiss.LEAST:
        return _exact(queries, bank, k, device)
    rows, similarity = faiss.search(queries, bank, k)
    few = rows[:, -1] < 0
    if few.any():
        rows[few], similarity[few] = _exact(queries[few], bank, k, device)
    return rows, similarity


def _exact(queries: np.ndarray, bank: np.ndarray, k: int, device: str | None) -> tuple[np.ndarray, np.ndarray]:
    import torch

    where = resolve_device(device)
    similarity = torch.full((len(queries), k), -torch.inf)
    rows = torch.zeros((len(queries), k), dtype=torch.int64)
    with torch.inference_mode():
        for first in range(0, len(bank), REFERENCES):
            piece = _vectors(bank[first : first + REFERENCES], where)
            for start in range(0, len(queries), QUERIES):
                block = slice(start, start + QUERIES)
                values, places = _best(_vectors(queries[block], where) @ piece.T, k)
                values = torch.cat([similarity[block], values.cpu()], dim=1)
                places = torch.cat([rows[block], places.cpu() + first], dim=1)
                similarity[block], rows[block] = _in_order(values, places, k)
    return rows.numpy(), similarity.numpy()


def _vectors(values: np.ndarray, where: torch.device) -> torch.Tensor:
    """float32 rows on the device. Raises ValueError if one is not finite."""
    import torch

    vectors = torch.from_numpy(np.ascontiguousarray(values)).to(where).float()
    if not torch.isfinite(vectors).all():
        msg = "Spots are compared by vectors of which some are not finite; check the image features for NaN."
        raise ValueError(msg)
    return vectors


def _best(similarity: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity and column of the best k of every row, or of all where there are fewer; the first of equal ones."""
    values, places = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    if values.shape[1] > k:
        tied = values[:, k - 1] == values[:, k]
        values, places = values[:, :k], places[:, :k]
        if tied.any():
            ordered = similarity[tied].sort(dim=1, descending=True, stable=True)
            values[tied], places[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    places, order = places.sort(dim=1)
    return values.gather(1, order), places


def _in_order(values: torch.Tensor, places: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Best `k` first; equal ones, which come by row number, stay so."""
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :k], places.gather(1, order[:, :k])


def retrieve(
    queries: np.ndarray, bank: np.ndarray, expression: np.ndarray, *, k: int, temperature: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Expression of the `k` most similar spots of the bank: mean and standard deviation, float32 (n, genes).

    They count equally, or with a `temperature` by exp(cosine / temperature). A bank of fewer spots is taken whole.
    """
    rows, similarity = nearest(queries, bank, min(k, len(bank)))
    weights = None if temperature is None else np.exp((similarity - similarity[:, :1]) / temperature)
    level = expression[:: -(-len(expression) // LEVELS)].mean(axis=0, dtype=np.float32)
    mean, square = _moments(rows, expression, weights, level)
    return mean, np.sqrt(np.maximum(square - np.square(mean - level), 0))


def average(neighbours: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float32 (n, genes): mean of the rows of `values` that `neighbours` (n, k) names."""
    return _moments(neighbours, values, None)[0]


def _moments(
    neighbours: np.ndarray, values: np.ndarray, weights: np.ndarray | None, level: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Weighted mean of rows of `values`, and with a `level` the mean squared distance from it, float32 (n, genes).

    Rows are gathered for a few spots at a time, so `values` may be large and float16.
    """
    from scipy import sparse

    n, k = neighbours.shape
    weights = np.ones((n, k), dtype=np.float32) if weights is None else weights
    shares = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    mean = np.empty((n, values.shape[1]), dtype=np.float32)
    square = None if level is None else np.empty_like(mean)
    step = max(n if values.size <= GATHERED else GATHERED // (k * values.shape[1]), 1)
    for first in range(0, n, step):
        few = slice(first, first + step)
        rows, which = np.unique(neighbours[few], return_inverse=True)
        ends = np.arange(0, which.size + 1, k)
        chooser = sparse.csr_matrix((shares[few].ravel(), which.ravel(), ends), shape=(len(ends) - 1, len(rows)))
        gathered = np.asarray(values[rows], dtype=np.float32)
        mean[few] = chooser @ gathered
        if square is not None and level is not None:
            square[few] = chooser @ np.square(gathered - level)
    return mean, square
