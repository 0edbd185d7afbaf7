"""Zeros that a join filled in are not learned: the gene was not measured there."""

from __future__ import annotations

import importlib
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as st
from stpredict._core.warning import StpredictWarning
from stpredict._sections.measured import gene_sums, not_measured
from stpredict._sections.open import open_sections

GENES = [f"GENE{i}" for i in range(15)]
LACKING = "GENE3"
METHODS = ["ridge", "knn", "density", "mean", "mixture", "cmrcnet", "align_st"]
NETWORK = {"epochs": 2, "members": 1, "show_progress": False}


def zeroed(adata, gene=LACKING):
    """As an outer join leaves it: every spot has zero of the gene."""
    adata = adata.copy()
    adata.X[:, adata.var_names.get_loc(gene)] = 0
    return adata


def found(sections, genes=GENES):
    return not_measured([gene_sums(section) for section in sections], genes)


def test_a_join_is_found_and_told_by_panel_and_training(paired):
    first, second = paired(2)
    named = {"section0": first, "section1": second[:, second.var_names != LACKING].copy()}
    joined = ad.concat(named, join="outer", label="library_id", uns_merge="unique", index_unique="-", fill_value=0)
    joined.uns |= {key: first.uns[key] for key in ("X_fake", "X_fake_niche")}
    where = rf"1 gene\(s\) \({LACKING}\) are zero in every spot of section1"
    with pytest.warns(StpredictWarning, match=where + r".*left out"):
        panel = st.pp.gene_panel(joined, exclude=())
    assert sorted(panel) == sorted(set(GENES) - {LACKING})
    with pytest.warns(StpredictWarning, match=where + r".*learned from the other sections alone"):
        model = st.tl.train(joined, genes=GENES, method="ridge")
    assert model.config["not_measured"] == [["section1", [LACKING]]]
    assert "not_measured" not in st.tl.train(joined, genes=panel, method="ridge").config
    st.tl.cross_validate(joined, methods=["mean"], group_key=None, genes=panel, metrics=["pcc"])
    with pytest.raises(ValueError, match=f"not all sections measure {LACKING}"):
        st.tl.cross_validate(joined, methods=["mean"], group_key=None, genes=GENES, metrics=["pcc"])


def test_genes_that_a_patient_does_not_express_are_measured():
    """One silent gene of a hundred is biology up to 500 expected counts; several at once are a join, from 10 on."""
    deep = pd.Series(1000.0, index=[f"G{i}" for i in range(100)])
    for depth, silent, lacks in ((0.4, 1, 0), (0.6, 1, 1), (0.4, 2, 0), (0.4, 3, 3), (0.009, 3, 0), (0.011, 3, 3)):
        shallow = deep * depth
        shallow.iloc[:silent] = 0
        found = not_measured([deep, shallow], deep.index)
        assert found.sum(axis=1).tolist() == [0, lacks], (depth, silent)
    assert not not_measured([deep], deep.index).any()


def test_a_targeted_panel_is_judged_by_the_genes_that_it_has(paired):
    """Ten deep genes beside a section of many: its zeros are not measured, however little of the others they are."""
    first, second = paired(2)
    second.X[:, 5:] = 0
    first.X[:, 14] *= 1000
    (a,), (b,) = open_sections(first), open_sections(second)
    assert found([a, b]).tolist() == [[False] * 15, [False] * 5 + [True] * 10]


@pytest.mark.parametrize("method", METHODS)
def test_the_gene_is_learned_from_the_sections_that_measure_it(paired, method):
    """Zeros would drag its level down and flatten its pattern."""
    *train, new = paired(4)
    options = NETWORK if method in ("cmrcnet", "align_st") else {}
    whole = st.tl.train(train, method=method, genes=GENES, **options)
    with pytest.warns(StpredictWarning, match="not measured there"):
        model = st.tl.train([train[0], zeroed(train[1]), train[2]], method=method, genes=GENES, **options)
    column = GENES.index(LACKING)
    (section,) = open_sections(new)
    full, part = (m.predict(section).mean[:, column] for m in (whole, model))
    measured = section.log_expression([LACKING])[:, 0]
    assert abs(part.mean() - full.mean()) < 0.2 * measured.mean()  # with zeros: a third
    if method not in ("mean", "align_st", "density"):
        assert np.corrcoef(part, measured)[0, 1] > np.corrcoef(full, measured)[0, 1] - 0.1
        assert part.std() > 0.7 * full.std()
    for name, values in model.arrays.items():
        assert np.isnan(values).sum() == np.isnan(whole.arrays[name]).sum(), name


