"""Visium HD as Space Ranger writes it: bins on a slightly rotated lattice, in three sizes, with their slide."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

import stpredict as st
from stpredict._sections.open import open_sections

MPP = 0.5
TILT = np.deg2rad(1.3)
CORNER = np.array([130.0, 40.0])
GENES = ["ERBB2", "CD74", "COL1A1", "MKI67"]


def centres_of(row, column, um):
    """Centres (x, y) of bins in pixels of the slide."""
    x, y = (column + 0.5) * um / MPP, (row + 0.5) * um / MPP
    return CORNER + np.column_stack([np.cos(TILT) * x - np.sin(TILT) * y, np.sin(TILT) * x + np.cos(TILT) * y])


def write_bins(folder, um, across, *, outside=1):
    """Bins of one size; the first `outside` rows of them are not in tissue, and the count matrix lacks them."""
    here = folder / "binned_outputs" / f"square_{um:03d}um"
    (here / "spatial").mkdir(parents=True)
    row, column = np.divmod(np.arange(across * across), across)
    xy = centres_of(row, column, um)
    table = pd.DataFrame(
        {
            "barcode": [f"s_{um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)],
            "in_tissue": (row >= outside).astype(int),
            "array_row": row,
            "array_col": column,
            "pxl_row_in_fullres": xy[:, 1],
            "pxl_col_in_fullres": xy[:, 0],
        }
    )
    table.to_parquet(here / "spatial" / "tissue_positions.parquet", index=False)
    factors = {
        "spot_diameter_fullres": um / MPP,
        "bin_size_um": float(um),
        "microns_per_pixel": MPP,
        "regist_target_img_scalef": 0.25,
        "tissue_lowres_scalef": 0.05,
        "fiducial_diameter_fullres": 1200.0,
        "tissue_hires_scalef": 0.25,
    }
    (here / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    inside = table[table["in_tissue"] == 1]
    counts = sparse.csr_matrix(np.random.default_rng(um).poisson(0.7, (len(inside), len(GENES))))
    with h5py.File(here / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(counts, key)
        group["shape"] = np.array([len(GENES), len(inside)])
        group["barcodes"] = np.array(inside["barcode"].tolist(), dtype="S")
        features = {"id": GENES, "name": GENES, "feature_type": ["Gene Expression"] * 4, "genome": ["GRCh38"] * 4}
        for key, values in features.items():
            group[f"features/{key}"] = np.array(values, dtype="S")
    return SimpleNamespace(folder=here, positions=inside.set_index("barcode"), counts=counts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run over 400 × 400 µm of simulated tissue, with bins of 2, 8 and 16 µm."""
    folder = tmp_path_factory.mktemp("hd") / "outs"
    tissue = next(iter(st.datasets.simulate().uns["spatial"].values()))["images"]["hires"][200:1200, 200:1200]
    bins = {um: write_bins(folder, um, 400 // um) for um in (2, 8, 16)}
    for one in bins.values():
        for key, step in (("hires", 4), ("lowres", 20)):
            Image.fromarray(tissue[::step, ::step]).save(one.folder / "spatial" / f"tissue_{key}_image.png")
    Image.fromarray(tissue).save(folder.parent / "slide.png")
    with h5py.File(folder / "run_feature_slice.h5", "w") as file:
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": json.dumps({"file_format": "1.0"})})
    return SimpleNamespace(folder=folder, slide=folder.parent / "slide.png", bins=bins)


@pytest.mark.parametrize("um", [2, 8, 16])
def test_bins_of_every_size_on_a_tilted_lattice(run, um):
    adata = st.read_visium(run.folder, image=run.slide, bin_um=um, library_id="hd")
    bins = run.bins[um]
    assert adata.obs_names.tolist() == bins.positions.index.tolist()
    np.testing.assert_array_equal(adata.X.toarray(), bins.counts.toarray())
    places = adata.obs[["array_row", "array_col"]].to_numpy()
    np.testing.assert_allclose(adata.obsm["spatial"], centres_of(places[:, 0], places[:, 1], um))
    st.pp.tiles(adata)
    geometry = adata.uns["tiles"]["hd"]
    assert geometry["mpp"] == MPP
    assert geometry["mpp_source"] == "scalefactors['microns_per_pixel']"
    (section,) = open_sections(adata)
    assert section.lattice.kind == "square"
    assert section.lattice.pitch_px == pytest.approx(um / MPP, rel=1e-3)


def test_scale_is_found_from_the_tilted_bins_alone(run):
    adata = st.read_visium(run.folder, image=run.slide, bin_um=8)
    del adata.uns["spatial"][next(iter(adata.uns["spatial"]))]["scalefactors"]["microns_per_pixel"]
    (section,) = open_sections(adata)
    assert section.mpp_source == "spot lattice"
    assert section.mpp == pytest.approx(MPP, rel=1e-3)


def test_fine_bins_see_what_coarse_bins_see(run):
    """Features are those of the window around the centre, however dense the bins are: four 2 µm bins meet in a corner."""
    fine, coarse = (st.read_visium(run.folder, image=run.slide, bin_um=um) for um in (2, 8))
    for adata in (fine, coarse):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    assert fine.obsm["X_morphology"].shape == (200 * 199, coarse.obsm["X_morphology"].shape[1])
    row, column = coarse.obs["array_row"].to_numpy() * 4 + 1, coarse.obs["array_col"].to_numpy() * 4 + 1
    for key in ("X_morphology", "X_morphology_niche"):
        corners = [
            fine[[f"s_002um_{r:05d}_{c:05d}-1" for r, c in zip(row + i, column + j, strict=True)]].obsm[key]
            for i in (0, 1)
            for j in (0, 1)
        ]
        mean, spread = np.mean(corners, axis=0), coarse.obsm[key].std(axis=0)
        assert np.median(np.abs(mean - coarse.obsm[key]) / np.maximum(spread, 1e-3)) < 0.02


def test_hd_as_spatialdata_gives_the_same_predictions(run, tmp_path):
    visium_hd = pytest.importorskip("spatialdata_io").visium_hd
    train = st.datasets.simulate()
    st.pp.tiles(train)
    st.pp.encode(train, show_progress=False)
    model = st.tl.train(train, genes=GENES[:3], method="ridge")
    adata = st.read_visium(run.folder, image=run.slide, bin_um=8)
    sdata = visium_hd(run.folder, fullres_image_file=run.slide, load_segmentations_only=False, bin_size=[8, 16])
    assert sorted(sdata.tables) == ["square_008um", "square_016um"]
    table = sdata["square_008um"]
    for data, key in ((adata, None), (sdata, "square_008um")):
        st.pp.tiles(data, table_key=key)
        st.pp.encode(data, table_key=key, show_progress=False)
    assert table.uns["tiles"]["run_square_008um"]["mpp"] == pytest.approx(MPP, rel=1e-3)
    assert table.uns["tiles"]["run_square_008um"]["mpp_source"] == "spot lattice"
    one, other = tmp_path / "a.zarr", tmp_path / "b.zarr"
    st.tl.predict_expression(adata, model, out=one)
    st.tl.predict_expression(sdata, model, table_key="square_008um", out=other)
    import anndata

    one, other = anndata.read_zarr(one), anndata.read_zarr(other)
    assert other.uns["spatialdata_attrs"]["region"] == "run_square_008um"
    np.testing.assert_allclose(other[one.obs_names].X, one.X, atol=0.02)
    sdata["predicted"] = other  # annotates the same squares
    assert sdata["predicted"].n_obs == adata.n_obs


def test_a_hundred_thousand_bins_are_read_and_laid_out_in_seconds(tmp_path):
    Image.new("RGB", (5400, 5400), (230, 200, 220)).save(tmp_path / "slide.png")
    bins = write_bins(tmp_path / "outs", 8, 320, outside=0)
    start = time.perf_counter()
    adata = st.read_visium(tmp_path / "outs", image=tmp_path / "slide.png")
    st.pp.tiles(adata)
    assert time.perf_counter() - start < 30
    assert adata.n_obs == len(bins.positions) == 102_400


def test_dense_bins_are_encoded_in_smaller_blocks(run, monkeypatch):
    from stpredict.pp._encoders import morphology_encoder

    whole = st.read_visium(run.folder, image=run.slide, bin_um=8)
    st.pp.tiles(whole)
    split = whole.copy()
    st.pp.encode(whole, show_progress=False)
    monkeypatch.setattr(morphology_encoder, "SPOTS_PER_BLOCK", 1000)
    monkeypatch.setattr(morphology_encoder, "LEAST_BLOCK_PX", 64)
    blocks = []
    describe = morphology_encoder.MorphologyEncoder._open

    def counted(encoder, section, rows, windows):
        blocks.append(len(rows))
        return describe(encoder, section, rows, windows)

    monkeypatch.setattr(morphology_encoder.MorphologyEncoder, "_open", counted)
    st.pp.encode(split, show_progress=False)
    assert len(blocks) > 2
    assert max(blocks) <= 1000
    assert sum(blocks) == whole.n_obs
    np.testing.assert_allclose(split.obsm["X_morphology"], whole.obsm["X_morphology"], atol=2e-3)
