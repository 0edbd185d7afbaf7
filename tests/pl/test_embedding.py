"""Figures of an embedding: which points, in which colours, and that nothing is written."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from matplotlib.colors import to_hex

import stpredict as st

OKABE_ITO = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000"]


@pytest.fixture
def embedded(section):
    """A section whose embedding holds its region, in three dimensions, and little else."""
    rng = np.random.default_rng(0)
    codes = section.obs["region"].cat.codes.to_numpy()
    corners = np.array([[0, 0, 0], [9, 0, 0], [0, 5, 0], [0, 0, 2]])
    section.obsm["X_st_align"] = corners[codes] + 0.1 * rng.standard_normal((section.n_obs, 3))
    return section


def drawn(ax):
    """Points of a panel and their colours, put into the order of their x coordinate."""
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    colours = np.concatenate([np.array([to_hex(x) for x in c.get_facecolors()], dtype=object) for c in ax.collections])
    colours = np.broadcast_to(colours, len(points)) if len(colours) == 1 else colours
    return points, colours


def test_principal_components_with_their_share_of_variance(embedded, assert_same):
    before = embedded.copy()
    ax = st.pl.embedding(embedded, layout="pca", show=False)
    assert_same(embedded, before)
    from sklearn.decomposition import PCA

    pca = PCA(2).fit(embedded.obsm["X_st_align"])
    share = pca.explained_variance_ratio_
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"PC1 ({share[0]:.0%})", f"PC2 ({share[1]:.0%})")
    assert ax.get_title() == "X_st_align"
    points, _ = drawn(ax)
    expected = pca.transform(embedded.obsm["X_st_align"])
    np.testing.assert_allclose(np.sort(np.abs(points[:, 0])), np.sort(np.abs(expected[:, 0])), rtol=1e-5)


def test_every_spot_has_the_colour_of_its_category(embedded):
    embedded.obsm["flat"] = np.column_stack([np.arange(embedded.n_obs), np.zeros(embedded.n_obs)])
    ax = st.pl.embedding(embedded, "flat", color="region", show=False)
    assert ax.get_xlabel() == "flat 1"
    points, colours = drawn(ax)
    expected = [OKABE_ITO[code] for code in embedded.obs["region"].cat.codes]
    assert [expected[int(x)] for x in points[:, 0]] == colours.tolist()
    assert (points[:, 0] != np.sort(points[:, 0])).any()  # shuffled, so that no group hides another
    counts = embedded.obs["region"].value_counts()
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == [f"{name} ({counts[name]})" for name in ("tumor", "stroma", "immune", "adipose")]
    embedded.uns["region_colors"] = ["#010101", "#020202", "#030303", "#040404"]
    assert "#040404" in drawn(st.pl.embedding(embedded, "flat", color="region", show=False))[1]


def test_genes_numbers_and_groups_in_panels_of_their_own(embedded):
    embedded.obsm["flat"] = np.column_stack([np.arange(embedded.n_obs), np.zeros(embedded.n_obs)])
    embedded.obs["depth"] = np.asarray(embedded.X.sum(axis=1)).ravel()
    embedded.obs.loc[embedded.obs_names[:3], "depth"] = np.nan
    axes = st.pl.embedding(embedded, "flat", color=["HER2", "depth", "region"], layer="truth", show=False)
    assert [ax.get_title() for ax in axes] == ["HER2", "depth", "region"]
    unknown, known = axes[1].collections
    assert sorted(unknown.get_offsets()[:, 0]) == [0, 1, 2]
    rows = known.get_offsets()[:, 0].astype(int)
    np.testing.assert_allclose(known.get_array(), embedded.obs["depth"].to_numpy()[rows])
    truth = embedded.layers["truth"][:, embedded.var_names == "ERBB2"].ravel()
    gene = axes[0].collections[-1]
    np.testing.assert_allclose(gene.get_array(), truth[gene.get_offsets()[:, 0].astype(int)])
    np.testing.assert_allclose(gene.get_clim(), np.percentile(truth, [1, 99]))


def test_umap_keeps_groups_apart_and_touches_nothing(embedded, assert_same):
    embedded.uns["neighbors"] = {"connectivities_key": "mine"}
    before = embedded.copy()
    ax = st.pl.embedding(embedded, color="region", show=False)
    assert_same(embedded, before)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP1", "UMAP2")
    points, colours = drawn(ax)
    middle = {c: points[colours == c].mean(axis=0) for c in set(colours)}
    nearest = [min(middle, key=lambda c, p=p: np.hypot(*(p - middle[c]))) for p in points]
    assert (np.array(nearest) == colours).mean() > 0.99
    again = st.pl.embedding(embedded, color="region", show=False)
    np.testing.assert_array_equal(drawn(again)[0], points)


def test_what_umap_compiles_is_kept_for_the_next_process(embedded):
    from umap import umap_

    st.pl.embedding(embedded, show=False)
    for function in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
        assert list(Path(function.stats.cache_path).glob(f"umap_.{function.__name__}-*.nbi"))


def test_umap_is_drawn_where_nothing_can_be_kept(embedded, monkeypatch):
    from umap import umap_

    def nowhere():
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(umap_.smooth_knn_dist, "enable_caching", nowhere)
    assert st.pl.embedding(embedded, show=False).get_xlabel() == "UMAP1"


def test_all_sections_are_drawn_and_genes_come_from_each(two_sections):
    both = ad.concat(two_sections, uns_merge="unique", merge="same")
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    both.obsm["flat"] = np.column_stack([np.arange(both.n_obs), np.zeros(both.n_obs)])
    axes = st.pl.embedding(both, "flat", color=["section", "ERBB2"], library_key="section", show=False)
    counts = both.X.toarray()
    expected = np.log1p(1e4 * counts[:, both.var_names == "ERBB2"].ravel() / counts.sum(axis=1))
    gene = axes[1].collections[-1]
    np.testing.assert_allclose(gene.get_array(), expected[gene.get_offsets()[:, 0].astype(int)], rtol=1e-5)
    assert len(axes[0].get_legend().get_texts()) == 2


def test_what_is_missing_is_named(embedded):
    with pytest.raises(KeyError, match=r"no obsm\['X_umap'\]; there is .*tl\.embed"):
        st.pl.embedding(embedded, "X_umap")
    with pytest.raises(KeyError, match=r"Not a column of obs \(in_tissue, .*\), and as a gene: Not in var_names: NOPE"):
        st.pl.embedding(embedded, color="NOPE", layout="pca")
    with pytest.raises(ValueError, match="layout must be one of 'umap', 'pca'; got 'tsne'"):
        st.pl.embedding(embedded, layout="tsne")
    with pytest.raises(ValueError, match="No colouring to draw"):
        st.pl.embedding(embedded, color=[])
    with pytest.raises(ValueError, match="There are 10 spots; UMAP needs at least 15"):
        st.pl.embedding(embedded[:10].copy())
    embedded.obsm["X_st_align"][4] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of"):
        st.pl.embedding(embedded)
