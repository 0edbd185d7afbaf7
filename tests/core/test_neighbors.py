"""The graph of nearest neighbours that domains and UMAPs are made from."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from stpredict._core import neighbors

N_POINTS = 8_500
"""More than scanpy searches exactly when left alone."""


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_POINTS, 4)).astype(np.float32)


def nearest(points):
    return NearestNeighbors(n_neighbors=neighbors.N_NEIGHBORS).fit(points).kneighbors(points, return_distance=False)


def share_found(graph, points):
    """Share of each point's 14 nearest others that are in its row of the `graph`."""
    found = graph.obsp["distances"]
    return np.mean([np.isin(own[1:], found[i].indices).mean() for i, own in enumerate(nearest(points))])


def test_neighbours_of_many_points_are_exact(points):
    graph = neighbors.neighbor_graph(points, 0)
    assert share_found(graph, points) == 1
    assert graph.obsp["distances"].nnz == N_POINTS * (neighbors.N_NEIGHBORS - 1)


@pytest.mark.slow
def test_approximate_neighbours_of_very_many_points(points, monkeypatch):
    monkeypatch.setattr(neighbors, "MANY", N_POINTS)
    graph = neighbors.neighbor_graph(points, 0)
    assert share_found(graph, points) > 0.98
    again = neighbors.neighbor_graph(points, 0)
    assert (graph.obsp["connectivities"] != again.obsp["connectivities"]).nnz == 0
