"""The gene table, resolving names through it, and the marker sets."""

from __future__ import annotations

import gzip
from importlib.resources import files

import pandas as pd
import pytest

import stpredict as st
from stpredict._genes import symbols
from stpredict._genes.markers import MARKER_SETS, marker_genes

RESOURCE = files("stpredict._genes") / "resources" / "human_genes.tsv.gz"


def test_every_gene_is_there_once():
    table = st.datasets.genes()
    assert table.columns.tolist() == ["symbol", "name", "ensembl_id", "aliases"]
    assert len(table) == 43_822
    assert table["symbol"].is_unique
    assert not table.isna().to_numpy().any()
    brca1 = table.set_index("symbol").loc["BRCA1"]
    assert brca1["name"] == "BRCA1 DNA repair associated"
    assert brca1["ensembl_id"] == "ENSG00000012048"


def test_the_table_given_out_can_be_changed_without_harm():
    st.datasets.genes().drop(columns="name", inplace=True)
    assert "name" in st.datasets.genes()


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("ERBB2", "ERBB2"),
        ("HER2", "ERBB2"),  # alias
        ("ENSG00000141736", "ERBB2"),
        ("ENSG00000141736.14", "ERBB2"),  # with version
        ("CK7", "KRT7"),
        ("MT-CO2", "MT-CO2"),
        ("ENSG00000198804", "MT-CO1"),
    ],
)
def test_names_resolve_to_approved_symbols(name, symbol):
    assert symbols.resolve([name]) == {name: symbol}


def test_an_approved_symbol_wins_over_being_an_alias_of_another_gene():
    table = st.datasets.genes()
    approved = set(table["symbol"])
    both = sorted(alias for entry in table["aliases"] for alias in entry.split("|") if alias in approved)
    assert len(both) > 100
    assert all(symbols.resolve(both)[name] == name for name in both)


def test_unknown_and_ambiguous_names_are_left_out_and_described():
    assert symbols.resolve(["PSA", "no such gene", "", "erbb2"]) == {}
    assert "KLK3" in symbols.candidates("PSA")
    assert symbols.describe_missing(["FOO", "NEU"]) == "FOO, NEU (may be ERBB2 or NEU1)"


def test_match_finds_a_gene_under_whatever_name_it_is_measured():
    measured = ["ENSG00000119888.17", "HER2", "KRT8"]
    wanted = ["EPCAM", "ERBB2", "CK8", "MKI67"]
    assert symbols.match(wanted, measured) == {"EPCAM": "ENSG00000119888.17", "ERBB2": "HER2", "CK8": "KRT8"}
    # The name itself, where it is measured, and the approved symbol, where two names of a gene are.
    assert symbols.match(["HER2"], ["HER2", "ERBB2"]) == {"HER2": "HER2"}
    assert symbols.match(["CD340"], ["HER2", "ERBB2"]) == {"CD340": "ERBB2"}


def test_the_resource_is_small_and_built_the_same_way_every_time(tmp_path, script):
    assert len(RESOURCE.read_bytes()) < 1_500_000
    source = tmp_path / "source.tsv.gz"
    pd.DataFrame(
        {
            "entrez_id": ["2", "1"],
            "symbol": ["B1", "A1"],
            "name": ["b", "a, with comma"],
            "ensembl_id": ["ENSG00000000002", ""],
            "aliases": ["BB|B1|", "A1"],
        }
    ).to_csv(source, sep="\t", index=False)
    outs = [tmp_path / "1.tsv.gz", tmp_path / "2.tsv.gz"]
    for out in outs:
        script("build_genes").build(source, out)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    text = gzip.decompress(outs[0].read_bytes()).decode()
    assert text == "symbol\tname\tensembl_id\taliases\nA1\ta, with comma\t\t\nB1\tb\tENSG00000000002\tBB\n"


@pytest.mark.parametrize("name", MARKER_SETS)
def test_marker_sets_hold_approved_symbols_with_sources(name):
    genes = marker_genes(name)
    assert len(genes) == len(set(genes)) >= 5
    assert symbols.resolve(genes) == dict(zip(genes, genes, strict=True))
    rows = st.datasets.marker_sets().loc[name]
    assert rows["gene"].tolist() == genes
    assert rows["source"].str.contains(r"\(\d{4}\)").all()


def test_marker_genes_refuses_what_it_does_not_know():
    assert marker_genes(["EPCAM", "ERBB2", "EPCAM"]) == ["EPCAM", "ERBB2"]
    with pytest.raises(ValueError, match="no marker set 'brest'; there is carcinoma, breast"):
        marker_genes("brest")
    with pytest.raises(ValueError, match="No marker genes"):
        marker_genes([])
    with pytest.raises(TypeError, match="must be names"):
        marker_genes([1, 2])


def test_an_alias_never_takes_the_place_of_the_gene_itself():
    """her2st measures MYO18A and TIAF1, which is an alias of it in this table."""
    assert symbols.match_once(["MYO18A", "TIAF1"], ["MYO18A"]) == {"MYO18A": "MYO18A"}
    assert symbols.match_once(["HER2", "CD340"], ["ERBB2"]) == {"HER2": "ERBB2"}
    assert symbols.match(["TIAF1"], ["MYO18A"]) == {"TIAF1": "MYO18A"}
    assert symbols.match(["ERBB2"], ["HER2", "CD340"]) == {}  # two names, neither its own


def test_mouse_genes_are_no_aliases_of_human_ones():
    mouse = ["Alb", "Penk", "Gad1", "Doc2g"]
    assert symbols.species_of(mouse) == "mouse"
    assert symbols.species_of(["ERBB2", "KRT8", "Alb"]) == "human"
    assert symbols.species_of(["x", "GENE1"]) is None
    assert symbols.match(["FBF1", "ALB"], mouse) == {}
    assert symbols.match(["Alb", "Penk"], mouse) == {"Alb": "Alb", "Penk": "Penk"}
