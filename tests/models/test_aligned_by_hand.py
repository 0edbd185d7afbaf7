"""When networks that align images with expression warn, and what counts as measured: worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from stpredict._core.warning import StpredictWarning
from stpredict.models._aligned.expression import measured_expression, usable_spots
from stpredict.models._aligned.training import _warn_of_chance


class Section:
    name, genes = "s", pd.Index(["A", "B"])

    def __len__(self):
        return 2

    def totals(self):
        return np.array([0.0, 1, 4, 5])

    def log_expression(self, genes):
        return np.array([[{"A": 1.0, "B": 2.0}[gene] for gene in genes]] * 2)


@pytest.mark.parametrize(("recall", "chance", "warns"), [(0.15, 0.1, 1), (0.16, 0.1, 0), (1, 1, 0)])
def test_sixteen_of_a_hundred_are_above_a_chance_of_one_in_ten(recall, chance, warns):
    """By chance 15 or more are found in 7.3 % of all draws, and 16 or more in 4.0 %."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _warn_of_chance("X", recall, chance, 100)
    assert len([one for one in told if one.category is StpredictWarning]) == warns


@pytest.mark.parametrize(
    ("min_counts", "usable"),
    [(5, [False, False, False, True]), (0, [False, True, True, True]), (1, [False, True, True, True])],
)
def test_empty_spots_are_never_usable(min_counts, usable):
    assert usable_spots(Section(), min_counts).tolist() == usable


def test_genes_that_are_not_there_are_at_their_level_and_few_known_ones_are_told():
    with pytest.warns(StpredictWarning, match="'s' measures 1 of the model's 3 genes"):
        found = measured_expression(Section(), ["X", "B", "Y"], np.array([7.0, 8, 9]))
    assert found.tolist() == [[7, 2, 9]] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        found = measured_expression(Section(), ["X", "B", "Y", "A"], np.array([7.0, 8, 9, 6]))
    assert found.tolist() == [[7, 2, 9, 1]] * 2
    with pytest.raises(ValueError, match="measures none of the model's 1 genes"):
        measured_expression(Section(), ["X"], np.zeros(1))
