"""What models say of how far they can be believed."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._base.contract import Prediction
from stpredict.models._data import features
from stpredict.models._trust import sight
from stpredict.models._trust.reliability import LEVELS, Reliability, central, width
from stpredict.models._trust.span import Span
from stpredict.models._trust.trust import FAR, NEAR, Judgement, Trust
from stpredict.tl._prediction.believed import Believed

GENES = ["ERBB2", "COL1A1", "KRT8", "EPCAM"]


@pytest.fixture(scope="module")
def sections():
    found = st.datasets.simulate(4)
    for adata in found:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    return found


@pytest.fixture(scope="module")
def model(sections):
    return st.tl.train(sections[:3], genes=GENES, method="ridge")


def test_a_model_that_learned_nothing_of_itself_expects_nothing():
    reached, errors = Trust().expected(Judgement.unknown(4, "it was not asked"), np.array([0, -1]))
    assert (reached.shape, errors.shape) == ((3, 2), (len(LEVELS), 2))
    assert np.isnan(reached).all()
    assert np.isnan(errors).all()


def moved(adata, by: float):
    """The same section with every feature moved by so many of its standard deviations: a stain that is not the training's."""
    new = adata.copy()
    for key in ("X_morphology", "X_morphology_niche"):
        values = np.asarray(new.obsm[key])
        new.obsm[key] = (values + by * values.std(axis=0)).astype(np.float32)
    return new


def two_units(rng, correlations, n=400):
    """Measured and predicted values of two sections, whose genes correlate as told."""
    r = np.asarray(correlations)
    predicted = rng.normal(size=(2 * n, len(r)))
    measured = r * predicted + np.sqrt(1 - r**2) * rng.normal(size=predicted.shape)
    return (measured + 5).astype(np.float32), (predicted * r + 5).astype(np.float32), np.repeat([0, 1], n)


def test_expected_correlations_are_those_reached_on_held_out_spots():
    truth = np.repeat([0.0, 0.3, 0.6, 0.9], 10)
    known = Reliability.learn(*two_units(np.random.default_rng(0), truth))
    assert np.abs(known.pcc - truth).max() < 0.1
    assert np.corrcoef(known.pcc, truth)[0, 1] > 0.98


def test_predictions_for_held_out_spots_tell_between_which_values_those_of_a_gene_lie():
    values = np.random.default_rng(0).uniform([0, 2], [1, 6], size=(5000, 2))
    base = Span.learn(values)
    np.testing.assert_allclose(base.ends, [[0.01, 2.04], [0.99, 5.96]], atol=0.02)
    wider = Span.learn(np.array([[5.0, 1.0], [5.0, 9.0]])).joined(base, np.array([1, -1]))
    np.testing.assert_allclose(wider.ends, [[2.04, 1.08], [5.96, 8.92]], atol=0.02)


def test_genes_of_few_spots_are_drawn_to_genes_that_are_alike():
    rng = np.random.default_rng(1)
    truth = np.full(200, 0.4)
    measured, predicted, section = two_units(rng, truth, n=20)
    known = Reliability.learn(measured, predicted, section)
    alone = [
        np.mean([np.corrcoef(measured[section == s, g], predicted[section == s, g])[0, 1] for s in (0, 1)])
        for g in range(200)
    ]
    assert np.std(known.pcc) < 0.6 * np.std(alone)
    assert known.pcc.mean() == pytest.approx(np.mean(alone), abs=0.02)


def test_intervals_hold_what_they_promise_of_skewed_errors():
    rng = np.random.default_rng(2)
    predicted = rng.normal(size=(2000, 5)).astype(np.float32)
    draw = lambda: predicted + rng.exponential(size=predicted.shape) ** 2 - 2  # noqa: E731
    low, high = central(Reliability.learn(draw(), predicted, np.zeros(2000, int)).errors, 0.9)
    fresh = draw() - predicted
    assert ((fresh >= low) & (fresh <= high)).mean() == pytest.approx(0.9, abs=0.015)
    assert ((fresh < low).mean(), (fresh > high).mean()) == pytest.approx((0.05, 0.05), abs=0.015)


