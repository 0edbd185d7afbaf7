"""Published models beside methods of our own: the same folds, genes, panels and ceilings; and corrected by measured spots."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pandas as pd
import pytest

import stpredict as st
from stpredict._sections.open import Where, open_all
from stpredict.models.adapted.units import in_our_units
from stpredict.tl._batch.recipe import recipe_of

GENES = ["ERBB2", "KRT8", "COL1A1", "EPCAM", "CD3D", "PTPRC", "VIM"]
SEEN = "trained by others, on the breast cancer sections of Bassiouni"


@pytest.fixture(scope="module")
def _three():
    return st.datasets.simulate(3)


@pytest.fixture
def cohort(_three, ctranspath):
    """Three sections of three patients, with features of our own and of the published model's encoder."""
    sections = [ctranspath(adata.copy()) for adata in _three]
    for adata in sections:
        adata.obsm["X_small"] = adata.obsm["X_ctranspath"][:, :6] + np.float32(1)
        adata.uns["X_small"] = {"encoder": "small", "encoder_hash": "1"}
    return sections


def cross_validate(cohort, methods, **kwargs):
    return st.tl.cross_validate(cohort, methods=methods, features="X_small", show_progress=False, **kwargs)


def test_it_is_scored_on_the_same_folds_genes_panels_and_ceilings(cohort, path2space):
    with pytest.warns(UserWarning, match=SEEN):
        table = cross_validate(cohort, {"ours": "ridge", "theirs": path2space}, genes=GENES, metrics=["pcc", "mse"])
    ours, theirs = (table[table["method"] == name].reset_index(drop=True) for name in ("ours", "theirs"))
    same = ["seed", "fold", "section", "panel", "gene", "metric"]
    pd.testing.assert_frame_equal(ours[same], theirs[same])
    ceiling = ours["metric"] == "ceiling"
    pd.testing.assert_series_equal(ours["value"][ceiling], theirs["value"][ceiling])
    assert theirs["value"][theirs["metric"] == "mse"].isna().all()
    assert ours["value"][ours["metric"] == "mse"].notna().all()
    compared = st.tl.compare_methods(table, metric="pcc", against="ours").set_index(["panel", "method"])
    assert compared.loc[("all", "theirs"), "n"] == 3
    held = theirs[(theirs["fold"] == "P2") & (theirs["panel"] == "all") & (theirs["metric"] == "pcc")].set_index("gene")
    adata = next(adata for adata in cohort if adata.obs["patient"].iloc[0] == "P2")
    st.tl.predict_expression(adata, path2space)
    scores = st.tl.evaluate(adata, panels={"all": GENES}, metrics="pcc").set_index("gene")
    np.testing.assert_allclose(held["value"][GENES], scores["value"][GENES], rtol=1e-5)


def test_genes_that_it_does_not_know_count_as_nothing(cohort, path2space):
    with pytest.warns(UserWarning, match=SEEN):
        table = cross_validate(cohort, {"theirs": path2space}, genes=["ERBB2", "MKI67"], metrics=["pcc", "undefined"])
    everything = table[table["panel"] == "all"]
    pcc = everything[everything["metric"] == "pcc"].groupby("gene")["value"]
    assert (pcc.get_group("MKI67") == 0).all()
    assert (pcc.get_group("ERBB2") != 0).all()
    assert (everything[everything["metric"] == "undefined"]["value"] == 1).all()


@pytest.mark.filterwarnings("ignore:Method 'theirs' was trained")
def test_results_are_kept_and_told_from_those_of_another_model(cohort, path2space, path2space_folder, tmp_path):
    first = cross_validate(cohort, {"theirs": path2space}, genes=GENES, metrics=["pcc"], path=tmp_path / "kept")
    again = cross_validate(cohort, {"theirs": path2space}, genes=GENES, metrics=["pcc"], path=tmp_path / "kept")
    pd.testing.assert_frame_equal(first, again)
    other = st.models.pretrained("path2space", path=path2space_folder, genes=GENES[:3])
    with pytest.raises(ValueError, match="method 'theirs' differ"):
        cross_validate(cohort, {"theirs": other}, genes=GENES, metrics=["pcc"], path=tmp_path / "kept")


@pytest.mark.filterwarnings("ignore:Method 'path2space' was trained")
def test_other_processes_get_its_names_and_map_its_files_themselves(cohort, path2space):
    table = cross_validate(cohort, [path2space], genes=GENES, metrics=["pcc"])
    assert table["method"].unique().tolist() == ["path2space"]
    sent = pickle.dumps(path2space)
    assert len(sent) < 10_000
    (section,) = open_all(cohort[0], Where(None, None))
    np.testing.assert_array_equal(pickle.loads(sent).predict(section).mean, path2space.predict(section).mean)


def test_missing_features_are_told_before_anything_is_trained(cohort, path2space):
    del cohort[2].obsm["X_ctranspath"]
    with pytest.raises(ValueError, match=re.escape("pp.encode(adata, 'ctranspath', niche=False")):
        cross_validate(cohort, {"ours": "ridge", "theirs": path2space})


