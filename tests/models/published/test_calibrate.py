"""How far to believe a published model is learned from sections that its user measured."""

from __future__ import annotations

import re

import numpy as np
import pytest

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._base.card import model_card
from stpredict.models._base.files import identity
from stpredict.models._trust.reliability import central

GENES = ["ERBB2", "KRT8", "COL1A1", "EPCAM", "CD3D", "PTPRC", "VIM"]
FIELDS = ("reliability", "reliability_lower", "reliability_upper")

pytestmark = pytest.mark.filterwarnings("ignore:1 of the 8 genes of Path2Space have no counts")


@pytest.fixture(scope="module")
def _four():
    return st.datasets.simulate(4)


@pytest.fixture
def four(_four):
    """Fresh copies of four sections of four patients."""
    return [adata.copy() for adata in _four]


def seen(sections, key):
    """Give sections features that follow their true expression, at its own level in every section, and noise."""
    for number, adata in enumerate(sections):
        width, truth = adata.obsm[key].shape[1], np.asarray(adata[:, GENES].layers["truth"])
        values = truth @ np.random.default_rng(2).normal(size=(len(GENES), width))
        values += np.random.default_rng([3, number]).normal(size=values.shape) * values.std()
        adata.obsm[key] = values.astype(np.float32)
    return sections


@pytest.fixture
def cohort(four, ctranspath):
    return seen([ctranspath(adata) for adata in four], "X_ctranspath")


@pytest.fixture
def seeing(path2space_folder, write_exported):
    """Path2Space whose outputs follow the first features linearly, three times as large, plus a constant."""
    pick, triple = np.zeros((7, 768), dtype=np.float32), 3 * np.eye(8, 7, dtype=np.float32)
    pick[:, :7] = np.eye(7)
    one = {"layer0.0.weight": pick, "layer0.0.bias": np.full(7, 100, dtype=np.float32)}
    one |= {"layer1.0.weight": triple, "layer1.0.bias": np.full(8, 5, dtype=np.float32)}
    named = {f"members.0.{name}": values for name, values in one.items()}
    write_exported(path2space_folder / "Path2Space_exported.pt2", named)
    return st.models.pretrained("path2space", path=path2space_folder)


def informed(sections, noise):
    """Give sections features whose first seven are their genes' true expression, but for noise: some genes have more."""
    for number, adata in enumerate(sections):
        truth = np.asarray(adata[:, GENES].layers["truth"])
        drawn = np.random.default_rng(number).normal(size=truth.shape) * noise * truth.std(axis=0)
        adata.obsm["X_ctranspath"] = adata.obsm["X_ctranspath"].copy()
        adata.obsm["X_ctranspath"][:, :7] = truth + drawn
    return sections


def test_what_a_model_of_our_own_says_is_said_and_holds_on_another_patient(cohort, seeing):
    *measured, new = informed(cohort, np.array([0, 0.5, 1, 2, 4, 8, 0.2]))
    model = st.tl.calibrate(measured, seeing)
    assert model.units == "log1p CP10k"
    st.tl.predict_expression(new, model, interval=0.8, std=True)
    record = new.uns["predicted"]
    assert record["domain"]["verdict"] == "inside"
    assert record["domain"]["nearest_section"] in [section.name for section in map(only, measured)]
    assert "times as far from measured spots as held-out ones did" in record["domain"]["why"]
    assert record["published"]["calibrated_on"] == model.trained_on
    assert np.median(new.obs["predicted_distance"]) == pytest.approx(record["domain"]["distance"], rel=1e-5)
    genes = new[:, GENES]
    stated = genes.var["predicted_reliability"].to_numpy()
    table = st.tl.evaluate(new, panels={"all": GENES}).set_index(["metric", "gene"])["value"]
    reached = table["pcc"][GENES].to_numpy()
    np.testing.assert_allclose(stated, reached, atol=0.12)
    assert np.corrcoef(stated, reached)[0, 1] > 0.95
    assert np.ptp(reached) > 0.3
    inside = table["interval_coverage"][GENES]
    assert inside.mean() == pytest.approx(0.8, abs=0.06)
    assert np.isfinite(genes.layers["predicted_std"]).all()
    assert not new.var.loc[~new.var_names.isin(GENES), "predicted_reliability"].notna().any()


