"""Cells as spots: segmented outputs of Space Ranger 4, Xenium as spatialdata-io reads it, tables with centroids, HEST."""

from __future__ import annotations

import json
import re

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import tifffile
from geopandas import GeoDataFrame
from PIL import Image
from scipy import sparse
from shapely import Polygon, box
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

import stpredict as st
from stpredict._sections import labelled
from stpredict._sections.labelled import centres_of_labels
from stpredict._sections.open import open_sections

MPP = 0.5
GENES = ["ERBB2", "CD74", "KRT8"]
N = 120


@pytest.fixture(scope="module")
def tissue():
    return next(iter(st.datasets.simulate().uns["spatial"].values()))["images"]["hires"][200:1200, 200:1200]


@pytest.fixture
def places():
    return np.random.default_rng(0).uniform(60, 940, (N, 2))


@pytest.fixture
def counts(tissue, places):
    """Counts that follow the colour below a cell, with cells that have few."""
    red = tissue[places[:, 1].astype(int), places[:, 0].astype(int), 0] / 255
    return np.random.default_rng(1).poisson(np.column_stack([100 * red**3, 100 * (1 - red**3), np.full(N, 0.5)]))


def check_chain(data, table_key=None):
    """Train on cells and predict them, like spots, with windows of the user's own size."""
    st.pp.tiles(data, spot_um=32, niche_um=128, table_key=table_key)
    st.pp.encode(data, table_key=table_key, show_progress=False)
    model = st.tl.train(data, method="ridge", genes=GENES[:2], min_counts=10, table_key=table_key)
    st.tl.predict_expression(data, model, table_key=table_key)
    table = data if table_key is None else data.tables[table_key]
    (geometry,) = table.uns["tiles"].values()
    assert geometry["mpp"] == pytest.approx(MPP)
    predicted = np.asarray(table[:, GENES[:2]].layers["predicted"])
    assert predicted.shape == (N, 2)
    assert np.isfinite(predicted).all()


@pytest.fixture
def segmented(tmp_path, tissue, places, counts):
    """A run with cells alone; the outlines come in another order, with one more."""
    here = tmp_path / "P7" / "outs" / "segmented_outputs"
    (here / "spatial").mkdir(parents=True)
    factors = {"microns_per_pixel": MPP, "tissue_hires_scalef": 0.25, "tissue_lowres_scalef": 0.05}
    (here / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors | {"fiducial_diameter_fullres": 1200}))
    Image.fromarray(tissue[::4, ::4]).save(here / "spatial" / "tissue_hires_image.png")
    Image.fromarray(tissue).save(tmp_path / "slide.png")
    matrix = sparse.csr_matrix(counts)
    with h5py.File(here / "filtered_feature_cell_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"] = np.array([len(GENES), N])
        group["barcodes"] = np.array([f"cellid_{i + 1:09d}-1" for i in range(N)], dtype="S")
        for key, values in {"id": GENES, "name": GENES, "feature_type": ["Gene Expression"] * 3}.items():
            group[f"features/{key}"] = np.array(values, dtype="S")
        group["features/genome"] = np.array(["GRCh38"] * 3, dtype="S")
    corners = np.array([[-8, -6], [8, -6], [8, 6], [-8, 6], [-8, -6]])
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [(xy + corners).tolist()]},
            "properties": {"cell_id": i + 1},
        }
        for i, xy in enumerate([*places, [500.0, 500.0]])
    ][::-1]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (here / "cell_segmentations.geojson").write_text(text)
    return here


@pytest.mark.parametrize("start", ["outs", "segmented_outputs"])
def test_segmented_cells_are_read_at_the_centres_of_their_outlines(tmp_path, segmented, places, counts, start):
    path = segmented if start == "segmented_outputs" else segmented.parent
    with pytest.warns(UserWarning, match="1 of 121 cells, which have an outline and no counts"):
        adata = st.read_visium(path, image=tmp_path / "slide.png")
    np.testing.assert_allclose(adata.obsm["spatial"], places)
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert list(adata.uns["spatial"]) == ["P7"]
    check_chain(adata)