def test_genes_that_were_not_measured_get_what_genes_alike_got():
    measured, predicted, section = two_units(np.random.default_rng(3), np.full(40, 0.5))
    predicted[:, 0] = np.nan
    measured[section == 1, 1] = np.nan
    known = Reliability.learn(measured, predicted, section)
    assert known.pcc[:2] == pytest.approx(0.5, abs=0.1)
    assert np.isfinite(known.errors).all()


def test_a_section_of_the_same_kind_is_inside_and_another_stain_is_not(model, sections):
    inside, outside = (model.judge(st_section(adata)) for adata in (sections[3], moved(sections[3], 8)))
    assert inside.verdict == "inside"
    assert 0.5 < inside.distance < NEAR
    assert outside.verdict == "outside"
    assert outside.distance > FAR
    assert "features differ most" in outside.why
    assert inside.nearest_section in model.trained_on


def st_section(adata):
    from stpredict._sections.anndata import section_from_anndata

    return section_from_anndata(adata)


def resized(adata, factor: float, *, jitter: float = 15):
    """The same section on a slide that was scaled, its microns per pixel left as they were; not yet encoded.

    Its spots lie `jitter` pixels off their lattice, so that this does not tell the scale.
    """
    new = adata.copy()
    (library,) = new.uns["spatial"].values()
    slide = Image.fromarray(library["images"]["hires"])
    size = [round(side * factor) for side in slide.size]
    library["images"] = {"hires": np.asarray(slide.resize(size, Image.Resampling.BICUBIC))}
    library["scalefactors"]["spot_diameter_fullres"] *= factor
    library["metadata"]["spot_pitch_um"] *= factor
    off = np.random.default_rng(0).normal(0, jitter, (new.n_obs, 2))
    new.obsm = {"spatial": (new.obsm["spatial"] + off) * factor}
    del new.uns["tiles"], new.uns["X_morphology"], new.uns["X_morphology_niche"]
    return new


@pytest.fixture(scope="module")
def at_wrong_scale(sections):
    """A section that looks half as large as it is, and one that looks twice as large."""
    found = [resized(sections[3], 0.5), resized(sections[3], 2)]
    for adata in found:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    return found


def test_a_slide_at_a_wrong_scale_is_outside_and_the_reason_says_so(model, at_wrong_scale, tmp_path):
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    for adata, looks, true in zip(at_wrong_scale, ("half", "twice"), ("twice", "half"), strict=True):
        judgement = again.judge(st_section(adata))
        assert judgement.verdict == "outside"
        assert judgement.kept == 0
        assert judgement.widening > 1.15
        assert f"its tissue looks about {looks} as large as that of training" in judgement.why
        assert f"they may be about {true} those that were taken" in judgement.why
        assert "features differ most" not in judgement.why
    new = at_wrong_scale[0].copy()
    with pytest.warns(UserWarning, match="check its microns per pixel"):
        st.tl.predict_expression(new, model)
    assert (new.var.loc[GENES, "predicted_reliability"] == 0).all()
    assert new.uns["predicted"]["domain"]["verdict"] == "outside"


def test_a_scale_that_the_lattice_of_measured_spots_tells_is_not_doubted(model, sections, at_wrong_scale):
    small = resized(sections[3], 0.5, jitter=0)
    for key in ("X_morphology", "X_morphology_niche"):
        small.obsm[key], small.uns[key] = at_wrong_scale[0].obsm[key], at_wrong_scale[0].uns[key]
    assert st_section(small).is_scale_measured
    assert model.judge(st_section(small)).size == 1
    laid_by_the_scale = st_section(small[:, :0].copy())
    assert not laid_by_the_scale.is_scale_measured
    assert model.judge(laid_by_the_scale).size == 0.5
    (library,) = small.uns["spatial"].values()
    library["metadata"]["technology"] = "pseudo-spots"  # with genes, as predictions for a grid have
    assert model.judge(st_section(small)).size == 0.5


