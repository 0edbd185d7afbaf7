"""The niche figure: the right spots, the right box, and means of the right numbers."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle

import stpredict as st


def boxes_of(ax):
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return [(b.get_x(), b.get_y(), b.get_x() + b.get_width(), b.get_y() + b.get_height()) for b in boxes]


def test_members_are_outlined_and_the_image_is_boxed(section, spots_of):
    st.pp.niches(section, members="ring")
    name = section.obs_names[100]
    ax = st.pl.niches(section, name, show=False)
    members = section.obsp["niches"][[100]].indices
    thick = np.flatnonzero(np.array(spots_of(ax).get_linewidths()) > 1)
    np.testing.assert_array_equal(thick, members)
    assert ax.get_title() == f"{name}: {len(members)} spots"
    filled = np.flatnonzero(spots_of(ax).get_facecolors()[:, 3])
    np.testing.assert_array_equal(filled, [100])
    box, square = boxes_of(ax)
    np.testing.assert_allclose(box, section.obsm["niches"][100])
    assert square[2] - square[0] == pytest.approx(max(box[2] - box[0], box[3] - box[1]))
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    assert left < box[0] < box[2] < right
    assert top < box[1] < box[3] < bottom


def test_the_crop_is_the_slide_in_register(section):
    ax = st.pl.niches(section, show=False)
    (image,) = ax.images
    left, right, bottom, top = map(int, image.get_extent())
    hires = section.uns["spatial"]["sim_1"]["images"]["hires"]
    np.testing.assert_array_equal(image.get_array(), hires[top:bottom, left:right])
    assert len(boxes_of(ax)) == 1  # a window is a square


def test_maps_show_spots_and_niche_means_in_the_same_colours(section, spots_of):
    axes = st.pl.niches(section, gene="HER2", layer="truth", show=False)
    assert [ax.get_title() for ax in axes[1:]] == ["HER2, spots", "HER2, niche means"]
    values = section.layers["truth"][:, section.var_names == "ERBB2"].ravel()
    centres = section.obsm["spatial"]
    near = (np.abs(centres[:, None] - centres[None]).max(axis=2) < 280).astype(float)
    np.testing.assert_allclose(spots_of(axes[1]).get_array(), values, rtol=1e-5)
    np.testing.assert_allclose(spots_of(axes[2]).get_array(), near @ values / near.sum(axis=1), rtol=1e-4)
    assert spots_of(axes[1]).get_clim() == spots_of(axes[2]).get_clim()
    assert all(len(boxes_of(ax)) == 1 for ax in axes)


def test_tiles_draw_the_niches_that_encoders_read(section):
    st.pp.niches(section, members="nearest")
    for ax in st.pl.tiles(section, n=4, window="niche", show=False):
        left, top, right, bottom = section.obsm["niches"][section.obs_names == ax.get_title()][0]
        xlim, ylim = ax.get_xlim(), ax.get_ylim()
        assert xlim[1] - xlim[0] == pytest.approx(max(right - left, bottom - top))
        np.testing.assert_allclose([np.mean(xlim), np.mean(ylim)], [(left + right) / 2, (top + bottom) / 2])


def test_it_works_without_an_image_and_on_given_axes(section, tmp_path):
    section.uns["spatial"]["sim_1"]["images"] = {}
    _, axes = plt.subplots(1, 3)
    drawn = st.pl.niches(section, gene="ERBB2", ax=axes, save=tmp_path / "niche.png")
    assert not drawn[0].images
    assert (tmp_path / "niche.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"1 panel\(s\), but ax has 3"):
        st.pl.niches(section, ax=axes)


def test_unknown_spots_and_genes_are_named(section):
    with pytest.raises(KeyError, match="has no spot 'x1'; obs_names has"):
        st.pl.niches(section, "x1")
    with pytest.raises(KeyError, match="Not in var_names"):
        st.pl.niches(section, gene="NOGENE")
