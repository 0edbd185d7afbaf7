from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

import stpredict as st
from stpredict._evaluation.stated import OF_STATED

GENE_METRICS = ["pcc", "pcc_given_depth", "spearman", "mse", "sd_ratio", "ceiling"]


@pytest.fixture
def scored(paired):
    """A section with the truth as its prediction."""
    adata = paired()
    adata.layers["predicted"] = adata.layers["truth"].astype(np.float32)
    return adata


def measured(adata):
    return np.log1p(adata.X / adata.X.sum(axis=1, keepdims=True) * 1e4)


def test_the_table_is_tidy_and_complete(scored):
    table = st.tl.evaluate(scored, panels={"first": ["GENE0", "GENE1", "GENE2"], "one": ["GENE7"]})
    assert table.columns.tolist() == ["section", "panel", "gene", "target", "metric", "value"]
    assert set(table["target"]) == {"log1p"}
    per_gene = table[table["gene"] != ""]
    assert len(per_gene) == len(GENE_METRICS) * 4
    assert set(table.loc[table["gene"] == "", "metric"]) == {
        "ceiling_sd",
        "pcc_of_ceiling",
        "gene_structure",
        "spatial_structure",
        "undefined",
    }
    assert not table.duplicated(["section", "panel", "gene", "metric"]).any()


def test_numbers_are_scipys(scored):
    table = st.tl.evaluate(scored, metrics=["pcc", "spearman"])
    table = table.pivot(index="gene", columns="metric", values="value")
    for i, gene in enumerate(scored.var_names):
        pair = measured(scored)[:, i], scored.layers["predicted"][:, i]
        assert table.loc[gene, "pcc"] == pytest.approx(stats.pearsonr(*pair).statistic, abs=1e-5)
        assert table.loc[gene, "spearman"] == pytest.approx(stats.spearmanr(*pair).statistic, abs=1e-5)


def test_the_truth_reaches_its_ceiling_and_noise_does_not(paired):
    adata = paired(side=20, depth=800)
    adata.layers["noise"] = np.random.default_rng(0).standard_normal(adata.shape)
    truth = st.tl.evaluate(adata, predicted="truth", metrics="pcc_of_ceiling")["value"].item()
    noise = st.tl.evaluate(adata, predicted="noise", metrics="pcc_of_ceiling")["value"].item()
    assert truth == pytest.approx(1, abs=0.06)
    assert noise == pytest.approx(0, abs=0.06)


def test_unpredicted_and_constant_genes_count_as_zero_and_are_counted(scored):
    scored.layers["predicted"][:, 0] = np.nan
    scored.layers["predicted"][:, 1] = 3
    everything = st.tl.evaluate(scored, metrics=["pcc", "undefined"])
    assert "GENE0" not in set(everything["gene"])
    assert everything.query("metric == 'undefined'")["value"].item() == 1
    table = st.tl.evaluate(scored, panels={"p": ["GENE0", "GENE1", "GENE2"]}, metrics=["pcc", "undefined", "mse"])
    assert table.query("metric == 'undefined'")["value"].item() == 2
    pcc = table.query("metric == 'pcc'").set_index("gene")["value"]
    assert (pcc[["GENE0", "GENE1"]] == 0).all()
    assert pcc["GENE2"] > 0.5
    assert np.isnan(table.query("metric == 'mse' and gene == 'GENE0'")["value"].item())


def test_shallow_spots_are_left_out(scored):
    whole = st.tl.evaluate(scored[40:].copy(), metrics="pcc")
    scored.X[:40] = 0
    scored.X[:40, 0] = 3
    np.testing.assert_allclose(st.tl.evaluate(scored, metrics="pcc")["value"], whole["value"], atol=1e-6)
    with pytest.raises(ValueError, match=r"0 spots with min_counts=1000000 counts"):
        st.tl.evaluate(scored, min_counts=1_000_000)


def test_every_section_is_scored_on_its_own(paired):
    sections = paired(2)
    table = st.tl.evaluate(sections, predicted="truth", metrics="pcc")
    assert table["section"].unique().tolist() == ["section0", "section1"]
    alone = st.tl.evaluate(sections[1], predicted="truth", metrics="pcc")["value"]
    np.testing.assert_array_equal(table.loc[table["section"] == "section1", "value"], alone)
    twins = st.tl.evaluate([sections[0], sections[0]], predicted="truth", metrics="pcc")
    assert twins["section"].unique().tolist() == ["section0", "section0-1"]


def test_sparse_counts_in_a_layer_and_repeated_seeds(scored):
    before = st.tl.evaluate(scored, seed=5)
    scored.layers["counts"] = sparse.csr_matrix(scored.X)
    scored.X = np.log1p(scored.X)
    after = st.tl.evaluate(scored, seed=5)
    np.testing.assert_allclose(before["value"], after["value"], atol=1e-6)
    assert (st.tl.evaluate(scored, seed=6)["value"] != before["value"]).any()


