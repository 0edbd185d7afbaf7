"""Spatial domains: on points whose groups are known by construction, and on the labelled section of a real tumour."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as st
from stpredict._sections.anndata import section_from_anndata


@pytest.fixture
def tissue():
    """A 12 × 12 lattice of three stripes of 6, 4 and 2 columns, and an embedding that tells them apart."""
    return make_tissue()


def make_tissue(seed=0, noise=0.3, name="one"):
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(144), 12)
    stripe = np.digitize(column, [6, 10])
    adata = ad.AnnData(rng.poisson(5, (144, 4)).astype(np.float32))
    adata.obs_names = [f"{name}_{i}" for i in range(144)]
    adata.obs["stripe"] = pd.Categorical(np.array(["wide", "middle", "narrow"])[stripe])
    adata.obsm["spatial"] = np.column_stack([column, row]) * 100.0
    adata.obsm["X_st_align"] = (5 * np.eye(3)[stripe] + noise * rng.standard_normal((144, 3))).astype(np.float32)
    adata.uns["spatial"] = {name: {"images": {}, "scalefactors": {}, "metadata": {}}}
    return adata


def test_domains_are_found_and_named_by_size(tissue):
    assert st.tl.domains(tissue, n_domains=3) is None
    found = tissue.obs["domains"]
    assert found.cat.categories.tolist() == ["0", "1", "2"]
    assert found.value_counts().loc[["0", "1", "2"]].tolist() == [72, 48, 24]
    assert (
        found.map({"0": "wide", "1": "middle", "2": "narrow"}).astype(str) == tissue.obs["stripe"].astype(str)
    ).all()
    assert tissue.uns["domains"] == {
        "method": "kmeans",
        "use_rep": "X_st_align",
        "parameters": {"n_domains": 3, "refine": False},
        "seed": 0,
        "n_domains": 3,
    }


def test_leiden_finds_the_number_and_leaves_the_users_graph_alone(tissue):
    tissue.uns["neighbors"] = {"connectivities_key": "mine"}
    tissue.obsp["connectivities"] = sparse.eye(144, format="csr")
    before = tissue.copy()
    st.tl.domains(tissue, resolution=0.1, key_added="tissue", label_key="stripe")
    record = tissue.uns.pop("tissue")
    assert (record["method"], record["n_domains"], record["ari"]) == ("leiden", 3, 1.0)
    assert record["parameters"] == {"resolution": 0.1, "refine": False}
    found = tissue.obs.pop("tissue")
    assert found.value_counts().tolist() == [72, 48, 24]
    assert tissue.uns == before.uns
    assert list(tissue.obsp) == ["connectivities"]
    assert (tissue.obsp["connectivities"] != before.obsp["connectivities"]).nnz == 0
    st.tl.domains(tissue, resolution=5.0)
    assert tissue.uns["domains"]["n_domains"] > 3
    first = tissue.obs["domains"].copy()
    st.tl.domains(tissue, resolution=5.0)
    assert (tissue.obs["domains"] == first).all()


def test_same_seed_same_domains(tissue):
    tissue.obsm["blur"] = np.random.default_rng(1).standard_normal((144, 8))
    found = []
    for seed in (0, 0, None):
        st.tl.domains(tissue, use_rep="blur", n_domains=5, seed=seed)
        found.append(tissue.obs["domains"].to_numpy())
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    with st.settings.override(seed=7):
        st.tl.domains(tissue, use_rep="blur", n_domains=5)
    assert tissue.uns["domains"]["seed"] == 7


def test_refining_gives_a_lone_spot_to_those_around_it(tissue):
    lone, edge = 12 * 5 + 2, 12 * 5 + 5  # inside the wide stripe, and its last column
    rep = tissue.obsm["X_st_align"]
    rep[lone] = rep[11]  # as the narrow stripe
    st.tl.domains(tissue, n_domains=3, label_key="stripe")
    assert tissue.obs["domains"].iloc[lone] == "2"
    assert tissue.uns["domains"]["ari"] < 1
    st.tl.domains(tissue, n_domains=3, label_key="stripe", refine=True)
    assert tissue.obs["domains"].iloc[lone] == "0"
    assert tissue.obs["domains"].iloc[edge] == "0"  # 5 of its 8 neighbours are its own
    assert tissue.uns["domains"]["n_refined"] == 1
    assert tissue.uns["domains"]["ari"] == 1


def test_refining_without_a_lattice_asks_the_six_nearest(tissue):
    rng = np.random.default_rng(0)
    tissue.obsm["spatial"] = np.concatenate([rng.uniform(0, 10, (72, 2)), rng.uniform(90, 100, (72, 2))])
    tissue.obsm["X_st_align"] = np.repeat(np.eye(2), 72, axis=0) + 0.01 * rng.standard_normal((144, 2))
    tissue.obsm["X_st_align"][[3, 100]] = tissue.obsm["X_st_align"][[100, 3]]
    st.tl.domains(tissue, n_domains=2, refine=True)
    assert tissue.uns["domains"]["n_refined"] == 2
    assert tissue.obs["domains"].iloc[:72].nunique() == 1


def test_sections_are_clustered_together_and_refined_apart():
    """Two sections lie over each other in coordinates; the second has no neighbours from the first."""
    first, second = make_tissue(), make_tissue(seed=1, name="two")
    second.obsm["X_st_align"][:] = first.obsm["X_st_align"][0]  # all of it is the wide stripe of the first
    both = ad.concat([first, second], keys=["one", "two"], label="library_id")
    both.uns["spatial"] = {**first.uns["spatial"], **second.uns["spatial"]}
    st.tl.domains(both, n_domains=3, refine=True)
    assert both.uns["domains"]["n_refined"] == 0
    assert both.obs["domains"].value_counts().tolist() == [144 + 72, 48, 24]
    assert set(both.obs["domains"][both.obs["library_id"] == "two"]) == {"0"}
    both.obs["sample"] = both.obs.pop("library_id")
    with pytest.raises(KeyError, match="pass library_key="):
        st.tl.domains(both, n_domains=3, refine=True)
    st.tl.domains(both, n_domains=3, refine=True, library_key="sample")
    st.tl.domains(both, n_domains=3)  # without a vote, sections do not matter


def test_agreement_counts_labelled_spots_and_every_label(tissue):
    labels = tissue.obs["stripe"].astype(str)
    labels[labels == "narrow"] = "middle"
    labels.iloc[[11, 23]] = "rare / odd"
    labels.iloc[:3] = np.nan
    labels.iloc[3] = "Undetermined"
    tissue.obs["label"] = pd.Categorical(labels)
    st.tl.domains(tissue, n_domains=3, label_key="label")
    record = tissue.uns["domains"]
    assert record["n_labelled"] == 140
    assert record["labels"] == ["middle", "rare / odd", "wide"]
    np.testing.assert_allclose(record["recall"], [1, 0, 1])
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = np.arange(144) > 3
    pair = labels[known].to_numpy(str), tissue.obs["domains"][known].to_numpy(str)
    assert record["ari"] == pytest.approx(adjusted_rand_score(*pair))
    assert record["nmi"] == pytest.approx(normalized_mutual_info_score(*pair))


def test_results_round_trip_and_a_copy_leaves_the_original_alone(tissue, tmp_path, assert_same):
    before = tissue.copy()
    result = st.tl.domains(tissue, n_domains=3, label_key="stripe", refine=True, copy=True)
    assert_same(tissue, before)
    result.write_h5ad(tmp_path / "x.h5ad")
    again = ad.read_h5ad(tmp_path / "x.h5ad")
    assert (again.obs["domains"] == result.obs["domains"]).all()
    assert list(again.uns["domains"]["labels"]) == ["middle", "narrow", "wide"]
    np.testing.assert_array_equal(again.uns["domains"]["recall"], 1)


def test_any_matrix_in_obsm_will_do(tissue):
    st.tl.domains(tissue, n_domains=3, key_added="dense")
    values = tissue.obsm["X_st_align"]
    tissue.obsm["frame"] = pd.DataFrame(values, index=tissue.obs_names, columns=list("abc"))
    tissue.obsm["sparse"] = sparse.csr_matrix(values)
    for key in ("frame", "sparse"):
        st.tl.domains(tissue, use_rep=key, n_domains=3)
        assert (tissue.obs["domains"] == tissue.obs["dense"]).all()


def no_labels(adata):
    adata.obs["empty"] = np.nan


def one_label(adata):
    adata.obs["same"] = ["a"] * 140 + ["undetermined"] * 4


def holes(adata):
    adata.obsm["holes"] = adata.obsm["X_st_align"].copy()
    adata.obsm["holes"][[3, 7], 1] = np.nan


def constant(adata):
    adata.obsm["flat"] = np.ones((144, 5))


def words(adata):
    adata.obsm["words"] = pd.DataFrame({"a": ["x"] * 144}, index=adata.obs_names)


@pytest.mark.parametrize(
    ("prepare", "change", "error", "message"),
    [
        (None, {"use_rep": "X_pca"}, KeyError, r"'spatial', 'X_st_align'. Make one: .*tl\.embed.*pp\.encode.*pp\.pca"),
        (holes, {"use_rep": "holes"}, ValueError, "NaN or infinite values in 2 of 144 spots"),
        (words, {"use_rep": "words"}, ValueError, "must be a matrix of numbers"),
        (constant, {"use_rep": "flat"}, ValueError, "has 1 different spots, from which 3 domains cannot be made"),
        (None, {"n_domains": 1}, ValueError, "between 2 and the number of spots, 144; got 1"),
        (None, {"n_domains": 145}, ValueError, "between 2 and the number of spots, 144; got 145"),
        (None, {"n_domains": 2.5}, TypeError, "whole number, or None"),
        (None, {"n_domains": None, "resolution": 0}, ValueError, "resolution must be a positive number"),
        (None, {"label_key": "layer"}, KeyError, r"no obs\['layer'\]; obs has stripe"),
        (no_labels, {"label_key": "empty"}, ValueError, "has no labels"),
        (one_label, {"label_key": "same"}, ValueError, "has one label only, a"),
        (None, {"key_added": "a/b"}, ValueError, "without '/'"),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(tissue, assert_same, prepare, change, error, message):
    if prepare is not None:
        prepare(tissue)
    before = tissue.copy()
    with pytest.raises(error, match=message):
        st.tl.domains(tissue, **{"n_domains": 3, **change})
    assert_same(tissue, before)


def test_too_few_spots_are_refused(tissue):
    for n in (0, 2):
        with pytest.raises(ValueError, match=f"There are {n} spots; domains need at least 3"):
            st.tl.domains(tissue[:n].copy())


def test_spatialdata_is_divided_alike(section):
    st.pp.tiles(section)
    st.pp.encode(section, show_progress=False)
    sdata = st.io.to_spatialdata(section)
    how = {"use_rep": "X_morphology", "n_domains": 4, "refine": True, "label_key": "region"}
    st.tl.domains(sdata, **how)
    st.tl.domains(section, **how)
    table = sdata.tables["table"]
    assert (table.obs["domains"].to_numpy() == section.obs["domains"].to_numpy()).all()
    assert table.uns["domains"]["ari"] == section.uns["domains"]["ari"] > 0.1


def test_true_expression_around_a_spot_gives_the_simulated_domains(section):
    """The bar of a perfect measurement: what is clustered has no noise, and borders are left out."""

    wide = st.datasets.simulate(region_scale=2, hidden=0.0)
    around = section_from_anndata(wide).neighbours() + sparse.eye(wide.n_obs)
    truth = wide.layers["truth"] - wide.layers["truth"].mean(axis=0)
    wide.obsm["niche"] = sparse.diags(1 / np.asarray(around.sum(axis=1)).ravel()) @ around @ truth
    st.tl.domains(wide, use_rep="niche", n_domains=4, label_key="domain")
    assert wide.uns["domains"]["ari"] > 0.85


def test_expression_finds_cancer_in_situ_in_a_real_section(real):
    import scanpy as sc

    adata = real("her2st_midres", "A1")
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() >= 50].copy()
    log = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(log, n_top_genes=2000)
    sc.pp.pca(log, n_comps=30)
    adata.obsm["X_pca"] = log.obsm["X_pca"]
    st.tl.domains(adata, use_rep="X_pca", n_domains=4, label_key="label")
    record = adata.uns["domains"]
    recall = dict(zip(record["labels"], record["recall"], strict=True))
    assert recall["cancer in situ"] > 0.7
    assert 0.15 < record["ari"] < 0.3
