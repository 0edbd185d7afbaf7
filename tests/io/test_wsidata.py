"""LazySlide's WSIData goes in, and comes out with tiles and tables that LazySlide understands.

Every test runs on a stand-in with the few members that stpredict uses, and on the real class where wsidata is installed.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from shapely import box
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

import stpredict as st

SIDE, MPP = 1500, 1.0


class StandIn(SpatialData):
    """What stpredict knows of a WSIData."""

    def __init__(self, *, reader=None, **elements):
        super().__init__(**elements)
        self.reader, self.wsi_store = reader, None

    @classmethod
    def from_spatialdata(cls, sdata, reader=None):
        parts = {kind: getattr(sdata, kind) for kind in ("images", "labels", "points", "shapes", "tables", "attrs")}
        return cls(reader=reader, **parts)

    def set_wsi_store(self, store):
        self.wsi_store = store


@pytest.fixture
def slide(tmp_path):
    """Path of a slide with a disc of tissue, 500 µm in radius."""
    y, x = np.ogrid[:SIDE, :SIDE]
    pixels = np.full((SIDE, SIDE, 3), 245, np.uint8)
    pixels[np.hypot(x - 700, y - 800) < 500] = (180, 90, 160)
    says = f"Aperio Image Library v11.2.1\r\n{SIDE}x{SIDE} [0,0 {SIDE}x{SIDE}] (256x256) JPEG/RGB Q=70|MPP = {MPP}"
    with tifffile.TiffWriter(tmp_path / "slide.svs") as tif:
        for step in (1, 4):
            tif.write(pixels[::step, ::step], tile=(256, 256), photometric="rgb", description=says, metadata=None)
    return tmp_path / "slide.svs"


@pytest.fixture(params=["stand-in", "wsidata"])
def wsi(request, slide, tmp_path):
    if request.param == "stand-in":
        reader = SimpleNamespace(file=str(slide), properties=SimpleNamespace(mpp=MPP))
        made = StandIn(reader=reader)
    else:
        made = pytest.importorskip("wsidata").open_wsi(slide, store=None)
    made.set_wsi_store(tmp_path / "slide.zarr")
    return made


def test_grid_is_tiles(wsi, slide):
    out = st.io.grid(wsi)
    assert type(out) is type(wsi)
    assert out.reader is wsi.reader
    assert out.wsi_store == wsi.wsi_store
    assert "grid" not in wsi
    assert "tile_spec" not in wsi.attrs
    tiles, table = out.shapes["grid"], out.tables["grid_table"]
    assert list(tiles["tile_id"]) == list(table.obs["tile_id"]) == list(range(len(tiles)))
    np.testing.assert_array_equal(tiles.bounds[["minx", "miny"]], tiles[["x", "y"]])
    np.testing.assert_array_equal(tiles.area, 112.0**2)
    assert out.attrs["tile_spec"]["grid"]["mpp"] == MPP
    same = st.io.grid(st.read_wsi(slide)).obsm["spatial"]
    np.testing.assert_allclose(tiles[["x", "y"]] + 56, same, atol=0.51)


def test_the_whole_way(wsi, section, tmp_path):
    out = st.io.grid(wsi, pitch_um=140)
    for one in (section, out):
        st.pp.tiles(one)
        st.pp.encode(one, show_progress=False)
    assert out.tables["grid_table"].uns["tiles"]["grid"]["mpp"] == MPP
    model = st.tl.train(section, genes=["ERBB2", "EPCAM"], method="ridge")
    genes = st.tl.predict_expression(out, model, as_anndata=True)
    again = st.tl.predict_expression(out, model, copy=True)
    assert type(again) is type(wsi)
    out.tables["genes_grid"] = genes
    st.tl.localize_tumor(out, markers=["ERBB2"], threshold=0.0, table_key="genes_grid")
    st.pl.tumor(out, table_key="genes_grid", save=tmp_path / "tumor.png")
    if hasattr(out, "fetch"):
        fetched = out.fetch.features_anndata("genes", tile_key="grid")
        np.testing.assert_array_equal(fetched.X, genes.X)
        assert out.tile_spec("grid").base_width == 112
        assert next(iter(out.iter.tile_images("grid"))).image.shape == (112, 112, 3)
        assert out.fetch.features_anndata("grid_table", tile_key="grid").n_obs == genes.n_obs


def test_tiles_of_lazyslide_are_spots(wsi, section):
    """Its own tiles and features, wherever they come from, can be predicted upon."""
    xys = [(x, y) for y in range(500, 1100, 112) for x in range(400, 1000, 112)]
    wsi.shapes["tiles"] = ShapesModel.parse(_frame(xys))
    wsi.tables["resnet_tiles"] = _features(len(xys))
    for one in (section, wsi):
        st.pp.tiles(one)
        st.pp.encode(one, show_progress=False)
    model = st.tl.train(section, genes=["ERBB2", "EPCAM"], method="ridge")
    st.tl.predict_expression(wsi, model)
    table = wsi.tables["resnet_tiles"]
    assert table.obsm["predicted_genes"].shape == (len(xys), 2)
    assert table.uns["tiles"]["tiles"]["mpp"] == MPP
    assert table.uns["tiles"]["tiles"]["mpp_source"] == "scalefactors['microns_per_pixel']"


def test_slide_without_scale(wsi):
    wsi.reader.properties.mpp = None
    with pytest.raises(ValueError, match=r"slide\.svs' is unknown\. Pass mpp="):
        st.io.grid(wsi)
    assert st.io.grid(wsi, mpp=0.5).tables["grid_table"].n_obs < 60


def _frame(xys):
    from geopandas import GeoDataFrame

    return GeoDataFrame({"tile_id": np.arange(len(xys))}, geometry=[box(x, y, x + 112, y + 112) for x, y in xys])


def _features(n):
    import pandas as pd
    from anndata import AnnData

    obs = pd.DataFrame({"tile_id": np.arange(n), "library_id": pd.Categorical(["tiles"] * n)}, index=map(str, range(n)))
    table = AnnData(np.ones((n, 4), np.float32), obs=obs)
    return TableModel.parse(table, region="tiles", region_key="library_id", instance_key="tile_id")