def only(adata):
    return open_sections(adata)[0]


def test_the_pattern_stays_and_the_units_become_ours(cohort, seeing):
    """Where the model predicts three times the truth plus a constant, about a third of it is what was measured."""
    measured = informed(cohort, np.zeros(7))
    model = st.tl.calibrate(measured, seeing)
    section = only(measured[0])
    before, after = seeing.predict(section, GENES).mean, model.predict(section, GENES).mean
    for gene in range(7):
        assert np.corrcoef(before[:, gene], after[:, gene])[0, 1] > 0.99999
    assert model.arrays["slope"] == pytest.approx(1 / 3, rel=0.15)
    np.testing.assert_allclose(after.mean(axis=0), section.log_expression(GENES).mean(axis=0), atol=0.1)
    assert seeing.units == "not stated"
    assert seeing.trust.reliability is None


def test_another_stain_is_outside_and_promises_nothing(cohort, path2space):
    *measured, new = cohort
    model = st.tl.calibrate(measured, path2space)
    new.obsm["X_ctranspath"] = new.obsm["X_ctranspath"] + 8 * new.obsm["X_ctranspath"].std(axis=0)
    with pytest.warns(UserWarning, match=r"outside of what the model was calibrated on.*calibrate it on sections"):
        st.tl.predict_expression(new, model)
    assert new.uns["predicted"]["domain"]["verdict"] == "outside"
    assert new[:, GENES].var["predicted_reliability"].max() == 0


def test_errors_are_those_on_sections_that_units_were_not_learned_from(cohort, seeing):
    """One of two sections is predicted far too high: intercepts learned from both would hide it."""
    first, second = informed(cohort, np.zeros(7))[:2]
    second.obsm["X_ctranspath"][:, :7] += 20
    low, high = central(st.tl.calibrate([first, second], seeing).trust.reliability.errors, 0.9)
    assert (high - low > 20).all()


@pytest.mark.parametrize("wide", [1, 3])
def test_one_section_is_enough(cohort, path2space, wide):
    model = st.tl.calibrate(cohort[:wide], path2space)
    assert model.config["n_spots"] <= 2000
    assert model.judge(only(cohort[3])).verdict in ("inside", "edge")
    assert np.isfinite(model.history.score)
    assert f"of {wide} section(s)" in model.history.notes[-1]


def test_it_is_saved_and_loaded_with_the_model(cohort, path2space, tmp_path):
    *measured, new = cohort
    model = st.tl.calibrate(measured, path2space)
    assert f"calibrated on   {len(measured)} sections" in repr(model)
    assert "trained on  " not in repr(model)
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    assert identity(again) == identity(model) != identity(path2space)
    for one, key in ((model, "first"), (again, "second")):
        st.tl.predict_expression(new, one, key_added=key, interval=0.9)
    for field in FIELDS:
        np.testing.assert_array_equal(new.var[f"first_{field}"], new.var[f"second_{field}"])
    np.testing.assert_array_equal(new.obs["first_distance"], new.obs["second_distance"])
    np.testing.assert_array_equal(new[:, GENES].layers["first_upper"], new[:, GENES].layers["second_upper"])
    st.tl.predict_expression(new, tmp_path / "model")
    weights = sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    assert weights < 300_000  # (the published weights are not in it)


def test_the_order_does_not_matter_and_calibrating_again_starts_anew(cohort, path2space):
    first = st.tl.calibrate(cohort[:2], path2space)
    assert identity(st.tl.calibrate(path2space, cohort[:2])) == identity(first)
    again = st.tl.calibrate(cohort[2:], first)
    assert again.trained_on == [only(adata).name for adata in cohort[2:]]
    direct = st.tl.calibrate(cohort[2:], path2space)
    np.testing.assert_allclose(again.arrays["intercept"], direct.arrays["intercept"], rtol=1e-6)
    assert again.history.notes == direct.history.notes


