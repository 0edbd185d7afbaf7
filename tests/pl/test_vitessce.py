"""The folder that `pl.vitessce` writes: a store, and a view config that names what is in it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import spatialdata
import zarr
from spatialdata.transformations import get_transformation

import stpredict as st


@pytest.fixture
def folder(mapped, tmp_path):
    """The folder of a section with a prediction, domains and a tumour map, and the section."""
    mapped.layers["predicted"] = mapped.layers["truth"].copy()
    mapped.obsm["predicted_genes"] = pd.DataFrame({"VEGFA": np.arange(float(mapped.n_obs))}, index=mapped.obs_names)
    mapped.obs["domains"] = pd.Categorical(np.where(mapped.obs["region"] == "tumor", "1", "0"))
    mapped.uns["domains_colors"] = ["#ff0000", "#0000ff"]
    st.pl.vitessce(mapped, tmp_path / "section", genes=["VEGFA", "ERBB2"], url="https://lab.org/data/")
    return tmp_path / "section", mapped


def config_of(folder):
    return json.loads((folder / "vitessce.json").read_text())


def test_every_path_of_the_config_is_in_the_store(folder):
    path, _ = folder
    store = zarr.open_group(path / "section.zarr", mode="r")
    datasets = config_of(path)["datasets"]
    assert [dataset["name"] for dataset in datasets] == ["measured", "predicted"]
    for dataset in datasets:
        (file,) = dataset["files"]
        assert (file["fileType"], file["url"]) == ("spatialdata.zarr", "https://lab.org/data/section.zarr")
        options = file["options"]
        assert list(options) == ["obsSpots", "image", "obsSets", "obsFeatureMatrix"]
        columns = options["obsSets"]["obsSets"]
        assert [column["name"] for column in columns] == ["domains", "region", "tumor"]
        for part in (*(options[name] for name in ("obsSpots", "image", "obsFeatureMatrix")), *columns):
            assert part["path"] in store


def test_measured_and_predicted_values_lie_where_the_config_says(folder, log_cp10k):
    path, adata = folder
    store = zarr.open_group(path / "section.zarr", mode="r")
    before, after = (
        store[dataset["files"][0]["options"]["obsFeatureMatrix"]["path"]][:] for dataset in config_of(path)["datasets"]
    )
    table = spatialdata.read_zarr(path / "section.zarr").tables["predicted"]
    assert list(table.var_names) == ["VEGFA", "ERBB2"]
    assert set(table.obs["region"]) >= set(adata.obs["region"].astype(str)) - {"nan"}
    assert list(table.obs["domains"].astype(str)) == list(adata.obs["domains"].astype(str))
    np.testing.assert_allclose(before[:, 1], log_cp10k(adata, "ERBB2"), rtol=1e-6)
    assert np.isnan(before[:, 0]).all()  # was not measured
    np.testing.assert_array_equal(after[:, 0], np.arange(adata.n_obs))
    np.testing.assert_array_equal(after[:, 1], adata.layers["predicted"][:, adata.var_names == "ERBB2"].ravel())


def test_every_view_draws_a_dataset_and_shares_the_gene_the_colours_and_the_place(folder):
    path, _ = folder
    config = config_of(path)
    space = config["coordinationSpace"]
    for view in config["layout"]:
        for kind, scope in view["coordinationScopes"].items():
            assert all(one in space[kind] for one in ([scope] if isinstance(scope, str) else scope))
        assert view["x"] + view["w"] <= 12
    assert [view["component"] for view in config["layout"]][:3] == ["spatialBeta", "spatialBeta", "featureList"]
    one, other = (view["coordinationScopes"] for view in config["layout"][:2])
    assert {kind for kind in one if one[kind] != other[kind]} == {"dataset"}
    assert space["featureSelection"] == {"A": ["VEGFA"]}
    colours = {tuple(entry["path"]): entry["color"] for entry in space["obsSetColor"]["A"]}
    assert (colours["domains", "0"], colours["domains", "1"]) == ([255, 0, 0], [0, 0, 255])


def test_slide_and_spots_lie_on_each_other_in_microns(section, tmp_path):
    section.uns["spatial"]["sim_1"]["images"]["hires"] = section.uns["spatial"]["sim_1"]["images"]["hires"][::2, ::2]
    section.uns["spatial"]["sim_1"]["scalefactors"]["tissue_hires_scalef"] = 0.5
    st.pl.vitessce(section, tmp_path / "section", genes="ERBB2", predicted="truth")
    sdata = spatialdata.read_zarr(tmp_path / "section" / "section.zarr")
    spots, (image,) = sdata.shapes["spots"], sdata.images.values()
    np.testing.assert_allclose(np.stack([spots.geometry.x, spots.geometry.y], axis=1), section.obsm["spatial"])
    assert list(spots.index) == list(section.obs_names)
    for element, microns in ((spots, 1.0), (image, 2.0)):
        matrix = get_transformation(element, "microns").to_affine_matrix(("x", "y"), ("x", "y"))
        np.testing.assert_allclose(matrix, np.diag([microns, microns, 1]), rtol=0.01)


def test_a_section_without_counts_is_one_map(section, tmp_path):
    predicted = section[:, ["ERBB2"]].copy()
    predicted.layers = {"predicted": section[:, ["ERBB2"]].layers["truth"].copy()}
    predicted.X = predicted.layers["predicted"].copy()
    st.pl.vitessce(predicted, tmp_path / "section")
    config = config_of(tmp_path / "section")
    assert [dataset["name"] for dataset in config["datasets"]] == ["predicted"]
    assert [view["component"] for view in config["layout"]] == [
        "spatialBeta",
        "featureList",
        "layerControllerBeta",
    ]


def test_columns_and_sections_may_have_any_name(section, tmp_path):
    section.obs["Tissue type"] = section.obs["tissue/type"] = section.obs["region"]
    section.uns["spatial"] = {"Block A (1)": section.uns["spatial"].pop("sim_1")}
    names = ["Tissue type", "tissue/type", "region"]
    st.pl.vitessce(section, tmp_path / "section", genes="ERBB2", predicted="truth", columns=names)
    config = config_of(tmp_path / "section")
    assert config["name"] == "Block A (1)"
    columns = config["datasets"][0]["files"][0]["options"]["obsSets"]["obsSets"]
    assert [column["name"] for column in columns] == names
    obs = spatialdata.read_zarr(tmp_path / "section" / "section.zarr").tables["predicted"].obs
    for column in columns:
        written = obs[column["path"].rpartition("/")[2]]
        assert list(written.astype(str)) == list(section.obs["region"].astype(str))


def test_without_an_image_there_is_none_in_the_config(section, tmp_path):
    section.uns["spatial"]["sim_1"]["images"] = {}
    section.uns["spatial"]["sim_1"]["metadata"].pop("source_image_path", None)
    st.pl.vitessce(section, tmp_path / "section", genes="ERBB2", predicted="truth")
    config = config_of(tmp_path / "section")
    assert "image" not in config["datasets"][0]["files"][0]["options"]
    assert "imageLayer" not in config["coordinationSpace"]
    assert "metaCoordinationScopes" not in config["layout"][0]["coordinationScopes"]


def test_names_of_spots_must_be_unique(section, tmp_path):
    section.obs_names = ["spot", "spot", *section.obs_names[2:]]
    with pytest.raises(ValueError, match=r"not unique; run adata\.obs_names_make_unique"):
        st.pl.vitessce(section, tmp_path / "section", genes="ERBB2", predicted="truth")
    assert list(tmp_path.iterdir()) == []


def test_only_a_folder_of_its_own_is_replaced(section, tmp_path):
    st.pl.vitessce(section, tmp_path / "section", genes="ERBB2", predicted="truth")
    (tmp_path / "section" / ".DS_Store").touch()
    st.pl.vitessce(section, tmp_path / "section", genes="COL1A1", predicted="truth")
    assert config_of(tmp_path / "section")["coordinationSpace"]["featureSelection"] == {"A": ["COL1A1"]}
    (tmp_path / "section" / "notes.txt").write_text("mine")
    for name in (".env", "section.zarr"):  # a hidden file or a store of the user's alone
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
    for kept in ("section/notes.txt", ".env/.env", "section.zarr/section.zarr"):
        with pytest.raises(FileExistsError, match="holds something else than"):
            st.pl.vitessce(section, (tmp_path / kept).parent, genes="ERBB2", predicted="truth")
        assert (tmp_path / kept).read_text() == "mine"


def test_columns_of_numbers_are_refused_and_nothing_is_written(section, tmp_path):
    with pytest.raises(ValueError, match=r"truth_nuclei.* holds numbers"):
        st.pl.vitessce(section, tmp_path / "section", genes="ERBB2", predicted="truth", columns="truth_nuclei")
    assert list(tmp_path.iterdir()) == []
