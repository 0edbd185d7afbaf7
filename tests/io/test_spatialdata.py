"""SpatialData: spots land on the right pixels whatever the transformations, and the way out and back loses nothing."""

from __future__ import annotations

import re

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from anndata import AnnData
from PIL import Image
from shapely import Point
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation, set_transformation

import stpredict as st
from stpredict._sections.open import Where, open_sections
from stpredict._sections.spatialdata import region_centres, region_image, regions_of, section_from_spatialdata, table_in

HEIGHT, WIDTH = 160, 240
XY = np.array([[20.0, 30.0], [200.0, 40.0], [60.0, 150.0], [120.0, 80.0]])
"""True spot centres, (x, y) in pixels of the finest level."""


def table(region="spots", n=4, *, instances=None, prefix="c"):
    adata = AnnData(
        np.ones((n, 2), np.float32),
        obs=pd.DataFrame(
            {"where": pd.Categorical([region] * n), "which": np.arange(n) if instances is None else instances},
            index=[f"{prefix}{i}" for i in range(n)],
        ),
        var=pd.DataFrame(index=["ERBB2", "CD74"]),
    )
    return TableModel.parse(adata, region=region, region_key="where", instance_key="which")


def image(systems, *, scale_factors=None, shape=(HEIGHT, WIDTH), channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, *shape), dtype=np.uint8)
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=systems, scale_factors=scale_factors)


def circles(xy, systems):
    return ShapesModel.parse(np.asarray(xy), geometry=0, radius=5.0, transformations=systems)


def pixels_of(element):
    return np.moveaxis(np.asarray(element.data), 0, -1)


# ---------------------------------------------------------------------- transformations, with known truth


