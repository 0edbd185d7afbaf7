"""The patient of every section, sections that were joined, and totals of spots whose genes were dropped."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import stpredict as st
from stpredict._sections.groups import section_groups
from stpredict._sections.open import open_sections


def groups_of(sections, values):
    for adata, value in zip(sections, values, strict=True):
        adata.obs["who"] = value
    return section_groups([open_sections(adata)[0] for adata in sections], "who")


@pytest.mark.parametrize("values", [(1, 1.0), ("P1", "P1 "), (1.0, "1")])
def test_one_patient_written_in_two_ways_is_one(two_sections, values):
    first, second = groups_of(two_sections, values)
    assert first == second


def test_groups_that_differ_in_case_only_are_told(two_sections):
    with pytest.warns(UserWarning, match="P1 and p1"):
        assert groups_of(two_sections, ("P1", "p1")) == ["P1", "p1"]


def test_a_misspelt_group_key_is_refused(two_sections):
    for adata in two_sections:
        adata.obsm["X_f"] = np.random.default_rng(0).normal(size=(adata.n_obs, 3)).astype(np.float32)
        del adata.obs["patient"]
    options = {"method": "mean", "genes": ["ERBB2"]}
    assert st.tl.train(two_sections, **options).config["groups"] == ["sim_1", "sim_2"]  # the default may be absent
    with pytest.raises(KeyError, match="has no obs\\['donr'\\]"):
        st.tl.train(two_sections, group_key="donr", **options)


def test_a_column_in_place_of_its_name_is_refused(two_sections):
    one = two_sections[0]
    one.obsm["X_f"] = np.zeros((one.n_obs, 3), np.float32)
    wrong = {
        "group_key": lambda: st.tl.train(two_sections, method="mean", genes=["ERBB2"], group_key=["P1", "P2"]),
        "library_key": lambda: st.tl.train(one, method="mean", genes=["ERBB2"], library_key=one.obs["region"]),
        "label_key": lambda: st.tl.localize_tumor(one, markers=["ERBB2"], label_key=one.obs["region"]),
    }
    for argument, call in wrong.items():
        with pytest.raises(TypeError, match=f"{argument}= is the name of a column of obs; got a (list|Series)"):
            call()


@pytest.mark.parametrize("merge", [None, "same"])
def test_sections_that_lost_their_libraries_are_not_taken_for_one(two_sections, merge):
    joined = ad.concat(two_sections, label="library_id", keys=["sim_1", "sim_2"], uns_merge=merge, index_unique="-")
    with pytest.raises(ValueError, match=r"names 2 sections .*uns_merge='unique'"):
        open_sections(joined)
    right = ad.concat(two_sections, label="library_id", keys=["sim_1", "sim_2"], uns_merge="unique", index_unique="-")
    assert [len(section) for section in open_sections(right)] == [adata.n_obs for adata in two_sections]


def test_sections_of_one_library_name_are_not_taken_for_one(two_sections):
    for adata in two_sections:
        adata.uns["spatial"] = {"ST": next(iter(adata.uns["spatial"].values()))}
    named = dict(zip("ab", two_sections, strict=True))
    joined = ad.concat(named, label="library_id", uns_merge="unique", index_unique="-")
    with pytest.raises(ValueError, match="has only 'ST'"):
        open_sections(joined)
    for name, adata in named.items():  # what the message says
        adata.uns["spatial"] = {name: adata.uns["spatial"].pop("ST")}
    joined = ad.concat(named, label="library_id", uns_merge="unique", index_unique="-")
    assert [section.name for section in open_sections(joined)] == ["a", "b"]


def test_totals_are_those_of_all_genes_after_a_subset(section):
    st.pp.qc(section)
    (whole,) = open_sections(section)
    (panel,) = open_sections(section[:, ["ERBB2", "KRT8", "COL1A1"]].copy())
    np.testing.assert_array_equal(panel.log_expression(["ERBB2"]), whole.log_expression(["ERBB2"]))


@pytest.mark.parametrize("merge", [None, "first"])
def test_sections_that_nothing_names_are_told_apart_by_their_places(two_sections, merge):
    for adata in two_sections:
        adata.uns["spatial"] = {"ST": next(iter(adata.uns["spatial"].values()))}
    joined = ad.concat(two_sections, uns_merge=merge, index_unique="-")
    with pytest.raises(
        ValueError, match=r"where another one is: several sections seem to be joined .* pass the sections as"
    ):
        open_sections(joined)
    one = joined[: two_sections[0].n_obs].copy()
    assert len(open_sections(one)) == 1
    joined.obs["array_row"] = joined.obs["array_col"] = 0  # as a tool that knows no places may have it
    assert len(open_sections(joined)) == 1
