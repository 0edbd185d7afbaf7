"""Pseudo-spots: where they lie, and that everything downstream takes them for spots."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict._sections.scale import find_lattice

MPP = 2.0
SIDE = 1000


@pytest.fixture(scope="module")
def disc():
    """Glass with a disc of tissue, 600 µm in radius, around (900, 1100) µm."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) * MPP
    image = np.full((SIDE, SIDE, 3), 245, np.uint8)
    image[np.hypot(x - 900, y - 1100) < 600] = (180, 90, 160)
    return image


@pytest.fixture
def slide(tmp_path, disc):
    options = {"tile": (128, 128), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(tmp_path / "disc.tif") as tif:
        for step in (1, 2, 4):
            tif.write(disc[::step, ::step], subfiletype=int(step > 1), resolution=(1e4 / MPP / step,) * 2, **options)
    return st.read_wsi(tmp_path / "disc.tif")


@pytest.mark.parametrize(("layout", "neighbours", "area"), [("hexagonal", 6, np.sqrt(0.75)), ("square", 4, 1.0)])
@pytest.mark.parametrize("pitch", [30.0, 100.0])
def test_spots_lie_on_the_tissue_and_on_a_lattice(slide, layout, neighbours, area, pitch):
    adata = st.io.grid(slide, pitch_um=pitch, layout=layout)
    assert adata.n_vars == 0
    assert adata.obs_names.is_unique
    centres = adata.obsm["spatial"] * MPP
    distance = np.hypot(*(centres - [900, 1100]).T)
    assert distance.max() < 600 + pitch / 2
    assert adata.n_obs == pytest.approx(np.pi * 600**2 / (area * pitch**2), rel=0.1)
    assert (adata.obs["tissue_fraction"] >= 0.5).all()
    assert (adata.obs["tissue_fraction"][distance < 500 - pitch] == 1).all()
    lattice = find_lattice(adata.obsm["spatial"])
    assert lattice.kind == layout
    assert lattice.pitch_px == pytest.approx(pitch / MPP)
    (section,) = open_sections(adata)
    degree = np.asarray(section.neighbours(reach=1.2).sum(axis=1)).ravel()
    assert (degree[distance < 500 - pitch] == neighbours).all()
    assert section.mpp == MPP
    assert section.spot_diameter * MPP == pytest.approx(0.55 * pitch)
    st.pp.tiles(adata)
    assert adata.uns["tiles"]["disc"]["mpp"] == MPP


def test_array_columns_are_counted_as_space_ranger_does(slide):
    obs = st.io.grid(slide).obs
    assert ((obs["array_row"] + obs["array_col"]) % 2 == 0).all()


def test_min_tissue(slide):
    few, usual, all_touched = (st.io.grid(slide, min_tissue=share).n_obs for share in (1.0, 0.5, 0.0))
    assert few < usual < all_touched < 400


@pytest.mark.parametrize("pitch", [50.0, 130.0, 300.0, 700.0, 2000.0])
@pytest.mark.parametrize("layout", ["hexagonal", "square"])
def test_any_pitch_gives_spots_that_are_accepted(slide, pitch, layout):
    adata = st.io.grid(slide, pitch_um=pitch, layout=layout, min_tissue=0.1)
    st.pp.tiles(adata)
    assert adata.uns["tiles"]["disc"]["mpp"] == MPP


def test_slide_without_tissue(tmp_path):
    Image.fromarray(np.full((300, 300, 3), 243, np.uint8)).save(tmp_path / "glass.png")
    with pytest.raises(ValueError, match=r"No tissue was found on slide 'glass'.*tissue_mask"):
        st.io.grid(st.read_wsi(tmp_path / "glass.png", 4.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pitch_um": 0}, "pitch_um must be positive"),
        ({"pitch_um": float("nan")}, "pitch_um must be positive"),
        ({"pitch_um": 1.5}, "finer than the pixels"),
        ({"spot_um": 20}, "spot_um must lie between 35.7 and 125 µm"),
        ({"min_tissue": 1.5}, "min_tissue is a share"),
        ({"layout": "round"}, "layout must be one of"),
        ({"pitch_um": 5000, "min_tissue": 1.0}, "lower min_tissue or pitch_um"),
        ({"mpp": 100.0}, "outside of 0.05–20"),
    ],
)
def test_wrong_sizes(slide, wrong, message):
    with pytest.raises(ValueError, match=message):
        st.io.grid(slide, **wrong)


def test_a_section_with_spots_is_covered_anew(section):
    before = section.copy()
    adata = st.io.grid(section, pitch_um=40)
    assert adata.n_obs > 2 * section.n_obs
    assert adata.uns["spatial"]["sim_1"]["metadata"]["spot_pitch_um"] == 40
    pd.testing.assert_frame_equal(section.obs, before.obs)
    assert section.uns["spatial"]["sim_1"]["metadata"] == before.uns["spatial"]["sim_1"]["metadata"]


def test_one_of_several_slides(two_sections):
    both = anndata.concat(
        two_sections, label="library_id", keys=["sim_1", "sim_2"], uns_merge="unique", index_unique="-"
    )
    with pytest.raises(ValueError, match="holds 2 sections"):
        st.io.grid(both)
    assert list(st.io.grid(both, library_id="sim_2").uns["spatial"]) == ["sim_2"]


def test_predictions_maps_and_files(slide, section, tmp_path, assert_same):
    """The whole way on a slide without spots or genes, in place and as a new AnnData."""
    train = section
    adata = st.io.grid(slide, pitch_um=80)
    for one in (train, adata):
        st.pp.tiles(one)
        st.pp.encode(one, show_progress=False)
    model = st.tl.train(train, genes=["ERBB2", "COL1A1", "EPCAM"], method="ridge")
    new = st.tl.predict_expression(adata, model, as_anndata=True)
    st.tl.predict_expression(adata, model, std=True)
    np.testing.assert_array_equal(new.layers["predicted"], adata.obsm["predicted_genes"][new.var_names])
    for one in (new, adata):
        st.tl.localize_tumor(one, markers=["ERBB2", "EPCAM"], threshold=0.0)
        st.pl.expression(one, ["EPCAM"], save=tmp_path / "expression.png")
        st.pl.tumor(one, save=tmp_path / "tumor.png")
    np.testing.assert_allclose(new.obs["tumor_score"], adata.obs["tumor_score"])
    st.tl.domains(adata, use_rep="X_morphology")
    st.pl.domains(adata, save=tmp_path / "domains.png")
    st.pl.tiles(adata, save=tmp_path / "tiles.png")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert_same(anndata.read_h5ad(tmp_path / "a.h5ad"), adata)
    assert st.io.to_spatialdata(adata).tables["table"].n_obs == adata.n_obs


def test_predictions_that_are_not_there_are_asked_for(slide):
    adata = st.io.grid(slide)
    with pytest.raises(KeyError, match=r"Call tl\.predict_expression first"):
        st.tl.localize_tumor(adata, markers=["ERBB2"])
    with pytest.raises(KeyError, match=r"Call tl\.predict_expression first"):
        st.pl.expression(adata, "ERBB2")


def test_spatialdata_with_nothing_but_an_image(disc, tmp_path):
    from spatialdata import SpatialData, read_zarr
    from spatialdata.models import Image2DModel

    pixels = np.moveaxis(disc, -1, 0)
    sdata = SpatialData(images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"), scale_factors=[2, 2])})
    with pytest.raises(ValueError, match=r"scale of image 'he' is unknown. Pass mpp="):
        st.io.grid(sdata)
    with pytest.raises(KeyError, match="no image 'if'"):
        st.io.grid(sdata, image_key="if", mpp=MPP)
    with pytest.raises(ValueError, match=r"outside of 0\.05–20"):
        st.io.grid(sdata, mpp=99.0)
    out = st.io.grid(sdata, mpp=MPP)
    assert not sdata.tables
    table, circles = out.tables["grid_table"], out.shapes["grid"]
    assert len(circles) == table.n_obs == pytest.approx(131, abs=10)
    assert circles["radius"].to_numpy() * MPP == pytest.approx(27.5)
    st.pp.tiles(out)
    assert table.uns["tiles"]["grid"]["mpp"] == MPP
    st.pp.encode(out, show_progress=False)
    out.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(again.tables["grid_table"].obsm["X_morphology"], table.obsm["X_morphology"])
    assert open_sections(again)[0].lattice.kind == "hexagonal"
    with pytest.raises(ValueError, match="already has an element 'grid'"):
        st.io.grid(out, mpp=MPP)


def test_spatialdata_with_spots_tells_the_scale(section):
    out = st.io.grid(st.io.to_spatialdata(section), pitch_um=50, key_added="fine")
    st.pp.tiles(out, table_key="fine_table")
    assert out.tables["fine_table"].uns["tiles"]["fine"]["mpp"] == pytest.approx(1.0)
    # The same up to single spots on the border: one thumbnail is made from the pyramid, one from the finest level.
    in_anndata = st.io.grid(section, pitch_um=50).obsm["spatial"]
    in_spatialdata = np.column_stack([out.shapes["fine"].geometry.x, out.shapes["fine"].geometry.y])
    same = {*map(tuple, in_anndata.round(3))} & {*map(tuple, in_spatialdata.round(3))}
    assert len(same) > 0.99 * max(len(in_anndata), len(in_spatialdata))


def test_pseudo_spots_cover_the_measured_ones_of_a_real_section():
    folder = st.settings.data_dir / "unlabelled_HE" / "mouse_colon_d14"
    if not folder.is_dir():
        pytest.skip(f"real sections are not in STPREDICT_DATA ({st.settings.data_dir})")
    measured = pd.read_csv(folder / "spots.csv", index_col=0).to_numpy()
    mpp = 100 / find_lattice(measured).pitch_px
    adata = st.io.grid(st.read_wsi(folder / "image.jpg", mpp))
    from scipy.spatial import cKDTree

    def covered(these, those):
        return np.mean(cKDTree(those).query(these)[0] * mpp < 100)

    assert covered(measured, adata.obsm["spatial"]) > 0.99
    assert covered(adata.obsm["spatial"], measured) > 0.9
