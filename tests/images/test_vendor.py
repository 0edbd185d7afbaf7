"""Scanners' formats through OpenSlide, here a small Aperio file written by tifffile."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from stpredict._images import open_image, vendor

HEIGHT, WIDTH = 300, 420


@pytest.fixture(scope="module")
def pixels():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x // 2 + 20, y // 2 + 20, (x + y) // 4 + 20], axis=-1).astype(np.uint8)


@pytest.fixture
def write(tmp_path, pixels):
    """Write an Aperio slide of three levels."""

    def aperio(name, mpp="0.4990"):
        says = (
            f"Aperio Image Library v11.2.1\r\n{WIDTH}x{HEIGHT} [0,0 {WIDTH}x{HEIGHT}] (64x64) JPEG/RGB Q=70|MPP = {mpp}"
        )
        with tifffile.TiffWriter(tmp_path / name) as tif:
            for step in (1, 2, 4):
                reduced = pixels[::step, ::step]
                tif.write(reduced, tile=(64, 64), photometric="rgb", description=says, metadata=None)
        return tmp_path / name

    return aperio


@pytest.fixture
def openslide():
    return pytest.importorskip("openslide", reason="OpenSlide is not installed (stpredict[wsi])")


@pytest.mark.parametrize("name", ["a.svs", "A.SVS", "a.scn", "a.ndpi"])
def test_openslide_reads_windows_of_every_level(openslide, write, pixels, name):
    image = open_image(write(name))
    assert image.shape == (HEIGHT, WIDTH)
    assert image.mpp == pytest.approx(0.499)
    assert image.downsamples == pytest.approx([1, 2, 4])
    for level, step in enumerate((1, 2, 4)):
        window = image.read(20, 10, 70, 50, level=level)
        np.testing.assert_array_equal(window, pixels[::step, ::step][10:50, 20:70])
    corner = image.read(WIDTH - 10, -5, WIDTH + 10, 20)
    assert (corner[:5] == 255).all()
    assert (corner[:, 10:] == 255).all()
    assert image.thumbnail(105).mean(axis=(0, 1)) == pytest.approx(pixels.mean(axis=(0, 1)), abs=3)


def test_openslide_and_tifffile_agree(openslide, write, monkeypatch):
    by_openslide = open_image(write("a.svs"))
    assert isinstance(by_openslide._levels[0], vendor.OpenSlideLevel)
    monkeypatch.setattr(vendor, "find_spec", lambda name: None)
    by_tifffile = open_image(write("b.svs"))
    assert not isinstance(by_tifffile._levels[0], vendor.OpenSlideLevel)
    assert by_openslide.mpp == by_tifffile.mpp
    whole = (0, 0, WIDTH, HEIGHT)
    np.testing.assert_array_equal(by_openslide.read(*whole), by_tifffile.read(*whole))


def test_a_plain_tiff_called_svs_is_read_as_what_it_is(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.svs", pixels, photometric="rgb")
    np.testing.assert_array_equal(open_image(tmp_path / "a.svs").read(0, 0, WIDTH, HEIGHT), pixels)


@pytest.mark.parametrize("suffix", vendor.ONLY_OPENSLIDE)
def test_without_openslide_the_extra_is_named(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(vendor, "find_spec", lambda name: None)
    (tmp_path / f"slide{suffix}").write_bytes(b"anything")
    with pytest.raises(ImportError, match=r"pip install 'stpredict\[wsi\]'"):
        open_image(tmp_path / f"slide{suffix}")


def test_what_openslide_cannot_read_is_one_error(openslide, tmp_path):
    (tmp_path / "slide.mrxs").write_bytes(b"no slide")
    with pytest.raises(ValueError, match=r"slide\.mrxs cannot be read by OpenSlide .* files that belong to it"):
        open_image(tmp_path / "slide.mrxs")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_a_slide_cut_short_is_one_error(openslide, write, share):
    path = write("a.svs")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"a\.svs"):
        open_image(path).read(0, 0, WIDTH, HEIGHT)
