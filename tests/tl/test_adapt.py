from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import stpredict as st
from stpredict._evaluation.metrics import pearson
from stpredict._sections.open import open_sections
from stpredict.models.adapted.gaussian_process import Points, Process, choose_weights, kernel

GENES = [f"GENE{i}" for i in range(12)]


@pytest.fixture(scope="module")
def simulated():
    """Two simulated sections to train on and one to adapt to, encoded; a tenth of its spots measured."""
    sections = st.datasets.simulate(3)
    for adata in sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    *train, new = sections
    new.obs["measured"] = np.random.default_rng(0).random(new.n_obs) < 0.1
    return st.tl.train(train, genes=train[0].var_names, method="ridge"), new


@pytest.fixture
def base(paired):
    return st.tl.train(paired(2), genes=GENES, method="ridge")


@pytest.fixture
def new(paired):
    """A section of which every fourth spot was measured."""
    adata = paired(3)[2]
    adata.obs["measured"] = np.arange(adata.n_obs) % 4 == 0
    return adata


def kriged(adata):
    """Ordinary kriging of measured expression."""
    section = open_sections(adata)[0]
    mask = adata.obs["measured"].to_numpy()
    values = section.log_expression(adata.var_names)[mask].astype(float)
    places = section.centres / section.lattice.pitch_px
    nothing = np.zeros((len(section), 0))
    points = Points(places, np.zeros(len(section), dtype=int), nothing, nothing)
    few, centred = points.take(mask), values - values.mean(axis=0)
    scaled = centred / (centred.std(axis=0) + 1e-3)
    weights = choose_weights(few, scaled, np.ones(scaled.shape[1]))
    weights[1] = 0
    return values.mean(axis=0) + kernel(weights, points, few) @ Process(few, weights).coefficients(centred, 1.0)


def test_a_tenth_measured_beats_the_base_model_and_kriging_on_the_truth(simulated):
    base, new = simulated
    st.tl.predict_expression(new, base)
    st.tl.predict_expression(new, st.tl.adapt(new, base, measured="measured"), key_added="adapted", std=True)
    other = ~new.obs["measured"].to_numpy()
    truth = new.layers["truth"][other]
    varies = ~new.var["truth_programme"].isin(["housekeeping", "none"]).to_numpy()
    pcc, error = {}, {}
    predictions = {"base": new.layers["predicted"], "adapted": new.layers["adapted"], "kriged": kriged(new)}
    for name, predicted in predictions.items():
        pcc[name] = pearson(truth[:, varies], predicted[other][:, varies])[0].mean()
        error[name] = np.square(truth - predicted[other]).mean()
    assert pcc["adapted"] > pcc["base"] + 0.02
    assert pcc["adapted"] > pcc["kriged"] + 0.05
    assert error["adapted"] < min(error["base"], error["kriged"])


def test_intervals_hold_what_they_promise(simulated):
    base, new = simulated
    st.tl.predict_expression(new, st.tl.adapt(new, base, measured="measured"), std=True)
    rest = new[~new.obs["measured"].to_numpy()].copy()
    scores = st.tl.evaluate(rest, metrics=["coverage"])
    assert 0.85 < scores["value"].mean() < 0.95


def test_counts_of_other_spots_are_never_looked_at(base, new, assert_same):
    clean = st.tl.adapt(new, base, measured="measured")
    other = ~new.obs["measured"].to_numpy()
    for garbage in (np.nan, -1.0, 0.5, 1e9):
        spoilt = new.copy()
        spoilt.X[other] = garbage
        before = spoilt.copy()
        model = st.tl.adapt(spoilt, base, measured="measured")
        assert_same(spoilt, before)
        assert model.config == clean.config
        for name, array in clean.arrays.items():
            np.testing.assert_array_equal(model.arrays[name], array)
        st.tl.predict_expression(spoilt, model)


