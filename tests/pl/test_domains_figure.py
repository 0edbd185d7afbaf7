"""Figures of spatial domains: which spots, in which colours, and what title and legend say."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_hex

import stpredict as st

OKABE_ITO = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000"]


@pytest.fixture
def divided(section):
    """A section whose domains are its true regions, but for a tenth of the tumour."""
    region = section.obs["region"].astype(str).to_numpy(copy=True)
    region[np.flatnonzero(region == "tumor")[::10]] = "stroma"
    section.obsm["X_known"] = pd.get_dummies(region).to_numpy(float)
    st.tl.domains(section, use_rep="X_known", n_domains=4)
    return section


def colours_of(ax):
    (spots,) = [c for c in ax.collections if isinstance(c, EllipseCollection)]
    return np.array([to_hex(colour) for colour in spots.get_facecolors()])


def legend_of(ax):
    legend = ax.get_legend()
    words = [text.get_text() for text in legend.get_texts()]
    return dict(zip(words, (to_hex(h.get_color()) for h in legend.legend_handles), strict=True))


def test_domains_have_colours_for_all_kinds_of_colour_vision_over_the_slide(divided):
    ax = st.pl.domains(divided, show=False)
    assert ax.get_title() == "4 domains"
    assert len(ax.images) == 1
    expected = divided.obs["domains"].cat.codes.map(lambda code: OKABE_ITO[code])
    assert (colours_of(ax) == expected).all()
    counts = divided.obs["domains"].value_counts()
    assert list(legend_of(ax)) == [f"{name} ({counts[name]})" for name in "0123"]


def test_stored_colours_are_obeyed_where_they_suffice(divided):
    divided.uns["domains_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#123456"]
    ax = st.pl.domains(divided, show=False)
    assert (colours_of(ax)[divided.obs["domains"] == "3"] == "#123456").all()
    divided.uns["domains_colors"] = ["#ff0000", "#00ff00"]  # of an earlier clustering
    assert "#00ff00" not in colours_of(st.pl.domains(divided, show=False))


def test_labels_beside_domains_share_the_colours_of_those_they_agree_with(divided):
    st.tl.domains(divided, use_rep="X_known", n_domains=4, label_key="region")
    axes = st.pl.domains(divided, show=False)  # the label column is remembered
    assert axes[0].get_title() == f"4 domains (ARI = {divided.uns['domains']['ari']:.2f})"
    assert axes[1].get_title() == "region"
    same = colours_of(axes[0]) == colours_of(axes[1])
    tumor = np.flatnonzero(divided.obs["region"] == "tumor")
    assert (~same).nonzero()[0].tolist() == tumor[::10].tolist()
    divided.uns["region_colors"] = ["#010101", "#020202", "#030303", "#040404"]
    axes = st.pl.domains(divided, label_key="region", show=False)
    assert set(colours_of(axes[1])) == {"#010101", "#020202", "#030303", "#040404"}


def test_spots_without_a_label_are_grey_and_do_not_count(divided):
    labels = divided.obs["region"].astype(object)
    labels[labels == "immune"] = np.nan
    divided.obs["label"] = pd.Categorical(labels)
    axes = st.pl.domains(divided, label_key="label", show=False)
    grey = colours_of(axes[1])[divided.obs["region"] == "immune"]
    assert set(grey) == {"#b3b3b3"}
    assert list(legend_of(axes[1]))[-1] == f"no label ({len(grey)})"
    from sklearn.metrics import adjusted_rand_score

    known = divided.obs["label"].notna()
    score = adjusted_rand_score(divided.obs["label"][known], divided.obs["domains"][known])
    assert axes[0].get_title() == f"4 domains (ARI = {score:.2f})"
    divided.obs["label"] = "one"
    assert st.pl.domains(divided, label_key="label", show=False)[0].get_title() == "4 domains"


def test_one_of_several_sections_is_drawn_in_the_colours_of_all(two_sections):
    both = ad.concat(two_sections, uns_merge="unique", merge="same")
    both.obs["library_id"] = both.obs["section"]
    both.obs["domains"] = pd.Categorical(np.where(both.obs["section"] == "sim_1", "0", "1"))
    with pytest.raises(ValueError, match=r"2 sections \(sim_1, sim_2\); pass library_id="):
        st.pl.domains(both)
    ax = st.pl.domains(both, library_id="sim_2", show=False)
    assert ax.get_title() == "1 domains"
    assert list(legend_of(ax)) == [f"1 ({two_sections[1].n_obs})"]
    assert legend_of(ax) != legend_of(st.pl.domains(both, library_id="sim_1", show=False))


def test_numbers_and_many_domains_can_be_drawn(divided):
    divided.obs["leiden"] = np.arange(divided.n_obs) % 120
    ax = st.pl.domains(divided, "leiden", show=False)
    assert ax.get_title() == "120 domains"
    assert set(colours_of(ax)) == {"#b3b3b3"}  # more than scanpy has colours for
    divided.obs["leiden"] = np.arange(divided.n_obs) % 25
    assert len(set(colours_of(st.pl.domains(divided, "leiden", show=False)))) == 25


def test_what_is_missing_is_named(divided):
    with pytest.raises(KeyError, match=r"no obs\['layers'\]; call stpredict.tl.domains first"):
        st.pl.domains(divided, "layers")
    with pytest.raises(KeyError, match=r"no obs\['pathologist'\]; obs has"):
        st.pl.domains(divided, label_key="pathologist")
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"2 panel\(s\), but ax has 1"):
        st.pl.domains(divided, label_key="region", ax=ax)
    with pytest.raises(KeyError, match="no section 'x'"):
        st.pl.domains(divided, library_id="x")


def test_figures_are_saved_and_returned(divided, tmp_path):
    assert st.pl.domains(divided, save=tmp_path / "x.png") is None
    assert (tmp_path / "x.png").stat().st_size > 10_000
    assert len(st.pl.domains(divided, label_key="region", return_fig=True).axes) == 2
