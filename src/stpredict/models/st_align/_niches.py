"""Niche means and expression clusters of the spots that a network learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._section import Section
    from stpredict.models._inner_cv import Table

COMPONENTS = 20
"""Principal components that clusters are made of."""

LEAST = 5
"""Spots per cluster, on average, below which fewer clusters are made."""


def niche_mean(section: Section, values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """float32 (n spots, d): mean of `values` over each niche's usable spots; 0 where it has none."""
    members = section.niche_members()[:, usable]
    weight = np.asarray(members.sum(axis=1))
    return ((members @ values[usable]) / np.where(weight > 0, weight, 1).reshape(-1, 1)).astype(np.float32)


def niche_means(table: Table, sections: Sequence[Section], values: np.ndarray) -> np.ndarray:
    """float32 (n, d): mean of `values` over the niche of every row of `table`, rows of the table alone being counted."""
    out = np.empty(values.shape, dtype=np.float32)
    for number in np.unique(table.section):
        here, section = table.section == number, sections[number]
        whole = np.zeros((len(section), values.shape[1]), dtype=np.float32)
        whole[table.row[here]] = values[here]
        usable = np.zeros(len(section), dtype=bool)
        usable[table.row[here]] = True
        out[here] = niche_mean(section, whole, usable)[table.row[here]]
    return out


def expression_clusters(table: Table, values: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """int64 (n rows,): number of each spot's cluster within its section, by k-means on principal components."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    out = np.zeros(len(table), dtype=np.int64)
    for number in np.unique(table.section):
        here = table.section == number
        k = min(n, here.sum() // LEAST)
        if k > 1:
            width = min(COMPONENTS, here.sum() - 1, values.shape[1])
            scores = PCA(width, random_state=seed).fit_transform(values[here])
            out[here] = KMeans(k, n_init=3, random_state=seed).fit_predict(scores)
    return out
