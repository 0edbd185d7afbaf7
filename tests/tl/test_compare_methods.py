"""Summaries of scores: paired by patient, averaged over seeds, and modest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import stpredict as st

DIFFERENCES = np.array([0.04, 0.06, 0.02, 0.05])


def table_of(values, **constant):
    """Scores from (method, fold, section, seed, value), two genes each around the value."""
    rows = [(*row[:4], gene, row[4] + shift) for row in values for gene, shift in (("ERBB2", -0.1), ("FASN", 0.1))]
    table = pd.DataFrame(rows, columns=["method", "fold", "section", "seed", "gene", "value"])
    return table.assign(**{"panel": "HEG", "metric": "pcc"} | constant)


@pytest.fixture
def table():
    base = np.array([0.2, 0.4, 0.1, 0.5])
    values = [(m, f"P{i}", f"S{i}", 0, v) for m, of in (("knn", base - 0.1), ("ridge", base)) for i, v in enumerate(of)]
    values += [
        ("ours", f"P{i}", f"S{i}", seed, v + d + shift)
        for seed, shift in ((0, -0.01), (1, 0.0), (2, 0.01))
        for i, (v, d) in enumerate(zip(base, DIFFERENCES, strict=True))
    ]
    scores = table_of(values)
    return pd.concat([scores, scores.assign(metric="ceiling", value=0.6)])


def test_paired_differences_and_their_interval_are_scipys(table):
    summary = st.tl.compare_methods(table).set_index("method")
    ours = summary.loc["ours"]
    assert (summary["against"] == "ridge").all()
    low, high = stats.t.interval(0.95, 3, DIFFERENCES.mean(), stats.sem(DIFFERENCES))
    assert ours["difference"] == pytest.approx(DIFFERENCES.mean())
    assert (ours["low"], ours["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (ours["wins"], ours["n"], ours["unit"], ours["clear"]) == (4, 4, "group", True)
    assert summary.loc["knn", "difference"] == pytest.approx(-0.1)
    assert not summary.loc["ridge", "clear"]


def test_means_ceilings_and_seeds(table):
    summary = st.tl.compare_methods(table).set_index("method")
    assert summary.loc["ridge", "mean"] == pytest.approx(0.3)
    assert summary.loc["ridge", "of_ceiling"] == pytest.approx(0.5)
    assert summary.loc["ours", "mean"] == pytest.approx(0.3 + DIFFERENCES.mean())
    assert summary.loc["ours", "seed_sd"] == pytest.approx(0.01)
    assert summary["n_seeds"].to_dict() == {"knn": 1, "ridge": 1, "ours": 3}
    assert np.isnan(summary.loc["ridge", "seed_sd"])


def test_correlations_given_depth_stand_beside_the_means(table):
    assert "given_depth" not in st.tl.compare_methods(table)
    of_pcc = table[table["metric"] == "pcc"]
    both = pd.concat([table, of_pcc.assign(metric="pcc_given_depth", value=of_pcc["value"] / 2)])
    summary = st.tl.compare_methods(both)
    np.testing.assert_allclose(summary["given_depth"], summary["mean"] / 2)
    assert "given_depth" not in st.tl.compare_methods(both, metric="pcc_given_depth")


def test_scores_against_two_targets_are_not_averaged(table):
    both = pd.concat([table.assign(target="log1p"), table.assign(target="pearson_residuals")])
    with pytest.raises(ValueError, match=r"'log1p', 'pearson_residuals'.*Choose one, as in table\[table"):
        st.tl.compare_methods(both)
    chosen = st.tl.compare_methods(both[both["target"] == "log1p"])
    pd.testing.assert_frame_equal(chosen, st.tl.compare_methods(table))


@pytest.mark.parametrize(("sd", "share"), [(0.001, 0.57), (0.05, 0.6)])
def test_shares_of_the_ceiling_have_no_more_digits_than_its_spread_allows(table, sd, share):
    """.3425 of .6; four sections whose ceilings another seed moves by `sd` each."""
    moved = table[table["metric"] == "ceiling"].assign(metric="ceiling_sd", value=sd)
    summary = st.tl.compare_methods(pd.concat([table, moved])).set_index("method")
    assert summary.loc["ours", "mean"] == pytest.approx(0.3425)
    assert summary.loc["ours", "of_ceiling"] == share


def test_patients_are_the_units_however_many_sections_they_have():
    values = [
        (m, p, f"{p}{i}", 0, v)
        for m, v in (("ridge", 0.2), ("ours", 0.3))
        for p, n in (("A", 6), ("B", 1))
        for i in range(n)
    ]
    values = [(*row[:4], row[4] + (0.4 if row[1] == "B" and row[0] == "ours" else 0)) for row in values]
    ours = st.tl.compare_methods(table_of(values)).set_index("method").loc["ours"]
    assert ours["n"] == 2
    assert ours["difference"] == pytest.approx((0.1 + 0.5) / 2)
    assert not ours["clear"]


def test_sections_are_the_units_where_there_is_one_patient():
    values = [(m, "A", f"A{i}", 0, v + i / 10) for m, v in (("ridge", 0.2), ("ours", 0.3)) for i in range(3)]
    ours = st.tl.compare_methods(table_of(values)).set_index("method").loc["ours"]
    assert (ours["unit"], ours["n"]) == ("section", 3)


def test_one_unit_decides_nothing():
    values = [(m, "A", "A1", 0, v) for m, v in (("ridge", 0.2), ("ours", 0.9))]
    ours = st.tl.compare_methods(table_of(values)).set_index("method").loc["ours"]
    assert np.isnan(ours["low"])
    assert not ours["clear"]


def test_for_errors_lower_is_better():
    values = [
        (m, f"P{i}", f"S{i}", 0, v + i / 10) for m, v in (("mean", 0.9), ("knn", 0.5), ("ours", 0.3)) for i in range(3)
    ]
    summary = st.tl.compare_methods(table_of(values, metric="mse"), metric="mse").set_index("method")
    assert (summary["against"] == "knn").all()
    assert summary["wins"].to_dict() == {"mean": 0, "knn": 0, "ours": 3}


def test_against_and_panels_can_be_chosen(table):
    both = pd.concat([table, table.assign(panel="HVG")])
    summary = st.tl.compare_methods(both, against="ours", panels=["HVG"])
    assert set(summary["panel"]) == {"HVG"}
    assert set(summary["against"]) == {"ours"}


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda t: t.drop(columns="gene"), {}, KeyError, r"lacks the column\(s\) gene"),
        (lambda t: t.drop(columns=["fold", "section"]), {}, KeyError, "nothing to pair by"),
        (lambda t: t, {"metric": "mse"}, ValueError, "no metric 'mse'; it has 'pcc', 'ceiling'"),
        (lambda t: t, {"against": "gnn"}, ValueError, "no method 'gnn'"),
        (lambda t: t, {"panels": ["all"]}, ValueError, "no panel 'all'"),
        (lambda t: t[t["method"] == "ours"], {}, ValueError, r"None of the methods \('ours'\) is a baseline.*against="),
    ],
)
def test_bad_tables_are_refused(table, change, options, error, message):
    with pytest.raises(error, match=message):
        st.tl.compare_methods(change(table), **options)
