"""Tumour localisation: on a section whose tumour is known by construction, and on labelled real ones."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as st

GENES = ["ERBB2", "EPCAM", "KRT8", "COL1A1", *(f"OTHER{i}" for i in range(20))]


def section(n=200, *, seed=0, effect=4.0, name="one"):
    """A fifth of the spots is tumour, where three markers are `effect` times as high and collagen is lower."""
    rng = np.random.default_rng(seed)
    tumor = np.arange(n) < n // 5
    rate = np.full((n, len(GENES)), 20.0)
    rate[tumor, :3] *= effect
    rate[tumor, 3] /= effect
    adata = ad.AnnData(rng.poisson(rate).astype(np.float32), var=pd.DataFrame(index=GENES))
    adata.obs_names = [f"{name}_{i}" for i in range(n)]
    adata.obs["label"] = pd.Categorical(np.where(tumor, "Invasive cancer", "connective tissue"))
    adata.obsm["spatial"] = rng.uniform(0, 1000, (n, 2))
    adata.uns["spatial"] = {name: {"images": {}, "scalefactors": {}, "metadata": {}}}
    adata.layers["predicted"] = np.log1p(adata.X / adata.X.sum(axis=1, keepdims=True) * 1e4)
    return adata


def test_the_tumour_is_found_and_recorded():
    adata = section()
    assert st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM", "KRT8"], label_key="label") is None
    truth = adata.obs["label"] == "Invasive cancer"
    assert adata.obs["tumor"].dtype == bool
    assert (adata.obs["tumor"] == truth).all()
    record = adata.uns["tumor"]
    assert record["markers"] == ["ERBB2", "EPCAM", "KRT8"]
    assert record["layer"] == "predicted"
    assert record["rule"] == "Otsu per section"
    assert record["two_groups"] == {"one": True}
    assert record["auroc"] == {"one": 1.0}
    assert record["average_precision"]["one"] == pytest.approx(1.0)
    assert record["prevalence"] == {"one": 0.2}


def test_the_score_is_the_mean_of_z_scores():
    adata = section()
    st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM"])
    values = adata.layers["predicted"][:, :2]
    expected = ((values - values.mean(0)) / values.std(0)).mean(1)
    np.testing.assert_allclose(adata.obs["tumor_score"], expected, atol=1e-5)
    st.tl.localize_tumor(adata, markers={"ERBB2": 3.0, "COL1A1": -1.0}, key_added="weighted")
    values = adata.layers["predicted"][:, [0, 3]]
    z = (values - values.mean(0)) / values.std(0)
    np.testing.assert_allclose(adata.obs["weighted_score"], (3 * z[:, 0] - z[:, 1]) / 4, atol=1e-5)
    assert adata.uns["weighted"]["weights"].tolist() == [3, -1]


def test_measured_counts_are_normalised_by_the_total_over_all_genes():
    adata = section()
    st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM"])
    st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM"], layer=None, key_added="measured")
    np.testing.assert_allclose(adata.obs["measured_score"], adata.obs["tumor_score"], atol=1e-4)
    assert adata.uns["measured"]["layer"] == "measured counts"


def test_markers_that_var_lacks_come_from_obsm():
    adata = section()
    expected = st.tl.localize_tumor(adata, markers=["ERBB2", "KRT8"], copy=True).obs["tumor_score"]
    adata.obsm["predicted_genes"] = pd.DataFrame(
        {"ENSG00000141736.14": adata[:, "ERBB2"].layers["predicted"].ravel()}, index=adata.obs_names
    )
    adata.layers["predicted"][:, 0] = np.nan  # as predict_expression marks a gene that it cannot predict
    st.tl.localize_tumor(adata, markers=["HER2", "KRT8", "MUC1", "PSA"])
    np.testing.assert_allclose(adata.obs["tumor_score"], expected, rtol=1e-6)
    assert adata.uns["tumor"]["markers"] == ["ENSG00000141736.14", "KRT8"]
    assert adata.uns["tumor"]["markers_missing"] == ["MUC1", "PSA"]


def test_two_names_of_one_gene_count_once():
    adata = section()
    st.tl.localize_tumor(adata, markers=["HER2", "ERBB2", "EPCAM"])
    assert adata.uns["tumor"]["markers"] == ["ERBB2", "EPCAM"]


def test_spots_without_prediction_have_no_score_and_no_call():
    adata = section()
    adata.layers["predicted"][[0, 150]] = np.nan
    st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM"], label_key="label")
    assert np.flatnonzero(adata.obs["tumor_score"].isna()).tolist() == [0, 150]
    assert not adata.obs["tumor"].iloc[0]
    assert adata.obs["tumor"].iloc[1:40].mean() > 0.95
    assert adata.uns["tumor"]["auroc"]["one"] > 0.99


def test_a_given_threshold_is_taken_as_it_is():
    adata = section()
    st.tl.localize_tumor(adata, markers=["ERBB2"], threshold=1.25)
    assert (adata.obs["tumor"] == (adata.obs["tumor_score"] > 1.25)).all()
    assert adata.uns["tumor"]["threshold"] == {"one": 1.25}
    assert adata.uns["tumor"]["rule"] == "given"


def test_one_group_is_called_with_a_warning():
    adata = section(effect=1.0)
    with pytest.warns(UserWarning, match="tumour scores of one form one group"):
        st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM", "KRT8"])
    assert adata.uns["tumor"]["two_groups"] == {"one": False}
    assert 0.2 < adata.obs["tumor"].mean() < 0.8


def test_sections_are_scored_apart():
    """A section of twice the depth and another one without tumour do not move each other's scores."""
    first, second = section(), section(seed=1, effect=3.0, name="two")
    second.layers["predicted"] += 5
    both = ad.concat([first, second], keys=["one", "two"], label="library_id")
    both.uns["spatial"] = {**first.uns["spatial"], **second.uns["spatial"]}
    st.tl.localize_tumor(both, markers=["ERBB2", "EPCAM"], label_key="label")
    for one in (first, second):
        st.tl.localize_tumor(one, markers=["ERBB2", "EPCAM"], label_key="label")
    np.testing.assert_allclose(both.obs["tumor_score"], pd.concat([first.obs, second.obs])["tumor_score"], atol=1e-5)
    assert both.uns["tumor"]["threshold"] == {
        **first.uns["tumor"]["threshold"],
        **second.uns["tumor"]["threshold"],
    }
    assert set(both.uns["tumor"]["auroc"]) == {"one", "two"}


