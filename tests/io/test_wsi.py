"""Whole-slide images without spots: every kind of TIFF, its scale, and what is wrong with some files."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pytest
import tifffile
from PIL import Image

import stpredict as st
from stpredict._sections.open import open_sections

HEIGHT, WIDTH = 600, 840


@pytest.fixture(scope="module")
def pixels():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x // 4 + 20, y // 4 + 20, (x + y) // 8 + 20], axis=-1).astype(np.uint8)


def write_levels(path, pixels, *, steps=(1, 2, 4), mpp=0.5, **options):
    """Tiled pyramid as libvips and others write it: one level after the other."""
    with tifffile.TiffWriter(path, **options) as tif:
        for step in steps:
            reduced = {"subfiletype": int(step > 1), "tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
            per_cm = 1e4 / (mpp * step)
            tif.write(pixels[::step, ::step], resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", **reduced)


def write_ome(path, pixels, *, size=0.5, unit="µm"):
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as tif:
        metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
        tif.write(pixels, subifds=2, metadata=metadata, **options)
        tif.write(pixels[::2, ::2], subfiletype=1, **options)
        tif.write(pixels[::4, ::4], subfiletype=1, **options)


def write_plain(path, pixels):
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(2e4, 2e4), resolutionunit="CENTIMETER")


WRITERS = {
    "plain.tif": write_plain,
    "plain.tiff": write_plain,
    "chain.tif": write_levels,
    "big.btf": lambda path, pixels: write_levels(path, pixels, bigtiff=True),
    "pyramid.ome.tif": write_ome,
}


@pytest.mark.parametrize("name", WRITERS)
def test_slide_without_spots(tmp_path, pixels, name):
    WRITERS[name](tmp_path / name, pixels)
    slide = st.read_wsi(tmp_path / name)
    assert slide.shape == (0, 0)
    (library,) = slide.uns["spatial"]
    assert library == name.split(".", maxsplit=1)[0]
    entry = slide.uns["spatial"][library]
    assert entry["scalefactors"]["microns_per_pixel"] == pytest.approx(0.5)
    assert entry["metadata"]["source_image_path"] == str(tmp_path / name)
    assert entry["images"]["hires"].shape == (HEIGHT, WIDTH, 3)
    (section,) = open_sections(slide)
    np.testing.assert_array_equal(section.slide.read(100, 50, 200, 90), pixels[50:90, 100:200])
    assert section.mpp == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["chain.tif", "big.btf", "pyramid.ome.tif"])
def test_pyramids_are_read_at_the_nearest_level(tmp_path, pixels, name):
    WRITERS[name](tmp_path / name, pixels)
    (section,) = open_sections(st.read_wsi(tmp_path / name))
    assert section.slide.downsamples == pytest.approx([1, 2, 4])
    np.testing.assert_array_equal(section.slide.read(5, 5, 50, 50, level=2), pixels[::4, ::4][5:50, 5:50])


def test_a_pyramid_that_lacks_a_level_is_read_from_the_others(tmp_path, pixels):
    write_levels(tmp_path / "a.tif", pixels, steps=(1, 4))
    (section,) = open_sections(st.read_wsi(tmp_path / "a.tif"))
    assert [section.slide.best_level(d) for d in (1, 2, 4)] == [0, 0, 1]


def test_slide_round_trips(tmp_path, pixels, assert_same):
    write_ome(tmp_path / "a.ome.tif", pixels)
    slide = st.read_wsi(tmp_path / "a.ome.tif", library_id="patient 7")
    slide.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert_same(again, slide)
    mask, mpp = st.pp.tissue_mask(again)
    assert mask.shape == (HEIGHT * 0.5 // mpp, WIDTH * 0.5 // mpp)


def test_an_argument_wins_and_says_so_where_the_file_contradicts_it(tmp_path, pixels):
    write_ome(tmp_path / "a.ome.tif", pixels, size=0.5)
    with pytest.warns(UserWarning, match=r"mpp=0\.6 µm per pixel is used for a\.ome\.tif, although the file says 0\.5"):
        slide = st.read_wsi(tmp_path / "a.ome.tif", 0.6)
    assert slide.uns["spatial"]["a"]["scalefactors"]["microns_per_pixel"] == 0.6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slide = st.read_wsi(tmp_path / "a.ome.tif", mpp=0.51)
    assert slide.uns["spatial"]["a"]["scalefactors"]["microns_per_pixel"] == 0.51


def test_scale_has_to_be_known(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    with pytest.raises(ValueError, match=r"a\.tif does not say how large its pixels are.*Pass mpp="):
        st.read_wsi(tmp_path / "a.tif")
    assert st.read_wsi(tmp_path / "a.tif", 0.25).uns["spatial"]["a"]["scalefactors"]["microns_per_pixel"] == 0.25


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.01, 30.0, float("nan")])
def test_absurd_scale_is_refused(tmp_path, pixels, mpp):
    write_plain(tmp_path / "a.tif", pixels)
    with pytest.raises(ValueError, match=r"µm per pixel is outside of 0\.05–20"):
        st.read_wsi(tmp_path / "a.tif", mpp)


@pytest.mark.parametrize(("size", "message"), [(0.001, "says 0.001 µm per pixel"), (50, "does not say how large")])
def test_absurd_scale_in_the_file_is_refused(tmp_path, pixels, size, message):
    write_ome(tmp_path / "a.ome.tif", pixels, size=size)
    with pytest.raises(ValueError, match=message):
        st.read_wsi(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("name", ["plain.tif", "chain.tif", "pyramid.ome.tif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.75, 0.85, 0.95, 0.99])
def test_truncated_slide_is_one_error(tmp_path, pixels, name, share):
    WRITERS[name](tmp_path / name, pixels)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"Get the image again"):
        st.read_wsi(tmp_path / name, 0.5)


def test_files_that_are_no_slides(tmp_path, pixels):
    with pytest.raises(FileNotFoundError, match="There is no image at"):
        st.read_wsi(tmp_path / "nothing.tif")
    with pytest.raises(FileNotFoundError, match="There is no image at"):
        st.read_wsi(tmp_path)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"table\.csv cannot be read as an image"):
        st.read_wsi(tmp_path / "table.csv")
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read as a TIFF"):
        st.read_wsi(tmp_path / "a.tif", 0.5)
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((7, 64, 64), np.uint8), photometric="minisblack")
    with pytest.raises(ValueError, match="H&E image has height, width and three colours"):
        st.read_wsi(tmp_path / "stack.tif", 0.5)
    with pytest.raises(ValueError, match="library_id must be a name without '/'"):
        st.read_wsi(tmp_path / "a.tif", 0.5, library_id="a/b")


def test_spots_are_asked_for_where_they_are_needed(tmp_path, pixels):
    write_plain(tmp_path / "a.tif", pixels)
    with pytest.raises(ValueError, match=r"has no spots.*io\.grid"):
        st.pp.tiles(st.read_wsi(tmp_path / "a.tif"))


def test_slide_that_vanished(tmp_path, pixels):
    write_plain(tmp_path / "a.tif", pixels)
    slide = st.read_wsi(tmp_path / "a.tif")
    (tmp_path / "a.tif").unlink()
    with pytest.raises(FileNotFoundError, match="There is no image at"):
        st.io.grid(slide)


# ---------------------------------------------------------------------- the scale of the image that is read


def series(path, *images, **options):
    """An OME-TIFF of several images: (pixels, name, metadata)."""
    with tifffile.TiffWriter(path, ome=True) as tif:
        for values, name, metadata in images:
            tif.write(values, photometric="rgb", metadata={"axes": "YXS", "Name": name, **metadata}, **options)


def mpp_of(path):
    (entry,) = st.read_wsi(path).uns["spatial"].values()
    return entry["scalefactors"]["microns_per_pixel"]


@pytest.mark.parametrize("name", ["label", "Macro Image", "overview", "thumbnail", "no name"])
def test_scale_is_that_of_the_slide_and_not_of_the_first_image(tmp_path, pixels, name):
    macro = {"PhysicalSizeX": 8.0, "PhysicalSizeY": 8.0}
    series(tmp_path / "a.ome.tif", (pixels[:200, :200], name, macro), (pixels, "slide", {"PhysicalSizeX": 0.5}))
    assert mpp_of(tmp_path / "a.ome.tif") == pytest.approx(0.5)
    series(tmp_path / "b.ome.tif", (pixels[:200, :200], name, macro), (pixels, "slide", {}))
    with pytest.raises(ValueError, match="does not say how large its pixels are"):
        mpp_of(tmp_path / "b.ome.tif")


def test_resolution_tags_are_those_of_the_slide(tmp_path, pixels):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(pixels[:200, :200], photometric="rgb", resolution=(1e3, 1e3), resolutionunit="CENTIMETER")
        tif.write(pixels, photometric="rgb", resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    assert mpp_of(tmp_path / "a.tif") == pytest.approx(0.5)


def test_a_large_label_or_mask_is_not_the_slide(tmp_path, pixels):
    large = np.kron(pixels, np.ones((2, 2, 1), np.uint8))
    series(tmp_path / "a.ome.tif", (large, "label", {"PhysicalSizeX": 4.0}), (pixels, "slide", {"PhysicalSizeX": 0.5}))
    assert mpp_of(tmp_path / "a.ome.tif") == pytest.approx(0.5)
    with tifffile.TiffWriter(tmp_path / "b.tif") as tif:
        tif.write(pixels[..., 0], photometric="minisblack")
        tif.write(pixels, photometric="rgb", resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    assert mpp_of(tmp_path / "b.tif") == pytest.approx(0.5)


def test_two_slides_in_one_file_are_not_chosen_between(tmp_path, pixels):
    size = {"PhysicalSizeX": 0.5}
    series(tmp_path / "a.ome.tif", (pixels, "left", size), (pixels[:500], "right", size))
    with pytest.raises(
        ValueError, match=r"2 images of about one size \(left .*right .*Save the H&E in a file of its own"
    ):
        st.read_wsi(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("ome", [True, False])
def test_pixels_that_are_not_square_are_refused_with_both_numbers(tmp_path, pixels, ome):
    if ome:
        sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 1000.0, "PhysicalSizeYUnit": "nm"}
        series(tmp_path / "a.ome.tif", (pixels, "slide", sizes))
    else:
        where = {"resolution": (2e4, 1e4), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="rgb", ome=False, **where)
    with pytest.raises(ValueError, match=r"not square: 0\.5 µm wide and 1 µm high"):
        st.read_wsi(tmp_path / "a.ome.tif")


def test_scanners_steps_that_nearly_agree_are_averaged(tmp_path, pixels):
    series(tmp_path / "a.ome.tif", (pixels, "slide", {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.505}))
    assert mpp_of(tmp_path / "a.ome.tif") == pytest.approx(np.sqrt(0.5 * 0.505))


def test_fewer_than_16_bits_are_said(tmp_path, pixels):
    where = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(np.uint16) << 4, **where)
    with pytest.warns(UserWarning, match=r"a\.tif uses 12 of its 16 bits"):
        slide = st.read_wsi(tmp_path / "a.tif")
    np.testing.assert_array_equal(open_sections(slide)[0].slide.read(0, 0, WIDTH, HEIGHT), pixels)
