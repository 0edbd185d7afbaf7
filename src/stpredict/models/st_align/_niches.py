"""Niche means and expression clusters of the spots that a network learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._sections.niches import Niche, call, niche_matrix

if TYPE_CHECKING:
    from stpredict._sections.section import Section

COMPONENTS = 20
"""Principal components that clusters are made of."""

LEAST = 5
"""Spots per cluster, on average, below which fewer clusters are made."""


UM_TOLERANCE = 0.05
"""Relative difference of niche windows that are still the same."""


def check_niches(section: Section, expected: str) -> None:
    """Refuse a section whose niches are not those that the model was trained on, as `stpredict._sections.niches.Niche` tells them.

    Raises ValueError if they differ in kind or size.
    """
    kind, _, size = expected.partition(" ")
    has = str(Niche.of(section))
    other, _, value = has.partition(" ")
    tolerance = UM_TOLERANCE if kind == "window" else 0
    if kind != other or abs(float(value) - float(size)) > tolerance * float(size):
        msg = (
            f"Section {section.name!r} has niches {has!r}, where the model was trained on {expected!r}. Run "
            f"{call(expected, float(size))} on this section, and stpredict.pp.encode again."
        )
        raise ValueError(msg)


def niche_mean(section: Section, values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """float32 (n spots, d): mean of `values` over each niche's usable spots; 0 where it has none."""
    members = niche_matrix(section)[:, usable]
    weight = np.asarray(members.sum(axis=1))
    return ((members @ values[usable]) / np.where(weight > 0, weight, 1).reshape(-1, 1)).astype(np.float32)


def niche_mean_of(section: Section, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float32 (n rows, d): mean of `values` over the niches of spots number `rows`, no other spots being counted."""
    whole = np.zeros((len(section), values.shape[1]), dtype=np.float32)
    whole[rows] = values
    usable = np.zeros(len(section), dtype=bool)
    usable[rows] = True
    return niche_mean(section, whole, usable)[rows]


def expression_clusters(values: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """int64 (n spots,): number of the cluster of every spot of a section, by k-means on principal components."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    k = min(n, len(values) // LEAST)
    if k < 2:
        return np.zeros(len(values), dtype=np.int64)
    scores = PCA(min(COMPONENTS, len(values) - 1, values.shape[1]), random_state=seed).fit_transform(values)
    return KMeans(k, n_init=3, random_state=seed).fit_predict(scores).astype(np.int64)