def test_models_of_earlier_versions_judge_by_the_distance_alone(model, at_wrong_scale, tmp_path):
    model.save(tmp_path / "model")
    earlier = st.models.load(tmp_path / "model")
    for name in [name for name in earlier.arrays if name.startswith("domain_texture_")]:
        del earlier.arrays[name]
    earlier.save(tmp_path / "earlier")
    earlier = st.models.load(tmp_path / "earlier")
    for adata in at_wrong_scale:
        now, before = (one.judge(st_section(adata)) for one in (model, earlier))
        assert before.distance == now.distance
        assert (before.size, before.verdict) == (1, "outside" if before.distance > FAR else "edge")


def test_a_model_that_names_no_columns_of_the_texture_is_refused(model, tmp_path):
    model.save(tmp_path / "model")
    broken = st.models.load(tmp_path / "model")
    broken.arrays["domain_texture_columns"] = broken.arrays["domain_texture_columns"] + 1000
    broken.save(tmp_path / "broken")
    with pytest.raises(ValueError, match="must name all columns of the texture"):
        st.models.load(tmp_path / "broken")


def test_measured_spots_at_another_scale_tell_that_it_is_meant(model, at_wrong_scale):
    new = at_wrong_scale[0].copy()
    new.obs["measured"] = np.arange(new.n_obs) % 3 == 0
    adapted = st.tl.adapt(new, model, measured="measured")
    assert (model.judge(st_section(new)).size, adapted.judge(st_section(new)).size) == (0.5, 1)
    assert adapted.judge(st_section(at_wrong_scale[1])).size == 2


def test_of_several_sections_one_at_a_wrong_scale_is_told_before_a_farther_one(model, sections, at_wrong_scale):
    told = Believed()
    for name, adata in (("far", moved(sections[3], 2)), ("half", at_wrong_scale[0])):
        judgement = model.judge(st_section(adata))
        told.take(st_section(adata), Prediction(np.zeros((0, 0)), np.zeros((0, 0)), [], judgement=judgement))
        if name == "far":
            assert judgement.verdict == "edge"
            farther = judgement.distance
    assert told.domain()["verdict"] == "outside"
    assert told.domain()["distance"] < farther


def test_some_spots_of_another_kind_show_one_by_one(model, sections):
    mixed, other = sections[3].copy(), moved(sections[3], 8)
    rows = np.arange(0, mixed.n_obs, 4)
    for key in ("X_morphology", "X_morphology_niche"):
        values = np.asarray(mixed.obsm[key]).copy()
        values[rows] = other.obsm[key][rows]
        mixed.obsm[key] = values
    away = model.judge(st_section(mixed)).spots
    assert away[rows].min() > np.median(np.delete(away, rows))
    assert np.median(away[rows]) > 3 * np.median(np.delete(away, rows))


def test_prediction_carries_reliability_distance_and_verdict(model, sections):
    new = sections[3].copy()
    st.tl.predict_expression(new, model, interval=0.9, std=True)
    told = new.var.loc[GENES, [f"predicted_reliability{end}" for end in ("_lower", "", "_upper")]].to_numpy()
    assert (np.diff(told, axis=1) >= 0).all()
    scores = st.tl.evaluate(new, metrics=["pcc", "coverage"]).pivot_table(
        index="gene", columns="metric", values="value"
    )
    assert np.abs(scores.loc[GENES, "pcc"] - told[:, 1]).mean() < 0.1
    assert scores["coverage"].mean() == pytest.approx(0.9, abs=0.05)
    assert new.var["predicted_reliability"].drop(GENES).isna().all()
    assert np.median(new.obs["predicted_distance"]) == pytest.approx(
        new.uns["predicted"]["domain"]["distance"], rel=1e-5
    )
    low, high, mean = (
        np.asarray(new[:, GENES].layers[name]) for name in ("predicted_lower", "predicted_upper", "predicted")
    )
    counts = np.asarray(new[:, GENES].X.toarray())
    truth = np.log1p(1e4 * counts / np.asarray(new.X.sum(axis=1)))
    assert ((truth >= low) & (truth <= high)).mean() == pytest.approx(0.9, abs=0.05)
    assert (low <= np.maximum(mean, 0)).all()