def test_ridge_learns_it_as_from_those_sections_alone(paired):
    train = paired(3, patients=["A", "B", "C"])
    with pytest.warns(StpredictWarning, match="not measured there"):
        model = st.tl.train([*train[:2], zeroed(train[2])], genes=GENES, method="ridge")
    alone = st.tl.train(train[:2], genes=GENES, method="ridge")
    column = GENES.index(LACKING)
    one, other = model.arrays["weights"][:, column], alone.arrays["weights"][:, column]
    assert np.corrcoef(one, other)[0, 1] > 0.98
    np.testing.assert_allclose(np.linalg.norm(one), np.linalg.norm(other), rtol=0.1)
    assert 0.5 < model.arrays["residual_sd"][column] / alone.arrays["residual_sd"][column] < 2


def test_a_gene_that_one_of_two_sections_measures_has_the_error_of_no_knowledge(paired):
    first, second = paired(2)
    with pytest.warns(StpredictWarning, match="not measured there"):
        model = st.tl.train([first, zeroed(second)], genes=GENES, method="ridge")
    (section,) = open_sections(first)
    np.testing.assert_allclose(
        model.arrays["residual_sd"][GENES.index(LACKING)], section.log_expression([LACKING]).std(), rtol=1e-3
    )


def test_stores_and_memory_give_one_model(paired, tmp_path):
    sections = [paired(2)[0], zeroed(paired(2)[1])]
    for number, adata in enumerate(sections):
        adata.write_h5ad(tmp_path / f"{number}.h5ad")
    with pytest.warns(StpredictWarning, match="not measured there"):
        models = [st.tl.train(data, method="cmrcnet", genes=GENES, seed=1, **NETWORK) for data in (sections, tmp_path)]
    for name, values in models[0].arrays.items():
        np.testing.assert_array_equal(models[1].arrays[name], values)


def test_nothing_is_told_of_whole_sections(paired):
    sections = paired(2)
    for adata in sections:
        adata.obs["total_counts"] = adata.X.sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        st.tl.train(sections, genes=GENES, method="ridge")
        st.pp.gene_panel(sections)


@pytest.mark.parametrize("method", ["cmrcnet", "align_st"])
def test_epochs_and_errors_are_not_judged_by_what_was_filled_in(paired, method, monkeypatch):
    """The held-out section lacks the gene: other values in the place of the filled-in ones change nothing."""
    train, column, seen = paired(2), GENES.index(LACKING), []
    module = importlib.import_module(
        "stpredict.models._aligned.training" if method == "cmrcnet" else "stpredict.models.align_st._training"
    )
    plain = module._Monitor.__call__

    def both(monitor):
        inputs = monitor.test if method == "align_st" else monitor.test.table
        found, kept = plain(monitor), inputs.expression[:, column].copy()
        assert set(inputs.section) == {0}
        inputs.expression[:, column] = np.random.default_rng(0).normal(size=len(kept))
        seen.append((found, plain(monitor)))
        inputs.expression[:, column] = kept
        return found

    monkeypatch.setattr(module._Monitor, "__call__", both)
    smaller = zeroed(train[0])[:60].copy()
    smaller.uns |= {"X_fake": train[0].uns["X_fake"], "X_fake_niche": train[0].uns["X_fake_niche"]}
    with pytest.warns(StpredictWarning, match="not measured there"):
        model = st.tl.train([smaller, train[1]], method=method, genes=GENES, **NETWORK)
    assert seen
    for found, changed in seen:
        assert changed["val_pcc"] == found["val_pcc"]
    (section,) = open_sections(train[1])
    error = model.arrays["residual_sd"] / section.log_expression(GENES).std(axis=0)
    assert error[column] > 0.5 * np.median(error)
    assert np.isfinite(model.arrays["held_out_pcc"]).all()
