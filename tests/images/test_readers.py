"""Images of every kind are read window by window, and damaged ones end in one clear error."""

from __future__ import annotations

import gc
import logging
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

import stpredict as st
from stpredict._images import SlideImage, open_image, readers

HEIGHT, WIDTH = 150, 210


@pytest.fixture(scope="module")
def pixels():
    """Smooth colours, so that lossy formats stay close; none is black, which would read as glass."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x, y, (x + y) // 2], axis=-1).clip(10, None).astype(np.uint8)


def write_pyramid(path, pixels, *, compression="deflate", unit="µm", size=0.5):
    options = {"tile": (64, 64), "photometric": "rgb", "compression": compression}
    with tifffile.TiffWriter(path, ome=True) as tif:
        metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
        tif.write(pixels, subifds=2, metadata=metadata, **options)
        tif.write(pixels[::2, ::2], subfiletype=1, **options)
        tif.write(pixels[::4, ::4], subfiletype=1, **options)


WRITERS = {
    "plain.png": lambda path, a: Image.fromarray(a).save(path),
    "strips.tif": lambda path, a: tifffile.imwrite(path, a, photometric="rgb"),
    "lzw.tif": lambda path, a: tifffile.imwrite(path, a, photometric="rgb", compression="lzw", rowsperstrip=16),
    "tiled.tif": lambda path, a: tifffile.imwrite(path, a, photometric="rgb", tile=(64, 64)),
    "planar.tif": lambda path, a: tifffile.imwrite(
        path, np.moveaxis(a, -1, 0), photometric="rgb", planarconfig="separate"
    ),
    "16bit.tif": lambda path, a: tifffile.imwrite(path, a.astype(np.uint16) << 8, photometric="rgb"),
    "float.tif": lambda path, a: tifffile.imwrite(path, (a / 255).astype(np.float32), photometric="rgb"),
    "pyramid.ome.tif": write_pyramid,
}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path, pixels):
    WRITERS[request.param](tmp_path / request.param, pixels)
    return tmp_path / request.param


def test_windows_are_exact_and_white_outside(path, pixels):
    image = open_image(path)
    assert image.shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(image.read(70, 30, 140, 130), pixels[30:130, 70:140])
    corner = image.read(WIDTH - 10, -5, WIDTH + 10, 20)
    assert corner.shape == (25, 20, 3)
    np.testing.assert_array_equal(corner[5:, :10], pixels[:20, -10:])
    assert (corner[:5] == 255).all()
    assert (corner[:, 10:] == 255).all()
    assert (image.read(-50, -50, -10, -10) == 255).all()


@settings(max_examples=40, deadline=None)
@given(x=some.integers(-300, 300), y=some.integers(-300, 300), w=some.integers(0, 400), h=some.integers(0, 400))
def test_any_window_equals_the_padded_array(pixels, x, y, w, h):
    padded = np.full((HEIGHT + 1400, WIDTH + 1400, 3), 255, dtype=np.uint8)
    padded[700 : 700 + HEIGHT, 700 : 700 + WIDTH] = pixels
    window = SlideImage([pixels]).read(x, y, x + w, y + h)
    np.testing.assert_array_equal(window, padded[700 + y : 700 + y + h, 700 + x : 700 + x + w])


def test_jpeg_is_a_pyramid(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    image = open_image(tmp_path / "a.jpg")
    assert image.downsamples == pytest.approx([1, 2, 4, 8], rel=0.02)
    assert np.abs(image.read(0, 0, WIDTH, HEIGHT).astype(int) - pixels).max() < 12
    half = image.read(0, 0, WIDTH // 2, HEIGHT // 2, level=1)
    truth = pixels.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(half - truth).max() < 12


def test_tiny_jpeg(tmp_path, pixels):
    Image.fromarray(pixels[:5]).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    image = open_image(tmp_path / "a.jpg")
    assert image.shape == (5, WIDTH)
    small = image.thumbnail(50)
    assert small.shape == (1, 50, 3)
    seen = np.arange(5, 50)  # what is darker, further left, reads as glass
    np.testing.assert_allclose(small[0, seen, 0], WIDTH / 50 * (seen + 0.5), atol=4)  # red rises from left to right


def test_transparent_is_glass(tmp_path, pixels):
    alpha = np.full((HEIGHT, WIDTH, 1), 255, dtype=np.uint8)
    alpha[:, :100] = 0
    Image.fromarray(np.concatenate([pixels, alpha], axis=-1)).save(tmp_path / "a.png")
    read = open_image(tmp_path / "a.png").read(0, 0, WIDTH, HEIGHT)
    assert (read[:, :100] == 255).all()
    np.testing.assert_array_equal(read[:, 100:], pixels[:, 100:])
    tifffile.imwrite(
        tmp_path / "a.tif", np.concatenate([pixels, alpha], axis=-1), photometric="rgb", extrasamples=["unassalpha"]
    )
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(0, 0, WIDTH, HEIGHT), read)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_becomes_rgb(tmp_path, pixels, depth, suffix):
    grey = pixels[..., 0] if depth == 8 else pixels[..., 0].astype(np.uint16) << 8
    (Image.fromarray(grey).save if suffix == "png" else lambda p: tifffile.imwrite(p, grey))(tmp_path / f"a.{suffix}")
    read = open_image(tmp_path / f"a.{suffix}").read(0, 0, WIDTH, HEIGHT)
    for channel in range(3):
        np.testing.assert_array_equal(read[..., channel], pixels[..., 0])


def test_pyramid_levels_are_chosen_by_downsample(tmp_path, pixels):
    write_pyramid(tmp_path / "a.ome.tif", pixels)
    image = open_image(tmp_path / "a.ome.tif")
    assert image.downsamples == pytest.approx([1, 2, 4], rel=0.03)
    assert [image.best_level(d) for d in (0.5, 1, 1.9, 2, 3.5, 4, 100)] == [0, 0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(image.read(10, 5, 30, 25, level=1), pixels[::2, ::2][5:25, 10:30])


@pytest.mark.parametrize("side", [40, 64, 151, 1024])
def test_thumbnail_keeps_shape_and_colour(path, pixels, side):
    small = open_image(path).thumbnail(side)
    assert max(small.shape) == min(side, WIDTH)
    assert small.mean(axis=(0, 1)) == pytest.approx(pixels.mean(axis=(0, 1)), abs=3)


@pytest.mark.parametrize("side", [64, 151])
def test_thumbnail_is_the_same_from_windows_of_any_size(path, side, monkeypatch):
    image = open_image(path)
    whole = image.thumbnail(side)
    monkeypatch.setattr(readers, "READ_AT_ONCE", (16, 24))
    np.testing.assert_array_equal(image.thumbnail(side), whole)


@pytest.mark.parametrize(("unit", "size"), [("µm", 0.25), ("mm", 0.00025), ("nm", 250)])
def test_mpp_from_ome(tmp_path, pixels, unit, size):
    write_pyramid(tmp_path / "a.ome.tif", pixels, unit=unit, size=size)
    assert open_image(tmp_path / "a.ome.tif").mpp == pytest.approx(0.25)


@pytest.mark.parametrize("unit", ["micron", "um", r"\u00B5m"])
def test_mpp_from_imagej(tmp_path, pixels, unit):
    options = {"photometric": "rgb", "imagej": True, "resolution": (4.0, 4.0), "metadata": {"unit": unit}}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    assert open_image(tmp_path / "a.tif").mpp == pytest.approx(0.25)


def test_ome_size_in_no_physical_unit_is_unknown(tmp_path, pixels):
    write_pyramid(tmp_path / "a.ome.tif", pixels, unit="pixel", size=1)
    assert open_image(tmp_path / "a.ome.tif").mpp is None


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [(20_000, "CENTIMETER", 0.5), (25_400, "INCH", 1.0), (72, "INCH", None), (20_000, "NONE", None)],
)
def test_mpp_from_resolution_tags(tmp_path, pixels, resolution, unit, mpp):
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", resolution=(resolution, resolution), resolutionunit=unit
    )
    assert open_image(tmp_path / "a.tif").mpp == (mpp and pytest.approx(mpp))


@pytest.mark.parametrize("kept", [0, 0.02, 0.4, 0.95])
@pytest.mark.parametrize("name", [*WRITERS, "photo.jpg"])
def test_truncated_files_are_refused_in_one_sentence(tmp_path, pixels, name, kept, caplog):
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    WRITERS.get(name, WRITERS["plain.png"])(tmp_path / name, noise)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"(truncated|cannot be read).*image"):
        open_image(tmp_path / name).read(0, 0, WIDTH, HEIGHT)
    assert caplog.records == []  # tifffile's own words for it are kept back


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=some.data())
def test_damaged_bytes_never_end_in_anything_but_a_value_error(tmp_path, pixels, data, caplog):
    caplog.set_level(logging.CRITICAL + 1, "tifffile")
    name = data.draw(some.sampled_from(["lzw.tif", "pyramid.ome.tif", "plain.png"]))
    WRITERS[name](tmp_path / name, pixels)
    raw = bytearray((tmp_path / name).read_bytes())
    for _ in range(data.draw(some.integers(1, 8))):
        raw[data.draw(some.integers(0, min(len(raw), 2000) - 1))] = data.draw(some.integers(0, 255))
    damaged = tmp_path / f"damaged_{name}"
    damaged.write_bytes(raw)
    with warnings.catch_warnings(), st.settings.override(max_image_pixels=10_000_000):
        warnings.simplefilter("ignore")
        try:
            read = open_image(damaged).read(0, 0, 50, 50)
        except ValueError as error:
            assert str(damaged) in str(error)  # noqa: PT017
        else:
            assert read.shape == (50, 50, 3)


def test_what_is_no_image_is_refused(tmp_path, pixels):
    with pytest.raises(FileNotFoundError, match="no image at"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match="no image at"):
        open_image(tmp_path)
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        open_image(tmp_path / "notes.png")
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([pixels] * 4), photometric="rgb")
    with pytest.raises(ValueError, match="axes"):
        open_image(tmp_path / "stack.tif")
    tifffile.imwrite(tmp_path / "int.tif", pixels.astype(np.int32), photometric="rgb")
    with pytest.raises(ValueError, match="int32"):
        open_image(tmp_path / "int.tif").read(0, 0, 5, 5)
    tifffile.imwrite(tmp_path / "float.tif", pixels.astype(np.float32), photometric="rgb")
    with pytest.raises(ValueError, match=r"outside of \[0, 1\]"):
        open_image(tmp_path / "float.tif").read(0, 0, 5, 5)
    with pytest.raises(ValueError, match="2 channels"):
        SlideImage([pixels[..., :2]]).read(0, 0, 5, 5)


def test_too_large_to_decode_whole(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "tiled.tif", pixels, photometric="rgb", tile=(64, 64), compression="lzw")
    with st.settings.override(max_image_pixels=1000):
        with pytest.raises(ValueError, match=r"tiled TIFF, or raise stpredict\.settings"):
            open_image(tmp_path / "a.png")
        assert open_image(tmp_path / "tiled.tif").read(0, 0, 5, 5).shape == (5, 5, 3)


def test_compressed_in_one_piece_is_decoded_once(tmp_path, pixels, monkeypatch):
    from stpredict._images import tiff as readers

    monkeypatch.setattr(readers, "LARGEST_CHUNK", 1000)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="deflate", rowsperstrip=HEIGHT)
    image = open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.read(70, 30, 140, 130), pixels[30:130, 70:140])
    assert isinstance(image._levels[0]._array, np.ndarray)


def test_whole_images_are_decoded_once_by_many_threads(tmp_path, pixels, monkeypatch):
    from stpredict._images.whole import WholeImage

    Image.fromarray(pixels).save(tmp_path / "a.png")
    image, decode, calls = open_image(tmp_path / "a.png"), WholeImage._decode, []
    monkeypatch.setattr(WholeImage, "_decode", lambda self: calls.append(1) or decode(self))
    threads = [threading.Thread(target=image.read, args=(0, 0, 50, 50)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_file_handles_are_not_leaked(tmp_path, pixels):
    def opened():
        gc.collect()
        links = [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
        return sum(str(tmp_path) in str(fd.readlink()) for fd in links)

    for number in range(12):
        for name in ("pyramid.ome.tif", "strips.tif", "plain.png"):
            path = tmp_path / f"{number}_{name}"
            WRITERS[name](path, pixels)
            open_image(path).read(0, 0, 60, 60)
    assert opened() <= 4  # those of the images that are kept open


def test_fingerprint_names_the_pixels(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    first = open_image(tmp_path / "a.png").fingerprint
    assert open_image(tmp_path / "a.png").fingerprint == first
    Image.fromarray(255 - pixels).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").fingerprint != first
    assert SlideImage([pixels]).fingerprint == SlideImage([pixels.copy()]).fingerprint
    assert SlideImage([pixels]).fingerprint != SlideImage([255 - pixels]).fingerprint


def test_channels_first(pixels):
    image = SlideImage([np.moveaxis(pixels, -1, 0)], channels_first=True)
    assert image.shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(image.read(70, 30, 140, 130), pixels[30:130, 70:140])


def test_blackened_background_reads_as_glass():
    pixels = np.full((20, 30, 3), (120, 60, 140), dtype=np.uint8)
    pixels[:, :10] = 0
    pixels[5, 20] = (0, 0, 3)
    image = SlideImage([pixels])
    window = image.read(0, 0, 30, 20)
    assert (window[:, :10] == 255).all()
    np.testing.assert_array_equal(window[:, 10:], pixels[:, 10:])
    assert (pixels[:, :10] == 0).all()