def test_outlines_that_are_missing_or_damaged(segmented):
    path = segmented / "cell_segmentations.geojson"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({"features": whole["features"][:50]}))
    with pytest.raises(ValueError, match=r"71 of 120 cells .* no outline .*same run"):
        st.read_visium(segmented)
    for text in ("[]", "{", '{"features": [{"geometry": {"type": "Polygon"}, "properties": {"cell_id": 1}}]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"geojson is damaged or holds no outlines"):
            st.read_visium(segmented)
    path.unlink()
    with pytest.raises(ValueError, match=r"geojson is damaged or holds no outlines"):
        st.read_visium(segmented)


def xenium(tissue, places, counts, *, chunked=False):
    """As spatialdata-io reads it: the table annotates labels in pixels of DAPI, and has centroids in µm."""
    dapi = 0.25
    factor = MPP / dapi
    labels = np.zeros((2000, 2000), dtype=np.uint32)
    for number, (x, y) in enumerate(np.rint(places * factor).astype(int), start=1):
        labels[y - 5 : y + 5, x - 5 : x + 5] = number
    if chunked:
        from dask import array as da

        labels = da.from_array(labels, chunks=300)
    morphology = np.random.default_rng(0).integers(1, 4000, (1, 2000, 2000)).astype(np.uint16)
    names = [f"aaaa{i}-1" for i in range(N)]
    obs = pd.DataFrame({"cell_id": names, "cell_labels": np.arange(1, N + 1)}, index=names)
    obs["region"] = pd.Categorical(["cell_labels"] * N)
    table = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))
    table.obsm["spatial"] = places * MPP
    return sd.SpatialData(
        images={
            "morphology_focus": Image2DModel.parse(
                morphology, dims=("c", "y", "x"), c_coords=["DAPI"], transformations={"global": Identity()}
            ),
            "he_image": Image2DModel.parse(
                np.moveaxis(tissue, -1, 0),
                dims=("c", "y", "x"),
                c_coords=["r", "g", "b"],
                transformations={"global": Scale([factor, factor], axes=("x", "y"))},
            ),
        },
        labels={"cell_labels": Labels2DModel.parse(labels, dims=("y", "x"), transformations={"global": Identity()})},
        tables={
            "table": TableModel.parse(table, region="cell_labels", region_key="region", instance_key="cell_labels")
        },
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_cells_of_xenium_lie_at_the_centroids_of_their_labels_on_the_he_image(tissue, places, counts, chunked):
    sdata = xenium(tissue, places, counts, chunked=chunked)
    (section,) = open_sections(sdata, mpp=MPP)
    own = centres_of_labels(sdata.labels["cell_labels"], "cell_labels")
    assert own.index.tolist() == list(range(1, N + 1))
    apart = np.abs(section.centres - places).max(axis=1)
    # (a cell that another overlaps is smaller than it was drawn)
    assert np.quantile(apart, 0.9) < 0.5
    assert "he_image" in section.image.source
    assert section.mpp == MPP


def test_labels_are_averaged_over_the_blocks_that_they_are_read_in(monkeypatch):
    """A cell across four blocks, one in an empty row of blocks, and numbers that are not in order."""
    monkeypatch.setattr(labelled, "BLOCK", 16)
    image = np.zeros((40, 56), dtype=np.int32)
    image[10:20, 12:26] = 7
    image[34, 50] = 2
    found = centres_of_labels(Labels2DModel.parse(image, dims=("y", "x")), "cells")
    assert found.index.tolist() == [2, 7]
    np.testing.assert_allclose(found, [[50.5, 34.5], [19, 15]])
    assert len(centres_of_labels(Labels2DModel.parse(np.zeros_like(image), dims=("y", "x")), "cells")) == 0
    for number, fine in ((-1, False), (labelled.LARGEST, False), (2000, True)):
        image[0, 0] = number
        labels = Labels2DModel.parse(image, dims=("y", "x"))
        if fine:
            assert centres_of_labels(labels, "cells").loc[number].tolist() == [0.5, 0.5]
        else:
            with pytest.raises(ValueError, match="Labels 'cells' have numbers outside of 1"):
                centres_of_labels(labels, "cells")


def test_xenium_is_tiled_trained_on_and_predicted(tissue, places, counts):
    sdata = xenium(tissue, places, counts)
    with pytest.raises(ValueError, match=r"scale .* is unknown. Pass mpp="):
        st.pp.tiles(sdata)
    st.pp.tiles(sdata, mpp=MPP, spot_um=32, niche_um=128)
    st.pp.encode(sdata, show_progress=False)
    model = st.tl.train(sdata, method="ridge", genes=GENES[:2], min_counts=10)
    st.tl.predict_expression(sdata, model)
    predicted = np.asarray(sdata.tables["table"][:, GENES[:2]].layers["predicted"])
    truth = np.log1p(1e4 * counts[:, :2] / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    assert np.corrcoef(predicted[:, 0], truth[:, 0])[0, 1] > 0.5


def test_the_scale_of_xenium_is_that_of_the_centroids_in_its_table(tissue, places, counts):
    """The reader's table has them in µm, beside areas that tell so; pixels in their place are not believed."""
    sdata = xenium(tissue, places, counts)
    table = sdata.tables["table"]
    table.obs["transcript_counts"], table.obs["cell_area"] = 100, 100.0
    (section,) = open_sections(sdata)
    assert section.mpp == pytest.approx(MPP, rel=0.01)
    assert section.mpp_source == "obsm['spatial'] in µm"
    for wrong in (places * MPP * 4.7, places[::-1] * MPP):
        table.obsm["spatial"] = wrong
        with pytest.raises(ValueError, match=r"scale .* is unknown. Pass mpp="):
            st.pp.tiles(sdata)


def test_centroids_in_microns_are_not_taken_for_pixels(tmp_path, tissue, places, counts):
    tifffile.imwrite(tmp_path / "slide.tif", tissue, photometric="rgb", resolution=(2e4, 2e4), resolutionunit=3)
    obs = pd.DataFrame(places * MPP, columns=["x_centroid", "y_centroid"], index=[f"c{i}" for i in range(N)])
    obs["transcript_counts"], obs["cell_area"] = 100, 100.0
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))
    adata.uns["spatial"] = {"s": {"metadata": {"source_image_path": str(tmp_path / "slide.tif")}}}
    adata.obsm["spatial"] = places * MPP
    with pytest.raises(
        ValueError, match=r"centroids that Xenium writes, in µm .* pixels \(x, y\) of the H&E image are needed"
    ):
        st.pp.tiles(adata)
    adata.obsm["spatial"] = places
    check_chain(adata)


