"""One picture is the same pixels whatever it is stored as; what would be guessed is refused by name."""

from __future__ import annotations

import threading
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

import stpredict as st
from stpredict._images import SlideImage, open_image

HEIGHT, WIDTH = 96, 130


@pytest.fixture(scope="module")
def pixels():
    """Pink tissue with violet nuclei on glass."""
    picture = np.full((HEIGHT, WIDTH, 3), (242, 240, 243), np.uint8)
    picture[10:80, 15:110] = np.random.default_rng(0).integers(60, 230, (70, 95, 3), dtype=np.uint8)
    picture[30:40, 40:60] = (90, 50, 140)
    return picture


def tiff(path, values, **options):
    tifffile.imwrite(path, values, **({"photometric": "rgb"} | options))


def ome(path, values, *, axes="YXS", photometric="rgb", **metadata):
    tifffile.imwrite(path, values, photometric=photometric, ome=True, metadata={"axes": axes, **metadata})


def with_alpha(a, *, kind="unassalpha", opaque=True):
    """Opaque, or glass that is transparent."""
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    if not opaque:
        alpha[0] = 0
    return np.concatenate([a, alpha], axis=-1)


def deep(a, bits):
    """Full range of so many bits."""
    return np.rint(a.astype(float) * (2**bits - 1) / 255).astype(np.uint16)


def ycbcr(a):
    return np.asarray(Image.fromarray(a).convert("YCbCr"))


def cmyk(a):
    return np.asarray(Image.fromarray(a).convert("CMYK"))


def jpeg_turned(path, a):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(a, 1)).save(path, quality=100, subsampling=0, exif=exif)


def deep_png(path, a, bits):
    path.write_bytes(imagecodecs.png_encode(deep(a, bits)))


ENCODINGS = {
    "plain.png": lambda path, a: Image.fromarray(a).save(path),
    "alpha.png": lambda path, a: Image.fromarray(with_alpha(a)).save(path),
    "16 bits.png": lambda path, a: deep_png(path, a, 16),
    "12 of 16 bits.png": lambda path, a: deep_png(path, a, 12),
    "8 of 16 bits.png": lambda path, a: path.write_bytes(imagecodecs.png_encode(a.astype(np.uint16))),
    "plain.bmp": lambda path, a: Image.fromarray(a).save(path),
    "lossless.webp": lambda path, a: Image.fromarray(a).save(path, lossless=True),
    "strips.tif": tiff,
    "tiles of zstd.tif": lambda path, a: tiff(path, a, tile=(32, 32), compression="zstd"),
    "big.tif": lambda path, a: tiff(path, a, bigtiff=True, byteorder=">"),
    "predictor.tif": lambda path, a: tiff(path, a, compression="deflate", predictor=True),
    "planes.tif": lambda path, a: tiff(path, np.moveaxis(a, -1, 0), planarconfig="separate"),
    "16 bits.tif": lambda path, a: tiff(path, deep(a, 16)),
    "upper 8 of 16 bits.tif": lambda path, a: tiff(path, a.astype(np.uint16) << 8),
    "8 of 16 bits.tif": lambda path, a: tiff(path, a.astype(np.uint16)),
    "10 of 16 bits.tif": lambda path, a: tiff(path, deep(a, 10)),
    "12 of 16 bits.tif": lambda path, a: tiff(path, a.astype(np.uint16) << 4, tile=(32, 32), compression="lzw"),
    "14 of 16 bits.tif": lambda path, a: tiff(path, deep(a, 14)),
    "float.tif": lambda path, a: tiff(path, (a / 255).astype(np.float32)),
    "half.tif": lambda path, a: tiff(path, (a / 255).astype(np.float16)),
    "alpha.tif": lambda path, a: tiff(path, with_alpha(a), extrasamples=["unassalpha"]),
    "premultiplied.tif": lambda path, a: tiff(path, with_alpha(a), extrasamples=["assocalpha"]),
    "no alpha.tif": lambda path, a: tiff(path, with_alpha(a) * np.uint8([1, 1, 1, 0]), extrasamples=["unspecified"]),
    "ycbcr.tif": lambda path, a: tiff(path, ycbcr(a), photometric="ycbcr", subsampling=(1, 1)),
    "cmyk.tif": lambda path, a: tiff(path, cmyk(a), photometric="separated"),
    "named.ome.tif": lambda path, a: ome(path, a),
    "significant.ome.tif": lambda path, a: ome(path, a.astype(np.uint16) << 4, SignificantBits=12),
    "bgr.ome.tif": lambda path, a: ome(
        path,
        np.moveaxis(a[..., ::-1], -1, 0),
        axes="CYX",
        photometric="minisblack",
        Channel={"Name": ["Blue", "Green", "Red"]},
    ),
    "named 16 bits.ome.tif": lambda path, a: ome(
        path, deep(np.moveaxis(a, -1, 0), 16), axes="CYX", photometric="minisblack", Channel={"Name": ["r", "g", "b"]}
    ),
}
NEAR = {"ycbcr.tif": 3, "cmyk.tif": 2, "half.tif": 1}
"""Encodings that round, and by how much."""


