"""What the figure of gene neighbours shows."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import stpredict as st


@pytest.fixture
def table():
    """KRT8 and KRT18 point the same way, CD3D elsewhere, and COL1A1 the opposite way of KRT8."""
    vectors = [[1, 0.1, 0], [2, 0, 0], [0, 1, 0.2], [-1, 0, 0]]
    return pd.DataFrame(vectors, index=["KRT8", "KRT18", "CD3D", "COL1A1"])


def labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_bars_are_cosines_of_the_nearest_first(table):
    ax = st.pl.gene_neighbors(table, "KRT8", show=False)
    assert labels(ax) == ["KRT18", "CD3D", "COL1A1"]
    widths = [bar.get_width() for bar in ax.patches]
    unit = table.to_numpy() / np.linalg.norm(table.to_numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(widths, unit[[1, 2, 3]] @ unit[0], atol=1e-6)
    texts = [text.get_text() for text in ax.texts]
    assert "keratin 18" in texts
    assert ax.get_title() == "KRT8"
    assert labels(ax)[0] == "KRT18"
    assert ax.yaxis.get_view_interval()[0] > ax.yaxis.get_view_interval()[1]  # the best is on top
    plt.close("all")


def test_several_genes_aliases_and_a_choice_of_neighbours(table):
    axes = st.pl.gene_neighbors(table, ["CK8", "CD3D"], n_neighbors=1, among=["COL1A1", "CD3D", "unknown"], show=False)
    assert [ax.get_title() for ax in axes] == ["KRT8", "CD3D"]
    assert [labels(ax) for ax in axes] == [["CD3D"], ["COL1A1"]]
    plt.close("all")


def test_it_draws_where_it_is_told(table, tmp_path):
    _, ax = plt.subplots()
    assert st.pl.gene_neighbors(table, "KRT8", ax=ax) is ax
    figure = st.pl.gene_neighbors(table, "KRT8", return_fig=True, save=tmp_path / "f.png")
    assert figure.axes[0].get_title() == "KRT8"
    assert (tmp_path / "f.png").stat().st_size > 1000
    plt.close("all")


def test_genes_outside_the_table_are_refused(table):
    with pytest.raises(KeyError, match=r"Not in embeddings \(genes\): EPCAM"):
        st.pl.gene_neighbors(table, ["KRT8", "EPCAM"])
    with pytest.raises(ValueError, match=r"Not in embeddings \(among\)"):
        st.pl.gene_neighbors(table, "KRT8", among=["EPCAM"])
    with pytest.raises(ValueError, match="n_neighbors must be at least 1"):
        st.pl.gene_neighbors(table, "KRT8", n_neighbors=0)
    with pytest.raises(TypeError, match="must be a DataFrame"):
        st.pl.gene_neighbors(table.to_numpy(), "KRT8")
