from __future__ import annotations

import numpy as np
import pytest
import torch

import stpredict as st
from stpredict.pp._encoders import morphology, morphology_encoder

SIZE = 512


def describe(image):
    """One window in the middle of a (SIZE, SIZE, 3) image at 2 µm per pixel, by feature name."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    names, cells = morphology.describe([pixels], SIZE - 2 * morphology.REACH)
    left, top = np.array([SIZE / 4]), np.array([SIZE / 4 - morphology.REACH])
    box = (left / morphology.CELL, top / morphology.CELL, SIZE / 2 / morphology.CELL)
    names, (features,) = morphology.features_of(names, cells, [box])
    assert np.isfinite(features).all()
    return dict(zip(names, features[0].tolist(), strict=True))


def stained(hematoxylin, eosin):
    """H&E picture of the given stain densities (SIZE, SIZE)."""
    stains = morphology._STAINS / np.linalg.norm(morphology._STAINS, axis=1, keepdims=True)
    density = hematoxylin[..., None] * stains[0] + eosin[..., None] * stains[1]
    return 255 * np.exp(-density)


def dots(spacing, radius=3.0, darkness=1.0):
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot((x % spacing) - spacing / 2, (y % spacing) - spacing / 2)
    dome = np.clip(radius + 0.5 - distance, 0, 1) * (1 - 0.02 * distance)  # darkest in the middle, as nuclei are
    return stained(darkness * dome, np.full((SIZE, SIZE), 0.3))


def test_stains_are_unmixed():
    flat = np.full((SIZE, SIZE), 1.0)
    features = describe(stained(0.4 * flat, 0.7 * flat))
    assert features["hematoxylin"] == pytest.approx(0.4, abs=0.01)
    assert features["eosin"] == pytest.approx(0.7, abs=0.01)
    assert features["hematoxylin_sd"] == pytest.approx(0, abs=0.01)


def test_glass_is_glass():
    features = describe(np.full((SIZE, SIZE, 3), 255.0))
    assert features["glass"] > 0.99
    assert features["nucleus_count"] == 0


@pytest.mark.parametrize("spacing", [16, 32])
def test_nuclei_are_counted(spacing):
    features = describe(dots(spacing))
    per_pixel = 1 / spacing**2
    assert features["nucleus_count"] == pytest.approx(per_pixel, rel=0.15)


def test_larger_and_darker_nuclei_are_told_apart():
    small, large, dark = describe(dots(24, 2.5)), describe(dots(24, 5.0)), describe(dots(24, 2.5, darkness=1.6))
    assert large["nucleus_size"] > small["nucleus_size"] + 0.5
    assert dark["nucleus_peak"] > small["nucleus_peak"] * 1.3
    assert large["nucleus_count"] == pytest.approx(small["nucleus_count"], rel=0.15)


def test_fibres_have_a_direction_and_noise_has_none():
    y, x = np.mgrid[:SIZE, :SIZE]
    stripes = stained(0 * x, 0.5 + 0.3 * np.sin((x + y) / 8))
    noise = stained(0 * x, 0.5 + 0.3 * np.random.default_rng(0).standard_normal((SIZE, SIZE)).clip(-1, 1))
    assert describe(stripes)["fibres2_wide"] > 0.9
    assert describe(noise)["fibres2_wide"] < 0.2


def test_texture_is_seen_at_its_own_octave():
    """White noise is finest; the same noise blurred by three octaves moves to the coarse bands."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(1).standard_normal((SIZE, SIZE))
    coarse = gaussian_filter(noise, 6)
    fine = describe(stained(0.5 + 0.1 * noise.clip(-2, 2), np.zeros_like(noise)))
    slow = describe(stained(0.5 + 0.1 * (coarse / coarse.std()).clip(-2, 2), np.zeros_like(noise)))
    assert fine["hematoxylin_band0"] > fine["hematoxylin_band3"]
    assert slow["hematoxylin_band3"] > slow["hematoxylin_band0"]


def test_windows_average_cells_by_the_area_covered():
    table = morphology.sums(torch.arange(36.0).view(1, 6, 6))
    whole = morphology.windows(table, np.array([1.0]), np.array([2.0]), 2.0)
    assert whole.item() == pytest.approx(np.mean([13, 14, 19, 20]))
    shifted = morphology.windows(table, np.array([1.5]), np.array([2.0]), 1.0)
    assert shifted.item() == pytest.approx((13 + 14) / 2)