@pytest.mark.parametrize("name", ENCODINGS)
def test_one_picture_is_the_same_pixels_in_every_encoding(tmp_path, pixels, name):
    values = pixels.astype(pixels.dtype)
    path = tmp_path / name
    ENCODINGS[name](path, values)
    read = open_image(path).read(0, 0, WIDTH, HEIGHT).astype(int)
    assert np.abs(read - pixels).max() <= NEAR.get(name, 0)


def test_palette_is_looked_up(tmp_path, pixels):
    few = Image.fromarray(pixels).quantize(64)
    truth = np.asarray(few.convert("RGB"))
    for name in ("a.png", "a.tif"):
        few.save(tmp_path / name)
        np.testing.assert_array_equal(open_image(tmp_path / name).read(0, 0, WIDTH, HEIGHT), truth)


def test_turned_jpeg_is_upright(tmp_path, pixels):
    smooth = np.asarray(Image.fromarray(pixels).resize((16, 12)).resize((WIDTH, HEIGHT)))
    jpeg_turned(tmp_path / "a.jpg", smooth)
    image = open_image(tmp_path / "a.jpg")
    assert image.shape == (HEIGHT, WIDTH)
    assert np.abs(image.read(0, 0, WIDTH, HEIGHT).astype(int) - smooth).max() < 12


def test_transparent_pixels_are_glass_whether_premultiplied_or_not(tmp_path, pixels):
    for kind in ("unassalpha", "assocalpha"):
        values = with_alpha(pixels, opaque=False)
        values[..., :3] = np.where(values[..., 3:] == 0, 0, values[..., :3])
        tiff(tmp_path / f"{kind}.tif", values, extrasamples=[kind])
        read = open_image(tmp_path / f"{kind}.tif").read(0, 0, WIDTH, HEIGHT)
        assert (read[0] == 255).all()
        np.testing.assert_array_equal(read[1:], pixels[1:])


