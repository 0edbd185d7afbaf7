from __future__ import annotations

import numpy as np
import pytest

from stpredict._benchmark.splits import leave_one_group_out
from stpredict._sections.groups import section_groups
from stpredict._sections.open import open_sections


def opened(sections):
    return [s for adata in sections for s in open_sections(adata)]


def test_every_patient_is_held_out_once_with_all_sections():
    folds = list(leave_one_group_out(["B", "C", "B", "D"]))
    assert [fold.group for fold in folds] == ["B", "C", "D"]
    assert folds[0] == ("B", [1, 3], [0, 2])
    with pytest.raises(ValueError, match=r"at least two of them; all sections are of B\. Add .* group_key=None"):
        list(leave_one_group_out(["B", "B"]))


def test_groups_come_from_obs(paired):
    sections = opened(paired(3, patients=["B", "C", "B"]))
    assert section_groups(sections, "patient") == ["B", "C", "B"]
    assert section_groups(sections, None) == ["section0", "section1", "section2"]


def test_no_column_asks_for_an_explicit_choice(paired):
    with pytest.raises(KeyError, match=r"no obs\['donor'\].*group_key=None to treat every section"):
        section_groups(opened([paired()]), "donor")


@pytest.mark.parametrize("other", ["P9", None])
def test_a_section_of_two_patients_is_refused(paired, other):
    adata = paired()
    adata.obs["patient"] = ["P0"] * 40 + [other] * 41
    with pytest.raises(ValueError, match=r"one value in all of section 'section0'"):
        section_groups(opened([adata]), "patient")


def test_only_some_groups_may_be_held_out():
    folds = list(leave_one_group_out(["B", "C", "B", "D"], ["D", "B"]))
    assert folds == [("D", [0, 1, 2], [3]), ("B", [1, 3], [0, 2])]
    with pytest.raises(ValueError, match="no group 'Z' to hold out; there are B, C"):
        list(leave_one_group_out(["B", "C"], ["C", "Z"]))


def test_a_section_without_counts_keeps_its_features_and_patient_and_nothing_else(paired):
    adata = paired()
    adata.obs["patient"], adata.obs["depth"] = "A", 1.0
    (section,) = opened([adata])
    blind = section.without_counts()
    np.testing.assert_array_equal(blind.features("X_fake"), section.features("X_fake"))
    np.testing.assert_array_equal(blind.centres, section.centres)
    assert blind.adata.obs.columns.tolist() == ["patient"]
    assert section.without_counts("depth").adata.obs.columns.tolist() == ["depth"]
    assert not blind.adata.layers
    with pytest.raises(ValueError, match="no expression matrix"):
        blind.counts()
    assert section.counts().shape == adata.shape
