"""How far spots lie from training spots, on places that are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from stpredict.models._data.table import Table
from stpredict.models._trust import domain
from stpredict.models._trust.domain import Domain, looked_at


def known():
    """Two axes, which are the first two of three features in standard deviations; the third does not vary."""
    places = np.array([[0.0, 0], [2, 0], [10, 0]], dtype=np.float32)
    numbers = {"level": [1.0, 2, 5], "scale": [2.0, 1, 0], "axes": np.eye(3)[:, :2], "usual": [0.5, 2.0]}
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in numbers.items()}
    return Domain(places=places, place_section=np.array([0, 0, 3]), **arrays)


SPOTS = np.array([[0.0, 1], [10, -3], [2, 0], [0.5, 0]])


def distances(domain, places):
    features = np.column_stack([1 + 2 * places[:, 0], 2 + places[:, 1], np.full(len(places), 7.0)])
    return domain.distances(range(len(features)), SimpleNamespace(part=lambda _, rows: features[rows]))


@pytest.mark.parametrize("at_once", [100, 3])
def test_distances_are_to_the_nearest_training_spot_and_to_the_nearest_mean(monkeypatch, at_once):
    monkeypatch.setattr(domain, "ROWS", at_once)
    away, of, between, shift, mean = distances(known(), SPOTS)
    np.testing.assert_allclose(away, np.array([1, 3, 0, 0.5]) / 0.5, atol=1e-6)
    np.testing.assert_array_equal(of, [0, 3, 0, 0])
    np.testing.assert_allclose(shift, [12.5 / 4, -2 / 4, 0], rtol=1e-6)
    np.testing.assert_allclose(mean, [1 + 2 * 12.5 / 4, 2 - 2 / 4, 7], rtol=1e-6)
    assert between == pytest.approx(np.sqrt(((12.5 / 4 - 1) ** 2 + 0.5**2) / 2) / 2, rel=1e-6)  # from (1, 0)


def test_spots_that_are_joined_are_near_from_then_on():
    joined = known().joined_by(np.array([[21.0, -1.0, 5.0]], dtype=np.float32), 4)  # placed at (10, -3)
    away, of, between, *_ = distances(joined, SPOTS)
    np.testing.assert_allclose(away, [2, 0, 0, 1], atol=1e-6)
    np.testing.assert_array_equal(of, [0, 4, 0, 0])
    assert between == pytest.approx(distances(known(), SPOTS)[2])  # the first section is still the nearest


def test_places_in_a_large_space_that_coincide_are_not_apart():
    """Squares of distances may come out below 0 there."""
    rng = np.random.default_rng(0)
    far = (1000 + rng.standard_normal((50, 2))).astype(np.float32)
    away, *_ = distances(known().joined_by(np.column_stack([1 + 2 * far[:, 0], 2 + far[:, 1], far[:, 0]]), 5), far)
    assert np.isfinite(away).all()


def spots(n, rng, sections=4):
    """`n` spots of each section with four features: of sd 3, 1 and 0, and the sum of the first two."""
    section = np.repeat(np.arange(sections), n)
    first, second = 3 * rng.standard_normal(n * sections), rng.standard_normal(n * sections) + section
    nothing = np.zeros((len(section), 1), dtype=np.float32)
    table = Table(
        nothing, nothing, section, section, section, np.tile(np.arange(n), sections), np.zeros((len(section), 2))
    )
    return table, np.column_stack([first, second, np.full(len(section), 4.0), first + second]) + 10


def test_training_spots_have_variance_one_along_their_axes_and_held_out_ones_say_what_is_usual():
    table, features = spots(50, np.random.default_rng(0))
    learned = Domain.learn(table, features, np.random.default_rng(1))
    within = np.sqrt([features[table.section == i].var(axis=0) for i in range(4)])
    np.testing.assert_allclose(learned.level, features.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(learned.scale, np.sqrt(np.square(within).mean(axis=0)), rtol=1e-5)
    assert learned.scale[2] == 0
    assert learned.axes.shape == (4, 2)
    np.testing.assert_allclose(np.cov(learned.places.T, bias=True), np.eye(2), atol=1e-4)
    nearest, between = [], []
    for own in (table.section == i for i in range(4)):
        held, others = learned.places[own], learned.places[~own]
        nearest.append(np.median(cdist(held, others).min(axis=1)))
        between.append(np.sqrt(np.square(held.mean(axis=0) - others.mean(axis=0)).mean()))
    np.testing.assert_allclose(learned.usual, [np.mean(nearest), np.mean(between)], rtol=1e-3)


def test_some_spots_are_looked_at_in_the_order_of_the_table(monkeypatch):
    monkeypatch.setattr(domain, "MAX_SPOTS", 30)
    table, features = spots(20, np.random.default_rng(0))
    seen = SimpleNamespace(of_rows=lambda section, rows: features[20 * section + rows])
    few, found = looked_at(range(4), seen, table, np.random.default_rng(0))
    assert len(few) == len(found) == 30
    np.testing.assert_array_equal(found, features[20 * few.section + few.row])
    assert (np.diff(20 * few.section + few.row) > 0).all()
    few, found = looked_at(range(4), seen, table.take(np.arange(10)), np.random.default_rng(0))
    np.testing.assert_array_equal(found, features[:10])


def test_what_is_kept_is_bounded():
    """Of 2004 spots 2000 are looked at, and of these 250 are kept, along 16 axes of 20."""
    rng = np.random.default_rng(0)
    table, features = spots(501, rng)[0], rng.standard_normal((2004, 20))
    seen = SimpleNamespace(of_rows=lambda section, rows: features[501 * section + rows])
    few, found = looked_at(range(4), seen, table, rng)
    assert (len(few), found.shape) == (2000, (2000, 20))
    learned = Domain.learn(few, found, rng)
    assert (learned.places.shape, learned.place_section.shape, learned.axes.shape) == ((250, 16), (250,), (20, 16))
    assert learned.arrays().keys() == Domain.SHAPES.keys()
    assert learned.usual.shape == Domain.SHAPES["domain_usual"] == (2,)


def test_features_that_vary_by_rounding_alone_do_not_count():
    table, features = spots(50, np.random.default_rng(0))
    features[:, 0] += 1e7  # varies by 3
    features[:, 2] = 1e5 + 0.05 * np.tile([1, -1], 100)
    features[:, 3] = np.tile([-1e-9, 1e-9], 100)  # small, and about 0
    learned = Domain.learn(table, features, np.random.default_rng(1))
    np.testing.assert_array_equal(learned.scale > 0, [False, True, False, True])
