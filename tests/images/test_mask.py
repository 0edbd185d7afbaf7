"""The tissue mask: on drawn slides where every pixel's truth is known, and on real ones."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from anndata import AnnData

import stpredict as st
from stpredict._images import mask as masks
from stpredict._images.mask import find_pen, find_tissue, mask_tissue, tissue_fraction
from stpredict._images.readers import SlideImage

GLASS, TISSUE = (240, 238, 241), (150, 90, 160)


def slide(background, *, noise=3):
    """A 4 × 4 mm slide at 8 µm with a 2 mm square of tissue in its middle, and that square."""
    truth = np.zeros((500, 500), dtype=bool)
    truth[125:375, 125:375] = True
    rgb = np.where(truth[..., None], TISSUE, background).astype(float)
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    return np.clip(rgb, 0, 255).astype(np.uint8), truth


def overlap(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


@pytest.mark.parametrize("background", [GLASS, (0, 0, 0), (200, 200, 200), (228, 214, 226)], ids=str)
def test_tissue_is_found_on_any_grey_and_on_pink_haze(background):
    rgb, truth = slide(background)
    assert overlap(mask_tissue(rgb, 8.0), truth) > 0.97


def test_dark_and_grey_things_are_no_tissue():
    rgb, truth = slide(GLASS)
    rgb[:, :40] = 5  # edge of the scan
    rgb[400:440, 60:440] = 110  # shadow
    assert overlap(mask_tissue(rgb, 8.0), truth) > 0.97


def test_small_holes_close_and_small_pieces_go():
    rgb, truth = slide(GLASS)
    rgb[200:211, 200:211] = GLASS  # 88 µm lumen
    rgb[280:340, 280:340] = GLASS  # 480 µm hole
    truth[280:340, 280:340] = False
    rgb[30:40, 30:40] = TISSUE  # 80 µm of dust
    mask = mask_tissue(rgb, 8.0)
    assert mask[205, 205]
    assert not mask[310, 310]
    assert not mask[35, 35]
    assert overlap(mask, truth) > 0.97


def test_all_glass_and_all_tissue_are_not_split():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 4, (200, 200, 3))
    assert not mask_tissue(np.clip(GLASS + noise, 0, 255).astype(np.uint8), 8.0).any()
    assert not mask_tissue(np.zeros((50, 50, 3), np.uint8), 8.0).any()
    assert mask_tissue(np.clip(TISSUE + 3 * noise, 0, 255).astype(np.uint8), 8.0).all()


def test_scale_of_the_mask_does_not_change_what_is_found():
    rgb, truth = slide(GLASS, noise=0)
    fine = rgb.repeat(2, axis=0).repeat(2, axis=1)
    assert overlap(mask_tissue(fine, 4.0), truth.repeat(2, axis=0).repeat(2, axis=1)) > 0.97
    assert overlap(mask_tissue(rgb[::2, ::2], 16.0), truth[::2, ::2]) > 0.95


def test_tissue_fraction_is_the_share_of_the_window():
    mask = np.zeros((100, 100), dtype=bool)
    mask[:, 50:] = True
    centres = np.array([[20.0, 50.0], [50.0, 50.0], [80.0, 50.0], [53.5, 20.0]])
    np.testing.assert_allclose(tissue_fraction(mask, centres, 11), [0, 6 / 11, 1, 9 / 11], atol=1e-6)


@pytest.mark.parametrize(
    ("reader", "section", "least", "most"),
    [("her2st", "C2", 0.15, 0.19), ("her2st_midres", "A1", 0.30, 0.38), ("mouse_colon", "d0", 0.33, 0.42)],
)
def test_real_tissue_lies_under_the_spots_and_covers_what_we_saw(real, reader, section, least, most):
    adata = real(reader, section)
    mask, mpp = st.pp.tissue_mask(adata)
    assert mpp == pytest.approx(8.0, rel=0.02)
    assert least < mask.mean() < most
    st.pp.qc(adata)
    assert (adata.obs["tissue_fraction"] > 0.5).mean() > 0.95


def test_blackened_background_of_the_midres_section_is_no_tissue(real):
    adata = real("her2st_midres", "A1")
    mask, mpp = st.pp.tissue_mask(adata, mpp=16)
    x, y = (np.array([[100, 100], [1000, 200], [100, 2000], [1800, 1800]]) * 3.19 / mpp).astype(int).T
    assert not mask[y, x].any()


def test_simulated_tissue_is_found(section):
    mask, mpp = st.pp.tissue_mask(section)
    assert mpp == pytest.approx(8.0, rel=0.02)
    st.pp.qc(section)
    solid = section.obs["region"] != "adipose"
    assert (section.obs["tissue_fraction"][solid] > 0.5).mean() > 0.95
    assert 0.5 < mask.mean() < 0.8
    assert not mask[:4].any()


NEAR_BLACK = ((3, 3, 3), (12, 6, 15), (20, 10, 24))


@pytest.mark.parametrize("background", NEAR_BLACK, ids=str)
def test_a_background_that_is_nearly_black_is_no_tissue(background):
    rgb, truth = slide(background)
    assert overlap(mask_tissue(rgb, 8.0), truth) > 0.97


PENS = {
    "green": (20, 140, 60),
    "blue": (20, 60, 190),
    "red": (225, 25, 40),
    "black": (30, 28, 32),
    "yellow": (230, 220, 60),
}


@pytest.mark.parametrize("colour", PENS.values(), ids=PENS.keys())
def test_pen_beside_and_over_tissue_is_left_out(colour):
    rgb, truth = slide(GLASS)
    pen = np.zeros_like(truth)
    pen[40:60, 40:460] = True  # 160 µm wide
    pen[40:460, 200:220] = True
    rgb[pen] = colour
    mask = mask_tissue(rgb, 8.0)
    assert not (mask & pen)[:120].any()
    assert (mask & pen).sum() < 0.02 * pen.sum() or colour == PENS["black"]  # a black line across tissue is closed
    assert overlap(mask, truth & ~pen) > 0.9


def test_a_pale_stain_is_found_by_a_lower_threshold():
    rgb, truth = slide(GLASS, noise=1)
    rgb[truth] = (232, 222, 236)
    assert not mask_tissue(rgb, 8.0).any()
    assert overlap(mask_tissue(rgb, 8.0, 0.03), truth) > 0.97


@pytest.fixture
def pale():
    """A section without spots, 2 × 1.6 mm at 4 µm, with tissue too pale to be found in a rectangle."""
    rgb = np.full((400, 500, 3), 240, np.uint8)
    rgb[100:300, 50:350] = (234, 224, 236)
    adata = AnnData(obsm={"spatial": np.zeros((0, 2))})
    scale = {"microns_per_pixel": 4.0, "tissue_hires_scalef": 1.0}
    adata.uns["spatial"] = {"pale": {"images": {"hires": rgb}, "scalefactors": scale, "metadata": {}}}
    return adata


RECTANGLE = np.array([[50.0, 100.0], [350.0, 100.0], [350.0, 300.0], [50.0, 300.0]])


def ways():
    from shapely import MultiPolygon, Polygon

    mask = np.zeros((200, 250), dtype=bool)
    mask[50:150, 25:175] = True
    return {
        "threshold": 0.03,
        "mask": mask,
        "array": RECTANGLE,
        "arrays": [RECTANGLE[[0, 1, 2]], RECTANGLE[[0, 2, 3]]],
        "polygon": Polygon(RECTANGLE),
        "multi": [MultiPolygon([Polygon(RECTANGLE)])],
    }


@pytest.mark.parametrize("way", ["threshold", "mask", "array", "arrays", "polygon", "multi"])
def test_the_user_says_where_the_tissue_is(pale, way):
    truth = np.zeros((200, 250), dtype=bool)
    truth[50:150, 25:175] = True
    with pytest.raises(ValueError, match=r"No tissue was found on slide 'pale'.*pass tissue=, a lower threshold"):
        st.io.grid(pale)
    tissue = ways()[way]
    mask, mpp = st.pp.tissue_mask(pale, tissue=tissue)
    assert mpp == 8
    assert overlap(mask, truth) > 0.97
    spots = st.io.grid(pale, tissue=tissue, min_tissue=1.0).obsm["spatial"]
    assert len(spots) > 40
    assert ((spots > [50, 100]) & (spots < [350, 300])).all()


def test_outlines_are_in_full_resolution_pixels_whatever_the_image(pale):
    """The hires image stands for one four times as large: outlines and spots are in pixels of that."""
    pale.uns["spatial"]["pale"]["scalefactors"] = {"microns_per_pixel": 1.0, "tissue_hires_scalef": 0.25}
    mask, mpp = st.pp.tissue_mask(pale, tissue=[4 * RECTANGLE])
    assert mpp == 8
    assert mask[50:150, 25:175].mean() > 0.97
    assert mask.mean() == pytest.approx(0.3, abs=0.01)


def test_holes_of_an_outline_and_a_geodataframe(pale):
    from geopandas import GeoDataFrame
    from shapely import Polygon

    hole = np.array([[150.0, 150.0], [250.0, 150.0], [250.0, 250.0], [150.0, 250.0]])
    frame = GeoDataFrame(geometry=[Polygon(RECTANGLE, [hole])])
    mask, _ = st.pp.tissue_mask(pale, tissue=frame)
    assert mask.sum() == 100 * 150 - 50 * 50
    assert not mask[100, 100]


@pytest.mark.parametrize(
    ("tissue", "message"),
    [
        (0.0, "no threshold of the stain"),
        (np.nan, "no threshold of the stain"),
        (True, "no threshold of the stain"),
        (np.ones((100, 300), bool), "must cover the whole slide"),
        (np.ones((250, 200), bool), r"Pass mask\.T"),
        (np.zeros((200, 250), bool), "holds no tissue"),
        (np.ones((200, 250), np.uint8), "boolean"),
        ("tissue.png", "a threshold, a boolean mask, or a list of outlines"),
        ([RECTANGLE[:2]], "at least 3 finite points"),
        ([4 * RECTANGLE], "beyond the slide of 500 × 400 px"),
        ([], "holds no tissue"),
    ],
    ids=range(11),
)
def test_tissue_that_does_not_fit_is_refused(pale, tissue, message):
    for function in (st.pp.tissue_mask, st.io.grid):
        with pytest.raises((TypeError, ValueError), match=message):
            function(pale, tissue=tissue)


def test_only_small_pieces_ask_about_the_scale(tmp_path):
    from PIL import Image

    rgb = np.full((1600, 1600, 3), 240, np.uint8)
    rgb[100:200, 100:200] = TISSUE
    Image.fromarray(rgb).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"below 0\.1 mm² at 0\.5 µm per pixel. If that scale is wrong"):
        st.io.grid(st.read_wsi(tmp_path / "small.png", 0.5), pitch_um=20)
    rgb[:] = 240
    Image.fromarray(rgb).save(tmp_path / "glass.png")
    with pytest.raises(ValueError, match="tissue=") as told:
        st.io.grid(st.read_wsi(tmp_path / "glass.png", 0.5), pitch_um=20)
    assert "scale" not in str(told.value)


@pytest.mark.parametrize(
    ("reader", "section"), [("her2st", "C2"), ("her2st", "B4"), ("mouse_colon", "d0"), ("mob", "MOB1")]
)
def test_no_pen_is_seen_on_real_sections(real, reader, section):
    from stpredict._images.mask import find_pen
    from stpredict._sections.open import open_sections

    (one,) = open_sections(real(reader, section))
    small = one.slide.thumbnail(1000)
    assert not find_pen(small, one.mpp * max(one.slide.shape) / 1000).any()


class Drawn:
    """A level of a slide of any size that is drawn where it is read: a disc of tissue with lumina, and pen beside it."""

    chunks = (512, 512)

    def __init__(self, side, downsample):
        self.side, self.downsample = side, downsample
        self.shape = (side // downsample, side // downsample, 3)

    def __getitem__(self, window):
        y, x = (np.arange(part.start, part.stop) * self.downsample for part in window)
        tissue = np.hypot(y[:, None] - self.side / 2, x - self.side / 2) < 0.45 * self.side
        tissue &= (y[:, None] // 700 + x // 900) % 5 != 0
        pixels = np.where(tissue[..., None], np.uint8(TISSUE), np.uint8(GLASS))
        pixels[:, x < 0.03 * self.side] = 20, 180, 60
        return pixels


def test_the_mask_of_a_large_slide_takes_little_more_memory_than_its_pixels():
    large = SlideImage([Drawn(102_400, downsample) for downsample in (1, 2, 4, 8, 16, 32)])
    mask_tissue(large.thumbnail(100), 8.0)  # (imports)
    tracemalloc.start()
    mask, mpp = find_tissue(large, image_mpp=0.5, mpp=8.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.shape == (2000, 2000)
    assert mpp == pytest.approx(25.6)
    assert 0.45 < mask.mean() < 0.55
    assert peak < 40 * mask.size  # with distances and hues of all pixels at once it would be 100


def test_a_mask_is_the_same_in_one_strip_and_in_many(monkeypatch):
    rgb, _ = slide(GLASS, noise=40)
    rgb[60:90, 150:350] = 20, 180, 60
    whole = mask_tissue(rgb, 8.0), find_pen(rgb, 8.0)
    assert whole[1].any()
    monkeypatch.setattr(masks, "STRIP_PIXELS", 7 * 500)
    np.testing.assert_array_equal(mask_tissue(rgb, 8.0), whole[0])
    np.testing.assert_array_equal(find_pen(rgb, 8.0), whole[1])
