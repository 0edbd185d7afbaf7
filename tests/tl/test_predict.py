from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as st
from stpredict._core.labels import layer_names

GENES = ["GENE0", "GENE5", "GENE9"]


@pytest.fixture
def model(paired):
    return st.tl.train(paired(3), genes=GENES, method="ridge")


@pytest.fixture
def new(paired):
    """A section that the model has not seen."""
    return paired(4)[3]


def without_counts(adata):
    """The same spots and features, with no genes at all."""
    return AnnData(obs=adata.obs[[]].copy(), obsm=dict(adata.obsm), uns=adata.uns)


def test_everything_lands_where_the_contract_says(model, new):
    st.tl.predict_expression(new, model, std=True)
    predicted = new.layers["predicted"]
    assert predicted.dtype == np.float32
    assert predicted.shape == new.shape
    assert new.var_names[new.var["predicted"]].tolist() == GENES
    assert new.var["predicted"].dtype == bool
    known = new.var["predicted"].to_numpy()
    assert np.isfinite(predicted[:, known]).all()
    assert np.isnan(predicted[:, ~known]).all()
    assert (new.layers["predicted_std"][:, known] > 0).all()
    assert not [key for key in new.obsm if "genes" in key]
    record = new.uns["predicted"]
    assert {k: record[k] for k in ("method", "encoder", "mpp", "units")} == {
        "method": "ridge",
        "encoder": "fake",
        "mpp": 1.0,
        "units": "log1p CP10k",
    }
    assert record["versions"]["stpredict"] == st.__version__
    assert record["parameters"] == {"features": ["X_fake", "X_fake_niche"], "genes": "all", "std": True}
    assert len(record["model_id"]) == 16
    assert pd.Timestamp(record["date"]).tzinfo is not None


def test_predictions_are_in_the_units_of_the_measurement(model, new):
    st.tl.predict_expression(new, model)
    measured = np.log1p(new.X / new.X.sum(axis=1, keepdims=True) * 1e4)
    known = new.var["predicted"].to_numpy()
    np.testing.assert_allclose(new.layers["predicted"][:, known].mean(0), measured[:, known].mean(0), atol=0.6)


def test_counts_of_the_new_section_are_never_looked_at(model, new):
    st.tl.predict_expression(new, model)
    blind = new.copy()
    blind.X = np.full_like(new.X, np.nan)
    st.tl.predict_expression(blind, model)
    np.testing.assert_array_equal(new.layers["predicted"], blind.layers["predicted"])


def test_genes_that_var_lacks_come_back_in_obsm(model, new):
    small = new[:, ["GENE5", "GENE7"]].copy()
    st.tl.predict_expression(new, model)
    st.tl.predict_expression(small, model, std=True)
    frame = small.obsm["predicted_genes"]
    assert frame.columns.tolist() == ["GENE0", "GENE9"]
    np.testing.assert_array_equal(frame["GENE9"], new[:, "GENE9"].layers["predicted"][:, 0])
    np.testing.assert_array_equal(small[:, "GENE5"].layers["predicted"], new[:, "GENE5"].layers["predicted"])
    assert small.obsm["predicted_std_genes"].shape == (new.n_obs, 2)


def test_a_table_that_calls_its_genes_otherwise_is_told_where_they_are(model, new):
    new.var_names = "GRCh38_" + new.var_names
    with pytest.warns(
        UserWarning, match=r"var_names has none of the model's genes: it has GRCh38_.* in obsm\['predicted_genes"
    ):
        st.tl.predict_expression(new, model)
    assert list(new.obsm["predicted_genes"]) == list(model.genes)
    assert np.isnan(new.layers["predicted"]).all()


def test_slide_without_any_genes_gets_all_of_them_in_obsm(model, new):
    bare = without_counts(new)
    st.tl.predict_expression(bare, model)
    assert "predicted" not in bare.layers
    assert bare.obsm["predicted_genes"].columns.tolist() == GENES
    assert np.isfinite(bare.obsm["predicted_genes"].to_numpy()).all()


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.parametrize("bare", [False, True])
def test_results_survive_disk(model, new, tmp_path, ending, bare):
    adata = without_counts(new) if bare else new[:, ["GENE5", "GENE7"]].copy()
    st.tl.predict_expression(adata, model, std=True)
    path = tmp_path / f"a.{ending}"
    getattr(adata, f"write_{ending}")(path)
    again = getattr(anndata, f"read_{ending}")(path)
    pd.testing.assert_frame_equal(again.obsm["predicted_genes"], adata.obsm["predicted_genes"], check_column_type=False)
    assert again.uns["predicted"]["model_id"] == adata.uns["predicted"]["model_id"]
    assert list(again.uns["predicted"]["parameters"]["features"]) == ["X_fake", "X_fake_niche"]
    if not bare:
        np.testing.assert_array_equal(again.layers["predicted"], adata.layers["predicted"])
        assert again.var["predicted"].tolist() == [True, False]