@pytest.mark.parametrize("own_sides", [False, True])
def test_windows_equal_brute_force(own_sides):
    """Fractional windows, some beyond the block, against the share of every cell that each covers."""
    rng = np.random.default_rng(3)
    cells = rng.gamma(1.0, 2.0, (7, 53, 41)).astype(np.float32)
    left, top = rng.uniform(-9, 45, 300), rng.uniform(-9, 58, 300)
    side = rng.uniform(0.3, 30, 300) if own_sides else 14.3

    def covered(start, n):
        inside = np.clip(np.arange(n + 1) - start[:, None], 0, np.reshape(side, (-1, 1)))
        return np.diff(inside, axis=1)

    expected = np.einsum("mhw,nh,nw->nm", cells, covered(top, 53), covered(left, 41)) / np.reshape(side, (-1, 1)) ** 2
    found = morphology.windows(morphology.sums(torch.from_numpy(cells)), left, top, side)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_many_windows_are_described_a_few_at_a_time(monkeypatch):
    rng = np.random.default_rng(4)
    strip = torch.from_numpy(rng.uniform(0.2, 1, (3, 256 + 2 * morphology.REACH, 256)).astype(np.float32))
    names, cells = morphology.describe([strip], 256)
    left, top = rng.uniform(0, 40, (2, 100))
    boxes = [(left, top, 8.0), (left[:70], top[:70], rng.uniform(2, 12, 70))]
    together = morphology.features_of(names, cells, boxes)[1]
    monkeypatch.setattr(morphology, "WINDOWS", 33)
    monkeypatch.setattr(morphology, "MAPS", 3)
    for some, all_of_them in zip(morphology.features_of(names, cells, boxes)[1], together, strict=True):
        np.testing.assert_allclose(some, all_of_them, rtol=1e-6)


def test_a_block_is_described_the_same_in_one_strip_and_in_several():
    """Nuclei near the seams, too, which look at their surroundings."""
    rng, reach = np.random.default_rng(5), morphology.REACH
    pixels = torch.from_numpy(rng.uniform(0.2, 1, (3, 256 + 2 * reach, 160)).astype(np.float32))
    pixels = torch.nn.functional.avg_pool2d(pixels, 3, 1, 1)
    names, whole = morphology.describe([pixels], 256)
    pieces = [pixels[:, top : top + 64 + 2 * reach] for top in range(0, 256, 64)]
    assert morphology.describe(pieces, 256)[0] == names
    for name, one, other in zip(names, whole, morphology.describe(pieces, 256)[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("have", "n"), [(300, 300), (300, 150), (300, 204), (301, 97), (64, 63)])
def test_pixels_are_averaged_by_area(have, n):
    pixels = np.random.default_rng(have + n).integers(0, 256, (have, 40, 3), dtype=np.uint8)
    found = morphology_encoder._area_means(torch.from_numpy(pixels), n, 0)
    expected = [pixels[i * have // n : -(-(i + 1) * have // n)].mean(axis=0) for i in range(n)]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("mpp", [0.5, 0.688])
def test_a_spot_is_described_the_same_whichever_spots_are_with_it(mpp, monkeypatch):
    """Blocks sample the slide on one lattice, so neither the block grid nor the other spots matter."""
    whole = st.datasets.simulate(seed=4)
    library = next(iter(whole.uns["spatial"]))
    factors = whole.uns["spatial"][library]["scalefactors"]
    whole.uns["spatial"][library]["metadata"]["spot_pitch_um"] = 100 * mpp / factors["microns_per_pixel"]
    factors["microns_per_pixel"] = mpp
    part = whole[3::7].copy()
    for adata in (whole, part):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
        monkeypatch.setattr(morphology_encoder, "BLOCK_PX", 300)
    a, b = whole.obsm["X_morphology_niche"][3::7], part.obsm["X_morphology_niche"]
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_real_tissue_is_described_the_same_from_jpeg_and_tiff(her2st_c2, tmp_path):
    """One section, as JPEG (decoded whole) and as tiled pyramidal TIFF: the same morphology to a few percent."""
    import tifffile

    from stpredict._images import open_image

    adata = her2st_c2
    library = next(iter(adata.uns["spatial"]))
    image = open_image(adata.uns["spatial"][library]["metadata"]["source_image_path"])
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(image.read(0, 0, *image.shape[::-1]), tile=(512, 512), subifds=1, photometric="rgb")
        half = image.read(0, 0, image.shape[1] // 2, image.shape[0] // 2, level=1)
        writer.write(half, tile=(512, 512), subfiletype=1, photometric="rgb")
    other = adata.copy()
    other.uns["spatial"][library]["metadata"]["source_image_path"] = str(path)
    for a in (adata, other):
        st.pp.tiles(a)
        st.pp.encode(a, show_progress=False)
    a, b = adata.obsm["X_morphology"], other.obsm["X_morphology"]
    correlation = [np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(a.shape[1]) if a[:, j].std() > 0]
    assert np.min(correlation) > 0.98
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 0.15 * (a.std(axis=0) + 1e-3)).all()