def visium_hd_cells(tissue, places, counts, *, bins=True, drawn=1.0):
    """As spatialdata-io reads it: polygons by barcode, and squares of the bins, in pixels of the full image."""
    names = [f"cellid_{i + 1:09d}-1" for i in range(N)]
    obs = pd.DataFrame({"cell_id": names, "region": pd.Categorical(["run_cell_segmentations"] * N)}, index=names)
    table = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))
    corners = np.array([[-8, -6], [8, -6], [8, 6], [-8, 6]])
    outlines = GeoDataFrame(geometry=[Polygon(place + corners) for place in places / drawn], index=names)
    to_image = {"run": Scale([drawn, drawn], axes=("x", "y"))}
    shapes = {"run_cell_segmentations": ShapesModel.parse(outlines, transformations=to_image)}
    if bins:
        for um in (2, 8):
            side = um / MPP
            squares = GeoDataFrame(geometry=[box(x, x, x + side, x + side) for x in side * np.arange(1, 4)])
            shapes[f"run_square_{um:03d}um"] = ShapesModel.parse(squares, transformations={"run": Identity()})
    he = Image2DModel.parse(
        np.moveaxis(tissue, -1, 0), dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations={"run": Identity()}
    )
    of_cells = TableModel.parse(table, region="run_cell_segmentations", region_key="region", instance_key="cell_id")
    return sd.SpatialData(images={"run_full_image": he}, shapes=shapes, tables={"cell_segmentations": of_cells})


