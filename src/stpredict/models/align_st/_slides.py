"""Sections as the network of ALIGN-ST sees them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from stpredict.models.align_st._network import SlideTensors
from stpredict.pp._nuclei_detection.maps import check_nuclei, nuclei_maps

if TYPE_CHECKING:
    from scipy import sparse

    from stpredict._sections.section import Section

NUCLEI_PX = 16
"""Side of a tile's nuclei map; a cell of it is about as wide as a nucleus."""

COMPONENTS = 50
"""Principal components of the features in which look-alike spots are sought."""

KEPT = 16
"""Sections whose look-alike spots are kept, to be found once however often a section is predicted."""

_found: dict[tuple[str, int], np.ndarray] = {}


def slide_tensors(section: Section, features: np.ndarray, *, alike: int, nuclei: str | None) -> SlideTensors:
    """The whole `section`: its standardised `features` (n, d), neighbours, and nuclei, found by the method `nuclei`, where wanted."""
    return SlideTensors(
        features=torch.from_numpy(features),
        near=torch.from_numpy(_padded(section.neighbours())),
        alike=torch.from_numpy(_look_alikes(features, alike)),
        nuclei=None if nuclei is None else torch.from_numpy(maps_of(section, nuclei)),
    )


def nuclei_method(section: Section) -> str:
    """How the section's nuclei were found. Raises ValueError if they were not found yet."""
    return str(check_nuclei(section)["method"])


def maps_of(section: Section, method: str) -> np.ndarray:
    """float32 (n_spots, channels, `NUCLEI_PX`, `NUCLEI_PX`): nuclei of every spot's tile.

    Raises ValueError if nuclei were not found yet, or by another method.
    """
    if (has := nuclei_method(section)) != method:
        msg = (
            f"The nuclei of section {section.name!r} were found by {has!r}, where the model was trained on {method!r}. Run "
            f"stpredict.pp.nuclei(adata, method={method!r}) on this section."
        )
        raise ValueError(msg)
    return nuclei_maps(section, size=NUCLEI_PX)


def _padded(graph: sparse.csr_matrix) -> np.ndarray:
    """int64 (n, most): the neighbours of every row, -1 where it has no more."""
    degree = np.diff(graph.indptr)
    out = np.full((graph.shape[0], degree.max(initial=1)), -1, dtype=np.int64)
    out[np.arange(out.shape[1])[None] < degree[:, None]] = graph.indices
    return out


def _look_alikes(features: np.ndarray, n: int) -> np.ndarray:
    """int64 (spots, n): rows with the nearest features; -1 where a section has no more.

    They are kept for the sections that were asked for last, which are known by their features.
    """
    key = hashlib.sha256(np.ascontiguousarray(features).data).hexdigest() + str(features.shape), n
    rows = _found.pop(key, None)
    rows = _find_look_alikes(features, n) if rows is None else rows
    _found[key] = rows
    for oldest in list(_found)[:-KEPT]:
        _found.pop(oldest, None)
    return rows


def _find_look_alikes(features: np.ndarray, n: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    out = np.full((len(features), max(n, 1)), -1, dtype=np.int64)
    found = min(n, len(features) - 1)
    if found > 0:
        points = features
        if min(features.shape) > COMPONENTS:
            points = PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit_transform(features)
        rows = NearestNeighbors(n_neighbors=found + 1).fit(points).kneighbors(points, return_distance=False)
        itself = rows == np.arange(len(rows))[:, None]
        itself[~itself.any(axis=1), -1] = True  # more than `found` twins
        out[:, :found] = rows[~itself].reshape(len(rows), found)
    return out