def test_whole_sections_of_a_cohort_mend_the_next_one(paired):
    """Counts of another cohort are off by a factor for every gene, and follow features in another way."""
    train, cohort = paired(2, effect=0.3), paired(4, seed=7)
    base = st.tl.train(train, genes=GENES, method="ridge")
    *few, new = cohort
    truth = open_sections(new)[0].log_expression(GENES)
    model = st.tl.adapt(few, base)
    section = open_sections(new)[0]
    predicted = {"base": base.predict(section).mean, "adapted": model.predict(section).mean}
    error = {name: np.square(truth - mean).mean() for name, mean in predicted.items()}
    assert error["adapted"] < 0.8 * error["base"]
    assert pearson(truth, predicted["adapted"])[0].mean() > pearson(truth, predicted["base"])[0].mean() + 0.1


def test_shallow_spots_do_not_count(base, new):
    expected = st.tl.adapt(new, base, measured="measured")
    shallow = np.flatnonzero(~new.obs["measured"])[:3]
    new.X[shallow] = 0
    new.X[shallow, 0] = 49
    new.obs.iloc[shallow, new.obs.columns.get_loc("measured")] = True
    model = st.tl.adapt(new, base, measured="measured")
    assert model.config["n_spots"] == expected.config["n_spots"]
    np.testing.assert_array_equal(model.arrays["along"], expected.arrays["along"])


def test_genes_that_the_model_does_not_know(base, new):
    model = st.tl.adapt(new, base, measured="measured", genes=["GENE14", "GENE2"])
    assert model.genes == ["GENE14", "GENE2"]
    section = open_sections(new)[0]
    other = ~new.obs["measured"].to_numpy()
    truth = section.log_expression(["GENE14"])
    mean = model.predict(section).mean
    assert pearson(truth[other], mean[other, :1])[0][0] > 0.3
    both = st.tl.adapt(new, base, measured="measured").predict(section, ["GENE2"])
    np.testing.assert_allclose(mean[:, 1:], both.mean, atol=1e-5)


def test_genes_that_were_not_measured_stay(base, new):
    less = new[:, new.var_names != "GENE4"].copy()
    with pytest.warns(UserWarning, match="1 of the model's genes are not measured in all sections; .* GENE4"):
        model = st.tl.adapt(less, base, measured="measured")
    section = open_sections(less)[0]
    np.testing.assert_array_equal(model.predict(section, ["GENE4"]).mean, base.predict(section, ["GENE4"]).mean)
    assert np.abs(model.predict(section, ["GENE5"]).mean - base.predict(section, ["GENE5"]).mean).max() > 0.01


def zeroed(adata, *genes):
    """As an outer join leaves it: every spot has zero of these genes."""
    adata = adata.copy()
    adata.X[:, adata.var_names.get_indexer(genes)] = 0
    return adata


def test_zeros_that_a_join_filled_in_are_not_measured(base, new, paired):
    """In one section by what the model predicts, in several also by what the others have."""
    other = paired(4)[3]
    section = open_sections(new)[0]
    expected = base.predict(section, ["GENE4"]).mean
    for data, mask in ((zeroed(new, "GENE4"), "measured"), ([new, zeroed(other, "GENE4")], None)):
        with pytest.warns(UserWarning, match=r"1 gene\(s\) \(GENE4\) are zero .* They stay as the model predicts them"):
            model = st.tl.adapt(data, base, measured=mask)
        np.testing.assert_array_equal(model.predict(section, ["GENE4"]).mean, expected)
        assert np.abs(model.predict(section, ["GENE5"]).mean - base.predict(section, ["GENE5"]).mean).max() > 0.01
    with pytest.raises(ValueError, match=r"GENE14: neither known to the model nor measured in all sections"):
        st.tl.adapt([new, zeroed(other, "GENE14")], base, genes=[*GENES, "GENE14"])


def test_zeros_where_little_was_expected_are_measured(base, new):
    """One silent gene of few counts is what the tissue has, and the correction says so."""
    rare = GENES[int(np.argmin(np.asarray(new.X[:, :12].sum(axis=0))))]
    few = new[np.arange(new.n_obs) % 16 == 0].copy()
    quiet = zeroed(few, rare)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are zero in every spot")
        model = st.tl.adapt(quiet, base, min_counts=1)
    section = open_sections(quiet)[0]
    assert model.predict(section, [rare]).mean.mean() < base.predict(section, [rare]).mean.mean() - 0.2