def test_asked_genes_only(model, new):
    small = new[:, ["GENE5", "GENE7"]].copy()
    with pytest.warns(
        UserWarning, match="does not know 2 of the genes asked for; they are NaN: GENE7, NOPE.*method='align_st'"
    ):
        st.tl.predict_expression(small, model, genes=["GENE9", "GENE7", "NOPE", "GENE5"])
    assert small.var["predicted"].tolist() == [True, False]
    assert np.isnan(small[:, "GENE7"].layers["predicted"]).all()
    frame = small.obsm["predicted_genes"]
    assert frame.columns.tolist() == ["GENE9", "NOPE"]
    assert frame["NOPE"].isna().all()
    assert frame["GENE9"].notna().all()


def test_a_later_prediction_leaves_nothing_of_an_earlier_one(model, new):
    small = new[:, ["GENE5", "GENE7"]].copy()
    st.tl.predict_expression(small, model, std=True)
    st.tl.predict_expression(small, model, genes=["GENE5"])
    assert layer_names(small) == ["truth", "predicted"]
    assert not [key for key in small.obsm if "genes" in key]


def test_as_anndata_returns_the_genes_in_var(model, new, assert_same):
    small = new[:, ["GENE5", "GENE7"]].copy()
    before = small.copy()
    with pytest.warns(UserWarning, match="NOPE"):
        result = st.tl.predict_expression(small, model, genes=["GENE9", "NOPE", "GENE5"], std=True, as_anndata=True)
    assert_same(small, before)
    assert sorted(result.var_names) == ["GENE5", "GENE9", "NOPE"]
    assert result.var.loc[["GENE5", "GENE9", "NOPE"], "predicted"].tolist() == [True, True, False]
    st.tl.predict_expression(new, model)
    np.testing.assert_array_equal(result[:, "GENE9"].X, new[:, "GENE9"].layers["predicted"])
    np.testing.assert_array_equal(result.layers["predicted"], result.X)
    assert result.layers["predicted_std"].shape == result.shape
    np.testing.assert_array_equal(result.obsm["spatial"], new.obsm["spatial"])
    assert result.uns["predicted"]["method"] == "ridge"
    assert "section3" in result.uns["spatial"]


def test_copy_leaves_the_input_untouched(model, new, assert_same):
    before = new.copy()
    result = st.tl.predict_expression(new, model, copy=True)
    assert_same(new, before)
    assert st.tl.predict_expression(new, model) is None
    np.testing.assert_array_equal(result.layers["predicted"], new.layers["predicted"])


def test_key_added_names_everything(model, new):
    small = new[:, ["GENE5", "GENE7"]].copy()
    st.tl.predict_expression(small, model, key_added="again", std=True)
    assert {"again", "again_std"} <= set(small.layers)
    assert {"again_genes", "again_std_genes"} <= set(small.obsm)
    assert "again" in small.uns
    assert "again" in small.var
    assert "predicted" not in small.uns


def test_each_section_of_one_anndata_is_predicted_on_its_own(paired, model):
    sections = paired(5)[3:]
    for adata in sections:
        adata.obs["library_id"] = next(iter(adata.uns["spatial"]))
    together = anndata.concat(sections, merge="same", uns_merge="first")
    together.uns["spatial"] = {k: v for adata in sections for k, v in adata.uns["spatial"].items()}
    shuffled = together[np.random.default_rng(0).permutation(together.n_obs)].copy()
    st.tl.predict_expression(shuffled, model)
    for adata in sections:
        st.tl.predict_expression(adata, model)
        np.testing.assert_allclose(
            shuffled[adata.obs_names].layers["predicted"], adata.layers["predicted"], rtol=1e-4, atol=1e-5
        )


def test_aliases_and_ensembl_ids_are_resolved(paired):
    train, new = paired(2)
    train.var_names = ["ERBB2", "EPCAM", *train.var_names[2:]]
    model = st.tl.train(train, genes=["ERBB2", "EPCAM"], method="ridge")
    new.var_names = ["ENSG00000141736", "TACSTD1", *new.var_names[2:]]
    st.tl.predict_expression(new, model)
    assert new.var["predicted"].tolist() == [True, True] + [False] * 13
    assert "predicted_genes" not in new.obsm
    st.tl.predict_expression(new, model, genes=["HER2"])
    assert new.var["predicted"].tolist() == [True] + [False] * 14


