"""Labels of a pathologist: what counts as tumour, as other tissue, as no label at all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stpredict._evaluation.labels import read_labels, split_tumor_labels

TUMOR = [
    "Tumor",
    "tumour",
    "Invasive cancer",
    "cancer in situ",
    "in situ",
    "ductal in situ",
    "DCIS",
    "IDC",
    "invasive ductal carcinoma",
    "Malignant",
    "tumor_core",
    "non-small cell carcinoma",
    "non-keratinizing carcinoma",
]
OTHER = [
    "Non-tumor",
    "nontumor",
    "non_tumour",
    "No tumor",
    "tumor-free",
    "not cancer",
    "non-malignant",
    "Non-carcinoma",
    "non-melanoma skin",
    "non-adenocarcinoma",
    "non-DCIS",
    "stroma",
    "adipose tissue",
    "normal",
]
DOUBTFUL = [
    "tumor edge",
    "tumor-adjacent normal",
    "peritumoral",
    "tumor stroma",
    "suspicious for carcinoma",
    "Tumor border",
    "cancer associated fibroblasts",
    "non-invasive carcinoma",
]


@pytest.mark.parametrize("label", TUMOR)
def test_labels_that_say_tumor_are_tumor(label):
    assert split_tumor_labels([label, "stroma"], None, "obs").tumor == [label]


@pytest.mark.parametrize("label", OTHER)
def test_labels_that_deny_it_or_name_other_tissue_are_not(label):
    assert split_tumor_labels([label, "Tumor"], None, "obs").other == [label]


@pytest.mark.parametrize("label", DOUBTFUL)
def test_two_readings_are_asked_for(label):
    with pytest.raises(ValueError, match=f"'{label}' can be read as tumour or not. Pass tumor_labels="):
        split_tumor_labels([label, "Tumor", "stroma"], None, "obs['label']")
    taken = split_tumor_labels([label, "Tumor", "stroma"], ["Tumor"], "obs['label']")
    assert taken.tumor == ["Tumor"]
    assert taken.other == sorted([label, "stroma"])


def test_a_wanted_label_that_is_written_otherwise_is_refused():
    with pytest.raises(ValueError, match=r"obs\['label'\] has no 'idc', which tumor_labels= names, but 'IDC'"):
        split_tumor_labels(["IDC", "Tumor", "stroma"], ["Tumor", "idc"], "obs['label']")
    taken = split_tumor_labels(["Tumor", "stroma"], ["Tumor", "IDC"], "obs")  # (another section may have it)
    assert taken.tumor == ["Tumor"]
    taken = split_tumor_labels(
        ["HER2- carcinoma", "DCIS"], ["HER2+ carcinoma", "DCIS"], "obs"
    )  # (signs tell them apart)
    assert taken.tumor == ["DCIS"]


def test_labels_of_clusters_name_no_tumor():
    with pytest.raises(ValueError, match="None of the labels in obs"):
        split_tumor_labels(["0", "1"], None, "obs")
    assert split_tumor_labels(["0", "1"], 1, "obs").tumor == ["1"]


def test_one_label_may_be_named_without_a_list():
    assert split_tumor_labels(["IDC", "I"], "IDC", "obs").tumor == ["IDC"]
    assert split_tumor_labels(["True", "False"], True, "obs").tumor == ["True"]


def test_a_label_that_is_named_in_both_spellings_is_there():
    assert split_tumor_labels(["IDC", "stroma"], ["IDC", "idc"], "obs").tumor == ["IDC"]


@pytest.mark.parametrize(
    "missing", [None, np.nan, pd.NA, "NA", "n/a", "", " nan ", "Unknown", "UNASSIGNED", "undetermined"]
)
@pytest.mark.parametrize("kind", ["object", "category"])
def test_missing_labels_are_no_labels(missing, kind):
    column = pd.Series(["tumor", missing, "stroma"], dtype=object).astype(kind)
    assert read_labels(column).tolist() == ["tumor", None, "stroma"]


def test_missing_labels_of_text_columns():
    for column in (
        pd.array(["tumor", pd.NA], dtype="string"),
        pd.Categorical(pd.array(["tumor", pd.NA], dtype="string")),
    ):
        assert read_labels(pd.Series(column)).tolist() == ["tumor", None]
    assert read_labels(pd.Series([1.0, np.nan])).tolist() == ["1.0", None]