def test_a_model_of_other_genes_is_refused(cohort, path2space):
    for adata in cohort:
        adata.var_names = [f"GENE{i}" for i in range(adata.n_vars)]
    with pytest.raises(ValueError, match="'theirs' knows none of the genes that all sections share"):
        cross_validate(cohort, {"theirs": path2space})


def test_a_model_of_our_own_is_not_taken_as_it_is(cohort):
    model = st.tl.train(cohort[0], method="mean")
    with pytest.raises(TypeError, match="trained already, perhaps on the sections to be predicted"):
        cross_validate(cohort, {"mine": model})


def test_many_slides_get_the_features_that_it_needs_without_being_told(path2space, path2space_folder, deepspotm):
    (features,) = recipe_of(path2space, None, only_stores=False).features
    assert (features.key, features.encoder, features.stain_norm) == ("X_ctranspath", "ctranspath", "macenko")
    assert (features.windows, features.with_niche) == ({"spot_um": 100.0}, False)
    assert recipe_of(deepspotm, None, only_stores=False).features == []
    vouched = st.models.pretrained("path2space", path=path2space_folder, features="X_mine")
    with pytest.raises(ValueError, match="features of your own"):
        recipe_of(vouched, None, only_stores=False)


@pytest.fixture
def measured(cohort):
    """A section of which a fifth of the spots was measured."""
    adata = cohort[0]
    adata.obs["measured"] = np.random.default_rng(0).random(adata.n_obs) < 0.2
    return adata


def log_expression(adata):
    totals = np.asarray(adata.X.sum(axis=1)).reshape(-1, 1)
    return np.log1p(adata[:, GENES].X.toarray() / totals * 1e4)


@pytest.mark.filterwarnings("ignore:1 of the model's genes are not measured")
def test_adapting_improves_it_in_our_units(measured, path2space, tmp_path):
    adapted = st.tl.adapt(measured, path2space, measured="measured")
    assert adapted.units == "log1p CP10k"
    st.tl.predict_expression(measured, path2space)
    st.tl.predict_expression(measured, adapted, key_added="adapted")
    assert st.tl.evaluate(measured, panels={"all": GENES}, metrics=["mse", "sd_ratio"])["value"].isna().all()
    mse = st.tl.evaluate(measured, predicted="adapted", panels={"all": GENES}, metrics="mse")["value"]
    assert mse.between(0.001, 1).all()
    assert measured.uns["adapted"]["units"] == "log1p CP10k"
    assert measured.uns["adapted"]["published"]["licence"] == "Apache-2.0"
    assert measured.uns["adapted"]["domain"]["verdict"] == "unknown"
    assert "trained by others" in measured.uns["adapted"]["domain"]["why"]
    rest = measured[~measured.obs["measured"], GENES]
    truth = log_expression(measured[~measured.obs["measured"]])
    error = {key: np.square(rest.layers[key] - truth).mean() for key in ("predicted", "adapted")}
    assert error["adapted"] < 0.8 * truth.var(axis=0).mean() < error["predicted"]
    adapted.save(tmp_path / "adapted")
    st.tl.predict_expression(measured, st.models.load(tmp_path / "adapted"), key_added="again")
    np.testing.assert_allclose(measured[:, GENES].layers["again"], measured[:, GENES].layers["adapted"], rtol=1e-5)


def test_slope_and_intercepts_are_found(measured, path2space_folder, write_exported):
    """Where the model predicts three times the expression plus five, a third of it minus five thirds."""
    measured.obsm["X_ctranspath"][:, : len(GENES)] = log_expression(measured)
    pick, triple = np.zeros((7, 768), dtype=np.float32), 3 * np.eye(8, 7, dtype=np.float32)
    pick[:, :7] = np.eye(7)
    one = {"layer0.0.weight": pick, "layer0.0.bias": np.zeros(7, dtype=np.float32)}
    one |= {"layer1.0.weight": triple, "layer1.0.bias": np.full(8, 5, dtype=np.float32)}
    write_exported(
        path2space_folder / "Path2Space_exported.pt2", {f"members.0.{name}": values for name, values in one.items()}
    )
    model = st.models.pretrained("path2space", path=path2space_folder)
    (section,) = open_all(measured, Where(None, None))
    ours = in_our_units(model, [section], [measured.obs["measured"].to_numpy()], min_counts=1)
    assert ours.genes == GENES
    assert ours.arrays["slope"] == pytest.approx(1 / 3, rel=1e-4)
    np.testing.assert_allclose(ours.predict(section).mean, log_expression(measured), atol=1e-3)


@pytest.mark.filterwarnings("ignore:1 of the model's genes are not measured")
def test_genes_without_counts_at_measured_spots_cannot_be_brought_to_our_units(measured, path2space):
    counts = measured.X.toarray()
    counts[measured.obs["measured"].to_numpy(), measured.var_names.get_loc("CD3D")] = 0
    measured.X = counts
    with pytest.warns(UserWarning, match=r"1 genes have no counts at the measured spots .*\(not stated\): CD3D"):
        adapted = st.tl.adapt(measured, path2space, measured="measured")
    assert adapted.genes == [gene for gene in GENES if gene != "CD3D"]
