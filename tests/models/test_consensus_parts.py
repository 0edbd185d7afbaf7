"""Which parts a consensus has, what networks learn from, and how parts are added: without any training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stpredict.models._base.files import Stored
from stpredict.models._data.folds import HeldOut
from stpredict.models.cmrcnet import CmrcNet
from stpredict.models.consensus.model import Consensus, Queries

SPOT, NICHE, WIDE = "X_a", "X_a_niche", "X_a_niche_1000"


@pytest.mark.parametrize(
    ("keys", "narrow", "wide"),
    [
        ([SPOT, NICHE], [SPOT, NICHE], None),
        ([SPOT, NICHE, WIDE], [SPOT, NICHE], [SPOT, NICHE, WIDE]),
        ([WIDE], [WIDE], None),
    ],
)
def test_parts_learn_from_the_niche_and_from_all_widths_with_two_networks_in_all(keys, narrow, wide, tmp_path):
    parts = Consensus(checkpoint=tmp_path, seed=3)._untrained(keys)
    ends = {"": narrow} if wide is None else {"": narrow, "_wide": wide}
    assert list(parts) == [name + end for end in ends for name in ("ridge", "knn", "cmrcnet")]
    for end, own in ends.items():
        for name in ("ridge", "knn", "cmrcnet"):
            assert parts[name + end].features == own
        network = parts["cmrcnet" + end]
        assert (network.options.members, network.seed) == (2 // len(ends), 3)
        assert network.checkpoint == tmp_path / f"cmrcnet{end}"


class Network(CmrcNet):
    """Keeps what it is to learn from, and held the first and the last spot out."""

    def __init__(self):
        self.not_measured = None

    def fit(self, sections, *, genes, groups):
        self.sections, self.groups = sections, groups
        n = sum(map(len, sections))
        self.config, self.held = {"n_spots": n}, HeldOut(np.array([0, n - 1]), np.zeros((2, 1)))


class Whole:
    def part(self, rows):
        return rows.tolist()


@pytest.mark.parametrize(("n", "left_out"), [(10_000, []), (10_001, [607])])
def test_networks_learn_from_ten_thousand_spots_drawn_always_alike(n, left_out):
    """Spot i of the table is number 2 i of its section; the second of three sections has none. 607 is the last of a draw."""
    section = np.where(np.arange(n) < 4000, 0, 2)
    row = 2 * np.arange(n)

    class Table(SimpleNamespace):
        def __len__(self):
            return n

    consensus, network = Consensus(), Network()
    consensus.parts = {"cmrcnet": network}
    consensus.not_measured = np.array([[1], [2], [3]])
    sections = [Whole()] * 3 if left_out else [[0] * 4000, [], [0] * 6000]
    rows = consensus._fit_networks(Table(section=section, row=row), sections, ["A"], ["p", "q", "r"])
    assert rows.tolist() == [0, n - 1]
    if left_out:
        assert [len(one) for one in network.sections] == [3999, 6001]
        assert set(row) - {*network.sections[0], *network.sections[1]} == {2 * i for i in left_out}
        assert network.groups == ["p", "r"]
        assert network.not_measured.tolist() == [[1], [3]]
    else:
        assert (network.sections, network.groups) == (sections, ["p", "q", "r"])


class Part:
    """Predicts its design, moved by how far the section is; the third is never to be asked."""

    compares_spots = False

    def __init__(self, value, away):
        self.value, self.away, self.arrays = value, away, {}

    def designer(self, section):
        return lambda rows: np.full((2, 1), self.value)

    def distance(self, section):
        return self.away

    def apply(self, arrays, design):
        return design, None

    def drawn(self, means, distance):
        return means.map(lambda mean: mean + distance)


def test_far_sections_are_left_to_the_linear_parts_and_parts_without_weight_are_not_asked(monkeypatch):
    consensus = Consensus()
    consensus.parts = {"ridge": Part(1.0, 0.5), "knn": Part(3.0, 1.0), "cmrcnet": SimpleNamespace(compares_spots=True)}
    assert consensus.compares_spots
    consensus.parts["cmrcnet"] = silent = Part(9.0, 0.0)
    assert not consensus.compares_spots
    silent.drawn = None
    consensus.arrays = {
        "weights": np.array([0.4, 0.6, 0.0]),
        "levels": np.zeros((3, 1)),
        "spreads": np.ones((3, 1)),
    }
    monkeypatch.setattr(consensus, "_judged", lambda section: SimpleNamespace(kept=0.25), raising=False)
    queries = consensus.designer(None)(slice(None))
    np.testing.assert_allclose(queries.weights, [0.25 * 0.4 + 0.75, 0.25 * 0.6, 0])
    assert queries.distances == [0.5, 1, 0]
    mean, nothing = consensus.apply({}, Queries(queries.weights, queries.distances, queries.designs))
    np.testing.assert_allclose(mean, [[0.85 * 1.5 + 0.15 * 4]] * 2, rtol=1e-6)
    assert nothing is None


def test_the_space_is_that_of_the_network_with_the_larger_weight_and_linear_parts_share_the_rest():
    consensus = Consensus()
    consensus.parts = dict.fromkeys(["ridge", "knn", "cmrcnet", "ridge_wide", "knn_wide"]) | {"cmrcnet_wide": "wide"}
    consensus.arrays = {"weights": np.array([0.3, 0.3, 0.05, 0.05, 0.2, 0.1])}
    assert consensus._space == "wide"
    np.testing.assert_allclose(consensus._linear, [0.5, 0, 0, 0.5, 0, 0])


def test_unseen_genes_are_those_of_the_vocabulary_beyond_the_trained_ones():
    config = {"vocabulary": ["A", "B", "C"]}
    shapes = Consensus.shapes_of(Stored("consensus", ["A"], config, {}))
    assert shapes["unseen_level"] == (2,)
    assert shapes["unseen_weights"] == (2, "similar")
    assert shapes["weights"] == ("parts",)
    assert "unseen_level" not in Consensus.shapes_of(Stored("consensus", ["A"], {}, {}))
