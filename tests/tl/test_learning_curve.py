"""Scores against the number of training sections, and their figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import stpredict as st


@pytest.fixture
def sections(paired):
    return paired(4, side=5, n_genes=8, patients=["A", "B", "C", "D"])


def curve(sections, **options):
    return st.tl.learning_curve(sections, **{"methods": ["ridge"], "show_progress": False} | options)


def test_every_size_trains_on_so_many_sections_and_scores_the_same_genes(sections, monkeypatch):
    trained = []
    train = st.tl.train

    def remember(chosen, **options):
        trained.append([next(iter(adata.uns["spatial"])) for adata in chosen])
        return train(chosen, **options)

    monkeypatch.setattr("stpredict._benchmark.jobs.fit", remember)
    table = curve(sections, sizes=[3, 1, 2], repeats=2, test=["B"])
    assert [len(names) for names in trained] == [1, 1, 2, 2, 3]
    assert trained[0] != trained[1]
    assert trained[-1] == ["section0", "section2", "section3"]
    assert not any("section1" in names for names in trained)
    assert table.groupby("n_train")["repeat"].nunique().to_dict() == {1: 2, 2: 2, 3: 1}
    genes = table.query("panel == 'HEG'").groupby("n_train")["gene"].unique().map(list)
    assert genes[1] == genes[2] == genes[3]


def test_more_sections_help_and_all_of_them_are_cross_validation(sections):
    table = curve(sections, sizes=[1, 3], repeats=3)
    pcc = table.query("metric == 'pcc' and panel == 'all'")
    assert pcc.groupby("n_train")["value"].mean().diff()[3] > 0.02
    whole = st.tl.cross_validate(sections, methods=["ridge"], metrics=["pcc"], show_progress=False)
    three = table[table["n_train"] == 3].drop(columns=["n_train", "repeat"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(three, whole)


def test_a_curve_resumes(sections, tmp_path):
    first = curve(sections, sizes=[1], repeats=1, path=tmp_path)
    pd.testing.assert_frame_equal(curve(sections, sizes=[1], repeats=1, path=tmp_path), first, check_exact=True)
    assert len(list(tmp_path.glob("*.parquet"))) == 4


@pytest.mark.parametrize("options", [{"sizes": [0]}, {"sizes": [4]}, {"sizes": []}, {"repeats": 0}])
def test_sizes_that_cannot_be_are_refused(sections, options):
    with pytest.raises(ValueError, match="sizes must lie between 1 and 3, the training sections there are"):
        curve(sections, **options)


def test_the_figure_shows_means_intervals_and_ceiling(sections):
    table = curve(sections, methods=["mean", "ridge"], sizes=[1, 3], repeats=1)
    axes = st.pl.learning_curve(table, panels=["HEG", "all"], show=False)
    assert [ax.get_title() for ax in axes] == ["HEG", "all"]
    lines = {c.get_label(): c.lines[0] for c in axes[1].containers}
    expected = (
        table.query("metric == 'pcc' and panel == 'all' and method == 'ridge'").groupby("n_train")["value"].mean()
    )
    np.testing.assert_allclose(lines["ridge"].get_ydata().astype(float), expected)
    np.testing.assert_allclose(np.round(lines["ridge"].get_xdata().astype(float)), [1, 3])
    assert "noise ceiling" in [text.get_text() for text in axes[1].get_legend().get_texts()]
    plt.close("all")
    with pytest.raises(KeyError, match="lacks the column n_train"):
        st.pl.learning_curve(table.drop(columns="n_train"))