def test_outside_warns_once_promises_nothing_and_is_wider(model, sections):
    near, away = sections[3].copy(), moved(sections[3], 8)
    st.tl.predict_expression(near, model, std=True)
    with pytest.warns(UserWarning, match="outside of what the model was trained on") as caught:
        st.tl.predict_expression(away, model, std=True)
    assert len([w for w in caught if "outside" in str(w.message)]) == 1
    assert (away.var.loc[GENES, "predicted_reliability"] == 0).all()
    wider = np.asarray(away[:, GENES].layers["predicted_std"]) / np.asarray(near[:, GENES].layers["predicted_std"])
    assert wider.min() > 1.1


def test_no_tumour_is_called_outside_unless_forced(model, sections, tmp_path):
    away = moved(sections[3], 8)
    with pytest.warns(UserWarning, match="outside"):
        st.tl.predict_expression(away, model)
    with pytest.warns(UserWarning, match="force=True"):
        st.tl.localize_tumor(away, markers=["ERBB2", "EPCAM"])
    assert away.obs["tumor"].isna().all()
    assert list(away.uns["tumor"]["withheld"]) == [st_section(away).name]
    away.write_zarr(tmp_path / "away.zarr")
    assert anndata.read_zarr(tmp_path / "away.zarr").obs["tumor"].isna().all()
    axes = st.pl.tumor(away, show=False)
    assert axes[1].get_title().startswith("no tumor map")
    st.tl.localize_tumor(away, markers=["ERBB2", "EPCAM"], force=True)
    assert away.obs["tumor"].dtype == bool
    assert away.obs["tumor"].any()


def test_verdicts_of_several_sections(model, sections):
    several = {"near": sections[3].copy(), "far": moved(sections[3], 8)}
    for name, adata in several.items():
        adata.uns["spatial"] = {name: next(iter(adata.uns["spatial"].values()))}
        adata.uns["tiles"] = {name: next(iter(adata.uns["tiles"].values()))}
    both = anndata.concat(several, label="library_id", uns_merge="unique", index_unique="-")
    for key in ("X_morphology", "X_morphology_niche"):
        both.uns[key] = {k: v for k, v in sections[3].uns[key].items() if k != "sections"}
    with pytest.warns(UserWarning, match="'far' lies outside"):
        st.tl.predict_expression(both, model)
    domain = both.uns["predicted"]["domain"]
    assert domain["verdict"] == "outside"
    assert dict(zip(domain["sections"]["names"], domain["sections"]["verdict"], strict=True)) == {
        "near": "inside",
        "far": "outside",
    }
    with pytest.warns(UserWarning, match="not called on far"):
        st.tl.localize_tumor(both, markers=["ERBB2", "EPCAM"])
    assert both.obs["tumor"].isna().groupby(both.obs["library_id"], observed=True).mean().to_dict() == {
        "near": 0,
        "far": 1,
    }
    assert st.pl.trust(both, library_id="far", show=False)[0].get_title() == "outside of the training data"


def test_another_patient_than_the_only_one_of_training_halves_what_is_promised(sections):
    train, new = sections[0].copy(), sections[1].copy()
    train.obs["patient"], new.obs["patient"] = "A", "A"
    model = st.tl.train(train, genes=GENES, method="ridge")
    own = model.judge(st_section(new))
    new.obs["patient"] = "B"
    other = model.judge(st_section(new))
    assert other.kept == pytest.approx(own.kept / 2)
    assert other.verdict != "inside"
    assert "another patient" in other.why


