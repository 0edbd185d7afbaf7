"""What a correction by measured spots is made of: numbers worked out by hand, and laws that must hold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stpredict._sections.open import open_sections
from stpredict.models.adapted import gaussian_process as gp
from stpredict.models.adapted import residuals
from stpredict.models.adapted.gaussian_process import Points, Process, choose_rest, choose_weights, kernel
from stpredict.models.adapted.measured import well_measured
from stpredict.models.adapted.model import Adapted, _coordinates, _pitch
from stpredict.models.adapted.units import in_our_units, slope_and_intercept


def points(places, section=None, scores=None, embedded=None):
    n = len(places)
    none = np.zeros((n, 1))
    return Points(
        np.array(places, dtype=float),
        np.zeros(n, dtype=int) if section is None else np.array(section),
        none if scores is None else np.array(scores, dtype=float),
        none if embedded is None else np.array(embedded, dtype=np.float32),
    )


def some(n, seed=0):
    rng = np.random.default_rng(seed)
    return points(rng.uniform(0, 10, (n, 2)), scores=rng.normal(size=(n, 2)), embedded=rng.normal(size=(n, 3)))


# ---------------------------------------------------------------------- the Gaussian process


def test_covariances_are_those_of_level_likeness_and_distance():
    """8 pitches away, predictions 1 apart, embeddings (1, 1) apart; and a spot in another section."""
    one = points([[0, 0]], scores=[[0]], embedded=[[0, 0]])
    other = points([[0, 0], [0, 8], [0, 8]], [0, 0, 1], [[0], [1], [1]], [[0, 0], [1, 1], [1, 1]])
    level, alike, *near = gp.parts(one, other)
    np.testing.assert_allclose(level, [[1, 1, 1]])
    np.testing.assert_allclose(alike, [[1, (np.exp(-1) + np.exp(-2)) / 2, (np.exp(-1) + np.exp(-2)) / 2]])
    np.testing.assert_allclose(np.concatenate(near), [[1, np.exp(-x), 0] for x in (8, 4, 2, 1)])
    np.testing.assert_allclose(kernel(np.array([3, 0, 2, 0, 0, 0]), one, other), [[5, 3 + 2 * np.exp(-8), 3]])


def test_one_spot_tells_nothing_so_all_weights_count_the_same():
    """11 amplitudes from 0.001 to 100, half a decade apart; shares of likeness 0, ¼, ½ and ¾ with four lengths each, and 1."""
    mean = (111.111 + 10**0.5 * 11.111) / 11
    weights = choose_weights(points([[0, 0]]), np.array([[2.0]]), np.ones(1))
    np.testing.assert_allclose(weights, mean * np.array([17, 7, *[2.5] * 4]) / 17, rtol=1e-9)


def test_weights_are_shared_out_by_likelihood():
    """The normal density of both columns at the scale that suits them best, for every combination of weights."""
    spots, variances = some(5), np.array([0.5, 3.0])
    values = np.random.default_rng(1).normal(size=(5, 2)) * [1, 2]
    likelihood, weights = [], []
    for weight in gp._candidates():
        for amplitude in gp.AMPLITUDES:
            covariances = [amplitude * v * kernel(weight, spots, spots) + np.eye(5) for v in variances]
            squares = sum(y @ np.linalg.solve(c, y) for c, y in zip(covariances, values.T, strict=True))
            determinants = [np.linalg.det(squares / 10 * c) for c in covariances]
            likelihood.append(1 / np.sqrt(np.prod(determinants)))
            weights.append(amplitude * weight)
    np.testing.assert_allclose(
        choose_weights(spots, values, variances), np.average(weights, axis=0, weights=likelihood), rtol=1e-6
    )


def test_nothing_to_correct_gives_finite_weights():
    assert np.isfinite(choose_weights(some(4), np.zeros((4, 1)), np.ones(1))).all()


@pytest.mark.parametrize("true", [0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1])
def test_the_variance_with_which_left_out_spots_are_predicted_best_is_chosen(true):
    """Columns whose second moments are those of the process: with its own variance no other predicts better."""
    spots, weights = some(12), np.array([1, 0.5, 0.2, 0.3, 0, 0.4])
    values = np.linalg.cholesky(true * kernel(weights, spots, spots) + np.eye(12))
    assert choose_rest(Process(spots, weights), values) == pytest.approx(true)


def test_without_genes_nothing_is_chosen():
    assert choose_rest(Process(some(3), np.ones(6)), np.empty((3, 0))) == 0


def test_a_process_that_explains_all_has_no_spread_left():
    spots = points([[0, 0]])
    process = Process(spots, np.array([1.0, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(process.coefficients(np.array([[2.0, 6]]), np.array([1.0, 2])), [[1, 4]])
    np.testing.assert_allclose(process.spread(spots, np.array([1.0, 2])), [[1 / 2, 2 / 3]])
    np.testing.assert_allclose(process.spread(spots, np.array([1e17])), [[0]])  # (rounding would go below)


# ---------------------------------------------------------------------- what is learned


@pytest.fixture(scope="module")
def spots():
    """16 spots in two sections, 14 of them measured; four genes of the base model, the last not measured, and one more."""
    rng = np.random.default_rng(3)
    process = some(16)
    predicted, rows = rng.normal(size=(16, 4)) * [3, 1, 0.5, 2] + 4, np.delete(np.arange(16), [3, 11])
    predicted[:, 2] = predicted[:, 0] / 2  # (so that genes do something that is along no axis)
    smooth = np.linalg.cholesky(kernel(np.array([1, 0, 0, 0, 0, 9]), process, process) + 0.1 * np.eye(16))
    errors = smooth @ rng.normal(size=(16, 5))
    expression = np.column_stack([predicted * 0.9, np.full(16, 2)])[rows] + errors[rows]
    expression[:, 3] = np.nan
    variance = np.tile([0.1, 0.2, 0.05, 0.3], (16, 1))
    return residuals.Spots(
        process.places, np.repeat([0, 1], 8), predicted, variance, process.embedded, rows, expression
    )


@pytest.fixture(scope="module")
def learned(spots):
    return residuals.learn(spots, seed=0)


def test_level_and_residuals_make_up_what_was_measured(spots, learned):
    arrays = learned.arrays
    assert (arrays["rest"][:3] > 0).all()
    np.testing.assert_allclose(arrays["level"], [0, 0, 0, 0, spots.expression[:, 4].mean()])
    residual = arrays["along"] @ arrays["loadings"].T + arrays["beside"]
    base = np.column_stack([spots.predicted[spots.rows], np.zeros(14)])
    measured = [0, 1, 2, 4]
    np.testing.assert_allclose((base + arrays["level"] + residual)[:, measured], spots.expression[:, measured])
    np.testing.assert_allclose(residual[:, 3], 0, atol=1e-12)
    np.testing.assert_allclose(arrays["beside"] @ arrays["loadings"], 0, atol=1e-6)
    np.testing.assert_allclose(arrays["loadings"][3:], 0)
    np.testing.assert_allclose(learned.before, np.square(residual).mean(axis=0))


def test_spots_are_compared_in_units_of_their_median_distance(spots, learned):
    every = (spots.predicted - learned.arrays["centre"]) @ learned.arrays["axes"]
    np.testing.assert_allclose(learned.arrays["centre"], spots.predicted.mean(axis=0))
    for name, values, place in (("scores", every, 0), ("embedded", spots.embedded, 1)):
        unit = np.sqrt(residuals.median_square(values, 0))
        assert learned.arrays["scale"][place] == pytest.approx(unit)
        np.testing.assert_allclose(learned.arrays[name], (values / unit)[spots.rows], rtol=1e-6)


def test_what_is_told_of_left_out_spots_is_the_size_of_their_errors(spots, learned):
    """Leave every spot out for real: the process, scaled, says how large its errors are, and noise says the rest."""
    a, errors, told = learned.arrays, [], []
    known, variances = Points(a["places"], a["section"], a["scores"], a["embedded"]), (a["variances"], a["rest"])
    for i in range(14):
        others = np.delete(np.arange(14), i)
        rest, one = Process(known.take(others), a["weights"]), known.take([i])
        for part, variance, out in zip(("along", "beside"), variances, (errors, told), strict=True):
            predicted = kernel(a["weights"], one, rest.points) @ rest.coefficients(a[part][others], variance)
            out.append([(a[part][i] - predicted)[0], rest.spread(one, variance)[0]])
    (axis_error, axis_spread), (gene_error, gene_spread) = (np.stack(out, axis=1) for out in (errors, told))
    assert a["axis_unit"] == pytest.approx(np.mean(axis_error**2 / (1 + axis_spread)))
    np.testing.assert_allclose(a["gene_unit"], (gene_error**2 / (1 + gene_spread)).mean(axis=0), atol=1e-9)
    whole = axis_error @ a["loadings"].T + gene_error
    measured = [0, 1, 2, 4]
    np.testing.assert_allclose((spots.expression - whole)[:, measured], learned.left_out[:, measured], atol=1e-6)
    after = np.square(whole).mean(axis=0)
    np.testing.assert_allclose(learned.after, after, atol=1e-9)
    share = np.square(a["loadings"])
    spread = a["axis_unit"] * axis_spread @ share.T + a["gene_unit"] * gene_spread * (1 - share.sum(axis=1))
    error = residuals._shrunken(after, spots.variance[0], np.array([1, 1, 1, 0, 1], dtype=bool), 14)
    np.testing.assert_allclose(a["noise"], np.maximum(error - spread.mean(axis=0), 0.1 * error), rtol=1e-6)


def test_only_arrays_with_genes_are_cut_to_some_of_them(learned):
    few = learned.of(np.array([4, 0]))
    np.testing.assert_array_equal(few["loadings"], learned.arrays["loadings"][[4, 0]])
    np.testing.assert_array_equal(few["beside"], learned.arrays["beside"][:, [4, 0]])
    np.testing.assert_array_equal(few["axes"], learned.arrays["axes"])


def test_there_are_twenty_axes_at_most_whose_variances_have_mean_one():
    predicted = np.kron(np.diag([5.0, *[1] * 24]), [[1], [-1]])
    axes, variances = residuals.gene_axes(predicted, np.zeros(50), np.ones(25, dtype=bool))
    assert axes.shape == (25, 20)
    np.testing.assert_allclose(variances, np.array([25, *[1] * 19]) / (44 / 20))


@pytest.mark.parametrize("predicted", [np.zeros((6, 2)), 1000 + 1e-5 * np.arange(12.0).reshape(6, 2)])
def test_predictions_that_differ_by_rounding_do_not_vary(predicted):
    with pytest.raises(ValueError, match="predicts the same for every spot"):
        residuals.gene_axes(predicted, np.zeros(6), np.ones(2, dtype=bool))


def test_small_differences_of_small_predictions_vary():
    predicted = 1e-3 * np.array([[0.0], [1], [0], [1]])
    axes, variances = residuals.gene_axes(predicted, np.array([0, 0, 1, 1]), np.ones(1, dtype=bool))
    assert (abs(axes[0, 0]), variances[0]) == (pytest.approx(1), 1)


def test_spots_that_are_all_alike_are_one_apart():
    assert residuals.median_square(np.ones((3, 2)), 0) == 1


def test_errors_are_drawn_to_what_the_base_model_expects():
    """With ten spots half way: the base model's variances 0.1 and 0.3, brought to the errors' sum of 4, are 1 and 3."""
    measured = np.array([True, True, False, True])
    shrunken = residuals._shrunken(np.array([3.0, 1, 0, 5]), np.array([0.1, 0.3, 7]), measured, 10)
    np.testing.assert_allclose(shrunken, [2, 2, 7, 5])
    nothing = residuals._shrunken(np.array([3.0, 1]), np.full(2, np.nan), measured[:2], 30)
    np.testing.assert_allclose(nothing, [(90 + 20) / 40, (30 + 20) / 40])


def test_history_tells_errors_and_shares(spots):
    correction = residuals.Correction({}, np.array([4.0, 9, 5, 7, 7]), np.array([1.0, 4, 4, 7, 7]), np.empty(0))
    told = residuals.history(correction, np.array([2.0, 1, 0, 0, 0, 1]), spots)
    assert told["values"] == {"rmse_base": [pytest.approx(6**0.5)], "rmse_adapted": [pytest.approx(3**0.5)]}
    assert told["notes"] == [
        "14 measured spots in 2 section(s)",
        "correction: level 50%, alike to the model 25%, near in space: "
        "1 pitches 0%, 2 pitches 0%, 4 pitches 0%, 8 pitches 25%",
    ]


# ---------------------------------------------------------------------- units and what was measured


def test_slopes_by_hand():
    predicted = np.array([[1.0, 5], [3, 7]])
    slope, level = slope_and_intercept(predicted, np.array([[2.0, 10], [8, 12]]))
    assert slope == pytest.approx(2)  # (deviations ±1, ±1 to ±3, ±1)
    np.testing.assert_allclose(level, [1, -1])
    assert slope_and_intercept(1e-3 * predicted, 4 * predicted)[0] == pytest.approx(4000)
    assert slope_and_intercept(predicted, -3 * predicted)[0] == pytest.approx(0.3)
    for same in (np.full((3, 2), 0.1), np.zeros((3, 2))):
        with pytest.raises(ValueError, match="predicts the same for every spot, so its units"):
            slope_and_intercept(same, np.array([[2.0, 10], [8, 12], [1, 1]]))


def test_spots_without_a_single_count_are_never_measured(paired):
    adata = paired(side=3)
    adata.X[:3] = 0
    adata.X[1, 0], adata.X[2, 0] = 1, 2
    (section,) = open_sections(adata)
    mask = np.arange(9) < 3
    assert well_measured(section, mask, 0).tolist() == [1, 2]
    assert well_measured(section, mask, 2).tolist() == [2]
    assert well_measured(section, np.zeros(9, dtype=bool), 0).tolist() == []
    assert in_our_units(theirs := SimpleNamespace(), [section], [mask], min_counts=2) is theirs


# ---------------------------------------------------------------------- what is predicted


def test_fifteen_hundred_spots_are_learned_from_at_most_and_two_at_least():
    model = Adapted(None)
    assert len(model._thinned([np.arange(1600)])[0]) == 1500
    assert [own.tolist() for own in model._thinned([np.array([3]), np.array([5])])] == [[3], [5]]
    with pytest.raises(ValueError, match=r"1 measured spot\(s\)"):
        model._thinned([np.array([3])])


def test_a_correction_by_hand():
    """One measured spot and a level: half of the error at it is taken over, and half of the variance is left."""
    model = Adapted(SimpleNamespace(genes=["B", "A"]))
    model.genes = ["A", "X"]
    flat = points([[0, 0]])
    model.arrays = {name: getattr(flat, name) for name in ("places", "section", "scores", "embedded")} | {
        "weights": np.array([1.0, 0, 0, 0, 0, 0]),
        "along": np.array([[2.0]]),
        "variances": np.array([1.0]),
        "loadings": np.array([[0.6], [0.0]]),
        "beside": np.array([[4.0, 8.0]]),
        "rest": np.array([0.0, 3.0]),
        "level": np.array([0.0, 10.0]),
        "noise": np.array([0.5, 1.0]),
        "axis_unit": np.array([2.0]),
        "gene_unit": np.array([5.0, 4.0]),
    }
    mean, sd = model._corrected(np.array([[100.0, 7.0]]), points([[50, 50]], [-1]))
    np.testing.assert_allclose(mean, [[7 + 0.6, 10 + 8 * 3 / 4]], rtol=1e-6)
    np.testing.assert_allclose(sd**2, [[0.5 + 2 * 0.5 * 0.36, 1 + 4 * 0.75]], rtol=1e-6)
    assert mean.dtype == sd.dtype == np.float32
    model.arrays["rest"] = np.array([3.0, 3.0])
    sd = model._corrected(np.array([[100.0, 7.0]]), points([[50, 50]], [-1]))[1]
    np.testing.assert_allclose(sd[0, 0] ** 2, 0.5 + 0.36 + 5 * 0.75 * (1 - 0.36), rtol=1e-6)


def test_places_are_in_the_coordinates_of_the_container():
    section = SimpleNamespace(centres=np.array([[4.0, 8.0]]), image_scale=2.0, lattice=SimpleNamespace(pitch_px=10.0))
    np.testing.assert_array_equal(_coordinates(section), [[2, 4]])
    assert _pitch(section) == 5
    section.lattice = None
    assert _pitch(section) == 1
