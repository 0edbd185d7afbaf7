from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import NearestNeighbors

import stpredict as st
from stpredict._evaluation.metrics import pearson
from stpredict._sections.open import open_sections
from stpredict.models._data.features import standardise
from stpredict.models._data.folds import choose, inner_folds
from stpredict.models._data.linalg import principal_axes
from stpredict.models._data.table import Table
from stpredict.models._retrieval import search
from stpredict.models.baselines import knn
from stpredict.models.baselines.density import Density
from stpredict.models.baselines.knn import Knn
from stpredict.models.baselines.mean import Mean
from stpredict.models.baselines.ridge import Ridge

LEARNERS = ["density", "knn", "mean", "ridge"]


def table(design, expression, *, section=None, group=None):
    n = len(design)
    section = np.zeros(n, dtype=int) if section is None else section
    return Table(
        design=design.astype(np.float32),
        expression=expression.astype(np.float32),
        log_total=np.linspace(5, 9, n),
        section=section,
        group=section if group is None else group,
        row=np.arange(n),
        centres=np.column_stack([np.arange(n), np.zeros(n)]) * 100.0,
    )


def linear(n=200, d=8, g=5, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    w = rng.standard_normal((d, g))
    return x, x @ w + 3 + noise * rng.standard_normal((n, g))


def fitted(model, sections, **kwargs):
    opened = [s for adata in sections for s in open_sections(adata)]
    groups = kwargs.pop("groups", [s.name for s in opened])
    model.fit(opened, genes=list(sections[0].var_names), groups=groups)
    return model


# ---------------------------------------------------------------------- linear algebra


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_principal_axes_are_the_singular_vectors(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    x -= x.mean(axis=0)
    squares, axes = principal_axes(x)
    singular = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(squares, singular[: len(squares)] ** 2, rtol=1e-8)
    np.testing.assert_allclose(axes.T @ axes, np.eye(len(squares)), atol=1e-8)
    np.testing.assert_allclose(x @ axes @ axes.T, x, atol=1e-8)


def test_principal_axes_leave_out_directions_without_variance():
    x = np.outer(np.arange(10.0) - 4.5, [1, 2, 3])
    squares, axes = principal_axes(x)
    np.testing.assert_allclose(squares, [82.5 * 14])  # of -4.5 … 4.5, and of 1, 2, 3
    np.testing.assert_allclose(np.abs(axes), np.array([[1], [2], [3]]) / 14**0.5)
    assert principal_axes(np.zeros((5, 3)))[1].shape == (3, 0)


# ---------------------------------------------------------------------- ridge


def test_ridge_recovers_a_linear_map():
    x, y = linear()
    model = Ridge()
    arrays = model.learn(table(x[:150], y[:150]), min(model.candidates))
    predicted = model.apply(arrays, x[150:].astype(np.float32))[0]
    assert pearson(y[150:], predicted)[0].min() > 0.99
    assert np.abs(predicted - y[150:]).max() < 0.05


@pytest.mark.parametrize("d", [8, 60])
def test_ridge_equals_sklearn_with_the_same_penalty(d):
    x, y = linear(n=40, d=d, noise=1)
    alpha = 0.03
    centred = x - x.mean(axis=0)
    theirs = SklearnRidge(alpha=alpha * np.square(centred).sum()).fit(x, y).predict(x)
    model = Ridge()
    mine = model.apply(model.learn(table(x, y), alpha), x.astype(np.float32))[0]
    np.testing.assert_allclose(mine, theirs, atol=1e-3)
    grid = list(model.try_candidates(table(x, y), x.astype(np.float32)))
    for value, predicted in zip(model.candidates, grid, strict=True):
        np.testing.assert_allclose(
            predicted, model.apply(model.learn(table(x, y), value), x.astype(np.float32))[0], atol=1e-3
        )


def test_much_noise_chooses_a_large_alpha_and_none_a_small_one():
    model = Ridge()
    x, y = linear(n=60, d=40, g=30, noise=0)
    clean = choose(table(x, y), model.candidates, model.try_candidates)
    x, y = linear(n=60, d=40, g=30, noise=15)
    noisy = choose(table(x, y), model.candidates, model.try_candidates)
    assert clean.value <= 1e-3
    assert noisy.value >= 0.1


# ---------------------------------------------------------------------- kNN


def test_retrieval_equals_brute_force_whatever_the_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    bank, queries = (search.normalise(rng.standard_normal((n, 12))) for n in (500, 70))
    expected = NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute").fit(bank).kneighbors(queries)[1]
    np.testing.assert_array_equal(search.nearest(queries, bank, 9)[0], expected)
    monkeypatch.setattr(search, "QUERIES", 16)
    monkeypatch.setattr(search, "REFERENCES", 7)
    np.testing.assert_array_equal(search.nearest(queries, bank, 9)[0], expected)


def test_knn_is_the_mean_and_spread_of_the_neighbours():
    x, y = linear(n=120, d=6, noise=0.3)
    model = Knn()
    arrays = model.learn(table(x[:100], y[:100]), 10)
    mean, std = model.apply(arrays, x[100:].astype(np.float32))
    centred = x - x[:100].mean(axis=0)
    near = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(centred[:100])
    neighbours = y[:100][near.kneighbors(centred[100:])[1]]
    np.testing.assert_allclose(mean, neighbours.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(std, neighbours.std(axis=1), atol=1e-3)


def test_knn_tries_every_k_in_one_search():
    x, y = linear(n=150, d=6, noise=0.3)
    model = Knn()
    queries = x[100:].astype(np.float32)
    for k, predicted in zip(model.candidates, model.try_candidates(table(x[:100], y[:100]), queries), strict=True):
        alone = model.apply(model.learn(table(x[:100], y[:100]), k), queries)[0]
        np.testing.assert_allclose(predicted, alone, atol=1e-5)


def test_a_shallow_section_does_not_pull_its_neighbours_down():
    x, y = linear(n=200, d=6)
    section = np.repeat([0, 1], 100)
    y[:100] += y[100:].mean(axis=0) - y[:100].mean(axis=0)
    shifted = y - 2.0 * section[:, None]
    model = Knn()
    level = model.apply(model.learn(table(x, y, section=section), 10), x.astype(np.float32))[0]
    moved, spread = model.apply(model.learn(table(x, shifted, section=section), 10), x.astype(np.float32))
    np.testing.assert_allclose(moved, level - 1, atol=0.05)
    assert spread.min() > 0.99  # the two sections differ by 2, so sd 1 between them


def test_only_training_spots_are_in_the_bank(paired):
    train, test = paired(3)[:2], paired(3)[2]
    model = fitted(Knn(), train)
    assert model.arrays["bank"].shape[0] == sum(a.n_obs for a in train)
    measured = open_sections(test)[0].log_expression(test.var_names)
    for values in model.arrays["expression"]:
        assert not (np.abs(measured - values).max(axis=1) < 1e-6).any()


def test_bank_vectors_have_few_axes_and_length_one(paired):
    model = fitted(Knn(), paired(2))
    assert model.arrays["bank"].shape[1] <= knn.N_AXES
    np.testing.assert_allclose(np.linalg.norm(model.arrays["bank"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.embed(open_sections(paired())[0]), axis=1), 1, rtol=1e-5)


# ---------------------------------------------------------------------- mean and density


def test_mean_weighs_sections_equally():
    y = np.concatenate([np.zeros((30, 2)), np.ones((10, 2))])
    model = Mean()
    arrays = model.learn(table(np.zeros((40, 0)), y, section=np.repeat([0, 1], [30, 10])), 0)
    np.testing.assert_array_equal(model.apply(arrays, np.zeros((3, 0)))[0], np.full((3, 2), 0.5))


def test_mean_needs_no_features(paired):
    adata = paired(depth=20_000)
    del adata.obsm["X_fake"], adata.obsm["X_fake_niche"]
    model = fitted(Mean(), [adata])
    section = open_sections(adata)[0]
    np.testing.assert_allclose(
        model.predict(section).mean[0], section.log_expression(adata.var_names).mean(0), rtol=1e-5
    )
    assert model.embed(section).shape == (adata.n_obs, 0)


def test_density_uses_the_named_nuclei_feature_and_only_that(paired):
    sections = paired(2)
    for adata in sections:
        adata.uns["X_fake"]["feature_names"] = np.array(["red", "nucleus_area", "nucleus_count", "blue"])
    model = fitted(Density(), sections)
    assert np.flatnonzero(model.arrays["direction"]).tolist() == [2]
    section = open_sections(sections[0])[0]
    prediction = model.predict(section).mean
    for gene in prediction.T:
        assert abs(np.corrcoef(gene, sections[0].obsm["X_fake"][:, 2])[0, 1]) > 0.999


def test_density_falls_back_to_the_first_principal_component():
    rng = np.random.default_rng(0)
    main = rng.standard_normal(100)
    x = np.column_stack([5 * main, 0.1 * rng.standard_normal((100, 3))])
    y = np.outer(main, [1.0, -2.0]) + 4
    spots = table(x, y)
    spots = Table(**{**vars(spots), "log_total": 6 + 0.5 * main})
    model = Density()
    predicted = model.apply(model.learn(spots, 0), x.astype(np.float32))[0]
    np.testing.assert_allclose(predicted, y, atol=0.15)


def test_density_survives_features_that_say_nothing():
    model = Density()
    arrays = model.learn(table(np.zeros((20, 3)), np.random.default_rng(0).random((20, 2))), 0)
    assert all(np.isfinite(a).all() for a in arrays.values())
    assert (arrays["slope"] == 0).all()


# ---------------------------------------------------------------------- choosing without leaks


def test_inner_folds_never_split_a_patient():
    section = np.repeat(np.arange(7), 10)
    group = np.array([0, 0, 1, 1, 2, 3, 3])[section]
    folds, note = inner_folds(table(np.zeros((70, 1)), np.zeros((70, 1)), section=section, group=group))
    assert note == "inner folds hold out groups (4)"
    assert np.sum(folds, axis=0).tolist() == [1] * 70
    for held in folds:
        assert not set(group[held]) & set(group[~held])


def test_two_patients_are_too_few_for_folds_so_sections_are_held_out():
    section = np.repeat(np.arange(4), 10)
    folds, note = inner_folds(table(np.zeros((40, 1)), np.zeros((40, 1)), section=section, group=section // 3))
    assert note == "inner folds hold out sections (4)"
    assert all(len(set(section[held])) == 1 for held in folds)


def test_one_section_is_cut_into_strips():
    spots = table(np.zeros((50, 1)), np.zeros((50, 1)))
    folds, note = inner_folds(spots)
    assert len(folds) == 5
    assert "strips" in note
    for held in folds:
        assert np.ptp(spots.centres[held, 0]) == 900


def test_what_is_predicted_was_never_learned_from():
    x, y = linear(n=60)
    x[:, 0] = np.arange(60)
    seen = []

    def spy(train, queries):
        assert not set(train.design[:, 0]) & set(queries[:, 0])
        seen.extend(queries[:, 0])
        yield np.zeros((len(queries), 5), dtype=np.float32)

    choose(table(x, y, section=np.repeat([0, 1, 2], 20)), [0.0], spy)
    assert sorted(seen) == list(range(60))


def test_levels_of_sections_vary_as_their_means_do():
    """Means of three sections: 0, 2, 4, and 0, 2 and not measured. Another one varies around their own mean, too."""
    y = np.array([[0, 0], [2, 2], [4, np.nan]]).repeat(5, axis=0)
    three = table(np.zeros((15, 1)), y, section=np.repeat([0, 1, 2], 5))
    np.testing.assert_allclose(three.between_sections(), [4 * 4 / 3, 2 * 3 / 2])
    np.testing.assert_allclose(three.take(three.section < 2).between_sections(), [2 * 3 / 2] * 2)
    np.testing.assert_allclose(three.take(three.section == 2).between_sections(), 0)
    np.testing.assert_allclose(three.take(three.section == 1).between_sections(), 0)


def test_held_out_error_is_the_uncertainty():
    rng = np.random.default_rng(0)
    x = np.concatenate([standardise(rng.standard_normal((100, 3))) for _ in range(4)])
    y = x @ rng.standard_normal((3, 4)) + 0.7 * rng.standard_normal((400, 4))
    choice = choose(table(x, y, section=np.repeat(np.arange(4), 100)), Ridge.candidates, Ridge().try_candidates)
    np.testing.assert_allclose(choice.residual_sd, 0.7, rtol=0.12)


# ---------------------------------------------------------------------- the contract, for every method


@pytest.mark.parametrize("method", LEARNERS)
def test_every_method_keeps_the_contract(paired, method):
    sections = paired(4)
    model = fitted(st.models.METHODS[method](), sections[:3])
    section = open_sections(sections[3])[0]
    prediction = model.predict(section)
    n, g = sections[3].shape
    assert prediction.mean.shape == prediction.std.shape == (n, g)
    assert prediction.mean.dtype == prediction.std.dtype == np.float32
    assert np.isfinite(prediction.mean).all()
    assert (prediction.std > 0).all()
    assert prediction.units == "log1p CP10k"
    assert model.embed(section).shape[0] == n
    assert model.history.notes[0] == "inner folds hold out groups (3)"
    if method == "knn":
        assert model.history.values["k"] == list(model.candidates)
        assert re.fullmatch(r"k = \d+", model.history.notes[1])
    picked = model.predict(section, ["GENE3", "NOPE", "GENE0"])
    assert picked.genes == ["GENE3", "NOPE", "GENE0"]
    np.testing.assert_array_equal(picked.mean[:, 0], prediction.mean[:, 3])
    assert np.isnan(picked.mean[:, 1]).all()
    assert np.isnan(picked.std[:, 1]).all()


@pytest.mark.parametrize("method", ["ridge", "knn"])
def test_a_new_section_is_predicted_and_shuffled_features_are_not(paired, method):
    sections = paired(4, side=14)
    model = fitted(st.models.METHODS[method](), sections[:3])
    section = open_sections(sections[3])[0]
    measured = section.log_expression(sections[3].var_names)
    assert pearson(measured, model.predict(section).mean)[0].mean() > 0.6
    order = np.random.default_rng(0).permutation(sections[3].n_obs)
    for key in ("X_fake", "X_fake_niche"):
        sections[3].obsm[key] = sections[3].obsm[key][order]
    assert abs(pearson(measured, model.predict(open_sections(sections[3])[0]).mean)[0].mean()) < 0.1


def test_a_long_feature_vector_does_not_drown_a_short_one(paired):
    """The same model, whether a feature is listed once or its noise-free copies fill a long vector."""
    train, new = paired(2)
    scores = {}
    for copies in (1, 50):
        for adata in (train, new):
            adata.obsm["X_long"] = np.tile(adata.obsm["X_fake_niche"], (1, copies))
            adata.uns["X_long"] = dict(adata.uns["X_fake_niche"])
        model = fitted(Ridge(features=["X_fake", "X_long"]), [train])
        scores[copies] = model.predict(open_sections(new)[0]).mean
    np.testing.assert_allclose(scores[1], scores[50], atol=1e-3)


def test_encoders_have_regressions_of_their_own_and_are_averaged(paired):
    train, new = paired(2)
    for adata in (train, new):
        for key in ("X_other", "X_other_niche"):
            adata.obsm[key] = np.random.default_rng(len(key)).standard_normal((adata.n_obs, 3)).astype(np.float32)
            adata.uns[key] = dict(adata.uns["X_fake"])
    section = open_sections(new)[0]
    alpha = 1e-3
    means = []
    for features in (["X_fake", "X_fake_niche"], ["X_other", "X_other_niche"], None):
        model = Ridge(features=features)
        opened = open_sections(train)
        learned = model._table(opened, list(train.var_names), ["A"])
        model.arrays = model.learn(learned, alpha)
        means.append(model.apply(model.arrays, model.design(section))[0])
    np.testing.assert_allclose(means[2], (means[0] + means[1]) / 2, atol=1e-4)


def test_a_new_section_varies_around_the_mean_of_those_seen():
    rng = np.random.default_rng(0)
    seen = rng.normal(0, 2, (4000, 3))
    errors, claimed = [], []
    for levels in seen:  # three sections with known levels, and a fourth one to come
        one = table(np.zeros((6, 1)), np.repeat(levels, 2)[:, None], section=np.repeat([0, 1, 2], 2))
        claimed.append(one.between_sections()[0])
        errors.append((rng.normal(0, 2) - levels.mean()) ** 2)
    assert np.mean(claimed) == pytest.approx(np.mean(errors), rel=0.08)
    assert table(np.zeros((4, 1)), np.ones((4, 1))).between_sections() == 0
