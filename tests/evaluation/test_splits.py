from __future__ import annotations

import pytest

from stpredict._evaluation.splits import leave_one_group_out, section_groups
from stpredict._section import open_sections


def opened(sections):
    return [s for adata in sections for s in open_sections(adata)]


def test_every_patient_is_held_out_once_with_all_sections():
    folds = list(leave_one_group_out(["B", "C", "B", "D"]))
    assert [fold.group for fold in folds] == ["B", "C", "D"]
    assert folds[0] == ("B", [1, 3], [0, 2])
    with pytest.raises(ValueError, match=r"at least two of them; all sections are of B"):
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