def test_genes_of_a_panel_that_a_section_lacks_are_told(scored):
    with pytest.warns(UserWarning, match="does not measure 1 genes of panel 'p', left out: NOPE"):
        table = st.tl.evaluate(scored, panels={"p": ["NOPE", "GENE1"]}, metrics="pcc")
    assert table["gene"].tolist() == ["GENE1"]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"predicted": "none"}, KeyError, r"no layers\['none'\].*truth, predicted.*predict_expression"),
        ({"metrics": ["r2"]}, ValueError, "metric must be one of 'pcc'"),
        ({"panels": {"p": ["NOPE"]}}, ValueError, "None of the genes of panel 'p' is measured in section 'section0'"),
        ({"min_counts": 10**9}, ValueError, "Lower min_counts"),
    ],
)
def test_bad_arguments_are_refused(scored, kwargs, error, message):
    with pytest.raises(error, match=message):
        st.tl.evaluate(scored, **kwargs)


def test_log_counts_and_few_spots_are_refused(scored):
    with pytest.raises(ValueError, match=r"only 2 spot\(s\); at least 3 are needed"):
        st.tl.evaluate(scored[:2].copy())
    scored.X = np.log1p(scored.X)
    with pytest.raises(ValueError, match="fractional values"):
        st.tl.evaluate(scored)
    scored.layers["predicted"][:] = np.nan
    scored.X = np.rint(scored.X)
    with pytest.raises(ValueError, match="Nothing was predicted for section 'section0'"):
        st.tl.evaluate(scored)


def test_intervals_are_judged_where_there_are_any(paired):
    train, new = paired(2)
    model = st.tl.train(train, method="knn", genes=list(train.var_names))
    st.tl.predict_expression(new, model)
    with pytest.raises(KeyError, match=r"no layers.'predicted_std'.*with std=True"):
        st.tl.evaluate(new, metrics=["coverage"])
    st.tl.predict_expression(new, model, std=True)
    table = st.tl.evaluate(new, metrics=["coverage", "interval_width"]).set_index(["metric", "gene"])["value"]
    gene = new.var_names[3]
    measured = np.log1p(new.X * (1e4 / new.X.sum(axis=1, keepdims=True)))[:, 3]
    mean, sd = new.layers["predicted"][:, 3], new.layers["predicted_std"][:, 3]
    assert table["coverage", gene] == pytest.approx(np.mean(np.abs(measured - mean) <= 1.6449 * sd))
    assert table["interval_width", gene] == pytest.approx(2 * 1.6449 * sd.mean(), rel=1e-4)


def test_what_a_prediction_says_of_itself_is_scored(paired):
    train, new = paired(2)
    genes = list(train.var_names)
    st.tl.predict_expression(new, st.tl.train(train, genes=genes, method="ridge"), interval=0.8)
    said = new.var["predicted_reliability"].to_numpy(float)
    table = st.tl.evaluate(new).set_index(["metric", "gene"])["value"]
    np.testing.assert_array_equal(table["stated_pcc"][genes], said)
    reached = table["pcc"][genes].to_numpy()
    assert table["stated_r", ""] == pytest.approx(np.corrcoef(said, reached)[0, 1], abs=1e-6)
    assert table["stated_excess", ""] == pytest.approx((said - reached).mean(), abs=1e-6)
    low, high = (new.layers[f"predicted_{end}"] for end in ("lower", "upper"))
    inside = (measured(new) >= low) & (measured(new) <= high)
    np.testing.assert_allclose(table["interval_coverage"][genes], inside.mean(axis=0), atol=1e-6)
    assert table["interval_level", ""] == 0.8
    assert table["distance", ""] == pytest.approx(np.median(new.obs["predicted_distance"]))


def test_predictions_that_say_nothing_of_themselves_have_no_such_scores(paired, scored):
    assert not set(st.tl.evaluate(scored)["metric"]) & set(OF_STATED)
    train, new = paired(2)
    st.tl.predict_expression(new, st.tl.train(train, method="mean", genes=list(train.var_names)))
    assert set(st.tl.evaluate(new)["metric"]) & set(OF_STATED) <= {"stated_pcc", "stated_r", "stated_excess"}
    for metric, fix in (("interval_coverage", "with interval=0.9"), ("distance", r"obs\['predicted_distance'\]")):
        with pytest.raises(KeyError, match=fix):
            st.tl.evaluate(new, metrics=metric)
    with pytest.raises(KeyError, match=r"'stated_r' needs values in var\['predicted_reliability'\].*'section0'"):
        st.tl.evaluate(scored, metrics="stated_r")


def test_the_excess_is_positive_where_too_much_is_promised(paired):
    train, new = paired(2)
    st.tl.predict_expression(new, st.tl.train(train, genes=list(train.var_names), method="ridge"))
    fair = st.tl.evaluate(new, metrics="stated_excess")["value"].item()
    new.var["predicted_reliability"] += 0.3
    assert st.tl.evaluate(new, metrics="stated_excess")["value"].item() == pytest.approx(fair + 0.3, abs=1e-5)