@pytest.mark.parametrize("has_spread", [False, True])
def test_errors_on_another_patient_allow_for_other_levels_of_genes(model, has_spread):
    own = Judgement("edge", 1.0, "", "", np.ones(1))
    other, columns = replace(own, other_patient=True), np.arange(len(GENES))
    (_, before), (_, after) = (model.trust.expected(one, columns) for one in (own, other))
    middle, low = len(LEVELS) // 2, list(LEVELS).index(0.05)
    np.testing.assert_allclose(after[middle], before[middle], atol=1e-6)
    allowed = np.square(after[low] - after[middle]) - np.square(before[low] - before[middle])
    np.testing.assert_allclose(allowed, (1.645 * 0.3) ** 2, rtol=1e-3)
    model.trust.reliability.spread[:] = float(has_spread)
    wider = model.trust.error_width(other, has_spread) / model.trust.error_width(own, has_spread)
    model.trust.reliability.spread[:] = 0
    ends = [(errors[-1 - low] - errors[low]) for errors in (after, before)]
    np.testing.assert_allclose(wider, ends[0] / ends[1], rtol=1e-5)


def trained_on_one_donor(adata, **options):
    """A model of one section whose patient is called A, and its donor 1."""
    train = adata.copy()
    train.obs["patient"], train.obs["donor"] = "A", 1
    return st.tl.train(train, genes=GENES, method="ridge", **options)


@pytest.mark.parametrize(
    ("columns", "other"),
    [
        ({"patient": "A", "donor": 1.0}, False),
        ({"patient": "1", "donor": "2"}, True),
        ({"patient": "B"}, False),
        ({"donor": [np.nan, "1"]}, False),
    ],
)
def test_patients_are_compared_in_the_column_that_named_them_in_training(sections, tmp_path, columns, other):
    trained_on_one_donor(sections[0], group_key="donor").save(tmp_path / "model")
    new = sections[1].copy()
    del new.obs["patient"]
    for name, value in columns.items():
        new.obs[name] = np.resize(value, new.n_obs) if isinstance(value, list) else value
    judgement = st.models.load(tmp_path / "model").judge(st_section(new))
    assert judgement.other_patient is other


def test_a_patient_called_like_its_section_is_told_from_another(sections):
    train, new = sections[0].copy(), sections[1].copy()
    train.obs["patient"], new.obs["patient"] = st_section(train).name, "B"
    assert st.tl.train(train, genes=GENES, method="ridge").judge(st_section(new)).other_patient


def test_where_the_column_is_not_known_no_patient_is_taken_for_another(sections):
    new = sections[1].copy()
    new.obs["patient"] = "B"
    earlier = trained_on_one_donor(sections[0])
    assert earlier.judge(st_section(new)).other_patient
    del earlier.config["group_key"]
    assert not earlier.judge(st_section(new)).other_patient
    every_section_its_own = trained_on_one_donor(sections[0], group_key=None)
    assert not every_section_its_own.judge(st_section(new)).other_patient


def test_a_saved_model_judges_the_same_and_one_of_an_earlier_version_says_that_it_cannot(model, sections, tmp_path):
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    section = st_section(sections[3])
    assert again.judge(section).distance == model.judge(section).distance
    for name in [name for name in again.arrays if name.startswith(("domain_", "held_out_"))]:
        del again.arrays[name]
    again.save(tmp_path / "earlier")
    earlier = st.models.load(tmp_path / "earlier")
    new = sections[3].copy()
    st.tl.predict_expression(new, earlier, std=True)
    assert new.uns["predicted"]["domain"]["verdict"] == "unknown"
    assert new.var["predicted_reliability"].isna().all()
    std = np.asarray(new[:, GENES].layers["predicted_std"])[0]
    assert std == pytest.approx(earlier.arrays["residual_sd"][[earlier.genes.index(g) for g in GENES]])


