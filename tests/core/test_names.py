"""Genes in the forms that scanpy users have them in, and misspelt names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as st
from stpredict._core.names import gene_names, meant

TWO = ["ERBB2", "KRT8"]


@pytest.fixture
def genes(section):
    marked = section.var_names.isin(TWO)
    section.var["highly_variable"] = marked
    return {
        "column": section.var["highly_variable"],
        "index": section.var_names[marked],
        "array": np.array(section.var_names[marked]),
        "dict": {"tumour": TWO[:1], "epithelium": TWO},
        "tuple": tuple(TWO),
    }


@pytest.mark.parametrize("form", ["column", "index", "array", "dict", "tuple"])
def test_genes_come_in_any_form(section, genes, form):
    assert sorted(gene_names(genes[form])) == TWO
    del section.var["highly_variable"]
    model = st.tl.train(section, method="mean", genes=genes[form])
    assert sorted(model.genes) == TWO
    out = st.tl.predict_expression(section, model, genes=genes[form], as_anndata=True)
    assert sorted(out.var_names) == TWO


def test_a_mask_without_names_and_numbers_are_refused(section):
    mask = section.var_names.isin(TWO)
    with pytest.raises(TypeError, match=r"a mask without names. Pass the names, adata.var_names\[mask\]"):
        st.tl.train(section, method="mean", genes=mask)
    assert st.tl.train(section, method="mean", genes=section.var_names[mask]).genes  # what the message says
    with pytest.raises(TypeError, match="genes must be names, got"):
        gene_names([3, 4])
    assert gene_names(pd.Series([False, False], index=TWO)) == []


def test_what_was_meant(section):
    assert meant("Ridge", ["ridge", "knn"]) == " Did you mean 'ridge'?"
    assert meant("tsne", ["umap", "pca"]) == meant(3, ["umap"]) == ""
    with pytest.raises(ValueError, match="Did you mean 'ridge'"):
        st.tl.train(section, method="rigde")
    with pytest.raises(ValueError, match=r"names some of them differently \(ERBB2 for erbb2\)"):
        st.tl.train(section, method="mean", genes=["erbb2"])
    st.pp.tiles(section)
    for asked, wanted in (("Morphology", "morphology"), ("virchow-2", "virchow2"), ("resnet118", "resnet18")):
        with pytest.raises(ValueError, match=f"Did you mean '{wanted}'"):
            st.pp.encode(section, asked)
    with pytest.raises(ValueError, match="Did you mean 'breast'"):
        st.pp.gene_panel(section, kind="markers", markers="Breast")
