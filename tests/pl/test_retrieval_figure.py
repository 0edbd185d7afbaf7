"""The figure of spots beside the reference spots that were retrieved for them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import stpredict as st


@pytest.fixture(scope="module")
def retrieved():
    """Two reference sections and a new one, after retrieval."""
    *reference, new = st.datasets.simulate(3)
    for adata in (*reference, new):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    model = st.tl.train(reference, method="knn", genes=["ERBB2"])
    st.tl.retrieve(new, model, n_neighbors=6)
    return reference, new, model


def middle(ax):
    """Pixel coordinates of the middle of the axes."""
    return [np.mean(ax.get_xlim()), np.mean(ax.get_ylim())]


def test_every_tile_is_that_of_the_spot_which_was_retrieved(retrieved):
    reference, new, _ = retrieved
    names = list(new.obs_names[[7, 100]])
    axes = st.pl.retrieval(new, reference, spots=names, n_neighbors=3, show=False)
    found, rows = new.uns["retrieved"], new.obsm["retrieved"]
    assert len(axes) == 8
    for line, spot in zip(np.reshape(np.array(axes, dtype=object), (2, 4)), (7, 100), strict=True):
        assert new.obs_names[spot] in line[0].get_title()
        assert middle(line[0]) == pytest.approx(new.obsm["spatial"][spot])
        for ax, row, likeness in zip(line[1:], rows[spot], new.obsm["retrieved_similarity"][spot], strict=False):
            home = reference[found["bank_section"][row]]
            assert found["bank_spot"][row] in ax.get_title()
            assert middle(ax) == pytest.approx(home[found["bank_spot"][row]].obsm["spatial"][0])
            assert ax.get_xlabel() == f"similarity {likeness:.2f}"
            x, y = np.round(middle(ax)).astype(int)
            slide = home.uns["spatial"][str(found["sections"][found["bank_section"][row]])]["images"]["hires"]
            pixels, (left, _, _, top) = ax.images[0].get_array(), ax.images[0].get_extent()
            np.testing.assert_array_equal(pixels[y - int(top), x - int(left)], slide[y, x])


def test_a_section_in_its_own_bank_shows_itself_first(retrieved):
    reference, _, model = retrieved
    own = st.tl.retrieve(reference[0], model, n_neighbors=1, copy=True)
    axes = st.pl.retrieval(own, reference, spots=5, n_neighbors=1, window="spot", show=False)
    assert axes[0].get_title() == axes[1].get_title()
    assert axes[1].get_xlabel() == "similarity 1.00"
    np.testing.assert_array_equal(*(ax.images[0].get_array() for ax in axes))


def test_spots_are_chosen_from_the_most_to_the_least_similar(retrieved):
    reference, new, _ = retrieved
    axes = st.pl.retrieval(new, reference, n_neighbors=1, show=False)
    shown = [float(ax.get_xlabel().split()[1]) for ax in axes[1::2]]
    best = new.obsm["retrieved_similarity"][:, 0]
    assert shown == sorted(shown, reverse=True)
    assert (shown[0], shown[-1]) == (round(float(best.max()), 2), round(float(best.min()), 2))


def test_reference_spots_may_have_been_filtered(retrieved):
    reference, new, _ = retrieved
    found, rows = new.uns["retrieved"], new.obsm["retrieved"]
    needed = set(found["bank_spot"][rows[0, :2]])
    fewer = [adata[[name in needed for name in adata.obs_names]].copy() for adata in reference]
    fewer = [adata for adata in fewer if adata.n_obs]
    axes = st.pl.retrieval(new, fewer, spots=0, n_neighbors=2, show=False)
    assert len(axes) == 3


def test_conventions(retrieved, tmp_path):
    reference, new, _ = retrieved
    assert st.pl.retrieval(new, reference, spots=0, save=tmp_path / "r.png") is None
    assert (tmp_path / "r.png").is_file()
    assert plt.get_fignums() == []
    figure = st.pl.retrieval(new, reference, spots=[0, 1], n_neighbors=2, return_fig=True)
    assert len(figure.axes) == 6
    _, own = plt.subplots(1, 3)
    assert st.pl.retrieval(new, reference, spots=0, n_neighbors=2, ax=own) == list(own)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": "found"}, KeyError, r"no retrieved spots under obsm\['found'\]; call stpredict.tl.retrieve"),
        (
            {"n_neighbors": 7},
            ValueError,
            r"between 1 and the 6 that were retrieved \(n_neighbors of tl.retrieve\), got 7",
        ),
        ({"n_neighbors": 0}, ValueError, "got 0"),
        ({"spots": "nowhere"}, KeyError, "no spot 'nowhere'"),
        ({"spots": [0, -1]}, KeyError, "no spot -1"),
        ({"spots": []}, ValueError, "spots is empty"),
        ({"window": "slide"}, ValueError, "window must be one of 'spot', 'niche'"),
    ],
)
def test_bad_options_are_refused(retrieved, options, error, message):
    reference, new, _ = retrieved
    with pytest.raises(error, match=message):
        st.pl.retrieval(new, reference, **options)
    assert plt.get_fignums() == []


def test_a_wrong_reference_is_refused(retrieved):
    reference, new, _ = retrieved
    rows, found = new.obsm["retrieved"], new.uns["retrieved"]
    spot = int(np.flatnonzero(found["bank_section"][rows[:, 0]] == 0)[0])
    options = {"spots": spot, "n_neighbors": 1}
    with pytest.raises(KeyError, match=r"Spots of section 'sim_1' were retrieved, but reference holds only sim_2"):
        st.pl.retrieval(new, reference[1], **options)
    with pytest.raises(ValueError, match="Several training or reference sections are named 'sim_1'"):
        st.pl.retrieval(new, [*reference, reference[0]], **options)
    lost = found["bank_spot"][rows[spot, 0]]
    with pytest.raises(KeyError, match=f"Spot '{lost}' was retrieved from section 'sim_1'"):
        st.pl.retrieval(new, [reference[0][reference[0].obs_names != lost].copy(), reference[1]], **options)
    assert plt.get_fignums() == []


def test_spatialdata_shows_the_same_tiles(retrieved):
    reference, new, model = retrieved
    sdata, theirs = st.io.to_spatialdata(new), [st.io.to_spatialdata(adata) for adata in reference]
    st.tl.retrieve(sdata, model, n_neighbors=6)
    options = {"spots": [3, 40], "n_neighbors": 2, "show": False}
    for ours, other in zip(
        st.pl.retrieval(new, reference, **options), st.pl.retrieval(sdata, theirs, **options), strict=True
    ):
        np.testing.assert_array_equal(ours.images[0].get_array(), other.images[0].get_array())
        assert ours.get_title() == other.get_title()
