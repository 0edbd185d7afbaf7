"""Columns read as text: the same with every version of pandas and anndata."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stpredict._core.labels import as_text, layer_names


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", np.nan, "nan", None], ["a", None, "nan", None]),
        (pd.Categorical(["a", None, "b"]), ["a", None, "b"]),
        (pd.Categorical([2, 1, 2]), ["2", "1", "2"]),
        (pd.array(["a", None], dtype="string"), ["a", None]),
        (pd.array([1, None], dtype="Int64"), ["1", None]),
        ([True, False], ["True", "False"]),
        ([1.5, np.nan], ["1.5", None]),
        (np.array([np.nan, np.nan]), [None, None]),
        ([], []),
    ],
)
def test_missing_values_are_no_label(values, expected):
    column = pd.Series(values, index=[f"s{i}" for i in range(len(expected))], name="label")
    text = as_text(column)
    assert text.tolist() == expected
    assert text.dtype == object
    assert text.index.equals(column.index)
    assert text.name == "label"
    assert text.str.strip().fillna("").tolist() == [value or "" for value in expected]


def test_x_is_no_layer():
    adata = ad.AnnData(np.ones((2, 3)))
    assert layer_names(adata) == []
    adata.layers["predicted"] = np.ones((2, 3))
    assert layer_names(adata) == ["predicted"]
