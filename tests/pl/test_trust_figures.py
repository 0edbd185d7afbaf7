"""Figures that say how far a prediction can be trusted: gene structure, calibration and the history of training."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import norm

import stpredict as st
from stpredict._evaluation import metrics
from stpredict.models import History


def spots(n=1500, g=6, seed=0):
    """Counts of `n` spots, and their log1p CP10k."""
    counts = np.random.default_rng(seed).poisson(40, (n, g)).astype(np.float32)
    adata = AnnData(counts)
    adata.var_names = [f"G{i}" for i in range(g)]
    adata.obsm["spatial"] = np.column_stack(np.divmod(np.arange(n), 50)) * 100.0
    return adata, np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


@pytest.fixture
def predicted(section):
    rng = np.random.default_rng(0)
    section.layers["predicted"] = section.layers["truth"] + 0.3 * rng.standard_normal(section.shape)
    section.layers["predicted"][:, -1] = np.nan
    return section


# ---------------------------------------------------------------------- gene–gene correlation


def test_score_is_that_of_evaluate(predicted):
    axes = st.pl.gene_correlation(predicted, show=False)
    score = st.tl.evaluate(predicted, metrics="gene_structure")["value"].item()
    assert axes[1].get_title() == f"predicted, agreement of structure r = {score:.2f}"
    assert axes[0].get_title() == f"measured, {predicted.n_vars - 1} genes, {predicted.n_obs} spots"


def test_both_maps_show_the_same_genes_in_one_order_and_one_scale(predicted):
    genes = list(predicted.var_names[:12])
    axes = st.pl.gene_correlation(predicted, genes=genes, show=False)
    names = [
        [tick.get_text() for tick in ticks] for ax in axes for ticks in (ax.get_xticklabels(), ax.get_yticklabels())
    ]
    assert names.count(names[0]) == 4
    assert sorted(names[0]) == sorted(genes)
    counts = predicted[:, names[0]].X.toarray()
    measured = np.log1p(1e4 * counts / predicted.X.toarray().sum(axis=1, keepdims=True))
    for ax, values in zip(axes, (measured, predicted[:, names[0]].layers["predicted"]), strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), np.corrcoef(values.T), atol=1e-4)
    low, high = axes[0].images[0].get_clim()
    assert low == -high
    assert axes[1].images[0].get_clim() == (low, high)


def test_genes_that_go_together_stand_together():
    rng = np.random.default_rng(0)
    group = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    drive = rng.standard_normal((400, 3))[:, group]
    adata = AnnData(rng.poisson(np.exp(4 + 0.5 * drive)).astype(np.float32))
    adata.var_names = [f"G{i}" for i in range(10)]
    adata.obsm["spatial"] = np.column_stack(np.divmod(np.arange(400), 20)) * 100.0
    adata.layers["predicted"] = drive
    adata.layers["predicted"][:, 0] = drive[:, 0] + 1e-3 * rng.standard_normal(400)
    axes = st.pl.gene_correlation(adata, show=False)
    order = [group[int(tick.get_text()[1:])] for tick in axes[0].get_xticklabels()]
    assert np.count_nonzero(np.diff(order)) == 2


def test_constant_genes_and_shallow_spots_are_left_out(predicted):
    predicted.layers["predicted"][:, 0] = 1.0
    predicted.X[5] = 0
    del predicted.obs["total_counts"]  # (which was of the counts before)
    axes = st.pl.gene_correlation(predicted, show=False)
    assert axes[0].get_title() == f"measured, {predicted.n_vars - 2} genes, {predicted.n_obs - 1} spots"
    with pytest.raises(ValueError, match="Only 2 genes vary over spots"):
        st.pl.gene_correlation(predicted, genes=list(predicted.var_names[:3]), show=False)
    with pytest.raises(ValueError, match="0 spots with min_counts=10000000 counts"):
        st.pl.gene_correlation(predicted, min_counts=10_000_000, show=False)


# ---------------------------------------------------------------------- calibration


def dots(ax):
    return [np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets())]


def covered(ax):
    """Mean coverage that is drawn, by nominal probability."""
    (line,) = [line for line in ax.lines if line.get_label() == "mean of genes"]
    return line.get_xdata(), line.get_ydata()


@pytest.mark.parametrize("stated", [0.5, 1.0, 2.0])
def test_coverage_of_a_gaussian_is_what_theory_says(stated):
    adata, measured = spots()
    rng = np.random.default_rng(1)
    sd = 0.2 + rng.random(measured.shape)
    adata.layers["predicted"] = measured + sd * rng.standard_normal(measured.shape)
    adata.layers["predicted_std"] = stated * sd
    _, ax = st.pl.calibration(adata, show=False)
    nominal, observed = covered(ax)
    assert nominal.tolist() == [0.5, 0.8, 0.9, 0.95]
    expected = 2 * norm.cdf(stated * norm.ppf(0.5 + nominal / 2)) - 1
    np.testing.assert_allclose(observed, expected, atol=0.012)
    assert ax.get_title(loc="left") == f"90 % intervals hold {100 * observed[2]:.0f} % of spots"


def test_coverage_leaves_out_what_is_not_finite():
    measured, std = np.zeros((4, 3)), np.ones((4, 3))
    predicted = np.array([[0, 3, np.nan], [0, 0, np.nan], [9, 0, np.nan], [np.nan, 0, np.nan]], dtype=float)
    found = metrics.coverage(measured, predicted, std, [0.5, 0.99])
    np.testing.assert_allclose(found, [[2 / 3, 3 / 4, np.nan], [2 / 3, 3 / 4, np.nan]])
    assert metrics.coverage(np.zeros((2, 1)), np.array([[0.0], [1.0]]), np.zeros((2, 1)), [0.5]).item() == 0.5


def test_a_least_squares_prediction_lies_on_the_line():
    adata, measured = spots()
    rng = np.random.default_rng(1)
    cause = measured + np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8]) * rng.standard_normal(measured.shape)
    fits = [np.polyval(np.polyfit(x, y, 1), x) for x, y in zip(cause.T, measured.T, strict=True)]
    adata.layers["predicted"] = np.column_stack(fits)
    ax = st.pl.calibration(adata, show=False)
    (points,) = dots(ax)
    np.testing.assert_allclose(points[:, 0], points[:, 1], atol=1e-4)
    assert np.ptp(points[:, 0]) > 0.7
    (line,) = [line for line in ax.lines if line.get_label() == "least squared error"]
    np.testing.assert_array_equal(*line.get_data())


def test_table_and_section_show_the_same(predicted):
    (from_data,) = dots(st.pl.calibration(predicted, show=False))
    table = st.tl.evaluate(
        predicted, panels={"all": predicted.var_names[:-1], "few": predicted.var_names[:9]}, metrics=["pcc", "sd_ratio"]
    )
    ax = st.pl.calibration(table, show=False)
    np.testing.assert_allclose(np.sort(dots(ax)[0], axis=0), np.sort(from_data, axis=0), atol=1e-5)
    assert ax.get_title(loc="left") == f"scale of {predicted.n_vars - 1} genes"
    genes = list(predicted.var_names[[4, 2]])
    (few,) = dots(st.pl.calibration(table, genes=genes, show=False))
    (same,) = dots(st.pl.calibration(predicted, genes=genes, show=False))
    np.testing.assert_allclose(np.sort(few, axis=0), np.sort(same, axis=0), atol=1e-5)


def test_stated_and_reached_correlations_are_drawn_gene_by_gene(predicted):
    predicted.var["predicted_reliability"] = np.linspace(0.2, 0.9, predicted.n_vars)
    predicted.layers["predicted_lower"] = predicted.layers["predicted"] - 0.5
    predicted.layers["predicted_upper"] = predicted.layers["predicted"] + 0.5
    predicted.uns["predicted"] = {"parameters": {"interval": 0.8}}
    table = st.tl.evaluate(predicted)
    wide = table.query("gene != ''").pivot(index="gene", columns="metric", values="value")
    inside = wide["interval_coverage"].mean()
    agreement = table.query("metric == 'stated_r'")["value"].item()
    for data, more in ((predicted, f"\nintervals of 80 % hold {100 * inside:.0f} % of spots"), (table, "")):
        ax = st.pl.calibration(data, show=False)[-1]
        (points,) = dots(ax)
        expected = wide[["stated_pcc", "pcc"]].to_numpy()
        np.testing.assert_allclose(np.sort(points, axis=0), np.sort(expected, axis=0), atol=1e-5)
        assert ax.get_title(loc="left") == f"stated and reached r, correlation {agreement:.2f}{more}"
    predicted.layers["predicted_std"] = np.ones(predicted.shape)
    assert len(st.pl.calibration(predicted, show=False)) == 3


def test_methods_of_a_table_are_told_apart(predicted):
    table = st.tl.evaluate(predicted, metrics=["pcc", "sd_ratio"])
    shrunk = table.assign(value=table["value"].where(table["metric"] == "pcc", table["value"] / 2), method="half")
    ax = st.pl.calibration(pd.concat([table.assign(method="whole"), shrunk]), show=False)
    whole, half = dots(ax)
    np.testing.assert_allclose(half, whole * [1, 0.5])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    r, ratio = np.median(whole, axis=0)
    assert labels[:2] == [
        f"whole: median r {r:.2f}, sd ratio {ratio:.2f}",
        f"half: median r {r:.2f}, sd ratio {ratio / 2:.2f}",
    ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.drop(columns="metric"), KeyError, r"lacks the column\(s\) metric"),
        (lambda t: t[t["metric"] == "pcc"], ValueError, r"no metric sd_ratio; call stpredict.tl.evaluate"),
        (lambda t: t.assign(value=np.nan), ValueError, "nothing to draw"),
    ],
)
def test_bad_tables_are_refused(predicted, change, error, message):
    table = st.tl.evaluate(predicted, metrics=["pcc", "sd_ratio"])
    with pytest.raises(error, match=message):
        st.pl.calibration(change(table))
    with pytest.raises(KeyError, match="no gene NOPE"):
        st.pl.calibration(table, genes=["NOPE"])
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [st.pl.gene_correlation, st.pl.calibration])
def test_bad_sections_are_refused(section, draw):
    with pytest.raises(KeyError, match=r"no layers\['predicted'\].*tl.predict_expression"):
        draw(section)
    section.layers["predicted"] = np.full(section.shape, np.nan)
    with pytest.raises(ValueError, match="No gene"):
        draw(section)
    with pytest.raises(KeyError, match="NOPE"):
        draw(section, predicted="truth", genes=["NOPE"])
    assert plt.get_fignums() == []


# ---------------------------------------------------------------------- history


@pytest.mark.parametrize(("method", "name"), [("knn", "k"), ("ridge", "alpha")])
def test_score_of_every_candidate_with_the_best_starred(paired, method, name):
    model = st.tl.train(paired(3), method=method)
    ax = st.pl.history(model, show=False)
    tried, star = ax.lines
    scores = dict(zip(model.history.values[name], model.history.values["inner_pcc"], strict=True))
    assert dict(zip(*tried.get_data(), strict=True)) == scores
    assert list(tried.get_xdata()) == sorted(scores)
    assert star.get_xdata()[0] == model.config[name]
    assert ax.get_xlabel() == name
    assert ax.get_title(loc="left").splitlines()[0] == "inner folds hold out groups (3)"


def test_a_method_without_hyperparameter_has_one_dot(paired):
    ax = st.pl.history(st.tl.train(paired(3), method="mean"), show=False)
    assert ax.get_xlabel() == "no hyper-parameter"
    assert len(ax.lines[0].get_xdata()) == 1


@pytest.fixture
def curves():
    falling = (1 + np.exp(-np.arange(10.0))).tolist()
    return {
        "train_total": falling,
        "val_total": falling,
        "train_decoder": falling,
        "val_contrastive": falling,
        "chance_contrastive": [float(np.log(64))],
        "val_recall": falling,
        "chance_recall": [0.1] * 10,
        "val_pcc": falling,
        "learning_rate": falling,
        "best_epoch": [7],
    }


def test_losses_recall_correlation_and_the_rest_have_panels_of_their_own(curves):
    axes = st.pl.history(History(curves), show=False)
    assert [ax.get_ylabel() for ax in axes] == ["loss", "contrastive loss", "recall", "Pearson r", "learning rate"]
    drawn = [[line.get_label() for line in ax.lines if not line.get_label().startswith("_")] for ax in axes]
    assert drawn == [
        ["train total", "val total", "train decoder"],
        ["val contrastive", "chance contrastive"],
        ["val recall", "chance recall"],
        ["val pcc"],
        ["learning rate"],
    ]
    lines = {line.get_label(): line for ax in axes[:2] for line in ax.lines}
    assert lines["chance contrastive"].get_linestyle() == "--"
    assert list(lines["chance contrastive"].get_ydata()) == [np.log(64)] * 2
    assert lines["chance contrastive"].get_color() == lines["val contrastive"].get_color()
    assert lines["train total"].get_color() == lines["val total"].get_color() != lines["train decoder"].get_color()
    np.testing.assert_array_equal(lines["val total"].get_data(), [np.arange(1, 11), curves["val_total"]])
    for ax in axes:
        assert ax.get_title(loc="left") == "epoch 7 was best"
        assert [7, 7] in [list(line.get_xdata()) for line in ax.lines]


def test_a_search_and_curves_in_one_history(curves):
    values = {"inner_pcc": [0.1, 0.3, 0.2], "strength": [0.0, 0.5, 1.0]} | curves
    axes = st.pl.history(History(values, ["held out"]), show=False)
    assert [ax.get_xlabel() for ax in axes] == ["strength", *["epoch"] * 5]
    assert axes[0].get_title(loc="left") == "held out\nstrength = 0.5, r = 0.300"


def test_history_conventions(curves, tmp_path):
    assert st.pl.history(History(curves), save=tmp_path / "h.png") is None
    assert (tmp_path / "h.png").is_file()
    assert plt.get_fignums() == []
    _, own = plt.subplots(5)
    assert st.pl.history(History(curves), ax=own) == list(own.ravel())


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (History(), ValueError, "history is empty"),
        (History({"best_epoch": [1]}), ValueError, "history is empty"),
        ("ridge", TypeError, "str has no history"),
    ],
)
def test_a_history_without_anything_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        st.pl.history(model)
