"""What is promised of predictions is what held-out spots reached, on errors and correlations that are known."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict._evaluation.metrics import pearson
from stpredict.models._trust.reliability import (
    LEVELS,
    NORMAL_QUANTILES,
    Reliability,
    _expected,
    _properties,
    central,
    width,
    with_shift,
)


def drawn(correlations, n=400, seed=0):
    """Measured and predicted values, and the section of each, with `correlations` (sections, genes)."""
    rng, r = np.random.default_rng(seed), np.repeat(np.asarray(correlations, dtype=float), n, axis=0)
    predicted = rng.standard_normal(r.shape)
    measured = r * predicted + np.sqrt(1 - r**2) * rng.standard_normal(r.shape)
    return measured + 5, predicted, np.repeat(np.arange(len(correlations)), n)


def told(errors, pcc=0.5, pcc_sd=0.1):
    """Of genes whose errors have these quantiles (levels, genes)."""
    every = np.ones(errors.shape[1], dtype=np.float32)
    return Reliability(pcc * every, pcc_sd * every, errors.astype(np.float32), 0 * every)


def test_another_section_may_be_as_far_off_as_sections_were_from_each_other():
    of_sections = np.array([0.2, 0.4, 0.5, 0.6, 0.8])
    known = Reliability.learn(*drawn(np.tile(of_sections[:, None], 60)))
    np.testing.assert_allclose(known.pcc, 0.5, atol=0.05)
    np.testing.assert_allclose(known.pcc_sd, of_sections.std(ddof=1) * np.sqrt(1 + 1 / 5), rtol=0.1)


def test_genes_that_change_places_between_sections_are_promised_less_surely():
    """Every section has the same correlation on average, and every gene one of its own in each."""
    away = np.random.default_rng(1).uniform(-0.3, 0.3, (4, 200))
    away -= away.mean(axis=1, keepdims=True)
    known = Reliability.learn(*drawn(0.5 + away))
    assert known.pcc_sd.mean() == pytest.approx(0.6 / np.sqrt(12), rel=0.15)
    assert known.pcc.std() < 0.5 * away.mean(axis=0).std()


@pytest.mark.parametrize("n_genes", [5, 60])
def test_one_section_tells_little_of_another(n_genes):
    known = Reliability.learn(*drawn(np.full((1, n_genes), 0.5)))
    np.testing.assert_allclose(known.pcc, 0.5, atol=0.13)
    np.testing.assert_allclose(known.pcc_sd, np.sqrt(0.08**2 + (1 - 0.5**2) ** 2 / 399), rtol=0.1)


def test_sections_with_few_held_out_spots_do_not_count():
    measured, predicted, section = drawn(np.full((2, 30), 0.6))
    few = np.arange(len(section)) < 409  # of the second section 9
    predicted[400:409] = -measured[400:409]
    known = Reliability.learn(measured[few], predicted[few], section[few])
    np.testing.assert_allclose(known.pcc, 0.6, atol=0.1)


def test_ten_held_out_spots_of_a_section_count():
    measured, predicted, section = drawn(np.full((2, 15), 0.6))
    few = np.arange(len(section)) < 410  # of the second section 10
    predicted[400:410] = -measured[400:410]
    known = Reliability.learn(measured[few], predicted[few], section[few])
    np.testing.assert_allclose(known.pcc, (0.6 - 1) / 2, atol=0.1)


def test_intervals_are_interpolated_between_the_kept_quantiles():
    uniform = told(LEVELS[:, None] * np.array([1.0, 10.0]))
    for level, ends in ((0.9, (0.05, 0.95)), (0.85, (0.075, 0.925)), (0.0, (0.5, 0.5)), (0.9999, (0.005, 0.995))):
        for found, end in zip(central(uniform.errors, level), ends, strict=True):
            np.testing.assert_allclose(found, [end, 10 * end], rtol=1e-5)


def test_the_width_of_normal_errors_is_their_standard_deviation():
    np.testing.assert_allclose(width(NORMAL_QUANTILES[:, None] * np.array([1.0, 3.0])), [1, 3], rtol=1e-5)


def test_errors_on_one_section_are_as_much_wider_as_sections_differ():
    """Errors of variance 1, off by 4 in this section: the level of another one varies by 3, so errors have variance 4."""
    rng = np.random.default_rng(0)
    predicted = rng.standard_normal((4000, 2))
    measured = predicted + rng.standard_normal((4000, 2)) + 4
    known = Reliability.learn(measured, predicted, np.zeros(4000, dtype=int), between=np.array([3.0, 0.0]))
    np.testing.assert_allclose(width(known.errors), [2, 1], rtol=0.05)
    np.testing.assert_allclose(known.errors[len(LEVELS) // 2], 0, atol=0.1)
    two = Reliability.learn(measured, predicted, np.arange(4000) % 2, between=np.array([3.0, 0.0]))
    np.testing.assert_allclose(width(two.errors), 1, rtol=0.05)
    np.testing.assert_allclose(two.errors[len(LEVELS) // 2], 4, atol=0.1)


def test_errors_of_genes_that_nobody_held_out_are_as_large_as_those_of_others_for_their_spread():
    measured, predicted, section = drawn(np.full((2, 40), 0.5))
    measured[:, 0] *= 3
    predicted[:, 0] = np.nan
    known = Reliability.learn(measured, predicted, section)
    np.testing.assert_allclose(width(known.errors)[0], 3 * width(known.errors)[1:].mean(), rtol=0.1)
    assert known.pcc[0] == pytest.approx(0.5, abs=0.1)
    nothing = Reliability.learn(measured, np.full_like(measured, np.nan), section)
    np.testing.assert_array_equal(nothing.errors, 0)


def test_genes_missing_in_one_section_are_judged_by_the_other():
    measured, predicted, section = drawn(np.full((2, 40), 0.8))
    measured[section == 1, 0] = np.nan
    known = Reliability.learn(measured, predicted, section)
    np.testing.assert_allclose(width(known.errors)[0], width(known.errors)[1:].mean(), rtol=0.15)
    assert known.pcc[0] == pytest.approx(0.8, abs=0.05)


def test_a_base_model_counts_like_fifty_measured_spots():
    levels = np.zeros((len(LEVELS), 1))
    base = told(levels + 3, pcc=0.8, pcc_sd=0.1)
    own = told(np.tile(levels + 4, 2), pcc=0.2, pcc_sd=0.3)
    columns = np.array([0, -1])
    half, most, few = (own.drawn_to(base, columns, n) for n in (50, 10**6, 2))
    np.testing.assert_allclose(half.errors[0], [3.5, 4])
    np.testing.assert_allclose(most.errors[0], [4, 4], atol=1e-3)
    np.testing.assert_allclose(few.errors[0], [(2 * 4 + 50 * 3) / 52, 4], rtol=1e-5)
    np.testing.assert_allclose(most.pcc, 0.2, atol=1e-3)
    np.testing.assert_allclose(few.pcc, [0.8, 0.2], atol=0.01)
    for n, of_it in ((1, 1), (3, 2)):  # a correlation from n spots has n - 1 to tell its error from
        weight = 0.1**2 / (0.1**2 + (1 - 0.2**2) ** 2 / of_it)
        assert own.drawn_to(base, columns, n).pcc[0] == pytest.approx(0.8 - 0.6 * weight, rel=1e-5)
    as_sure = 1 + round((1 - 0.2**2) ** 2 / 0.1**2)  # measured spots that tell a correlation of .2 to ± .1
    even = own.drawn_to(base, columns, as_sure)
    np.testing.assert_allclose(even.pcc, [0.5, 0.2], atol=0.01)
    np.testing.assert_allclose(even.pcc_sd, [np.sqrt(0.1**2 / 2 + 0.08**2), 0.3], rtol=0.01)


def test_two_spots_that_correlate_perfectly_say_next_to_nothing():
    """Any two spots correlate with 1 or -1; a base model of .3 ± .2 is believed, and genes that it lacks are uncertain."""
    base = told(np.zeros((len(LEVELS), 2)), pcc=0.3, pcc_sd=0.2)
    own = Reliability.learn(np.array([[0.0, 1], [1, 2]]), np.array([[0.0, 1], [1, 2]]), np.array([0, 0]))
    joined = own.drawn_to(base, np.array([0, -1]), 2)
    weight = 0.04 / (0.04 + 0.91**2)
    np.testing.assert_allclose(joined.pcc, [0.3 + 0.7 * weight, 1], rtol=1e-5)
    assert joined.pcc_sd[1] > 1


def test_a_shift_of_level_that_all_spots_share_widens_errors_around_their_median():
    normal = NORMAL_QUANTILES[:, None]
    shifted = with_shift(normal * np.array([3.0, 0.0]) + 1, 4.0)
    np.testing.assert_allclose(shifted, normal * np.array([5.0, 4.0]) + 1, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(with_shift(normal * 3, 0.0), normal * 3, rtol=1e-6)


@pytest.mark.parametrize("sd", [0.05, 0.25])
def test_what_one_section_of_few_spots_promises_is_as_far_off_as_it_says(sd):
    """Genes differ by `sd`; 30 spots of a section tell their correlations, and 30 of another one are promised them."""
    truth = np.clip(np.random.default_rng(0).normal(0.4, sd, 3000), -0.9, 0.9)
    known = Reliability.learn(*drawn(truth[None], n=30, seed=1))
    measured, predicted, _ = drawn(truth[None], n=30, seed=2)
    away = pearson(measured, predicted)[0] - known.pcc
    assert np.sqrt(np.square(away).mean() + 0.08**2) == pytest.approx(np.sqrt(np.square(known.pcc_sd).mean()), rel=0.03)
    assert abs(away.mean()) < 0.01


def test_genes_without_any_prediction_are_promised_what_genes_of_their_level_reached():
    """Genes of high level are predicted well; one beyond them all is taken for the highest, and not for more."""
    level = np.linspace(0, 4, 80)
    measured, predicted, section = drawn(np.tile(0.2 + 0.15 * level, (2, 1)))
    measured += level
    measured[:, 0] += 20
    predicted[:, :2] = np.nan
    known = Reliability.learn(measured, predicted, section)
    assert known.pcc[0] == pytest.approx(0.8, abs=0.05)
    assert known.pcc[1] == pytest.approx(0.2, abs=0.05)


def expected(reached, n_spots=101, properties=None):
    """Correlations to expect and their squared standard deviations, of genes of no level that are predicted at full contrast."""
    reached = np.array(reached, dtype=float)
    told = np.tile([1.0, 0, 0, 1], (reached.shape[1], 1)) if properties is None else properties
    sizes = np.resize(n_spots, len(reached))
    pcc, sd = _expected(reached, sizes, told, np.isfinite(reached).any(axis=0))
    return pcc, np.square(sd)


NAN = np.nan


@pytest.mark.parametrize(
    ("reached", "n_spots", "pcc", "variance"),
    [
        ([[0.6, 0.4]], 101, [0.6, 0.4], 2 * 0.005576 + 0.0064),  # by chance (0.64² + 0.84²) / 2 / 100 each
        ([[0.4, 0.2], [0.6, 0.4]], [11, 21], [0.5, 0.3], 1.5 * 0.69530 * 0.075 + 0.03),  # 0.2 apart: 0.02 (1 + 1/2)
        ([[0.2, 0.6], [0.6, 0.2]], 101, [0.4, 0.4], 0.08 + 0.04),  # they change places: 0.2² · 2 / 1, and half of it
        ([[0.2, 0.5], [0.4, NAN]], 101, [0.3, 0.5], [0.0125 * 1.5 + 0.001875, 0.0125 * 2 + 0.001875]),
        ([[0.2, NAN], [NAN, 0.5]], 101, [0.2, 0.5], 2 * 0.0074205 + 0.0675),  # nothing but chance can be told apart
        ([[NAN], [NAN]], 101, [0], 0.02 + 0.0064),
    ],
)
def test_what_to_expect_of_few_genes_is_their_mean_and_how_far_sections_were_apart(reached, n_spots, pcc, variance):
    found, squares = expected(reached, n_spots)
    np.testing.assert_allclose(found, pcc, atol=1e-12)
    np.testing.assert_allclose(squares, variance, rtol=1e-9)


def test_twenty_genes_are_drawn_to_each_other_and_nineteen_are_not():
    """Genes are .1 beside .5; by chance it would be 0.5576 / 100 in its square, so 0.4424 of the way is their own."""
    apart = np.where(np.arange(20) % 2, 0.6, 0.4)[None]
    np.testing.assert_array_equal(expected(apart[:, :19])[0], apart[0, :19])
    pcc, variance = expected(apart)
    np.testing.assert_allclose(pcc, 0.5 + 0.4424 * (apart[0] - 0.5), rtol=1e-9)
    np.testing.assert_allclose(variance, 0.004424 * 0.5576 + 0.005576 + 0.0064, rtol=1e-9)
    perfect, variance = expected(np.ones((1, 20)))
    np.testing.assert_allclose(perfect, 1, rtol=1e-9)
    np.testing.assert_allclose(variance, 0.0064, rtol=1e-9)


def test_genes_without_a_correlation_get_that_of_their_level_within_the_levels_that_are_known():
    level = np.array([*np.arange(20) / 10, 0.55, 5, -3, 1])
    told = np.column_stack([np.ones(24), level, level**2, np.full(24, 0.5)])
    told[23, 3] = NAN
    reached = np.where(np.arange(24) < 20, 0.2 + 0.1 * level, NAN)[None]
    np.testing.assert_allclose(expected(reached, properties=told)[0][20:], [0.255, 0.39, 0.2, 0.3], rtol=1e-9)


def test_genes_are_alike_by_mean_and_by_contrast_within_sections():
    measured = np.array([[0.0, 1, 0, NAN], [4, 3, 2, NAN], [10, 5, 5, NAN], [14, 7, 5, NAN]])
    predicted = np.array([[0.0, 0, 0, 0], [1, 9, NAN, 0], [0, 0, 1, 0], [3, 9, 2, 0]])
    told = _properties(measured, predicted, [np.arange(4) < 2, np.arange(4) >= 2])
    np.testing.assert_allclose(
        told[:3], [[1, 7, 49, 0.5], [1, 4, 16, 1], [1, 3, 9, 1]]
    )  # (0.5 + 1.5) / 2 over (2 + 2) / 2
    assert told[3, 0] == 1
    assert np.isnan(told[3, 1:]).all()


def test_the_interval_of_normal_errors_is_that_of_tables():
    errors = NORMAL_QUANTILES[:, None]
    for level, end in ((0.2, 0.253347), (0.4, 0.524401), (0.9, 1.644854), (0.99, 2.575829)):
        np.testing.assert_allclose(np.ravel(central(errors, level)), [-end, end], rtol=1e-5)


def test_small_errors_are_scaled_like_large_ones():
    """Errors on one section of sd 0.1, whose level varies by 0.3; and a gene that nobody held out, of a third of the others' spread."""
    rng = np.random.default_rng(0)
    predicted = rng.standard_normal((4000, 25))
    measured = predicted * 0.1 + 0.1 * rng.standard_normal(predicted.shape)
    one = Reliability.learn(measured, predicted * 0.1, np.zeros(4000, dtype=int), between=np.full(25, 0.09))
    np.testing.assert_allclose(width(one.errors), np.sqrt(0.1), rtol=0.05)
    measured[:, 0] /= 3
    predicted[:, 0] = NAN
    known = Reliability.learn(measured, predicted * 0.1, np.zeros(4000, dtype=int))
    np.testing.assert_allclose(width(known.errors), np.where(np.arange(25) > 0, 0.1, 0.1 / 3), rtol=0.06)
