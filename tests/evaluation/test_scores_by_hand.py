"""Scores of one small section, worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict._core.warning import StpredictWarning
from stpredict._evaluation import scoring
from stpredict._evaluation.scoring import check_deep_spots, in_other_units, noise_ceilings, score
from stpredict._evaluation.stated import Stated

pytestmark = pytest.mark.filterwarnings("ignore:.*is evaluated on")

A, B, C = [0.0, 2, 0, 2, 9], [0.0, 0, 2, 2, 9], [0.0, 2, 2, 0, 9]
"""Measured expression of five spots, of which the last is shallow; over the others, no gene tells of another."""


class Small:
    """Five spots in a row; counts of gene A fall where its expression rises."""

    name, genes = "s", pd.Index(["A", "B", "C"])

    def __init__(self, totals=(10, 10, 10, 10, 9)):
        self._totals, self.asked = np.array(totals, float), 0

    def counts(self):
        return sparse.csr_matrix([[3.0, 1, 0], [1, 1, 0], [3, 1, 0], [1, 1, 0], [7, 7, 7]])

    def totals(self, counts=None):
        return self._totals

    def lacks_genes(self):
        self.asked += 1

    def log_expression(self, genes):
        return np.column_stack([{"A": A, "B": B, "C": C}[gene] for gene in genes])

    def neighbours(self):
        return sparse.diags([np.ones(4)] * 2, [-1, 1], format="csr")


NAMES = ["C", "X", "A", "B"]
VALUES = np.column_stack([np.negative(C), A, np.multiply(A, 2) + 3, [5.0] * 5])
"""C is turned round, A is twice as large and three too high, B is the same everywhere, and nobody measured X."""


def scored(metrics, section=None, values=VALUES, panels=(("two", ("A", "B")),), **how):
    how = {"min_counts": 10, "seed": 0} | how
    panels = panels and dict(panels)
    return score(section or Small(), values, NAMES, panels=panels, metrics=metrics, **how)


def of(table):
    return {(row.metric, row.gene): row.value for row in table.itertuples()}


def test_scores_of_genes_and_panels():
    ceilings = pd.DataFrame([[0.4, 0.5], [0.1, 0.1], [0.8, 0.9]], index=["B", "C", "A"])
    std = np.array([1.0, 1, 2, 4]) * np.ones((5, 1))
    ends = np.array([9.0, 9, 0, 1]) * np.ones((5, 1)), np.array([9.0, 9, 1, 3]) * np.ones((5, 1))
    said = Stated(np.array([9, 9, 0.7, 0.1]), ends, 0.8, 1.5)
    small = Small()
    table = scored(scoring.KNOWN, small, std=std, stated=said, ceilings=ceilings)
    assert small.asked == 1  # (which warns of genes that were dropped)
    assert list(table) == ["panel", "gene", "target", "metric", "value"]
    assert set(table["panel"]) == {"two"}
    assert set(table["target"]) == {"log1p"}
    expected = {
        "pcc": (1, 0),
        "pcc_given_depth": (np.nan, np.nan),
        "spearman": (1, 0),
        "mse": (17, 17),
        "sd_ratio": (2, 0),
        "ceiling": (0.85, 0.45),
        "coverage": (0.5, 1),  # of A, 3 and 5 away, and ends are 3.29; of B, 3 and 5 away, and ends are 6.58
        "interval_width": (4 * 1.644854, 8 * 1.644854),
        "stated_pcc": (0.7, 0.1),
        "interval_coverage": (0.5, 0.5),
    }
    expected = {(name, gene): value for name, both in expected.items() for gene, value in zip("AB", both, strict=True)}
    expected |= {
        ("ceiling_sd", ""): 0.05,
        ("pcc_of_ceiling", ""): 10 / 13,
        ("gene_structure", ""): np.nan,
        ("spatial_structure", ""): np.nan,
        ("undefined", ""): 1,
        ("stated_r", ""): np.nan,
        ("stated_excess", ""): -0.1,
        ("interval_level", ""): 0.8,
        ("distance", ""): 1.5,
    }
    assert of(table) == pytest.approx(expected, nan_ok=True, rel=1e-6)


def test_no_share_of_a_ceiling_that_is_not_there():
    nothing = pd.DataFrame(np.zeros((2, 2)), index=["A", "B"])
    found = of(scored(["pcc_of_ceiling", "stated_r", "ceiling_sd"], ceilings=nothing))
    assert found == pytest.approx({("pcc_of_ceiling", ""): np.nan, ("ceiling_sd", ""): 0}, nan_ok=True)


def test_without_panels_every_predicted_gene_that_is_measured_counts():
    values = VALUES.copy()
    values[:4, 3] = np.nan  # (the shallow spot does not count)
    with pytest.warns(StpredictWarning, match="does not measure 1 genes of panel 'all', left out: X."):
        found = of(scored(["pcc"], values=values, panels=None))
    assert found == pytest.approx({("pcc", "C"): -1, ("pcc", "A"): 1})
    with pytest.raises(ValueError, match="Nothing was predicted for section 's'"):
        scored(["pcc"], values=VALUES * np.nan, panels=None)


def test_genes_of_a_panel_count_once_and_ten_missing_ones_are_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        warnings.filterwarnings("ignore", ".*is evaluated on")
        assert of(scored(["pcc"], panels={"p": ["C", "A", "C"]})) == pytest.approx({("pcc", "C"): -1, ("pcc", "A"): 1})
    missing = [f"N{i}" for i in range(11)]
    with pytest.warns(StpredictWarning, match=r"measure 11 genes of panel 'p', left out: N0, .*, N8, N9\."):
        scored(["pcc"], panels={"p": ["A", *missing]})
    with pytest.raises(ValueError, match="None of the genes of panel 'p' is measured in section 's'"):
        scored(["pcc"], panels={"p": missing})


def test_a_gene_that_was_not_predicted_is_undefined():
    found = of(
        score(Small(), VALUES[:, :1], ["C"], panels={"p": ["C", "A"]}, metrics=["pcc", "mse"], min_counts=1, seed=0)
    )
    assert found["pcc", "A"] == 0
    assert np.isnan(found["mse", "A"])


@pytest.mark.parametrize(("target", "expected"), [("log1p", 1), ("pearson_residuals", -1)])
def test_residuals_are_of_the_counts(target, expected):
    table = scored(["pcc"], panels={"p": ["A"]}, target=target)
    assert table["target"].tolist() == [target]
    assert table["value"].tolist() == pytest.approx([expected])


def test_ceilings_are_of_deep_spots_and_of_the_genes_that_were_asked_for(monkeypatch):
    def draws(counts, totals, seed):
        return np.array([counts.sum(axis=0), counts.sum(axis=0) + totals.sum() + seed])

    monkeypatch.setattr(scoring, "ceiling_draws", draws)
    found = noise_ceilings(Small(), iter(["B", "A"]), min_counts=10, seed=2)
    assert found.loc["A"].tolist() == [8, 50]
    assert found.loc["B"].tolist() == [4, 46]
    table = scored(["ceiling"], panels={"p": ["B", "A"], "q": ["A"]}, seed=2)
    assert table["value"].tolist() == [25, 29, 29]


@pytest.mark.parametrize(
    ("totals", "min_counts", "n"),
    [([0, 1, 1, 1, 0], 0, 3), ([0, 0, 1, 1, 0], 0, 2), ([5, 5, 5, 4, 0], 5, 3), ([5, 5, 4, 4, 0], 5, 2)],
)
def test_three_deep_spots_are_needed_and_empty_ones_never_count(totals, min_counts, n):
    if n == 3:
        check_deep_spots(Small(totals), min_counts)
    else:
        with pytest.raises(ValueError, match=f"'s' has 2 spots with min_counts={min_counts} counts; 3 are needed"):
            check_deep_spots(Small(totals), min_counts)


@pytest.mark.parametrize("metric", ["coverage", "interval_width"])
def test_intervals_need_their_width(metric):
    with pytest.raises(ValueError, match=f"^{metric} need std"):
        scored(["pcc", metric])


def test_errors_and_contrast_say_nothing_in_other_units():
    table = in_other_units(scored(["pcc", "mse", "sd_ratio"]))
    assert np.isnan(table["value"]).tolist() == [False, False, True, True, True, True]
