"""What ALIGN-ST attends to: nuclei of a tile, and genes like a gene."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import stpredict as st
from stpredict._sections.anndata import section_from_anndata
from stpredict.models.align_st._attention import edges, gene_attention, nuclei_attention
from stpredict.models.align_st._slides import NUCLEI_PX
from stpredict.models.align_st._training import described
from stpredict.pp._nuclei_detection.maps import nuclei_maps


@pytest.fixture
def prepared(attentive):
    return attentive[0]


@pytest.fixture
def model(attentive):
    return attentive[1]


@pytest.fixture
def plain(prepared):
    how = {"epochs": 1, "members": 1, "width": 16, "show_progress": False}
    return st.tl.train(prepared, method="align_st", genes=prepared.var_names[:30], **how)


@pytest.fixture
def whole(prepared):
    return section_from_anndata(prepared)


def test_nuclei_attention_sums_to_one_and_is_the_networks_own(model, whole):
    looks = model.nuclei_attention(whole)
    assert looks.shape == (len(whole), 4, 4)
    assert looks.dtype == np.float32
    np.testing.assert_allclose(looks.sum(axis=(1, 2)), 1, atol=1e-5)
    design = model.design(whole)
    maps = torch.from_numpy(nuclei_maps(whole, size=NUCLEI_PX))
    own = []
    for network in model._networks():
        with torch.inference_mode():
            tile = network.look(torch.from_numpy(design))
            own.append(network.nuclei.attention(tile, network.nuclei.branch(maps)).numpy().reshape(-1, 4, 4))
    np.testing.assert_allclose(nuclei_attention(list(model._networks())[:1], whole, design, None), own[0], atol=1e-6)
    np.testing.assert_allclose(looks, (own[0] + own[1]) / 2, atol=1e-6)
    assert np.abs(own[0] - own[1]).max() > 1e-4


def test_some_spots_get_what_they_get_among_all(model, whole):
    rows = [7, 3, 100]
    np.testing.assert_allclose(model.nuclei_attention(whole, rows), model.nuclei_attention(whole)[rows], atol=1e-6)


def test_places_are_in_the_order_of_the_image(model, whole):
    """What is added in the upper right corner of a tile changes places to the right and above more."""
    branch = next(model._networks()).nuclei.branch
    maps = torch.from_numpy(nuclei_maps(whole, size=NUCLEI_PX, rows=np.array([0])))
    more = maps.clone()
    more[:, :, :4, 12:] += 3
    with torch.inference_mode():
        change = (branch(more) - branch(maps)).abs().sum(dim=2).reshape(4, 4)
    assert change[:, 2:].sum() > 2 * change[:, :2].sum()
    assert change[:2].sum() > 2 * change[2:].sum()


def test_gene_graph_sums_to_one_and_is_the_networks_own(model, whole):
    seen, unseen = model.genes[2], next(name for name in model.vocabulary if name not in model.genes)
    table = model.gene_graph(whole, [unseen, seen])
    assert list(table.columns) == ["gene", "neighbour", "weight"]
    assert table["gene"].drop_duplicates().tolist() == [unseen, seen]
    np.testing.assert_allclose(table.groupby("gene")["weight"].sum(), 1, atol=1e-5)
    assert set(table["neighbour"]) <= set(model.genes)
    assert seen not in set(table.loc[table["gene"] == seen, "neighbour"])
    for _, own in table.groupby("gene"):
        assert 8 <= len(own) <= 16  # two members of eight neighbours each
        assert (np.diff(own["weight"]) <= 0).all()

    n = len(model.genes)
    known = described(model._space_for(whole), model._facts(model.genes), np.arange(n))
    slide, rows = model._slide(whole, model.design(whole)), np.arange(n)
    parts = [gene_attention([network], slide, known, rows, n) for network in model._networks()]
    network = next(model._networks())
    with torch.inference_mode():
        genes = network.described(known, network.tiles(slide))
        heard, weights = network.graph.attention(genes, genes, torch.arange(n))
    np.testing.assert_allclose(np.take_along_axis(parts[0], heard.numpy(), axis=1), weights.numpy(), atol=1e-6)
    assert ((parts[0] > 0).sum(axis=1) == 8).all()
    mean = (parts[0] + parts[1])[2] / 2
    expected = {name: mean[i] for i, name in enumerate(model.genes) if mean[i] > 0}
    own = table[table["gene"] == seen].set_index("neighbour")["weight"]
    assert own.to_dict() == pytest.approx(expected, abs=1e-5)


def test_gene_graph_is_that_of_predictions_for_the_section(model, whole):
    """Far from training only the main programmes count, and the graph of genes is told by them."""
    near = model.gene_graph(whole, model.genes[:5]).set_index(["gene", "neighbour"])["weight"]
    other = whole.adata.copy()
    other.obsm["X_morphology"] = other.obsm["X_morphology"] + 100 * model.arrays["scale"].max()
    far = model.gene_graph(section_from_anndata(other), model.genes[:5]).set_index(["gene", "neighbour"])["weight"]
    assert near.sub(far, fill_value=0).abs().max() > 0.01


def test_missing_features_are_refused(model, whole):
    other = whole.adata.copy()
    del other.obsm["X_morphology"]
    for act in (model.predict, lambda section: model.gene_graph(section, model.genes[0])):
        with pytest.raises(ValueError, match=r"has no features obsm\['X_morphology'\]"):
            act(section_from_anndata(other))


def test_aliases_are_resolved_and_a_gene_is_told_once(model, whole):
    assert "ERBB2" in model.genes
    one, both = model.gene_graph(whole, "HER2"), model.gene_graph(whole, ["HER2", "ERBB2"])
    assert set(one["gene"]) == {"ERBB2"}
    assert one.equals(both)


def test_edges_list_the_most_heard_first():
    attention = np.array([[0.2, 0, 0.8], [0, 1, 0]], dtype=np.float32)
    table = edges(attention, ["X", "Y"], ["A", "B", "C"])
    assert table[["gene", "neighbour"]].to_numpy().tolist() == [["X", "C"], ["X", "A"], ["Y", "B"]]
    np.testing.assert_allclose(table["weight"], [0.8, 0.2, 1])


def test_models_without_the_parts_say_how_to_get_them(plain, whole):
    with pytest.raises(ValueError, match="nuclei=True"):
        plain.nuclei_attention(whole)
    with pytest.raises(ValueError, match="gene_neighbours=8"):
        plain.gene_graph(whole, "ERBB2")


def test_unknown_genes_and_missing_nuclei_are_refused(model, prepared, whole):
    with pytest.raises(KeyError, match="does not know NOSUCHGENE"):
        model.gene_graph(whole, ["ERBB2", "NOSUCHGENE"])
    with pytest.raises(ValueError, match="genes is empty"):
        model.gene_graph(whole, [])
    bare = prepared.copy()
    del bare.uns["nuclei"]
    with pytest.raises(ValueError, match=r"stpredict.pp.nuclei"):
        model.nuclei_attention(section_from_anndata(bare))


def test_a_saved_model_attends_alike(model, whole, tmp_path):
    model.save(tmp_path / "model")
    loaded = st.models.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.nuclei_attention(whole, [1]), model.nuclei_attention(whole, [1]))
    assert loaded.gene_graph(whole, "ERBB2").equals(model.gene_graph(whole, "ERBB2"))