def test_nothing_to_correct_is_not_corrected(paired):
    """Where images show all there is, adapting to a tenth costs nothing."""
    train, new = paired(5, effect=0.6, depth=40_000)[:4], paired(5, effect=0.6, depth=40_000)[4]
    base = st.tl.train(train, genes=GENES, method="ridge")
    new.obs["measured"] = np.arange(new.n_obs) % 10 == 0
    section = open_sections(new)[0]
    truth, other = section.log_expression(GENES), ~new.obs["measured"].to_numpy()
    model = st.tl.adapt(new, base, measured="measured")
    score = {
        name: pearson(truth[other], m.predict(section).mean[other])[0].mean()
        for name, m in (("base", base), ("adapted", model))
    }
    assert score["adapted"] > score["base"] - 0.005


def test_the_model_stays_as_it_was(base, new):
    section = open_sections(new)[0]
    before, config = base.predict(section), dict(base.config)
    st.tl.adapt(new, base, measured="measured")
    np.testing.assert_array_equal(base.predict(section).mean, before.mean)
    assert base.config == config


def test_the_same_seed_gives_the_same_model(base, new, monkeypatch):
    monkeypatch.setattr("stpredict.models.adapted.model.MAX_SPOTS", 10)
    first, same, other = (st.tl.adapt(new, base, measured="measured", seed=seed) for seed in (1, 1, 2))
    assert first.config["n_spots"] == 10
    np.testing.assert_array_equal(first.arrays["places"], same.arrays["places"])
    assert (first.arrays["places"] != other.arrays["places"]).any()


def test_few_spots_warn(base, new):
    new.obs["measured"] = np.arange(new.n_obs) < 3
    with pytest.warns(UserWarning, match="Only 3 measured spots"):
        model = st.tl.adapt(new, base, measured="measured")
    assert np.isfinite(model.predict(open_sections(new)[0]).mean).all()


def test_spatialdata(base, new):
    sdata = st.io.to_spatialdata(new)
    expected = st.tl.adapt(new, base, measured="measured")
    model = st.tl.adapt(sdata, base, measured="measured")
    np.testing.assert_allclose(model.arrays["along"], expected.arrays["along"], atol=1e-9)
    st.tl.predict_expression(sdata, model)
    st.tl.predict_expression(new, expected)
    table = next(iter(sdata.tables.values()))
    np.testing.assert_allclose(table.layers["predicted"], new.layers["predicted"], atol=1e-5)


def none(adata):
    adata.obs["measured"] = False


def one(adata):
    adata.obs["measured"] = np.arange(adata.n_obs) == 3


def shallow(adata):
    adata.X = np.minimum(adata.X, 1)


def numbers(adata):
    adata.obs["measured"] = adata.obs["measured"].astype(int)


def words(adata):
    adata.obs["measured"] = adata.obs["measured"].map({True: "yes", False: "no"})


def no_column(adata):
    del adata.obs["measured"]


def nan_counts(adata):
    adata.X[np.flatnonzero(adata.obs["measured"])[0], 0] = np.nan


def normalised(adata):
    adata.X = np.log1p(adata.X)


def other_encoder(adata):
    adata.uns["X_fake"]["encoder"] = "other"


def no_features(adata):
    del adata.obsm["X_fake"]


def twice(adata):
    adata.var_names = ["GENE0", *adata.var_names[:-1]]


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (none, ValueError, r"0 measured spot\(s\) with min_counts=50 .* at least 2 .*measured="),
        (one, ValueError, r"1 measured spot\(s\)"),
        (shallow, ValueError, r"0 measured spot\(s\) with min_counts=50"),
        (numbers, TypeError, r"must be boolean, .*adata\.obs\[.measured.\] == 1"),
        (words, TypeError, r"obs\['measured'\] of section 'section2' must be boolean"),
        (no_column, KeyError, r"has no obs\['measured'\]"),
        (nan_counts, ValueError, "NaN or infinite values; raw counts"),
        (normalised, ValueError, "raw counts"),
        (other_encoder, ValueError, "encoder=other, where the model was trained on fake"),
        (no_features, ValueError, r"Run stpredict\.pp\.tiles"),
        (twice, ValueError, "duplicated gene names"),
    ],
)
def test_bad_data_changes_nothing(base, new, assert_same, spoil, error, message):
    spoil(new)
    before = new.copy()
    with pytest.raises(error, match=message):
        st.tl.adapt(new, base, measured="measured")
    assert_same(new, before)


