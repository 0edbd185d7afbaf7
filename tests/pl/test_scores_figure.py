"""The figure that holds methods against each other."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import stpredict as st


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    rows = [
        (method, panel, f"G{gene}", metric, section, base + rng.normal(0, 0.1))
        for method, base in (("mean", 0.0), ("ridge", 0.3), ("knn", 0.25))
        for panel in ("HEG", "HVG")
        for section in ("C2", "C3", "C4")
        for gene in range(10)
        for metric in ("pcc", "mse")
    ]
    return pd.DataFrame(rows, columns=["method", "panel", "gene", "metric", "section", "value"])


def drawn(ax):
    """Method → (positions, means, half widths) of what the axes show."""
    found = {}
    for container in ax.containers:
        line, _, (bars,) = container.lines
        reach = [
            np.ptp(np.reshape(segment, (-1, 2))[:, 1]) / 2 if len(segment) else np.nan
            for segment in bars.get_segments()
        ]
        found[container.get_label()] = (line.get_xdata(), line.get_ydata(), np.array(reach))
    return found


def test_mean_and_interval_over_sections(table):
    ax = st.pl.scores(table, show=False)
    shown = drawn(ax)
    assert list(shown) == ["mean", "ridge", "knn"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["HEG", "HVG"]
    assert ax.get_ylabel() == "Pearson r"
    assert ax.get_title(loc="left") == "mean and 95 % interval over 3 sections"
    chosen = table[(table["metric"] == "pcc") & (table["method"] == "ridge") & (table["panel"] == "HVG")]
    per_section = chosen.groupby("section")["value"].mean()
    low, high = stats.t.interval(0.95, 2, per_section.mean(), stats.sem(per_section))
    _, means, reach = shown["ridge"]
    assert means[1] == pytest.approx(per_section.mean())
    assert reach[1] == pytest.approx((high - low) / 2)
    dots = np.sort(np.concatenate([c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets()) == 3]))
    assert np.isin(per_section.round(9), dots.round(9)).all()


def test_methods_of_a_panel_stand_side_by_side(table):
    positions = np.array([x for x, _, _ in drawn(st.pl.scores(table, show=False)).values()])
    assert (np.diff(positions, axis=0) > 0.2).all()
    assert (np.abs(positions - [[0, 1]]) < 0.5).all()


def test_interval_over_genes_where_there_is_one_section(table):
    one = table[table["section"] == "C2"]
    ax = st.pl.scores(one, show=False)
    assert ax.get_title(loc="left") == "mean and 95 % interval over 10 genes"
    genes = one[(one["metric"] == "pcc") & (one["method"] == "knn") & (one["panel"] == "HEG")]["value"]
    _, means, reach = drawn(ax)["knn"]
    assert means[0] == pytest.approx(genes.mean())
    assert reach[0] == pytest.approx(stats.t.ppf(0.975, 9) * genes.std() / np.sqrt(10))


def test_folds_count_where_no_section_is_named(table):
    ax = st.pl.scores(table.rename(columns={"section": "fold"}), show=False)
    assert ax.get_title(loc="left") == "mean and 95 % interval over 3 folds"


def test_folds_are_the_units_where_a_table_has_several(table):
    patients = table.assign(fold=table["section"].map({"C2": "B", "C3": "C", "C4": "C"}))
    ax = st.pl.scores(patients, methods=["ridge"], show=False)
    assert ax.get_title(loc="left") == "mean and 95 % interval over 2 folds"
    chosen = patients.query("metric == 'pcc' and method == 'ridge' and panel == 'HEG'")
    per_fold = chosen.groupby(["fold", "section"])["value"].mean().groupby("fold").mean()
    assert drawn(ax)["ridge"][1][0] == pytest.approx(per_fold.mean())


def test_seeds_are_averaged_and_do_not_narrow_the_interval(table):
    seeds = pd.concat([table.assign(seed=0), table.assign(seed=1, value=table["value"] + 0.2)])
    one, several = (drawn(st.pl.scores(t, show=False))["knn"] for t in (table, seeds))
    np.testing.assert_allclose(several[1], one[1] + 0.1)
    np.testing.assert_allclose(several[2], one[2])


def test_paired_differences_are_drawn(table):
    ax = st.pl.scores(table, against="ridge", show=False)
    assert list(drawn(ax)) == ["mean", "knn"]
    assert ax.get_ylabel() == "Pearson r\nminus that of ridge"
    means = table[table["metric"] == "pcc"].groupby(["method", "panel", "section"])["value"].mean()
    differences = means["knn"]["HEG"] - means["ridge"]["HEG"]
    _, shown, reach = drawn(ax)["knn"]
    assert shown[0] == pytest.approx(differences.mean())
    assert reach[0] == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(differences))
    with pytest.raises(ValueError, match="no method 'gnn'"):
        st.pl.scores(table, against="gnn")


def test_the_ceiling_is_a_line_and_endless_intervals_leave_room_for_the_rest(table):
    ceiling = table[table["metric"] == "pcc"].assign(metric="ceiling", value=0.7)
    two = pd.concat([table, ceiling])[lambda t: t["section"] != "C4"]
    ax = st.pl.scores(two, show=False)
    (line,) = [line for line in ax.lines if line.get_label() == "noise ceiling"]
    np.testing.assert_allclose(line.get_ydata(), 0.7)
    low, high = ax.get_ylim()
    assert -0.6 < low < 0
    assert 0.7 < high < 1.3


def test_metric_methods_and_panels_can_be_chosen(table):
    ax = st.pl.scores(table, metric="mse", methods=["knn", "ridge"], panels=["HVG"], show=False)
    assert ax.get_ylabel() == "mean squared error"
    assert list(drawn(ax)) == ["knn", "ridge"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["HVG"]


def test_a_method_that_lacks_a_panel_leaves_a_gap(table):
    partial = table[(table["method"] != "knn") | (table["panel"] == "HEG")]
    _, means, _ = drawn(st.pl.scores(partial, show=False))["knn"]
    assert np.isfinite(means).tolist() == [True, False]


def test_a_table_of_one_prediction_needs_no_method(section):
    section.layers["predicted"] = section.layers["truth"]
    table = st.tl.evaluate(section, panels={"tumour": ["ERBB2", "EPCAM", "KRT8"]}, metrics=["pcc", "ceiling"])
    assert st.pl.scores(table[table["metric"] == "pcc"], show=False).get_legend() is None
    ax = st.pl.scores(table, show=False)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["noise ceiling", "prediction"]
    (_, means, _) = drawn(ax)["prediction"]
    assert means == pytest.approx(table.query("metric == 'pcc'")["value"].mean())


def test_scores_follow_the_conventions(table, tmp_path):
    assert st.pl.scores(table, save=tmp_path / "scores.pdf") is None
    assert (tmp_path / "scores.pdf").is_file()
    assert plt.get_fignums() == []
    assert isinstance(st.pl.scores(table, return_fig=True), plt.Figure)
    _, ax = plt.subplots()
    assert st.pl.scores(table, ax=ax) is ax


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda t: t.drop(columns="gene"), {}, KeyError, r"lacks the column\(s\) gene"),
        (lambda t: t[:0], {}, ValueError, "no rows"),
        (lambda t: t, {"metric": "r2"}, ValueError, "no metric 'r2'; it has 'pcc', 'mse'"),
        (lambda t: t, {"methods": ["ridge", "gnn"]}, ValueError, "no method 'gnn'"),
        (lambda t: t, {"panels": ["all"]}, ValueError, "no panel 'all'"),
    ],
)
def test_bad_tables_are_refused(table, change, options, error, message):
    with pytest.raises(error, match=message):
        st.pl.scores(change(table), **options)
    assert plt.get_fignums() == []
