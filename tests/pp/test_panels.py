"""Gene panels: on counts whose means and variances are known, and on real sections."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as st

# Counts per 1,000 of each gene in the two halves of a section; the filler makes every total 1,000.
GENES = {
    "MT-CO1": (200, 200),
    "RPL3": (150, 150),
    "KRT8": (100, 100),
    "ERBB2": (90, 10),
    "EPCAM": (60, 40),
    "CD74": (4, 0),
    "SILENT": (0, 0),
}


def section(names=None, *, depth=1, shallow=0):
    """40 spots with exactly the counts of `GENES`, and `shallow` more where a gene of no interest is alone."""
    table = pd.DataFrame(GENES, dtype=int)
    table["FILLER"] = 1000 - table.sum(axis=1)
    counts = np.repeat(table.to_numpy(), 20, axis=0) * depth
    junk = np.zeros((shallow, counts.shape[1]), dtype=int)
    junk[:, 5] = 49
    counts = sparse.csr_matrix(np.vstack([counts, junk]), dtype=np.float32)
    adata = ad.AnnData(counts, var=pd.DataFrame(index=names or list(table.columns)))
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 1000, (adata.n_obs, 2))
    return adata


def test_heg_ranks_by_mean_without_mitochondrial_ribosomal_and_silent_genes():
    assert st.pp.gene_panel(section()) == ["FILLER", "KRT8", "EPCAM", "ERBB2", "CD74"]
    assert st.pp.gene_panel(section(), n_top=2, exclude=()) == ["FILLER", "MT-CO1"]
    assert st.pp.gene_panel(section(), n_top=2, exclude="FILLER") == ["MT-CO1", "RPL3"]
    assert st.pp.gene_panel(section(), n_top=1, exclude=("filler", "Krt", "mt-", "rpl")) == ["EPCAM"]


def test_hvg_ranks_by_variance_among_the_highest_means_only():
    assert st.pp.gene_panel(section(), kind="hvg", n_top=2) == ["CD74", "ERBB2"]
    assert st.pp.gene_panel(section(), kind="hvg", n_top=2, among=4) == ["ERBB2", "EPCAM"]


def test_spots_with_few_counts_do_not_count():
    assert st.pp.gene_panel(section(shallow=400))[-1] == "CD74"
    assert st.pp.gene_panel(section(shallow=400), min_counts=40)[0] == "CD74"
    with pytest.raises(ValueError, match="Lower min_counts"):
        st.pp.gene_panel(section(), min_counts=2000)


def test_depth_and_size_of_a_section_carry_no_weight():
    """Means are of log1p CP10k, so deeper sections and more spots change nothing."""
    one = st.pp.gene_panel([section(), section()])
    assert st.pp.gene_panel([section(depth=7), section()[:20], section()[20:]]) == one


def test_only_genes_of_all_sections_are_eligible():
    first = section()
    second = section()[:, ["ERBB2", "CD74", "KRT8"]].copy()
    assert st.pp.gene_panel([first, second]) == ["KRT8", "ERBB2", "CD74"]
    with pytest.raises(ValueError, match="share no gene name"):
        st.pp.gene_panel([first, section(names=[f"ENSG{i:011d}" for i in range(8)])])


def test_prefixes_also_hold_for_ensembl_names():
    names = ["ENSG00000198804.2", "ENSG00000100316", *list(GENES)[2:], "FILLER"]  # MT-CO1 and RPL3
    assert st.pp.gene_panel(section(names=names), n_top=2) == ["FILLER", "KRT8"]


def test_markers_resolve_to_the_names_in_use():
    names = ["MT-CO1", "RPL3", "KRT8", "ENSG00000141736.14", "EPCAM", "CD74", "SILENT", "FILLER"]
    adata = section(names=names)
    assert st.pp.gene_panel(adata, kind="markers", markers=["HER2", "CK8"]) == ["ENSG00000141736.14", "KRT8"]
    with pytest.warns(UserWarning, match="left out: KRT7, KRT18, KRT19"):
        panel = st.pp.gene_panel(adata, kind="markers", markers="carcinoma")
    assert panel == ["KRT8", "EPCAM"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"kind": "svg"}, ValueError, "kind must be one of"),
        ({"n_top": 0}, ValueError, "n_top must be at least 1"),
        ({"kind": "markers"}, ValueError, "markers= goes with"),
        ({"markers": ["EPCAM"]}, ValueError, "markers= goes with"),
        ({"kind": "markers", "markers": "brain"}, ValueError, "no marker set 'brain'"),
        ({"kind": "markers", "markers": ["PSA"]}, ValueError, "None of the markers .* PSA \\(may be KLK3"),
        ({"exclude": ("",)}, ValueError, "leaves no gene"),
    ],
)
def test_bad_arguments_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        st.pp.gene_panel(section(), **change)


def test_bad_sections_are_refused():
    with pytest.raises(ValueError, match="No sections given"):
        st.pp.gene_panel([])
    with pytest.raises(TypeError, match="Expected an AnnData or a SpatialData, got DataFrame"):
        st.pp.gene_panel([pd.DataFrame()])
    logged = section()
    logged.X.data = np.log1p(logged.X.data)
    with pytest.raises(ValueError, match="fractional values"):
        st.pp.gene_panel(logged)
    twice = section(names=["A", "A", *list(GENES)[2:], "FILLER"])
    with pytest.raises(ValueError, match="duplicated gene names"):
        st.pp.gene_panel(twice)


def test_her2st_panels_are_those_of_the_benchmark(real):
    train = [real("her2st", name) for name in ("B4", "C3", "C4", "C5")]
    panel = st.pp.gene_panel(train, n_top=1000)
    assert len(panel) == 1000
    assert not any(gene.startswith(("MT-", "RPL", "RPS")) for gene in panel)
    assert st.pp.gene_panel(train, n_top=50) == panel[:50]
    assert "ERBB2" in panel[:50]
    assert set(st.pp.gene_panel(train, kind="hvg", n_top=250)) < set(panel)
    assert len(st.pp.gene_panel(train, kind="markers", markers="breast")) == 14