def test_a_mask_in_place_of_a_column_is_told_where_it_belongs(base, new):
    with pytest.raises(TypeError, match=r"got ndarray\. Write adata\.obs\['measured'\] = mask"):
        st.tl.adapt(new, base, measured=np.ones(new.n_obs, dtype=bool))


def test_bad_arguments(base, new, paired):
    with pytest.raises(TypeError, match=r"model must be a trained model .*got int"):
        st.tl.adapt(new, 5, measured="measured")
    with pytest.raises(TypeError, match="got AnnData"):
        st.tl.adapt(new, new)
    with pytest.raises(ValueError, match="nobody: neither known to the model nor measured"):
        st.tl.adapt(new, base, genes=["GENE1", "nobody"])
    with pytest.raises(ValueError, match="more than once"):
        st.tl.adapt(new, base, genes=["GENE1", "GENE1"])
    with pytest.raises(ValueError, match="genes is empty"):
        st.tl.adapt(new, base, genes=[])
    with pytest.raises(ValueError, match="predicts the same for every spot"):
        st.tl.adapt(new, st.tl.train(paired(2), method="mean", genes=GENES), measured="measured")


def test_real_a_fifth_of_a_section(real):
    """her2st: a fifth of C2 measured, the other spots are predicted better than before."""
    train, new = [real("her2st", name) for name in ("C3", "C4")], real("her2st", "C2")
    for adata in (*train, new):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    base = st.tl.train(train, method="ridge")
    st.tl.predict_expression(new, base)
    gained = []
    for draw in range(2):
        new.obs["measured"] = np.random.default_rng(draw).random(new.n_obs) < 0.2
        st.tl.predict_expression(new, st.tl.adapt(new, base, measured="measured"), key_added="adapted")
        rest = new[~new.obs["measured"].to_numpy()].copy()
        before, after = (
            st.tl.evaluate(rest, predicted=key, metrics=["pcc", "mse"]).groupby("metric")["value"].mean()
            for key in ("predicted", "adapted")
        )
        gained.append([after["pcc"] - before["pcc"], before["mse"] - after["mse"]])
    pcc, mse = np.mean(gained, axis=0)
    assert pcc > 0.01
    assert mse > 0


def test_missing_values_of_a_mask_mean_not_measured(base, new):
    mask = new.obs["measured"].to_numpy()
    right = st.tl.adapt(new, base, measured="measured").config
    for column in (pd.array(mask, dtype="boolean"), np.where(mask, True, None)):
        new.obs["holes"] = column
        new.obs["holes"] = new.obs["holes"].where(mask, None)
        assert st.tl.adapt(new, base, measured="holes").config == right


@pytest.mark.parametrize("values", [("yes", "no"), (1.0, np.nan)])
def test_the_advice_on_other_masks_works(base, new, values):
    right = st.tl.adapt(new, base, measured="measured").config
    new.obs["m"] = np.where(new.obs["measured"], *values)
    with pytest.raises(TypeError, match=r"adata\.obs\['m'\] == "):
        st.tl.adapt(new, base, measured="m")
    new.obs["m"] = new.obs["m"] == values[0]
    assert st.tl.adapt(new, base, measured="m").config == right


def test_the_old_order_still_works_and_aliases_are_resolved(base, new):
    right = st.tl.adapt(new, base, measured="measured")
    with pytest.warns(FutureWarning, match=r"stpredict\.tl\.adapt\(data, model\)"):
        old = st.tl.adapt(base, new, measured="measured")
    assert old.config == right.config
    new.var_names = [{"GENE14": "ERBB2"}.get(name, name) for name in new.var_names]
    assert st.tl.adapt(new, base, measured="measured", genes=["GENE1", "HER2"]).genes == ["GENE1", "ERBB2"]
