"""The figure of the gene graph: the model's edges, labels that can be read."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import FancyArrowPatch

import stpredict as st
from stpredict._sections.anndata import section_from_anndata


@pytest.fixture
def prepared(attentive):
    return attentive[0]


@pytest.fixture
def model(attentive):
    return attentive[1]


def lines_of(ax):
    return [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]


def boxes_of(ax):
    ax.figure.canvas.draw()
    return {text.get_text(): text.get_bbox_patch().get_window_extent() for text in ax.texts}


def overlapping(boxes):
    names = list(boxes)
    return [
        (a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if min(boxes[a].x1, boxes[b].x1) > max(boxes[a].x0, boxes[b].x0)
        and min(boxes[a].y1, boxes[b].y1) > max(boxes[a].y0, boxes[b].y0)
    ]


def graph_of(edges):
    """A stand-in for the method that gives a model's edges."""
    table = pd.DataFrame(edges, columns=["gene", "neighbour", "weight"])
    return lambda *_: table


def test_genes_their_neighbours_and_lines_as_wide_as_attention(prepared, model):
    genes = ["ERBB2", "KRT8"]
    ax = st.pl.gene_graph(prepared, model, genes, n_neighbors=5, show=False)
    table = model.gene_graph(section_from_anndata(prepared), genes).groupby("gene").head(5)
    assert {text.get_text() for text in ax.texts} == {*genes, *table["neighbour"]}
    bold = {text.get_text() for text in ax.texts if text.get_weight() == "bold"}
    assert bold == set(genes)
    widths = np.array([line.get_linewidth() for line in lines_of(ax)])
    assert len(widths) == 10
    np.testing.assert_array_equal(np.argsort(widths), np.argsort(table["weight"].to_numpy()))
    assert np.corrcoef(widths, table["weight"])[0, 1] > 0.999
    shown = [float(text.get_text()) for text in ax.get_legend().get_texts()]
    assert shown[0] == pytest.approx(table["weight"].max(), abs=0.006)


def test_labels_of_four_genes_of_eight_neighbours_do_not_overlap(prepared, model, monkeypatch):
    rng = np.random.default_rng(0)
    for shared in (0, 3):  # neighbours that the genes have in common
        names = [f"HLA-LONG{i}" for i in range(32)]
        edges = []
        for i, gene in enumerate(["MT-CO3", "COL1A1", "ERBB2", "CD74"]):
            others = names[:shared] + names[8 * i + shared : 8 * i + 8]
            edges += [(gene, other, weight) for other, weight in zip(others, rng.dirichlet(np.ones(8)), strict=True)]
        monkeypatch.setattr(type(model), "gene_graph", graph_of(edges))
        ax = st.pl.gene_graph(prepared, model, "x", show=False)
        boxes = boxes_of(ax)
        assert len(boxes) == 4 + 32 - 3 * shared
        assert overlapping(boxes) == []
        area = ax.get_window_extent().padded(2)
        assert all(area.x0 <= b.x0 and b.x1 <= area.x1 and area.y0 <= b.y0 and b.y1 <= area.y1 for b in boxes.values())


def test_genes_that_listen_to_each_other_have_two_lines(prepared, model, monkeypatch):
    edges = [("A", "B", 0.7), ("A", "C", 0.3), ("B", "A", 0.6), ("B", "C", 0.4)]
    monkeypatch.setattr(type(model), "gene_graph", graph_of(edges))
    ax = st.pl.gene_graph(prepared, model, ["A", "B"], show=False)
    assert len(lines_of(ax)) == 4
    assert len(ax.texts) == 3
    ends = [line.get_path().vertices for line in lines_of(ax)]
    assert not np.allclose(ends[0][1], ends[2][1])  # bent apart


def test_one_gene_of_one_neighbour_ax_save_and_figure(prepared, model, tmp_path):
    _, ax = plt.subplots()
    assert st.pl.gene_graph(prepared, model, "ERBB2", n_neighbors=1, ax=ax) is ax
    assert len(lines_of(ax)) == 1
    assert overlapping(boxes_of(ax)) == []
    st.pl.gene_graph(prepared, model, "ERBB2", save=tmp_path / "graph.png")
    assert (tmp_path / "graph.png").stat().st_size > 1000
    assert len(st.pl.gene_graph(prepared, model, "ERBB2", return_fig=True).axes) == 1


def test_wrong_input_is_refused(prepared, model):
    with pytest.raises(KeyError, match="does not know NOSUCHGENE"):
        st.pl.gene_graph(prepared, model, ["ERBB2", "NOSUCHGENE"])
    with pytest.raises(ValueError, match="n_neighbors must be at least 1"):
        st.pl.gene_graph(prepared, model, "ERBB2", n_neighbors=0)
    ridge = st.tl.train(prepared, genes=["ERBB2", "COL1A1"], method="ridge")
    with pytest.raises(TypeError, match=r"'ridge' has no gene graph.*gene_neighbours=8"):
        st.pl.gene_graph(prepared, ridge, "ERBB2")
