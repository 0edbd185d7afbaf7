"""The figure of attention to nuclei: the right tiles, the model's numbers, the right way up."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import stpredict as st
from stpredict._sections.anndata import section_from_anndata


@pytest.fixture
def prepared(attentive):
    return attentive[0]


@pytest.fixture
def model(attentive):
    return attentive[1]


def test_tiles_above_and_attention_below(prepared, model):
    before = prepared.copy()
    axes = st.pl.attention(prepared, model, n=3, seed=4, show=False)
    tiles = st.pl.tiles(prepared, n=3, seed=4, show=False)
    assert len(axes) == 6
    names = [ax.get_title() for ax in axes[:3]]
    assert names == [ax.get_title() for ax in tiles]
    looks = model.nuclei_attention(section_from_anndata(prepared), prepared.obs_names.get_indexer(names))
    for above, below, tile, look in zip(axes[:3], axes[3:], tiles, looks, strict=True):
        np.testing.assert_allclose(above.get_xlim(), tile.get_xlim())
        np.testing.assert_allclose(below.get_ylim(), tile.get_ylim())
        assert len(above.images) == 1
        picture, overlay = below.images
        np.testing.assert_allclose(overlay.get_array(), look * 16, rtol=1e-5)
        left, right, bottom, top = overlay.get_extent()
        assert (left, right) == below.get_xlim()
        assert bottom > top  # the first row is at the top, where y is small
        assert overlay.get_clim()[0] == 0
        assert overlay.get_clim()[1] >= 2
        assert picture.get_array().ndim == 3
    assert prepared.obs.equals(before.obs)
    assert list(prepared.uns) == list(before.uns)


def test_the_overlay_is_clearest_where_the_model_looks(prepared, model, monkeypatch):
    look = np.full((1, 4, 4), 0.02, dtype=np.float32)
    look[0, 0, 3] = 0.7  # upper right
    monkeypatch.setattr(type(model), "nuclei_attention", lambda *_: look)

    def pixels(alpha):
        _, ax = st.pl.attention(prepared, model, prepared.obs_names[5], alpha=alpha, show=False)
        ax.figure.canvas.draw()
        image, box = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].astype(int), ax.get_window_extent()
        return image[::-1][int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)][::-1]

    change = np.abs(pixels(0.7) - pixels(0.0)).mean(axis=2)
    upper, lower = np.array_split(change, 2)
    left, right = np.array_split(upper, 2, axis=1)
    assert right.mean() > 5 * max(left.mean(), lower.mean(), 0.1)


def test_chosen_spots_ax_save_and_figure(prepared, model, tmp_path):
    spots = list(prepared.obs_names[[3, 1]])
    _, axes = plt.subplots(2, 2)
    given = st.pl.attention(prepared, model, spots, ax=axes)
    assert list(given) == list(axes.ravel())
    assert [ax.get_title() for ax in given[:2]] == spots
    st.pl.attention(prepared, model, n=1, save=tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 1000
    assert len(st.pl.attention(prepared, model, n=2, return_fig=True).axes) >= 4


def test_wrong_input_is_refused(prepared, model):
    with pytest.raises(KeyError, match="no such spots: nowhere"):
        st.pl.attention(prepared, model, "nowhere")
    with pytest.raises(ValueError, match="n must be at least 1"):
        st.pl.attention(prepared, model, n=0)
    with pytest.raises(ValueError, match="panel"):
        st.pl.attention(prepared, model, n=2, ax=plt.subplots(1, 2)[1])
    ridge = st.tl.train(prepared, genes=["ERBB2", "COL1A1"], method="ridge")
    with pytest.raises(TypeError, match=r"'ridge' does not look at nuclei.*nuclei=True"):
        st.pl.attention(prepared, ridge)
    bare = prepared.copy()
    del bare.uns["nuclei"]
    with pytest.raises(ValueError, match=r"stpredict.pp.nuclei"):
        st.pl.attention(bare, model)