TURN = Affine([[0, -2.0, 400], [2.0, 0, -30], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
PLACEMENTS = {
    "pixels": (XY, Identity(), Identity()),
    # Shapes in µm; the image has 0.5 µm per pixel.
    "microns": (XY * 0.5, Identity(), Scale([0.5, 0.5], axes=("x", "y"))),
    "axes swapped in the scale": (XY * [0.5, 0.45], Identity(), Scale([0.45, 0.5], axes=("y", "x"))),
    "shifted": (XY - [7, 3], Translation([7, 3], axes=("x", "y")), Identity()),
    "cropped image": (XY + np.array([100, 50]), Identity(), Translation([50, 100], axes=("y", "x"))),
    "turned": (XY @ np.array([[0, 2.0], [-2.0, 0]]) + [400, -30], Identity(), TURN),
    "turned shapes": (XY, TURN, TURN),
    "sequence": (
        (XY + np.array([4, 8])) * 3,
        Scale([1 / 3, 1 / 3], axes=("x", "y")),
        Sequence([Translation([4, 8], axes=("x", "y")), Identity()]),
    ),
}


@pytest.mark.parametrize("where", PLACEMENTS)
@pytest.mark.parametrize("as_polygons", [False, True])
def test_centres_come_out_in_pixels_of_the_image(where, as_polygons):
    own, of_shapes, of_image = PLACEMENTS[where]
    shapes = circles(own, {"global": of_shapes})
    if as_polygons:
        shapes = ShapesModel.parse(
            gpd.GeoDataFrame(geometry=[Point(*p).buffer(4) for p in own]), transformations={"global": of_shapes}
        )
    sdata = sd.SpatialData(
        images={"he": image({"global": of_image})}, shapes={"spots": shapes}, tables={"table": table()}
    )
    placed = region_centres(sdata, sdata["table"])
    np.testing.assert_allclose(placed.centres, XY, atol=1e-9)
    assert (placed.region, placed.image_key) == ("spots", "he")
    (section,) = open_sections(sdata, mpp=0.5)
    np.testing.assert_allclose(section.centres, XY, atol=1e-9)
    assert section.mpp == pytest.approx(0.5)  # mpp= is the scale of the image, whatever the shapes' unit


def test_an_image_that_its_transformation_stretches_is_told_or_refused():
    def placed(factor):
        images = {"he": image({"global": Scale([1, factor], axes=("x", "y"))})}
        spots = {"spots": circles(XY, {"global": Identity()})}
        return region_centres(sd.SpatialData(images=images, shapes=spots, tables={"table": table()}), table())

    assert placed(1.04).image_key == "he"
    with pytest.warns(UserWarning, match=r"pixels that are not square, .*: 1\.1 units long .* and 1 in the other"):
        placed(1.1)
    with pytest.raises(ValueError, match=r"Windows are square in pixels\. Resample it"):
        placed(1.3)


def test_rows_are_matched_by_instance_not_by_order():
    order = np.array([2, 0, 3, 1])
    sdata = sd.SpatialData(
        images={"he": image({"global": Identity()})},
        shapes={"spots": circles(XY, {"global": Identity()})},
        tables={"table": table(instances=order)},
    )
    (section,) = open_sections(sdata)
    np.testing.assert_allclose(section.centres, XY[order])


def test_pyramid_is_read_lazily_level_by_level():
    he = image({"global": Identity()}, scale_factors=[2, 2])
    sdata = sd.SpatialData(
        images={"he": he}, shapes={"spots": circles(XY, {"global": Identity()})}, tables={"table": table()}
    )
    (section,) = open_sections(sdata)
    assert section.image.shape == (HEIGHT, WIDTH)
    assert section.image.downsamples == [1, 2, 4]
    for level in range(3):
        truth = pixels_of(he[f"scale{level}"]["image"])
        np.testing.assert_array_equal(section.image.read(5, 3, 35, 23, level=level), truth[3:23, 5:35])


@pytest.fixture
def several_images():
    """Two images in colour on which the spots lie, and others that are none or lie elsewhere."""
    shapes = circles(XY, {"a": Identity(), "b": Identity()})
    coarse = {"transformations": {"a": Scale([4, 4], axes=("x", "y"))}, "c_coords": ["r", "g", "b"]}
    images = {
        "coarse": Image2DModel.parse(np.ones((3, HEIGHT // 4, WIDTH // 4), np.uint16), dims=("c", "y", "x"), **coarse),
        "fine": image({"b": Identity(), "other": Identity()}),
        "elsewhere": image({"other": Scale([0.1, 0.1], axes=("x", "y"))}),
        "fluorescence": image({"a": Scale([0.5, 0.5], axes=("x", "y"))}, channels=5),
        "dapi": image({"a": Scale([0.2, 0.2], axes=("x", "y"))}, channels=1),
    }
    return sd.SpatialData(images=images, shapes={"spots": shapes}, tables={"table": table()})


def test_none_of_several_images_in_colour_is_chosen_for_being_finest(several_images):
    sdata = several_images
    asked = r"2 images that may be the H&E: 'coarse' \(60 × 40 px, uint16, channels r, g, b\), 'fine' \(240 × 160 px, uint8.*image_key="
    with pytest.raises(ValueError, match=asked):
        region_centres(sdata, sdata["table"])
    assert region_centres(sdata, sdata["table"], image_key="fine").image_key == "fine"
    chosen = region_centres(sdata, sdata["table"], image_key="coarse")
    np.testing.assert_allclose(chosen.centres, XY / 4)
    assert chosen.scale == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"'elsewhere' \(in other\) and region 'spots' \(in a, b\) share no"):
        region_centres(sdata, sdata["table"], image_key="elsewhere")
    with pytest.raises(KeyError, match=r"no image 'gone'.*coarse, fine"):
        region_centres(sdata, sdata["table"], image_key="gone")
    with pytest.raises(
        ValueError, match=r"'dapi' \(240 × 160 px, uint8, channels 0\) is no H&E image.*set_channel_names"
    ):
        region_centres(sdata, sdata["table"], image_key="dapi")
    del sdata.images["coarse"]
    assert region_centres(sdata, sdata["table"]).image_key == "fine"


def test_tiles_remember_which_image_they_lie_on(several_images):
    st.pp.tiles(several_images, mpp=0.5, image_key="fine")
    assert region_centres(several_images, several_images["table"]).image_key == "fine"


def test_small_copies_are_no_rivals():
    quarter, full = Scale([4, 4], axes=("x", "y")), {"global": Identity()}
    images = {"s_hires_image": image({"global": quarter}, shape=(HEIGHT // 4, WIDTH // 4)), "s_full_image": image(full)}
    spots = {"spots": circles(XY, {"global": Identity()})}
    sdata = sd.SpatialData(images=images, shapes=spots, tables={"table": table()})
    assert region_centres(sdata, sdata["table"]).image_key == "s_full_image"
    sdata.images["s_cytassist_image"] = image(
        {"global": Scale([0.5, 0.5], axes=("x", "y"))}, shape=(2 * HEIGHT, 2 * WIDTH)
    )
    assert region_centres(sdata, sdata["table"]).image_key == "s_full_image"


def test_the_image_under_the_spots_is_taken():
    away = Translation([1000, 0], axes=("x", "y"))
    images = {"a": image({"global": Identity()}), "b": image({"global": away})}
    shapes = {"spots": circles(XY + np.array([1000, 0]), {"global": Identity()})}
    sdata = sd.SpatialData(images=images, shapes=shapes, tables={"table": table()})
    placed = region_centres(sdata, sdata["table"])
    assert placed.image_key == "b"
    np.testing.assert_allclose(placed.centres, XY)


def test_names_of_channels_say_their_order():
    pixels = np.random.default_rng(0).integers(20, 256, (4, HEIGHT, WIDTH), dtype=np.uint8)
    names = {"dims": ("c", "y", "x"), "c_coords": ["alpha", "Blue", "g", "R"]}
    pixels[0] = 255
    images = {"he": Image2DModel.parse(pixels, transformations={"global": Identity()}, **names)}
    shapes = {"spots": circles(XY, {"global": Identity()})}
    (section,) = open_sections(sd.SpatialData(images=images, shapes=shapes, tables={"table": table()}))
    read = section.image.read(5, 3, 35, 23)
    np.testing.assert_array_equal(read, np.moveaxis(pixels[[3, 2, 1], 3:23, 5:35], 0, -1))


def test_without_an_image_the_counts_still_open():
    sdata = sd.SpatialData(shapes={"spots": circles(XY, {"global": Identity()})}, tables={"table": table()})
    (section,) = open_sections(sdata)
    assert not section.has_image
    assert section.counts().shape == (4, 2)
    with pytest.raises(ValueError, match=r"no H&E image.*has no image; add the H&E image"):
        _ = section.image


def test_spots_off_the_image():
    sdata = sd.SpatialData(
        images={"he": image({"global": Scale([0.5, 0.5], axes=("x", "y"))})},
        shapes={"spots": circles(XY, {"global": Identity()})},
        tables={"table": table()},
    )
    with pytest.raises(ValueError, match="spot centres lie outside the image of 240 × 160 px"):
        _ = open_sections(sdata)[0].image


# ---------------------------------------------------------------------- tables and regions


@pytest.fixture
def two_regions():
    rows = ad.concat({"spots": table(), "more": table("more", prefix="d")}, label="where")
    rows.obs["which"] = np.tile(np.arange(4), 2)
    joined = TableModel.parse(rows, region=["spots", "more"], region_key="where", instance_key="which")
    return sd.SpatialData(
        images={"he": image({"global": Identity()}), "he2": image({"second": Identity()})},
        shapes={"spots": circles(XY, {"global": Identity()}), "more": circles(XY[::-1], {"second": Identity()})},
        tables={"table": joined},
    )


def test_one_section_for_each_region(two_regions):
    assert regions_of(two_regions["table"]) == ["spots", "more"]
    first, second = open_sections(two_regions)
    np.testing.assert_allclose(second.centres, XY[::-1])
    assert second.rows.tolist() == [4, 5, 6, 7]
    assert (first.image.source, second.image.source) == ("images['he']", "images['he2']")
    with pytest.raises(ValueError, match="2 regions \\(spots, more\\); pass library_id="):
        section_from_spatialdata(two_regions)
    with pytest.raises(KeyError, match="does not annotate 'x'"):
        section_from_spatialdata(two_regions, region="x")


def test_tables_are_named_when_it_is_not_clear_which(two_regions):
    two_regions["other"] = table()
    with pytest.raises(ValueError, match=r"2 tables \(table, other\); pass table_key="):
        open_sections(two_regions)
    assert len(open_sections(two_regions, Where(table_key="other"))) == 1
    with pytest.raises(KeyError, match="no table 'x'"):
        table_in(two_regions, "x")
    with pytest.raises(ValueError, match="no table"):
        table_in(sd.SpatialData(), None)


def test_tables_that_do_not_fit_the_shapes(two_regions):
    two_regions["table"].obs["which"] = np.arange(8)
    with pytest.raises(ValueError, match=r"4 of 4 rows of the table have no shape in 'more': 4, 5, 6"):
        open_sections(two_regions)
    del two_regions["table"].obs["which"]
    with pytest.raises(ValueError, match="obs lacks 'which'"):
        open_sections(two_regions)
    del two_regions.shapes["spots"]
    with pytest.raises(KeyError, match="no shapes 'spots'"):
        open_sections(two_regions)
    with pytest.raises(ValueError, match="annotates no region"):
        regions_of(AnnData(np.ones((2, 2))))


# ---------------------------------------------------------------------- spatialdata-io's layouts


def test_visium_hd_takes_its_pitch_from_the_bin_size():
    row, column = np.divmod(np.arange(400), 20)
    xy = 10.0 + 5 * np.column_stack([column, row])
    name = "sample_square_008um"
    sdata = sd.SpatialData(
        images={"sample_full_image": image({"sample": Identity()})},
        shapes={name: circles(xy, {"sample": Identity()})},
        tables={"square_008um": table(name, 400)},
    )
    (section,) = open_sections(sdata)
    assert section.mpp == pytest.approx(8 / 5)
    assert section.mpp_source == "spot lattice"


def test_layout_of_spatialdata_io_visium(tmp_path, write_visium, write_full):
    visium = pytest.importorskip("spatialdata_io").visium
    write_visium(tmp_path / "run")
    full = write_full(tmp_path / "run" / "full.png")
    (one,) = open_sections(st.read_visium(tmp_path / "run", image=full))
    sdata = visium(tmp_path / "run", dataset_id="sample", fullres_image_file=full)
    (other,) = open_sections(sdata)
    assert other.image.source == "images['sample_full_image']"
    order = [list(other.obs_names).index(name) for name in one.obs_names]
    np.testing.assert_allclose(other.centres[order], one.centres)
    np.testing.assert_array_equal(other.image.read(5, 5, 300, 200), one.image.read(5, 5, 300, 200))
    assert other.mpp == pytest.approx(one.mpp)
    (hires,) = open_sections(sdata, Where(image_key="sample_hires_image"))
    assert hires.mpp == pytest.approx(one.mpp / 0.2)
    np.testing.assert_allclose(hires.centres[order], one.centres * 0.2)


# ---------------------------------------------------------------------- out and back


def test_to_spatialdata_survives_the_disk(section, tmp_path):
    before = section.copy()
    sdata = st.io.to_spatialdata(section)
    assert set(section.uns) == set(before.uns)
    assert "hires" in section.uns["spatial"]["sim_1"]["images"]
    sdata.write(tmp_path / "sim.zarr")
    (one,), (other,) = open_sections(section), open_sections(sd.read_zarr(tmp_path / "sim.zarr"))
    np.testing.assert_allclose(other.centres, one.centres)
    np.testing.assert_array_equal(other.image.read(0, 0, 400, 300), one.image.read(0, 0, 400, 300))
    assert other.mpp == pytest.approx(one.mpp)
    assert sdata.shapes["sim_1"]["radius"].iloc[0] == 27.5


def test_to_spatialdata_of_two_sections(two_sections):
    joined = ad.concat(two_sections, uns_merge="unique")
    with pytest.raises(KeyError, match="library_key"):
        st.io.to_spatialdata(joined)
    joined.obs["slide"] = np.repeat(["sim_1", "sim_2"], [len(a) for a in two_sections])
    sdata = st.io.to_spatialdata(joined, library_key="slide")
    assert sorted(sdata.images) == ["sim_1_full_image", "sim_2_full_image"]
    for adata, section in zip(two_sections, open_sections(sdata), strict=True):
        np.testing.assert_allclose(section.centres, adata.obsm["spatial"])
        assert section.mpp == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["her2st/A1", "Block A (1)"])
def test_names_that_cannot_be_written_are_refused_until_they_are_changed_as_told(section, name):
    section.uns["spatial"] = {name: section.uns["spatial"].pop("sim_1")}
    told = rf"than letters, digits, '_', '.' and '-' cannot be written: {re.escape(name)}\. Rename them right after"
    with pytest.raises(ValueError, match=told):
        st.io.to_spatialdata(section)
    section.uns["spatial"]["A1"] = section.uns["spatial"].pop(name)
    assert list(st.io.to_spatialdata(section).shapes) == ["A1"]


def test_to_spatialdata_does_not_decode_the_image(tmp_path, monkeypatch):
    from stpredict._images.whole import WholeImage

    Image.new("RGB", (600, 500)).save(tmp_path / "a.png")
    adata = AnnData(np.ones((4, 2), np.float32), obsm={"spatial": XY})
    adata.uns["spatial"] = {"s": {"images": {}, "metadata": {"source_image_path": str(tmp_path / "a.png")}}}
    monkeypatch.setattr(WholeImage, "_decode", lambda self: pytest.fail("decoded"))
    sdata = st.io.to_spatialdata(adata)
    assert list(sdata.images["s_full_image"]["scale0"].sizes.values()) == [3, 500, 600]


def test_no_scale_is_needed_to_convert(tmp_path):
    adata = AnnData(np.ones((4, 2), np.float32), obsm={"spatial": XY}, uns={"spatial": {"s": {}}})
    sdata = st.io.to_spatialdata(adata)
    assert list(sdata.images) == []
    assert list(sdata.shapes) == ["s"]


def test_moved_image_is_found_where_it_was_put():
    sdata = sd.SpatialData(
        images={"he": image({"global": Identity()})},
        shapes={"spots": circles(XY, {"global": Identity()})},
        tables={"table": table()},
    )
    set_transformation(sdata.images["he"], Translation([-15.0, 0.0], axes=("x", "y")), "global")
    placed = region_centres(sdata, sdata["table"])
    np.testing.assert_allclose(placed.centres, XY + np.array([15, 0]))
    assert region_image(sdata, "spots", "he").shape == (HEIGHT, WIDTH)
