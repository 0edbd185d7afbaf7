"""Facts of genes and their vectors."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

import stpredict as st
from stpredict._genes import facts

RESOURCES = files("stpredict._genes") / "resources"


def test_facts_of_a_known_gene():
    facts = st.datasets.gene_facts(["HER2", "CD3E", "MT-ND1"])
    assert facts.index.tolist() == ["HER2", "CD3E", "MT-ND1"]
    assert facts.columns.tolist() == ["symbol", "name", "function", "process", "component", "description"]
    her2 = facts.loc["HER2"]
    assert (her2["symbol"], her2["name"]) == ("ERBB2", "erb-b2 receptor tyrosine kinase 2")
    assert "protein tyrosine kinase activity" in her2["function"].split("; ")
    assert "ERBB2-ERBB3 signaling pathway" in her2["process"]
    assert her2["description"].startswith("ERBB2: erb-b2 receptor tyrosine kinase 2. Function: ")
    assert "T cell receptor complex" in facts.loc["CD3E", "component"]
    assert "NADH dehydrogenase" in facts.loc["MT-ND1", "function"]


def test_all_genes_are_there_in_the_order_of_the_table():
    facts = st.datasets.gene_facts()
    assert facts["symbol"].tolist() == st.datasets.genes()["symbol"].tolist()
    has = (facts[["function", "process", "component"]] != "").any(axis=1)
    assert has.sum() == 20_624
    assert facts.loc[~has, "description"].iloc[0].count(".") == 1


def test_unknown_genes_are_told():
    with pytest.warns(UserWarning, match=r"2 of 3 genes are not known: Krt8 \(looks like mouse; .* KRT8\), x"):
        assert st.datasets.gene_facts(["Krt8", "x", "KRT8"]).index.tolist() == ["KRT8"]
    with pytest.raises(ValueError, match="1 of 1 genes are not known"):
        st.datasets.gene_facts("nonsense")
    with pytest.raises(ValueError, match="genes is empty"):
        st.datasets.gene_facts([])


def test_states_are_the_name_and_then_the_aspects_in_turn():
    states, mask = facts.fact_states(["ERBB2", "nonsense", "COL1A1"], max_facts=8)
    assert states.shape[:2] == mask.shape == (3, 8)
    assert states.dtype == np.float32
    assert mask.tolist() == [[True] * 8, [False] * 8, [True] * 8]
    assert not states[1].any()
    known = facts.facts()
    terms = known.terms_of(st.datasets.genes()["symbol"].tolist().index("ERBB2"))
    expected = [known.terms.index(term) for term in (terms[0][0], terms[1][0], terms[2][0], terms[0][1])]
    np.testing.assert_array_equal(states[0, 1:5], facts.states().dense(expected))


def test_a_gene_with_few_facts_has_few_states():
    told = st.datasets.gene_facts()
    counts = told[["function", "process", "component"]].apply(lambda c: c.str.count("; ") + (c != "")).sum(axis=1)
    gene = counts[counts == 2].index[0]
    states, mask = facts.fact_states([gene, "ERBB2"], max_facts=5)
    assert mask.sum(axis=1).tolist() == [3, 5]
    assert not states[0, 3:].any()
    assert facts.fact_states(["nonsense"])[1].tolist() == [[False]]
    assert facts.fact_states([])[0].shape[0] == 0


def test_like_facts_have_like_states():
    def unit(numbers):
        vectors = facts.states().dense(numbers)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    terms = facts.facts().terms
    words = ["collagen fibril organization", "collagen type I trimer", "T cell receptor complex", "mitotic spindle"]
    vectors = unit([terms.index(word) for word in words])
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.4 > likeness[0, 2:].max()


def test_text_vectors_are_missing_where_nothing_is_known():
    table = facts.text_table(["ERBB2", "nonsense", "HER2"])
    assert np.isnan(table).all(axis=1).tolist() == [False, True, False]
    np.testing.assert_array_equal(table[0], table[2])
    assert facts.text_table([]).shape == (0, table.shape[1])


def test_resources_are_small_and_hold_no_pickles():
    names = ("human_genes.tsv.gz", "gene_facts.npz", "gene_states.npz")
    assert sum(len((RESOURCES / name).read_bytes()) for name in names) < 8_000_000
    for name in names[1:]:
        with (RESOURCES / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            assert all(arrays[key].dtype != object for key in arrays.files)
    sources = (RESOURCES / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in sources for name in names)
    assert "CC BY 4.0" in sources


def test_facts_are_built_the_same_way_every_time(tmp_path, script):
    source = tmp_path / "source.tsv.gz"
    columns = {
        "symbol": ["B1", "A1"],
        "molecular_function": ["binding; carrying", ""],
        "biological_process": ["growth; binding things", "growth"],
        "cellular_component": ["", "membrane"],
    }
    pd.DataFrame(columns).to_csv(source, sep="\t", index=False)
    outs = [tmp_path / "1.npz", tmp_path / "2.npz"]
    for out in outs:
        script("build_gene_facts").build(source, out)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    with np.load(outs[0], allow_pickle=False) as arrays:
        terms = arrays["terms"].tobytes().decode().split("\n")
        assert terms == ["binding", "carrying", "binding things", "growth", "membrane"]
        assert arrays["aspect"].tolist() == [0, 0, 1, 1, 2]
        assert arrays["starts"].tolist() == [0, 2, 6]
        assert [terms[n] for n in arrays["numbers"]] == [
            *("growth", "membrane"),
            *("binding", "carrying", "growth", "binding things"),
        ]


def test_vectors_are_built_the_same_way_every_time(tmp_path, script):
    """From an encoder that needs no model: letters counted."""

    def letters(texts):
        joined = np.array([[text.count(letter) for letter in "abcdefghijklmnop"] for text in texts], dtype=float)
        return np.hstack([joined, np.sqrt(joined) @ np.random.default_rng(0).standard_normal((16, 120))])

    outs = [tmp_path / "1.npz", tmp_path / "2.npz"]
    for out in outs:
        script("build_gene_embeddings").build(letters, out)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    with np.load(outs[0], allow_pickle=False) as made, np.load(str(RESOURCES / "gene_states.npz")) as shipped:
        assert made["vectors"].shape == shipped["vectors"].shape
        np.testing.assert_array_equal(made["named"], shipped["named"])
        np.testing.assert_array_equal(made["topics"], shipped["topics"])
