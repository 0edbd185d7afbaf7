from __future__ import annotations

import numpy as np
import pytest

from stpredict._evaluation.ceiling import ceiling_draws, noise_ceiling, spread
from stpredict._evaluation.metrics import pearson


def measure(fraction, totals, rng):
    """Poisson counts, their totals, and measured and true log1p CP10k."""
    counts = rng.poisson(totals[:, None] * fraction)
    seen = counts.sum(axis=1)
    return counts, seen, np.log1p(1e4 * counts / np.maximum(seen, 1)[:, None]), np.log1p(1e4 * fraction)


@pytest.mark.parametrize("depth", [700, 5000])
@pytest.mark.parametrize("depth_sd", [0.2, 0.6, 1.2])
def test_ceiling_is_what_the_truth_scores(section, depth, depth_sd):
    """The simulated tissue's own expression, drawn anew as Poisson counts, at depths from even to wild."""
    rng = np.random.default_rng(1)
    fraction = np.expm1(section.layers["truth"].astype(float)) / 1e4
    totals = depth * np.exp(depth_sd * rng.standard_normal(section.n_obs))
    counts, seen, measured, truth = measure(fraction, totals, rng)
    enough = seen >= 50
    actual = pearson(truth[enough], measured[enough])[0]
    estimate = noise_ceiling(counts[enough], seen[enough])
    spread = truth.std(axis=0)
    assert estimate[spread > 0.2].mean() == pytest.approx(actual[spread > 0.2].mean(), abs=0.05)
    assert estimate[spread < 1e-3].mean() < 0.25  # genes that do not vary: the truth scores 0


def test_low_counts_of_many_genes():
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(0, 1.6, 400) + rng.standard_normal((300, 5)) @ rng.normal(0, 0.35, (5, 400)))
    fraction = rate / rate.sum(axis=1, keepdims=True)
    counts, seen, measured, truth = measure(fraction, 1500 * np.exp(0.7 * rng.standard_normal(300)), rng)
    actual = pearson(truth, measured)[0]
    estimate = noise_ceiling(counts[:, :200], seen)  # some genes only: totals are over all of them
    assert estimate.mean() == pytest.approx(actual[:200].mean(), abs=0.05)
    assert np.corrcoef(estimate, actual[:200])[0, 1] > 0.8


def test_no_signal_has_a_low_ceiling_and_no_noise_a_high_one():
    rng = np.random.default_rng(0)
    totals = np.full(500, 3000.0)
    flat = np.full((500, 30), 1 / 30)
    counts = rng.poisson(totals[:, None] * flat)
    assert noise_ceiling(counts, counts.sum(axis=1)).mean() < 0.25
    deep = np.exp(rng.standard_normal((500, 30)))
    counts = rng.poisson(1e6 * deep / deep.sum(axis=1, keepdims=True))
    assert noise_ceiling(counts, counts.sum(axis=1)).min() > 0.99


def test_genes_without_counts_have_ceiling_zero_and_seeds_repeat():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (60, 5))
    counts[:, 2] = 0
    totals = counts.sum(axis=1) + 100
    first = noise_ceiling(counts, totals, seed=3)
    assert first[2] == 0
    assert ((first >= 0) & (first <= 1)).all()
    np.testing.assert_array_equal(first, noise_ceiling(counts, totals, seed=3))
    assert (first != noise_ceiling(counts, totals, seed=4)).any()


def test_chance_lifts_no_ceiling_above_one():
    """Six deep spots: what two replicates have in common is now and then less than each has with the rest."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(size=(6, 500)))
    counts = rng.poisson(3000 * rate / rate.sum(axis=1, keepdims=True))
    assert ceiling_draws(counts, counts.sum(axis=1), seed=0).max() == 1


def test_seeds_hardly_move_the_ceiling_of_few_shallow_spots_and_the_spread_says_by_how_much():
    """All noise known: the mean over genes is right, and moves between seeds as far as the spread of its draws says."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(0, 1.6, 100) + rng.standard_normal((150, 5)) @ rng.normal(0, 0.35, (5, 100)))
    counts, seen, measured, truth = measure(rate / rate.sum(axis=1, keepdims=True), np.full(150, 300.0), rng)
    draws = [ceiling_draws(counts, seen, seed=seed).mean(axis=1) for seed in range(12)]
    assert len(draws[0]) == 10
    means, told = np.mean(draws, axis=1), np.mean([spread(one) for one in draws])
    assert means.mean() == pytest.approx(pearson(truth, measured)[0].mean(), abs=0.05)
    assert means.std(ddof=1) == pytest.approx(told, rel=0.5)
    assert means.std(ddof=1) < 0.5 * np.mean([one.std(ddof=1) for one in draws])  # of a single draw
    assert means[0] == pytest.approx(noise_ceiling(counts, seen, seed=0).mean())


def test_large_sections_are_drawn_twice():
    rng = np.random.default_rng(0)
    counts = rng.poisson(20 * np.exp(rng.standard_normal((2000, 3))))
    draws = ceiling_draws(counts, counts.sum(axis=1), seed=0)
    assert len(draws) == 2
    assert (draws[0] != draws[1]).all()
    np.testing.assert_allclose(draws[0], draws[1], atol=0.03)
    assert draws.min() > 0.7