@pytest.mark.parametrize("method", ["knn", "mixture", "density", "cmrcnet", "align_st"])
def test_every_method_learns_it(method, sections):
    networks = {"epochs": 2, "members": 1, "show_progress": False} if method in ("cmrcnet", "align_st") else {}
    model = st.tl.train(sections[:2], method=method, genes=GENES, **networks)
    new = sections[3].copy()
    st.tl.predict_expression(new, model, std=True)
    assert new.uns["predicted"]["domain"]["verdict"] in ("inside", "edge")
    assert new.var.loc[GENES, "predicted_reliability"].between(0, 1).all()
    assert np.isfinite(np.asarray(new[:, GENES].layers["predicted_std"])).all()


def test_a_spread_of_its_own_is_as_wide_as_the_errors_on_held_out_spots(sections):
    model = st.tl.train(sections[:3], method="knn", genes=GENES)
    known = model.trust.reliability
    inside = Judgement("inside", 1.0, "", "", np.ones(1))
    assert known.spread * model.trust.error_width(inside, has_spread=True) == pytest.approx(
        width(known.errors), rel=1e-4
    )


@pytest.fixture(scope="module")
def of_pixels(sections):
    """A network trained on tiles of pixels, as small as one can be, and a section that it has not seen."""
    few = [adata[40:60].copy() for adata in (*sections[:2], sections[3])]
    how = {"image_encoder": "vit_tiny_patch16_224", "depth": 1, "epochs": 1, "members": 1, "batch_size": 8}
    return st.tl.train(few[:2], method="cmrcnet", genes=GENES, show_progress=False, **how), few[2]


def test_networks_that_look_at_pixels_tell_another_kind_of_slide_by_its_tiles(of_pixels, tmp_path):
    model, near = of_pixels
    assert model.sight.width == model.config["tiles"]["n_features"] > 0
    model.save(tmp_path / "model")
    model = st.models.load(tmp_path / "model")
    other = near.copy()
    (library,) = other.uns["spatial"].values()
    library["images"] = {"hires": np.ascontiguousarray(library["images"]["hires"][..., ::-1])}  # blue for red
    inside, outside = (model.judge(st_section(adata)) for adata in (near, other))
    assert inside.distance < NEAR
    assert outside.verdict == "outside"
    assert "tile:" in outside.why
    assert model.judge(st_section(resized(near, 0.5))).size == 0.5
    part = model.judge(st_section(near[5:15].copy()))
    np.testing.assert_allclose(part.spots, inside.spots[5:15], rtol=1e-4)
    with pytest.warns(UserWarning, match="outside of what the model was trained on"):
        st.tl.predict_expression(other, model)
    assert (other.var.loc[GENES, "predicted_reliability"] == 0).all()
    model.config["tiles"]["encoder_hash"] = "of another version"
    assert "described tiles in another way" in model.judge(st_section(near)).why


def test_measured_spots_bring_a_section_nearer_to_a_network_that_looks_at_pixels(of_pixels, tmp_path):
    model, new = of_pixels
    new.obs["measured"] = np.arange(new.n_obs) % 2 == 0
    adapted = st.tl.adapt(new, model, measured="measured")
    adapted.save(tmp_path / "adapted")
    after, before = (one.judge(st_section(new)) for one in (st.models.load(tmp_path / "adapted"), model))
    assert after.distance < 0.8 * before.distance
    assert after.nearest_section == st_section(new).name


def test_a_network_of_tiles_and_niche_features_is_judged_by_both(sections):
    section = st_section(sections[0])
    kept = {"X_morphology_niche": {"n_features": 77}}
    both = sight.Sight(kept, sight.tiles_record([section]))
    rows = np.array([3, 200])
    seen = both.of_rows(section, rows)
    assert seen.shape == (2, both.width)
    np.testing.assert_array_equal(seen[:, :77], section.features("X_morphology_niche")[rows])
    np.testing.assert_allclose(seen[:, 77:], section.features("X_morphology")[rows], rtol=1e-3, atol=1e-4)
    assert both.names(section)[-1].startswith("tile:")