def test_white_is_zero_is_inverted(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", 255 - pixels[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(0, 0, WIDTH, HEIGHT)[..., 1], pixels[..., 0])


def stored_turned(path, a):
    tiff(path, a, extratags=[(274, 3, 1, 6, True)])


REFUSED = {
    "lab.tif": (lambda path, a: tiff(path, a, photometric="cielab"), "colours of the kind CIELAB. Convert it to RGB"),
    "turned.tif": (stored_turned, r"turned or mirrored \(orientation 6\)"),
    "inks.tif": (
        lambda path, a: tiff(path, cmyk(a), photometric="separated", extratags=[(332, 3, 1, 2, True)]),
        "inks that are not cyan",
    ),
    "dapi.ome.tif": (
        lambda path, a: ome(
            path,
            np.moveaxis(a, -1, 0),
            axes="CYX",
            photometric="minisblack",
            Channel={"Name": ["DAPI", "CD3", "CD8"]},
        ),
        r"3 channels \(DAPI, CD3, CD8\) of uint8 that are not called red, green and blue",
    ),
    "unnamed.ome.tif": (
        lambda path, a: ome(path, deep(np.moveaxis(a, -1, 0), 16), axes="CYX", photometric="minisblack"),
        "3 channels.* of uint16 that are not called red",
    ),
    "dark.tif": (lambda path, a: tiff(path, a.astype(np.uint16) * 5), "too dark for 12 bits, too bright for 10"),
    "dark float.tif": (lambda path, a: tiff(path, (a / 4096).astype(np.float32)), "fractional pixels up to 0.0"),
    "255.tif": (lambda path, a: tiff(path, a.astype(np.float32)), r"outside of \[0, 1\]"),
    "signed.tif": (lambda path, a: tiff(path, a.astype(np.int16)), "pixels of type int16"),
    "contradiction.ome.tif": (lambda path, a: ome(path, deep(a, 16), SignificantBits=12), "said to have 12 bits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_guessed_is_refused_by_name(tmp_path, pixels, name):
    write, message = REFUSED[name]
    write(tmp_path / name, pixels)
    with pytest.raises(ValueError, match=message):
        open_image(tmp_path / name).read(0, 0, WIDTH, HEIGHT)


def test_a_window_far_brighter_than_the_rest_is_refused():
    values = np.full((4000, 1500), 200, np.uint16)
    values[2000:2010, 700:710] = 60_000  # between the places that are looked at first
    image = SlideImage([values])
    assert image.bits == 8
    with pytest.raises(ValueError, match="8-bit pixels in most places and values up to 60000"):
        image.read(690, 1990, 720, 2020)


def test_greyscale_is_no_slide(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels[..., 0])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        with pytest.raises(ValueError, match="is a greyscale picture; H&E has three colours"):
            st.read_wsi(tmp_path / name, 0.5)


# ---------------------------------------------------------------------- nearly black background


def test_background_that_is_black_but_for_jpeg_is_glass(pixels):
    glass = (pixels == (242, 240, 243)).all(axis=-1)
    noise = np.random.default_rng(1).integers(1, 7, pixels.shape, dtype=np.uint8)
    image = SlideImage([np.where(glass[..., None], noise, pixels)])
    read = image.read(0, 0, WIDTH, HEIGHT)
    assert (read[glass] == 255).all()
    np.testing.assert_array_equal(read[~glass], pixels[~glass])


# ---------------------------------------------------------------------- bombs


def test_small_files_of_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    side = 12_000
    Image.new("1", (side, side), 1).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"144 million pixels in 0.0 MB; no picture of tissue is so empty"):
        open_image(tmp_path / "a.png")
    rows = zlib.compressobj(9)
    data = b"".join([rows.compress(b"\xf0" * 3 * side) for _ in range(side)] + [rows.flush()])
    piece = {"shape": (side, side, 3), "dtype": np.uint8, "rowsperstrip": side, "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", iter([data]), photometric="rgb", **piece)
    with pytest.raises(ValueError, match=r"144 million pixels in .* no picture of tissue is so empty"):
        open_image(tmp_path / "a.tif")


def test_the_bound_of_pil_belongs_to_the_process(tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen, done = set(), threading.Event()

    def watch():
        while not done.is_set():
            seen.add(Image.MAX_IMAGE_PIXELS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        np.testing.assert_array_equal(open_image(tmp_path / "a.png").read(0, 0, WIDTH, HEIGHT), pixels)
        (tmp_path / "a.png").touch()
    done.set()
    watcher.join()
    assert seen == {100}


# ---------------------------------------------------------------------- pyramids


def pyramid(path, levels, *, mpp=None, name=None, unit="CENTIMETER", tif_options=None, **options):
    with tifffile.TiffWriter(path, **(tif_options or {})) as tif:
        for i, level in enumerate(levels):
            per_unit = None if mpp is None else {"CENTIMETER": 1e4, "INCH": 25_400}[unit] / (mpp * 2**i)
            where = {} if mpp is None else {"resolution": (per_unit, per_unit), "resolutionunit": unit}
            kind = {"tile": (32, 32), "photometric": "rgb", "subfiletype": int(i > 0)}
            tif.write(level, **kind, **where, **options)


def test_levels_have_the_whole_factor_that_rounding_hides():
    finest = np.zeros((1007, 20_000, 3), np.uint8)
    levels = [finest, finest[:125, :2500]]
    assert SlideImage(levels).downsamples == [1, 8]
    assert SlideImage([np.moveaxis(level, 1, 0) for level in levels]).downsamples == [1, 8]


def test_a_level_coarser_along_one_axis_is_left_out():
    finest = np.random.default_rng(0).integers(50, 255, (400, 600, 3), np.uint8)
    image = SlideImage([finest, finest[::2], finest[::4, ::4]])
    assert image.downsamples == [1, 4]
    np.testing.assert_array_equal(image.read(5, 5, 50, 50, level=1), finest[::4, ::4][5:50, 5:50])


# ---------------------------------------------------------------------- any of all that


@some.composite
def files(draw):
    """How a picture is stored: container, depth, layout, pyramid, and who says its scale."""
    scale = draw(some.sampled_from([None, 0.25, 0.5023, 1.0]))
    return {
        "shape": (draw(some.integers(40, 150)), draw(some.integers(40, 150))),
        "container": draw(some.sampled_from(["tif", "ome", "bigtiff", "imagej"])),
        "values": draw(some.sampled_from(["8", "8 in 16", "10", "12", "14", "16", "float"])),
        "photometric": draw(some.sampled_from(["rgb", "alpha", "unspecified", "cmyk"])),
        "compression": draw(some.sampled_from([None, "deflate", "lzw", "zstd"])),
        "tile": draw(some.sampled_from([None, (32, 32), (64, 32)])),
        "levels": draw(some.integers(1, 3)),
        "macro first": draw(some.booleans()),
        "mpp": scale,
        "unit": draw(some.sampled_from(["µm", "nm", "mm"])),
        "seed": draw(some.integers(0, 2**16)),
    }


def stored_values(a, kind):
    if kind == "float":
        return (a / 255).astype(np.float32)
    if kind in ("8", "8 in 16"):
        return a if kind == "8" else a.astype(np.uint16)
    return deep(a, int(kind))


def check_file(path, how):
    rng = np.random.default_rng(how["seed"])
    truth = rng.integers(30, 245, (*how["shape"], 3), dtype=np.uint8)
    truth[:5, :5] = 244
    options = {"compression": how["compression"], "tile": how["tile"], "photometric": "rgb"}
    values, near = truth, 0
    if how["photometric"] in ("alpha", "unspecified"):
        fourth = np.full((*how["shape"], 1), 255 if how["photometric"] == "alpha" else 0, np.uint8)
        values = np.concatenate([truth, fourth], axis=-1)
        options["extrasamples"] = ["unassalpha" if how["photometric"] == "alpha" else "unspecified"]
    elif how["photometric"] == "cmyk":
        values, near, options["photometric"] = cmyk(truth), 2, "separated"
    levels = [stored_values(values[:: 2**i, :: 2**i], how["values"]) for i in range(how["levels"])]
    write_file(path, levels, how, options)
    image, mpp = open_image(path), how["mpp"]
    read = image.read(0, 0, truth.shape[1], truth.shape[0])
    assert np.abs(read.astype(int) - truth).max() <= near
    for i in range(1, len(image.downsamples)):
        part = image.read(1, 2, 9, 9, level=i).astype(int)
        factor = round(image.downsamples[i])
        assert np.abs(part - truth[::factor, ::factor][2:9, 1:9]).max() <= near
        assert image.downsamples[i] == pytest.approx(factor, rel=2 / max(truth.shape[:2]))
    assert image.mpp == (mpp and pytest.approx(mpp))


def write_file(path, levels, how, options):
    """As scanners' software writes it, where wanted behind a macro image of another scale."""
    mpp, small = how["mpp"], levels[0][:16, :16]
    if how["container"] == "ome":
        size = {"µm": 1, "nm": 1e3, "mm": 1e-3}[how["unit"]]
        with tifffile.TiffWriter(path, ome=True) as tif:
            physical = {"PhysicalSizeXUnit": how["unit"], "PhysicalSizeYUnit": how["unit"]}
            if how["macro first"]:
                macro = {"PhysicalSizeX": 8.0 * size, "PhysicalSizeY": 8.0 * size, **physical, "Name": "macro"}
                tif.write(small, metadata={"axes": "YXS", **macro}, **options)
            own = {} if mpp is None else {"PhysicalSizeX": mpp * size, "PhysicalSizeY": mpp * size, **physical}
            tif.write(levels[0], subifds=len(levels) - 1, metadata={"axes": "YXS", "Name": "slide", **own}, **options)
            for level in levels[1:]:
                tif.write(level, subfiletype=1, **options)
        return
    per_cm = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    if how["container"] == "imagej" and levels[0].shape[-1] == 3 and levels[0].dtype == np.uint8:
        scale = {} if mpp is None else {"resolution": (1 / mpp, 1 / mpp), "metadata": {"unit": "um"}}
        tifffile.imwrite(path, levels[0], imagej=True, photometric="rgb", **scale)
        return
    with tifffile.TiffWriter(path, bigtiff=how["container"] == "bigtiff") as tif:
        if how["macro first"]:
            tif.write(small, resolution=(100, 100), resolutionunit="CENTIMETER", metadata=None, **options)
        tif.write(levels[0], subifds=len(levels) - 1, metadata=None, **per_cm, **options)
        for level in levels[1:]:
            tif.write(level, subfiletype=1, metadata=None, **options)


QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=100, **QUIET)
@given(how=files())
def test_pixels_and_scale_of_any_file_are_the_truth(tmp_path, how):
    check_file(tmp_path / f"{abs(hash(str(how)))}.{'ome.' if how['container'] == 'ome' else ''}tif", how)


@pytest.mark.slow
@settings(max_examples=2000, **QUIET)
@given(how=files())
def test_pixels_and_scale_of_very_many_files_are_the_truth(tmp_path, how):
    check_file(tmp_path / f"{abs(hash(str(how)))}.{'ome.' if how['container'] == 'ome' else ''}tif", how)