def test_labels_decide_who_is_counted():
    adata = section()
    labels = adata.obs["label"].astype(object)
    labels[:10] = "cancer in situ"
    labels[10:20] = np.nan
    labels[100:150] = "undetermined"
    adata.obs["label"] = pd.Categorical(labels)
    st.tl.localize_tumor(adata, markers=["ERBB2"], label_key="label")
    assert adata.uns["tumor"]["prevalence"]["one"] == pytest.approx(30 / 140)
    st.tl.localize_tumor(adata, markers=["ERBB2"], label_key="label", tumor_labels="cancer in situ")
    assert adata.uns["tumor"]["prevalence"]["one"] == pytest.approx(10 / 140)
    adata.obs["label"] = "invasive cancer"
    st.tl.localize_tumor(adata, markers=["ERBB2"], label_key="label")
    assert np.isnan(adata.uns["tumor"]["auroc"]["one"])


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_labels_may_be_missing_in_columns_of_any_kind(dtype):
    adata = section()
    labels = adata.obs["label"].astype(object)
    labels[:10] = None
    adata.obs["label"] = labels.astype(dtype)
    st.tl.localize_tumor(adata, markers=["ERBB2"], label_key="label")
    assert adata.uns["tumor"]["prevalence"]["one"] == pytest.approx(30 / 190)
    with pytest.raises(ValueError, match=r"labels in obs.'label'. \(Invasive cancer, connective tissue\)"):
        st.tl.localize_tumor(adata, markers=["ERBB2"], label_key="label", tumor_labels="DCIS")


def test_results_round_trip_through_h5ad(tmp_path):
    adata = section()
    st.tl.localize_tumor(adata, markers={"ERBB2": 1.0, "EPCAM": 0.5}, label_key="label")
    adata.write_h5ad(tmp_path / "x.h5ad")
    again = ad.read_h5ad(tmp_path / "x.h5ad")
    assert again.uns["tumor"]["threshold"] == adata.uns["tumor"]["threshold"]
    assert list(again.uns["tumor"]["markers"]) == ["ERBB2", "EPCAM"]


