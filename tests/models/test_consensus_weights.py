"""Weights of several predictions and their sum, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.models.consensus.weights import added, learn_weights, levels_and_spreads, mean_pcc


def waves(n):
    """Three patterns of mean 0 and variance 1, none of which tells anything of the others; n is a multiple of 8."""
    row = np.arange(n)[:, None]
    return [np.where(row // width % 2, -1.0, 1.0) for width in (1, 2, 4)]


@pytest.mark.parametrize(("n", "first"), [(120, 0.9), (40, 11 / 14), (24, 13 / 18), (16, 0.5)])
def test_weights_are_drawn_to_equal_ones_as_by_thirty_spots(n, first):
    """One part is half right and the other not at all: (1 + p / 2, p / 2) over 1 + p, where p is 30 over the spots."""
    truth, noise, other = waves(n)
    weights = learn_weights([truth + noise, 7 * other + 3], truth, np.zeros(n))
    np.testing.assert_allclose(weights, [first, 1 - first], atol=1e-6)


def test_twenty_spots_of_a_section_are_enough_and_every_section_counts_the_same():
    truth, other, _ = (values[:20] for values in waves(24))
    sections = np.repeat([0, 1, 2, 3], [20, 20, 20, 19])
    first = np.concatenate([truth, truth, other, other[:19]])
    second = np.concatenate([other, other, truth, truth[:19]])
    weights = learn_weights([first, second], np.concatenate([truth] * 3 + [truth[:19]]), sections)
    np.testing.assert_allclose(weights, [(2 / 3 + 1 / 4) / 1.5, (1 / 3 + 1 / 4) / 1.5], atol=1e-6)


def test_parts_that_all_fail_count_the_same():
    truth, one, other = waves(40)
    np.testing.assert_array_equal(learn_weights([-truth, -truth + one + other], truth, np.zeros(40)), [0.5, 0.5])


@pytest.mark.parametrize("size", [2, 2e-4, 0.9e-4])
@pytest.mark.parametrize("n", [20, 19])
def test_levels_and_spreads_of_enough_spots_that_vary(size, n):
    values = 3 + size * np.resize([1.0, -1.0], 20)[:, None]
    values[n:] = np.nan
    known = n == 20 and size > 1e-4
    levels, spreads = levels_and_spreads([values], np.zeros(20))
    np.testing.assert_allclose(levels, [[3 if known else 0]])
    np.testing.assert_allclose(spreads, [[size if known else 1]], rtol=1e-3)


def test_spreads_are_within_three_times_their_mean():
    wave = np.resize([1.0, -1.0], 20)[:, None]
    spreads = levels_and_spreads([wave, wave, wave, 97 * wave], np.zeros(20))[1]
    np.testing.assert_allclose(spreads[:, 0], [25 / 3] * 3 + [75], rtol=1e-6)


def test_spots_count_in_levels_and_sections_in_spreads():
    wave = np.resize([1.0, -1.0], 40)[:, None]
    values = np.concatenate([wave[:20], 6 + 7 * wave, 900 + wave[:19]])
    levels, spreads = levels_and_spreads([values], np.repeat([0, 1, 2], [20, 40, 19]))
    assert levels[0, 0] == pytest.approx(4)  # 40 of 60 spots are at 6; the last section has too few
    assert spreads[0, 0] == pytest.approx(5)  # of variances 1 and 49


def test_predictions_are_added_at_their_mean_level_and_spread():
    scales = {"levels": np.array([[2.0], [20.0]]), "spreads": np.array([[1.0], [10.0]])}
    parts = np.array([[1.0], [3.0]]), np.array([[10.0], [30.0]])
    together = added(parts, np.array([0.25, 0.75]), scales)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, [[15.5 - 7.75], [15.5 + 7.75]])


def test_correlation_is_within_sections_over_genes_known_there():
    up = np.arange(3.0)[:, None] * [1, 1]
    measured = np.concatenate([up, up + 10])
    predicted = np.concatenate([up * [1, -1], up * [-1, 1]])
    section = np.repeat([0, 1], 3)
    assert mean_pcc(predicted, measured, section) == pytest.approx(0)
    predicted[1, 1] = np.nan
    assert mean_pcc(predicted, measured, section) == pytest.approx(0.5)  # 1 in the first, 0 in the second
    predicted[4] = np.nan
    assert mean_pcc(predicted, measured, section) == pytest.approx(1)
    assert np.isnan(mean_pcc(predicted * np.nan, measured, section))
