"""The tissue mask: on drawn slides where every pixel's truth is known, and on real ones."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as st
from stpredict._images.mask import mask_tissue, tissue_fraction

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