def test_the_mean_promises_nothing(sections):
    model = st.tl.train(sections[:2], method="mean", genes=GENES)
    new = sections[3].copy()
    st.tl.predict_expression(new, model)
    assert (new.var.loc[GENES, "predicted_reliability"] == 0).all()
    assert new.uns["predicted"]["domain"]["verdict"] == "unknown"


def test_measured_spots_bring_a_section_nearer(model, sections):
    new = moved(sections[3], 3)
    new.obs["measured"] = np.arange(new.n_obs) % 3 == 0
    before = model.judge(st_section(new)).distance
    adapted = st.tl.adapt(new, model, measured="measured")
    after = adapted.judge(st_section(new))
    assert after.distance < 0.7 * before
    assert after.nearest_section == st_section(new).name


def test_figure_of_trust(model, sections, tmp_path):
    new = sections[3].copy()
    with pytest.raises(KeyError, match="predict_expression first"):
        st.pl.trust(new)
    st.tl.predict_expression(new, model)
    axes = st.pl.trust(new, show=False, save=tmp_path / "trust.png")
    assert axes[0].get_title() == "inside of the training data"
    drawn = axes[1].collections[0].get_array()
    assert drawn.filled(np.nan) == pytest.approx(new.obs["predicted_distance"].to_numpy(), rel=1e-5)
    expected = np.sort(new.var["predicted_reliability"].dropna().to_numpy())[::-1]
    assert axes[2].lines[0].get_ydata() == pytest.approx(expected)


def test_figure_of_trust_without_genes_says_why_a_panel_is_missing(model, sections):
    slide = sections[3][:, :0].copy()
    st.tl.predict_expression(slide, model)
    axes = st.pl.trust(slide, show=False)
    assert len(axes) == 2
    assert axes[1].get_xlabel().startswith("no gene of var was predicted")
    assert "as_anndata=True" in axes[1].get_xlabel()


def test_results_can_be_stored(model, sections, tmp_path):
    st.tl.predict_expression(sections[3], model, out=tmp_path / "new.zarr", interval=0.8)
    stored = anndata.read_zarr(tmp_path / "new.zarr")
    assert stored.uns["predicted"]["domain"]["verdict"] == "inside"
    assert isinstance(stored.obs["predicted_distance"], pd.Series)
    assert set(GENES) <= set(stored.var_names)
    assert {"predicted_lower", "predicted_upper"} <= set(stored.layers)
    assert stored.var.loc[GENES, "predicted_reliability"].notna().all()
    new = sections[3].copy()
    with pytest.raises(ValueError, match="between 0 and 1"):
        st.tl.predict_expression(new, model, interval=90)


def test_rows_of_a_section_are_read_block_by_block(paired, monkeypatch):
    monkeypatch.setattr(sight, "ROWS", 10)
    (section,) = open_sections(paired(1))
    rows = np.array([0, 9, 10, 11, 35, 80])
    seen = sight.Sight({"X_fake": {"n_features": section.features("X_fake").shape[1]}}).of_rows(section, rows)
    np.testing.assert_array_equal(seen, section.features("X_fake")[rows])


@pytest.mark.parametrize("method", ["ridge", "align_st"])
def test_features_are_checked_once_in_a_prediction_and_always_in_a_judgement(sections, monkeypatch, method):
    networks = {"epochs": 2, "members": 1, "show_progress": False} if method == "align_st" else {}
    model, section = st.tl.train(sections[0], method=method, genes=GENES, **networks), st_section(sections[3].copy())
    checked = []
    check = features.describe_features
    monkeypatch.setattr(features, "describe_features", lambda *which: checked.append(1) or check(*which))
    model.predict(section)
    assert len(checked) == 1
    model.judge(section)
    assert len(checked) == 2
    section.adata.obsm["X_morphology"] = np.full_like(section.adata.obsm["X_morphology"], np.nan)
    for refused in (model.judge, model.predict):
        with pytest.raises(ValueError, match="without NaN"):
            refused(section)
