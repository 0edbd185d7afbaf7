"""What a prediction says of itself against what it reached, and one number per unit: worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stpredict._evaluation.ceiling import _covariance, _log, spread
from stpredict._evaluation.stated import Stated, share_inside, stated_excess, stated_r
from stpredict._evaluation.target import pearson_residuals
from stpredict._evaluation.units import student_interval, unit_of, unit_values

NAN = np.nan


@pytest.mark.parametrize(
    ("stated", "reached", "r", "excess"),
    [
        ([0.1, 0.2, 0.3], [0.3, 0.5, 0.7], 1, -0.3),
        ([0.1, 0.2, 0.3, NAN, 9], [0.7, 0.5, 0.3, 1, NAN], -1, -0.3),
        ([0.1, 0.2], [0.3, 0.5], NAN, -0.25),
        ([0.5, 0.5, 0.5], [0.3, 0.4, 0.5], NAN, 0.1),
        ([0.3, 0.4, 0.5], [0.5, 0.5, 0.5 + 1e-7], NAN, -0.1),
        ([NAN, NAN, NAN], [0.3, 0.4, 0.5], NAN, NAN),
    ],
)
def test_stated_correlations_against_reached_ones(stated, reached, r, excess):
    pair = np.array(stated), np.array(reached)
    np.testing.assert_allclose(stated_r(*pair), r)
    np.testing.assert_allclose(stated_excess(*pair), excess, atol=1e-6)


def test_ends_belong_to_their_interval_and_spots_without_one_do_not_count():
    measured = np.array([[1.0, 1], [2, 2], [3, 3], [4, NAN]])
    low, high = np.full((4, 2), 2.0), np.full((4, 2), 3.0)
    low[0, 1], high[1, 1] = NAN, np.inf
    np.testing.assert_allclose(share_inside(measured, low, high), [0.5, 1])
    assert np.isnan(share_inside(measured, low * NAN, high)).all()


def test_what_is_stated_of_some_spots_and_genes():
    ends = np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(3, 2) + 10
    some = Stated(np.array([0.1, 0.2]), ends, 0.9, 1.5).taken(np.array([True, False, True]), np.array([1, -1, 0]))
    np.testing.assert_array_equal(some.pcc, [0.2, NAN, 0.1])
    np.testing.assert_array_equal(some.ends[0], [[1, NAN, 0], [5, NAN, 4]])
    np.testing.assert_array_equal(some.ends[1], [[11, NAN, 10], [15, NAN, 14]])
    assert (some.level, some.distance) == (0.9, 1.5)
    nothing = Stated().taken(np.array([0]), np.array([0]))
    assert nothing.pcc is nothing.ends is None


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (Stated(), []),
        (Stated(pcc=np.array([NAN])), []),
        (Stated(pcc=np.array([0.1, NAN])), ["stated_pcc", "stated_r", "stated_excess"]),
        (Stated(ends=(np.zeros((1, 1)),) * 2), ["interval_coverage"]),
        (
            Stated(ends=(np.zeros((1, 1)),) * 2, level=0.9, distance=1.0),
            ["interval_coverage", "interval_level", "distance"],
        ),
        (Stated(level=0.9), []),
    ],
)
def test_metrics_of_what_is_stated(stated, expected):
    assert stated.metrics() == expected


def test_pearson_residuals_by_hand():
    """Two of 20 counts: one expected in each spot of ten, with variance 1 + 1/100; limits are at √2."""
    residuals = pearson_residuals([[2, 0, 9], [0, 0, 0]], [10, 10])
    np.testing.assert_allclose(residuals[:, 0], np.array([1, -1]) / np.sqrt(1.01))
    np.testing.assert_array_equal(residuals[:, 1], 0)
    np.testing.assert_allclose(residuals[:, 2], [np.sqrt(2), -np.sqrt(2)])


def test_log_counts_of_a_replicate_are_centred_and_spots_may_be_empty():
    ends = np.log([10_001, 5_001, 1])  # all of a single count, one of two, none
    np.testing.assert_allclose(_log(np.array([[1], [1], [0]]), np.array([0, 1, 0]))[:, 0], ends - ends.mean())
    assert _covariance(np.array([[1.0], [-1], [0]]), np.array([[3.0], [-3], [5]])) == 2
    assert spread(np.array([1.0, 3.0])) == 1  # √2 over √2


def test_students_interval_by_hand():
    """Two degrees of freedom: 4.3027 standard errors of 1/√3."""
    np.testing.assert_allclose(student_interval([1, 2, 3]), (2, 2 - 2.484138, 2 + 2.484138), rtol=1e-6)
    np.testing.assert_array_equal(student_interval([4]), (4, NAN, NAN))
    np.testing.assert_array_equal(student_interval([]), (NAN, NAN, NAN))


def test_sections_of_a_fold_count_the_same_however_many_genes_each_has():
    table = pd.DataFrame({"method": "a", "panel": "p", "fold": [0, 0, 0, 1], "section": ["s", "s", "t", "u"]})
    table["value"] = [1.0, 3.0, 6.0, 8.0]
    assert unit_of(table) == "fold"
    assert unit_of(table.assign(fold=0)) == "section"
    assert unit_of(table[:2]) is None
    assert unit_of(table[["method", "value"]]) is None
    assert unit_values(table, "fold").to_dict() == {("a", "p", 0, 0): 4.0, ("a", "p", 1, 0): 8.0}
    seeded = unit_values(table.assign(seed=[0, 1, 1, 1]).drop(columns="section"), "fold")
    assert seeded.to_dict() == {("a", "p", 0, 0): 1.0, ("a", "p", 0, 1): 4.5, ("a", "p", 1, 1): 8.0}
