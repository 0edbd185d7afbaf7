from __future__ import annotations

import numpy as np
import pytest

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._base import files
from stpredict.models.adapted import model as adapted
from stpredict.models.adapted.gaussian_process import LENGTHS, Points, Process, choose_rest, choose_weights, kernel
from stpredict.models.adapted.model import Adapted
from stpredict.models.adapted.residuals import gene_axes, median_square
from stpredict.models.adapted.units import slope_and_intercept

GENES = [f"GENE{i}" for i in range(12)]


@pytest.fixture
def sections(paired):
    return paired(4)


@pytest.fixture
def base(sections):
    return st.tl.train(sections[:2], genes=GENES, method="ridge")


@pytest.fixture
def new(sections):
    """A section of which every fourth spot was measured."""
    adata = sections[2]
    adata.obs["measured"] = np.arange(adata.n_obs) % 4 == 0
    return adata


@pytest.mark.filterwarnings("ignore:.*not left chance")
@pytest.mark.parametrize("method", ["density", "ridge", "knn", "mixture", "cmrcnet", "st_align"])
def test_a_loaded_model_predicts_bit_for_bit_the_same(sections, new, tmp_path, method):
    for adata in sections:
        adata.uns["X_fake"]["feature_names"] = ["nucleus_count", "a", "b", "c"]
    few = {"epochs": 1, "members": 1, "seed": 0, "show_progress": False} if st.models.METHODS[method].seeded else {}
    base = st.tl.train(sections[:2], method=method, genes=GENES, **few)
    model = st.tl.adapt(new, base, measured="measured", genes=[*GENES[:3], "GENE14"])
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    assert isinstance(again, Adapted)
    assert type(again.base) is type(base)
    assert (again.genes, again.config, again.history) == (model.genes, model.config, model.history)
    assert files.identity(again) == files.identity(model)
    for adata in (new, sections[3]):
        section = open_sections(adata)[0]
        before, after = model.predict(section), again.predict(section)
        np.testing.assert_array_equal(before.mean, after.mean)
        np.testing.assert_array_equal(before.std, after.std)
        np.testing.assert_array_equal(again.embed(section), base.embed(section))


def test_an_adapted_model_can_be_adapted_again(base, new, sections, tmp_path):
    once = st.tl.adapt(new, base, measured="measured")
    twice = st.tl.adapt(sections[3], once)
    twice.save(tmp_path / "model")
    section = open_sections(new)[0]
    np.testing.assert_array_equal(st.models.load(tmp_path / "model").predict(section).mean, twice.predict(section).mean)


def test_damage_is_told(base, new, tmp_path):
    model = st.tl.adapt(new, base, measured="measured")
    for missing in ("beside", "base.weights"):
        arrays = {name: array for name, array in model.arrays.items() if name != missing}
        files.write(tmp_path / "model", files.Stored("adapted", model.genes, model.config, arrays))
        with pytest.raises(ValueError, match=f"damaged: {missing.removeprefix('base.')} missing"):
            st.models.load(tmp_path / "model")


def test_what_does_not_belong_together_is_told(base, new, tmp_path):
    model = st.tl.adapt(new, base, measured="measured")
    for change in ({"spots": []}, {"pitches": []}, {"features": {}}):
        files.write(tmp_path / "model", files.Stored("adapted", model.genes, model.config | change, model.arrays))
        with pytest.raises(ValueError, match="sections, spots or features do not belong together"):
            st.models.load(tmp_path / "model")


def test_fitted_again_it_is_as_new(base, new):
    (section,) = open_sections(new)
    some = np.arange(len(section)) % 3 == 0
    again, fresh = Adapted(base), Adapted(base)
    again.fit([section], genes=GENES)
    again.predict(section)
    assert again.config["n_spots"] == len(section)
    for model in (again, fresh):
        model.fit([section], genes=GENES, measured=[some])
    np.testing.assert_array_equal(again.predict(section).mean, fresh.predict(section).mean)


def test_measured_spots_are_the_points_that_they_were_learned_as(base, new, sections):
    model = st.tl.adapt(new, base, measured="measured")
    (section,), (other,) = open_sections(new), open_sections(sections[3])
    points = model._pointer(section)(slice(None), base.predict(section).mean).take(new.obs["measured"].to_numpy())
    for name in ("places", "section", "scores", "embedded"):
        np.testing.assert_allclose(getattr(points, name), model.arrays[name], rtol=1e-4, atol=1e-5)
    assert (model._pointer(other)(slice(None), base.predict(other).mean).section == -1).all()


def test_not_adapted_is_not_saved(base, tmp_path):
    with pytest.raises(ValueError, match=r"stpredict\.tl\.adapt makes one"):
        Adapted(base).save(tmp_path / "model")


def test_genes_asked_for_come_in_their_order_and_unknown_ones_are_nan(base, new):
    model = st.tl.adapt(new, base, measured="measured")
    section = open_sections(new)[0]
    some = model.predict(section, ["GENE3", "nobody", "GENE0"])
    every = model.predict(section)
    np.testing.assert_array_equal(some.mean[:, [0, 2]], every.mean[:, [3, 0]])
    np.testing.assert_array_equal(some.std[:, [0, 2]], every.std[:, [3, 0]])
    assert np.isnan(some.mean[:, 1]).all()
    assert (every.std > 0).all()