def test_a_copy_leaves_the_original_alone():
    adata = section()
    result = st.tl.localize_tumor(adata, markers=["ERBB2"], copy=True)
    assert "tumor" in result.obs
    assert "tumor" not in adata.obs
    assert "tumor" not in adata.uns


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layer": "imputed"}, KeyError, "there is predicted. Call tl.predict_expression first"),
        ({"markers": "brain"}, ValueError, "no marker set 'brain'"),
        ({"markers": ["MUC1", "NEU"]}, ValueError, "MUC1, NEU \\(may be ERBB2 or NEU1\\)"),
        ({"key_added": "my/tumor"}, ValueError, "without '/'"),
        ({"markers": {"ERBB2": 0.0}}, ValueError, "finite and not 0"),
        ({"label_key": "pathologist"}, KeyError, "obs has label"),
        ({"label_key": "label", "tumor_labels": ["DCIS"]}, ValueError, "connective tissue\\) is a tumour's"),
    ],
)
def test_bad_arguments_are_refused_and_write_nothing(change, error, words):
    adata = section()
    with pytest.raises(error, match=words):
        st.tl.localize_tumor(adata, **{"markers": ["ERBB2"], **change})
    assert list(adata.obs) == ["label"]
    assert list(adata.uns) == ["spatial"]


def test_one_spot_has_no_z_score():
    with pytest.raises(ValueError, match="z-scores need two or more"):
        st.tl.localize_tumor(section()[:1].copy(), markers=["ERBB2"])


@pytest.mark.parametrize(("name", "auroc"), [("A1", 0.81), ("B1", 0.92), ("E1", 0.67), ("H1", 0.85)])
@pytest.mark.filterwarnings("ignore:The tumour scores")
def test_breast_markers_find_the_pathologists_tumour(real, name, auroc):
    adata = real("her2st_counts_only", name)
    st.tl.localize_tumor(adata, markers="breast", layer=None, label_key="label")
    assert not adata.uns["tumor"]["markers_missing"]
    assert next(iter(adata.uns["tumor"]["auroc"].values())) == pytest.approx(auroc, abs=0.005)


def test_spatialdata_is_scored_alike():
    adata = st.datasets.simulate()
    sdata = st.io.to_spatialdata(adata)
    st.tl.localize_tumor(sdata, markers="breast", layer=None, label_key="region")
    st.tl.localize_tumor(adata, markers="breast", layer=None, label_key="region")
    table = sdata.tables["table"]
    np.testing.assert_allclose(table.obs["tumor_score"], adata.obs["tumor_score"])
    assert table.uns["tumor"]["auroc"] == adata.uns["tumor"]["auroc"]
    assert adata.uns["tumor"]["auroc"]["sim_1"] > 0.9


def test_labels_and_layers_of_others_are_never_overwritten():
    adata = section()
    adata.obs["tumor"] = adata.obs["label"]
    with pytest.raises(ValueError, match=r"obs\['tumor'\] is there already .*key_added="):
        st.tl.localize_tumor(adata, markers=["ERBB2"], label_key="tumor")
    with pytest.raises(ValueError, match="means something else"):
        st.tl.localize_tumor(adata, markers=["ERBB2"], key_added="counts")
    st.tl.localize_tumor(adata, markers=["ERBB2"], key_added="map")
    st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM"], key_added="map")  # what we wrote may be replaced
    assert adata.uns["map"]["markers"] == ["ERBB2", "EPCAM"]


def test_which_labels_were_taken_for_what_is_recorded_and_few_markers_are_told():
    adata = section()
    with pytest.warns(UserWarning, match=r"13 of 14 markers are missing .* rests on ERBB2 alone"):
        st.tl.localize_tumor(adata[:, ["ERBB2"]].copy(), markers="breast", label_key="label")
    st.tl.localize_tumor(adata, markers=["ERBB2"], label_key="label")
    assert adata.uns["tumor"]["tumor_labels"] == ["Invasive cancer"]
    assert adata.uns["tumor"]["other_labels"] == ["connective tissue"]