def test_a_calibrated_model_can_be_adapted(cohort, path2space, tmp_path):
    model = st.tl.calibrate(cohort[:3], path2space)
    new = cohort[3]
    new.obs["measured"] = np.random.default_rng(0).random(new.n_obs) < 0.2
    adapted = st.tl.adapt(new, model, measured="measured")
    adapted.save(tmp_path / "adapted")
    st.tl.predict_expression(new, st.models.load(tmp_path / "adapted"))
    assert new.uns["predicted"]["domain"]["verdict"] == "inside"
    assert new[:, GENES].var["predicted_reliability"].notna().all()


@pytest.mark.filterwarnings("ignore:2 of the 9 genes of STPath")
def test_a_model_that_looks_at_whole_sections(four, gigapath, stpath):
    *measured, new = seen([gigapath(adata) for adata in four[:3]], "X_prov-gigapath")
    model = st.tl.calibrate(measured, stpath)
    st.tl.predict_expression(new, model)
    assert new.uns["predicted"]["units"] == "log1p CP10k"
    assert new.uns["predicted"]["domain"]["verdict"] == "inside"


@pytest.mark.filterwarnings("ignore:1 of the 8 genes of DeepSpot-M")
def test_a_model_that_reads_the_image_has_no_distance(four, deepspotm):
    few = [adata[::6].copy() for adata in four[:2]]
    model = st.tl.calibrate(few, deepspotm)
    st.tl.predict_expression(few[0], model)
    assert few[0].uns["predicted"]["domain"]["verdict"] == "unknown"
    assert "reads the image itself" in few[0].uns["predicted"]["domain"]["why"]
    assert few[0][:, GENES].var["predicted_reliability"].notna().all()


# ---------------------------------------------------------------------- what is refused


def test_models_of_our_own_have_learned_it(cohort):
    model = st.tl.train(cohort[0], method="mean", genes=GENES)
    with pytest.raises(TypeError, match=r"method 'mean' has learned in training.*stpredict\.tl\.adapt\(data, model\)"):
        st.tl.calibrate(cohort[1], model)


def test_what_cannot_be_compared_is_refused(cohort, path2space):
    with pytest.raises(ValueError, match="Only 3 spots have min_counts=50"):
        st.tl.calibrate(cohort[0][:3].copy(), path2space)
    other = cohort[0].copy()
    other.var_names = [f"GENE{i}" for i in range(other.n_vars)]
    with pytest.raises(ValueError, match="No gene that Path2Space knows has counts"):
        st.tl.calibrate(other, path2space)
    del cohort[1].obsm["X_ctranspath"]
    with pytest.raises(ValueError, match=re.escape("pp.encode(adata, 'ctranspath', niche=False")):
        st.tl.calibrate(cohort[:2], path2space)
    normalised = cohort[0].copy()
    normalised.X = np.log1p(normalised.X.toarray())
    with pytest.raises(ValueError, match="raw counts"):
        st.tl.calibrate(normalised, path2space)


def test_genes_without_counts_are_left_out_and_told(cohort, path2space):
    counts = cohort[0].X.toarray()
    counts[:, cohort[0].var_names.get_loc("CD3D")] = 0
    cohort[0].X = counts
    with pytest.warns(UserWarning, match=r"2 of the 8 genes of Path2Space .* left out.*: CD3D, KRT6A"):
        model = st.tl.calibrate(cohort[0], path2space)
    assert model.genes == [gene for gene in GENES if gene != "CD3D"]


def test_it_is_not_passed_on_as_if_it_were_ours(cohort, path2space):
    model = st.tl.calibrate(cohort[0], path2space)
    with pytest.raises(ValueError, match=r"path2space was trained by others.*model\.save"):
        model_card(model, "lab/ours", licence="mit")