def test_space_counts_only_in_the_section_that_was_measured(base, new, sections):
    """The same features elsewhere: other names, or other places, are another section."""
    model = st.tl.adapt(new, base, measured="measured")
    near = model.predict(open_sections(new)[0])
    renamed, moved, half = new.copy(), new.copy(), new.copy()
    renamed.obs_names = [f"other_{name}" for name in renamed.obs_names]
    moved.obsm["spatial"] = moved.obsm["spatial"] + 1000
    far = [model.predict(open_sections(adata)[0]) for adata in (renamed, moved)]
    np.testing.assert_array_equal(far[0].mean, far[1].mean)
    assert np.abs(far[0].mean - near.mean).max() > 0.01
    assert far[0].std.mean() > near.std.mean()
    assert [model._number(open_sections(a)[0]) for a in (new, half[20:60].copy(), renamed, moved, sections[3])] == [
        *(0, 0, -1, -1, -1)
    ]
    for away, number in ((4, 0), (6, -1)):  # of 100 from spot to spot
        moved.obsm["spatial"] = new.obsm["spatial"] + away
        assert model._number(open_sections(moved)[0]) == number


def test_measured_spots_of_every_section_are_known_from_then_on(base, sections):
    """Two sections of other stains: each is most like itself once some of its own spots were measured."""
    for adata, away in zip(sections[2:], (20, -20), strict=True):
        adata.obsm["X_fake"] = adata.obsm["X_fake"] + np.float32(away)
        adata.obs["measured"] = np.arange(adata.n_obs) % 2 == 0
    model = st.tl.adapt(sections[2:], base, measured="measured")
    for adata in sections[2:]:
        (section,) = open_sections(adata)
        before, after = base.judge(section), model.judge(section)
        assert (before.verdict, after.nearest_section) == ("outside", section.name)
        assert after.distance < 0.2 * before.distance


def test_many_measured_spots_are_thinned_in_every_section(base, monkeypatch):
    rows = [np.arange(0, 600, 2), np.arange(5, 105)]
    monkeypatch.setattr(adapted, "MAX_SPOTS", 400)
    for whole, own in zip(Adapted(base)._thinned(rows), rows, strict=True):
        np.testing.assert_array_equal(whole, own)
    monkeypatch.setattr(adapted, "MAX_SPOTS", 100)
    few = Adapted(base, seed=1)._thinned(rows)
    assert sum(map(len, few)) == 100
    assert 60 < len(few[0]) < 90
    for some, own in zip(few, rows, strict=True):
        assert np.isin(some, own).all()
        assert (np.diff(some) > 0).all()


def points(n, *, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, 3))
    return Points(rng.uniform(0, 10, (n, 2)), np.zeros(n, dtype=int), scores, scores.astype(np.float32))


def test_left_out_errors_are_those_of_leaving_out():
    spots, rng = points(12), np.random.default_rng(1)
    values, variance = rng.standard_normal((12, 2)), np.array([0.5, 2.0])
    weights = np.array([1, 0.5, 0.2, 0.3, 0, 0.4])
    errors, told = Process(spots, weights).left_out(values, variance)
    for i in range(12):
        others = np.delete(np.arange(12), i)
        rest = Process(spots.take(others), weights)
        one = spots.take([i])
        expected = kernel(weights, one, rest.points) @ rest.coefficients(values[others], variance)
        np.testing.assert_allclose(values[i] - expected[0], errors[i], atol=1e-9)
        np.testing.assert_allclose(rest.spread(one, variance)[0], told[i], atol=1e-9)


def test_weights_find_what_made_the_values():
    """Values drawn from one part of the kernel: near in space, or alike to the model."""
    spots, rng = points(250), np.random.default_rng(2)
    for part, most in ((2 + LENGTHS.index(2.0), slice(2, None)), (1, slice(1, 2))):
        true = np.zeros(2 + len(LENGTHS))
        true[part] = 5
        covariance = kernel(true, spots, spots) + np.eye(250)
        values = np.linalg.cholesky(covariance) @ rng.standard_normal((250, 10))
        weights = choose_weights(spots, values, np.ones(10))
        assert weights[most].sum() > 0.7 * weights[1:].sum()
        assert 2 < weights[most].sum() < 12


def test_noise_is_left_alone():
    spots, noise = points(60), np.random.default_rng(3).standard_normal((60, 40))
    weights = choose_weights(spots, noise, np.ones(40))
    assert weights.sum() < 0.05
    assert choose_rest(Process(spots, np.full(6, 0.5)), noise) <= 0.03


def test_gene_axes_are_those_of_predictions_within_sections():
    rng = np.random.default_rng(4)
    direction = np.array([0.6, 0.8, 0, 0])
    predicted = np.outer(rng.standard_normal(50), direction)
    section = np.repeat([0, 1], 25)
    predicted[section == 1] += 100 * np.array([0, 0, 1, 0])
    axes, variances = gene_axes(predicted, section, np.ones(4, dtype=bool))
    np.testing.assert_allclose(np.abs(axes.T), [np.abs(direction)], atol=1e-5)
    np.testing.assert_allclose(variances, 1)


@pytest.mark.parametrize("unit", [1, 1e-3, 1e3])
def test_distances_between_spots_are_in_the_unit_of_their_coordinates(unit):
    assert median_square(unit * np.array([[0.0], [0.3], [0.3], [0.5]]), seed=0) == pytest.approx(0.09 * unit**2)


def test_units_are_found_as_one_slope_and_a_level_of_every_gene():
    predicted = np.random.default_rng(5).normal(size=(30, 2))
    slope, level = slope_and_intercept(predicted, 0.5 * predicted + [1, -2])
    assert slope == pytest.approx(0.5)
    np.testing.assert_allclose(level, [1, -2])
    assert slope_and_intercept(predicted, -predicted)[0] == pytest.approx(
        0.1
    )  # what is the other way round is not turned
