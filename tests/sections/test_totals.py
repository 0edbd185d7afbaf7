"""Totals of spots belong to the whole measured transcriptome, also where genes were dropped since."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import stpredict as st
from stpredict._core.warning import StpredictWarning
from stpredict._sections.open import open_sections
from stpredict._sections.references import log_rows

GENES = ["ERBB2", "KRT8", "COL1A1"]


def totals(adata):
    return open_sections(adata)[0].totals()


@pytest.fixture
def whole(section):
    """A section without totals of its own, as a file that no reader of ours wrote."""
    del section.obs["total_counts"]
    return section


def sums(adata):
    return np.asarray(adata.X.sum(axis=1)).ravel()


def dropped(adata, how):
    if how == "highly variable":
        adata.var["highly_variable"] = adata.var_names.isin(GENES)
    elif how == "raw":
        adata.raw = adata
    elif how == "n_genes":
        adata.obs["n_genes"] = np.asarray((adata.X > 0).sum(axis=1)).ravel()
    else:
        adata.obs["total_counts"] = 1e4  # as after normalize_total: no counts
        adata.obs["n_genes_by_counts"] = np.asarray((adata.X > 0).sum(axis=1)).ravel()
    return adata[:, GENES].copy()


@pytest.mark.parametrize("how", ["highly variable", "raw", "n_genes", "normalised"])
def test_a_subset_whose_totals_nobody_knows_is_refused_and_the_message_mends_it(whole, how):
    panel = dropped(whole, how)
    for call in (totals, st.pp.qc, st.pp.gene_panel, lambda adata: st.tl.train(adata, method="mean", genes=GENES)):
        with pytest.raises(ValueError, match=r"Genes were dropped.*Set adata.obs\['total_counts'\]"):
            call(panel)
    panel.obs["total_counts"] = sums(whole)
    np.testing.assert_array_equal(totals(panel), sums(whole))


def test_highly_variable_genes_may_be_many(whole, monkeypatch):
    panel = dropped(whole, "highly variable")
    monkeypatch.setattr("stpredict._sections.totals.FEW_GENES", 2)
    with pytest.raises(ValueError, match="only highly variable ones are left"):
        totals(panel)


def test_few_genes_are_told_unless_their_totals_are_recorded(whole):
    with pytest.warns(StpredictWarning, match="only 192 genes and no totals"):
        model = st.tl.train(whole, method="mean", genes=GENES)
    st.tl.predict_expression(whole, model)
    with pytest.warns(StpredictWarning, match="only 192 genes and no totals"):
        st.tl.evaluate(whole)
    np.testing.assert_array_equal(totals(whole), sums(whole))
    st.pp.qc(whole)  # what the message says for a panel
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        st.tl.train(whole, method="mean", genes=GENES)
        st.tl.evaluate(whole)


def test_many_genes_are_all_that_was_measured(whole, monkeypatch):
    monkeypatch.setattr("stpredict._sections.totals.FEW_GENES", 192)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        st.tl.train(whole, method="mean", genes=GENES)


def test_quality_control_of_a_subset_keeps_the_totals(section):
    known = section.obs["total_counts"].copy()
    np.testing.assert_array_equal(known, sums(section))
    panel = section[:, GENES].copy()
    with pytest.warns(UserWarning, match="which is kept"):
        st.pp.qc(panel)
    assert panel.obs["total_counts"].tolist() == known.tolist()
    del panel.obs["total_counts"]  # what the message says for counts that were changed
    st.pp.qc(panel)
    assert panel.obs["total_counts"].tolist() == sums(panel).tolist()


def test_a_subset_is_learned_and_scored_as_the_whole(two_sections):
    """Levels, spots with enough counts and panels are those of all genes; the model says whose totals it took."""
    first, second = two_sections
    panel = [adata[:, GENES].copy() for adata in two_sections]
    models = [st.tl.train(adata, method="mean", genes=GENES) for adata in (first, panel[0])]
    np.testing.assert_array_equal(models[1].arrays["mean"], models[0].arrays["mean"])
    assert any("totals are those in obs" in note for note in models[1].history.notes)
    assert not any("totals" in note for note in models[0].history.notes)
    scores = []
    for adata in (second, panel[1]):
        st.tl.predict_expression(adata, models[0])
        scores.append(st.tl.evaluate(adata, metrics=["mse", "ceiling"], min_counts=900).query("panel == 'all'"))
    np.testing.assert_array_equal(*(table["value"] for table in scores))
    assert st.pp.gene_panel(panel[0], min_counts=900) == [
        g for g in st.pp.gene_panel(first, min_counts=900) if g in GENES
    ]


def test_references_are_normalised_by_their_totals(two_sections):
    first, second = two_sections
    models = [
        st.tl.train(first, method="mean", genes=GENES, reference=reference)
        for reference in (second, second[:, GENES].copy())
    ]
    np.testing.assert_array_equal(*(model.arrays["reference_variances"] for model in models))


def test_expression_of_references_is_log1p_of_counts_per_ten_thousand():
    """A shallow cell is left out; totals that are told count in place of those that are left."""
    counts, nothing = np.array([[3, 1, 0], [1, 0, 0], [0, 2, 6]], dtype=np.float32), pd.DataFrame(index=list("abc"))
    values, enough = log_rows(counts, nothing, 2, [0, 1])
    assert enough.tolist() == [True, False, True]
    np.testing.assert_allclose(values.toarray(), np.log1p([[7500, 2500], [0, 2500]]), rtol=1e-12)
