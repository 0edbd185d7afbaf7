"""Scores against Pearson residuals, on small sections whose expression is known."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

import stpredict as st
from stpredict._evaluation.target import pearson_residuals

ALLOWED = {"pcc", "pcc_given_depth", "spearman", "gene_structure", "spatial_structure", "undefined", "distance"}


def scanpys(counts):
    import scanpy as sc

    table = AnnData(np.asarray(counts, dtype=np.float64))
    return sc.experimental.pp.normalize_pearson_residuals(table, inplace=False)["X"]


@pytest.fixture
def section(paired):
    """A section with its true expression as the prediction; some counts are far beyond the clip."""
    adata = paired(side=12, depth=900)
    adata.X[:3, 4] = 5000
    adata.layers["predicted"] = adata.layers["truth"].astype(np.float32)
    return adata


def residual_scores(adata, **options):
    table = st.tl.evaluate(adata, target="pearson_residuals", **options)
    assert set(table["target"]) == {"pearson_residuals"}
    return table.set_index(["metric", "gene"])["value"]


def test_residuals_are_scanpys(section):
    ours = pearson_residuals(section.X, section.X.sum(axis=1))
    np.testing.assert_allclose(ours, scanpys(section.X), atol=1e-5)
    assert np.abs(ours).max() == 12  # clipped at the square root of 144 spots


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_scores_are_correlations_with_scanpys_residuals(section, convert):
    expected = scanpys(section.X)
    section.X = convert(section.X)
    scores = residual_scores(section)
    for i, gene in enumerate(section.var_names):
        pair = expected[:, i], section.layers["predicted"][:, i]
        assert scores["pcc", gene] == pytest.approx(stats.pearsonr(*pair).statistic, abs=1e-5)
        assert scores["spearman", gene] == pytest.approx(stats.spearmanr(*pair).statistic, abs=1e-5)


def test_genes_that_were_dropped_still_count_in_the_totals(section):
    whole = residual_scores(section, metrics="pcc", panels={"few": section.var_names[:3]})
    section.obs["total_counts"] = section.X.sum(axis=1)
    few = residual_scores(section[:, :3].copy(), metrics="pcc")
    np.testing.assert_allclose(few, whole, atol=1e-9)


def test_spots_that_are_left_out_change_nothing(section):
    alone = residual_scores(section[40:].copy(), metrics="pcc")
    section.X[:40] = 0
    section.X[:40, 0] = 3
    np.testing.assert_allclose(residual_scores(section, metrics="pcc"), alone, atol=1e-9)


def test_genes_without_a_count_are_undefined(section):
    section.X[:, 2] = 0
    scores = residual_scores(section, metrics=["pcc", "undefined"])
    assert scores["undefined", ""] == 1
    assert scores["pcc", "GENE2"] == 0


def test_depth_alone_scores_by_log1p_and_not_by_residuals_nor_given_depth():
    """Genes of the same share everywhere: shallow spots lose them to zeros, which log1p follows."""
    rng = np.random.default_rng(0)
    totals = np.exp(rng.normal(6, 0.8, 900))
    shares = rng.dirichlet(np.full(30, 0.5)) * 0.02
    genes = rng.poisson(totals[:, None] * shares)
    adata = AnnData(np.column_stack([genes, rng.poisson(totals * (1 - shares.sum()))]).astype(np.float32))
    adata.var_names = [f"GENE{i}" for i in range(31)]
    adata.obsm["spatial"] = np.column_stack(np.divmod(np.arange(900), 30)[::-1]) * 100.0
    adata.uns["spatial"] = {"s": {"images": {}, "scalefactors": {}, "metadata": {"spot_pitch_um": 100.0}}}
    adata.layers["predicted"] = np.tile(np.asarray(adata.X.sum(axis=1)).reshape(-1, 1), 31)
    adata.layers["log"] = np.log1p(adata.layers["predicted"])
    chosen = {"metrics": ["pcc", "pcc_given_depth"], "panels": {"rare": adata.var_names[:30]}}
    for layer in ("predicted", "log"):
        log1p = st.tl.evaluate(adata, predicted=layer, **chosen).groupby("metric")["value"].mean()
        residuals = residual_scores(adata, predicted=layer, **chosen).groupby("metric").mean()
        assert log1p["pcc"] > 0.1
        assert abs(log1p["pcc_given_depth"]) < 0.03
        assert abs(residuals["pcc"]) < 0.03


def test_what_needs_the_units_of_the_prediction_is_left_out_or_refused(section):
    section.obs["predicted_distance"] = 1.0
    section.var["predicted_reliability"] = 0.5
    assert set(residual_scores(section).index.get_level_values("metric")) == ALLOWED
    every = {"pcc_of_ceiling", "ceiling", "ceiling_sd", "mse", "sd_ratio", "coverage", "interval_width"}
    for metric in every | {"stated_pcc", "stated_r", "stated_excess", "interval_coverage", "interval_level"}:
        with pytest.raises(ValueError, match=f"'{metric}' cannot be computed with target='pearson_residuals'") as told:
            st.tl.evaluate(section, target="pearson_residuals", metrics=["pcc", metric])
        assert all(f"'{allowed}'" in str(told.value) for allowed in ALLOWED)
    with pytest.raises(ValueError, match="target must be one of 'log1p', 'pearson_residuals'; got 'residuals'"):
        st.tl.evaluate(section, target="residuals")


def test_figures_say_the_target_and_refuse_two(section):
    log1p = st.tl.evaluate(section, metrics=["pcc", "sd_ratio"])
    residuals = st.tl.evaluate(section, metrics=["pcc"], target="pearson_residuals")
    assert st.pl.scores(log1p, show=False).get_ylabel() == "Pearson r"
    assert st.pl.scores(residuals, show=False).get_ylabel() == "Pearson r\nwith Pearson residuals"
    plt.close("all")
    for draw in (st.pl.scores, st.pl.calibration):
        with pytest.raises(ValueError, match="scores against several targets"):
            draw(pd.concat([residuals, log1p]))
    assert plt.get_fignums() == []