def test_spatialdata_table_is_written(model, new):
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    shapes = ShapesModel.parse(new.obsm["spatial"], geometry=0, radius=25)
    new.obs["region"] = pd.Categorical(["spots"] * new.n_obs)
    new.obs["instance_id"] = shapes.index.to_numpy()
    new.uns["spatial"] = {"spots": new.uns["spatial"]["section3"]}
    table = TableModel.parse(new, region="spots", region_key="region", instance_key="instance_id")
    sdata = SpatialData(shapes={"spots": shapes}, tables={"table": table})
    changed = st.tl.predict_expression(sdata, model, copy=True)
    assert "predicted" not in sdata["table"].layers
    st.tl.predict_expression(sdata, model)
    np.testing.assert_array_equal(changed["table"].layers["predicted"], sdata["table"].layers["predicted"])


def no_features(adata):
    del adata.obsm["X_fake"]


def other_encoder(adata):
    adata.uns["X_fake"]["encoder_hash"] = "beef"


def other_scale(adata):
    adata.uns["X_fake_niche"]["mpp"] = 3.2


def nan_features(adata):
    adata.obsm["X_fake"][0, 0] = np.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            no_features,
            r"has no features obsm\['X_fake'\].*pp.tiles\(adata, .*\) and stpredict.pp.encode\(adata, 'fake', mpp=1\)",
        ),
        (other_encoder, r"encoder_hash=beef.*other weights"),
        (other_scale, r"mpp=3.2, where the model was trained on 1.*pp.encode\(adata, 'fake', mpp=1\)"),
        (nan_features, "must be a matrix without NaN"),
    ],
)
def test_unfit_features_are_refused_and_nothing_changes(model, new, damage, message, assert_same):
    damage(new)
    before = new.copy()
    with pytest.raises(ValueError, match=message):
        st.tl.predict_expression(new, model, std=True)
    assert_same(new, before)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"genes": ["NOPE"]}, r"knows none of the genes asked for \(NOPE\)"),
        ({"genes": []}, "knows none of the genes"),
        ({"genes": ["GENE0", "GENE0"]}, "GENE0 more than once"),
        ({"key_added": "a/b"}, "without '/'"),
        ({"copy": True, "as_anndata": True}, "pass one"),
        ({"copy": True, "out": "a.zarr"}, "pass one"),
        ({"as_anndata": True, "out": "a.zarr"}, "pass one"),
        ({"out": "a.h5ad"}, r"out must name a zarr store.*got 'a.h5ad'"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_changes(model, new, kwargs, message, assert_same):
    before = new.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            st.tl.predict_expression(new, model, **kwargs)
    assert_same(new, before)


@pytest.mark.parametrize(("n", "message"), [(0, "has no spots"), (1, r"has only 1 spot\(s\)")])
def test_zero_spots_and_one_spot_are_refused(model, new, n, message):
    with pytest.raises(ValueError, match=f"'section3' {message}"):
        st.tl.predict_expression(new[:n].copy(), model)


def test_duplicated_genes_are_refused(model, new):
    new.var_names = ["GENE1", *new.var_names[1:]]
    with pytest.raises(ValueError, match=r"duplicated gene names.*var_names_make_unique"):
        st.tl.predict_expression(new, model)


def test_a_model_of_one_species_refuses_the_other_unless_symbols_are_taken_for_each_other(two_sections):
    train, new = two_sections
    for adata in two_sections:
        adata.obsm["X_f"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4)).astype(np.float32)
    model = st.tl.train(train, genes=["ERBB2", "KRT8"], features="X_f", method="ridge")
    right = st.tl.predict_expression(new, model, as_anndata=True)
    new.var_names = [name.capitalize() for name in new.var_names]
    before = list(new.layers), list(new.uns)
    with pytest.raises(ValueError, match=r"learned human genes, and these data have mouse ones.*ortholog=True"):
        st.tl.predict_expression(new, model)
    assert before == (list(new.layers), list(new.uns))
    st.tl.predict_expression(new, model, ortholog=True)
    columns = new.var_names.get_indexer(["Erbb2", "Krt8"])
    np.testing.assert_array_equal(new.layers["predicted"][:, columns], right[:, ["ERBB2", "KRT8"]].X)


def test_a_model_may_be_given_by_its_path_and_features_must_be_there(two_sections, tmp_path):
    train, new = two_sections
    for adata in two_sections:
        adata.obsm["X_f"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4)).astype(np.float32)
    model = st.tl.train(train, genes=["ERBB2", "KRT8"], features="X_f", method="ridge")
    model.save(tmp_path / "model")
    right = st.tl.predict_expression(new, model, as_anndata=True)
    np.testing.assert_array_equal(st.tl.predict_expression(new, tmp_path / "model", as_anndata=True).X, right.X)
    with pytest.raises(TypeError, match=r"model must be a trained model .* got int"):
        st.tl.predict_expression(new, 3)
    del new.obsm["X_f"]
    with pytest.raises((KeyError, ValueError), match=r"X_f.*stpredict\.pp\.encode"):
        st.tl.predict_expression(new, model)