@pytest.mark.parametrize("drawn", [1.0, 4.0])
def test_cells_of_visium_hd_have_the_scale_of_the_bins_beside_them(tissue, places, counts, drawn):
    sdata = visium_hd_cells(tissue, places, counts, drawn=drawn)
    (section,) = open_sections(sdata)
    np.testing.assert_allclose(section.centres, places, atol=1e-6)
    assert section.mpp == pytest.approx(MPP)
    assert section.mpp_source == "size of the bins"
    if drawn == 1:
        check_chain(sdata, "cell_segmentations")


def test_cells_of_visium_hd_without_bins_need_their_scale(tissue, places, counts):
    with pytest.raises(ValueError, match=r"scale .* is unknown. Pass mpp="):
        st.pp.tiles(visium_hd_cells(tissue, places, counts, bins=False))


def test_a_table_of_cells_needs_only_the_slide_and_its_scale(tmp_path, tissue, places, counts):
    """Also where cells crowd so evenly that they look like a lattice: their distances say nothing of the scale."""
    tifffile.imwrite(tmp_path / "slide.tif", tissue, photometric="rgb", resolution=(2e4, 2e4), resolutionunit=3)
    x, y = np.meshgrid(np.arange(12), np.arange(10))
    even = np.column_stack([x.ravel(), y.ravel()]) * 60.0 + 150
    for centres in (places, even):
        adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=GENES))
        adata.obsm["spatial"] = centres
        with pytest.raises(ValueError, match="no H&E image") as error:
            st.pp.tiles(adata)
        follow(str(error.value), adata, tmp_path / "slide.tif")
        check_chain(adata)


def follow(message, adata, slide):
    """Do what the message says, to the letter."""
    advice = re.search(r"(adata\.uns.* = )'slide\.tif'", message)[1]
    exec(f"{advice}{str(slide)!r}", {"adata": adata})


def test_hest_needs_only_the_slide(tmp_path, tissue, places, counts):
    """An h5ad of HEST-1k: one library ``ST`` with a small image of another name and no metadata, and the slide beside it."""
    tifffile.imwrite(tmp_path / "slide.tif", tissue, photometric="rgb", resolution=(2e4, 2e4), resolutionunit=3)
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=GENES))
    adata.obsm["spatial"] = places
    small = {"downscaled_fullres": tissue[::4, ::4]}
    factors = {"tissue_downscaled_fullres_scalef": 0.25, "spot_diameter_fullres": 110.0}
    adata.uns["spatial"] = {"ST": {"images": small, "scalefactors": factors}}
    adata.write_h5ad(tmp_path / "NCBI1.h5ad")
    adata = ad.read_h5ad(tmp_path / "NCBI1.h5ad")
    with pytest.raises(ValueError, match="Section 'ST' has no H&E image") as error:
        st.pp.tiles(adata)
    follow(str(error.value), adata, tmp_path / "slide.tif")
    check_chain(adata)


def test_joined_sections_of_one_library_name_are_told_apart_as_the_message_says(tmp_path, tissue, places, counts):
    """Sections that share the library ``ST`` (HEST) or ``S1``, joined into one: following the message gives both back."""
    tifffile.imwrite(tmp_path / "slide.tif", tissue, photometric="rgb", resolution=(2e4, 2e4), resolutionunit=3)
    parts = {}
    for name, library in (("a", "S1"), ("b", "S1")):
        adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=GENES))
        adata.obsm["spatial"] = places
        adata.uns["spatial"] = {library: {"metadata": {"source_image_path": str(tmp_path / "slide.tif")}}}
        parts[name] = adata
    joined = ad.concat(parts, label="library_id", uns_merge="unique", index_unique="-")
    with pytest.raises(ValueError, match="names 2 sections") as error:
        st.pp.tiles(joined)
    advice = re.search(r"adata\.uns\['spatial'\] = (\{.*?\}) for each", str(error.value))[1]
    for name, adata in parts.items():
        adata.uns["spatial"] = eval(advice.replace("'name'", repr(name)), {"adata": adata})
    joined = ad.concat(parts, label="library_id", uns_merge="unique", index_unique="-")
    st.pp.tiles(joined)
    assert sorted(joined.uns["tiles"]) == ["a", "b"]
