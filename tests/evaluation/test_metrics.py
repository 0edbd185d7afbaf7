from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from stpredict._evaluation import metrics


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    measured = rng.poisson(3, (80, 7)).astype(float)
    return measured, 0.5 * measured + rng.standard_normal((80, 7))


def test_correlations_are_scipys(values):
    a, b = values
    for ours, theirs in ((metrics.pearson, stats.pearsonr), (metrics.spearman, stats.spearmanr)):
        correlation, undefined = ours(a, b)
        assert undefined == 0
        np.testing.assert_allclose(correlation, [theirs(x, y).statistic for x, y in zip(a.T, b.T, strict=True)])


@pytest.mark.parametrize("metric", [metrics.pearson, metrics.spearman])
def test_undefined_correlations_are_zero_and_counted(values, metric):
    a, b = values
    a[:, 0] = 2.3
    b[:, 1] = 0.1  # not exactly representable: constant up to rounding
    b[:, 2] = np.nan
    b[4, 3] = np.inf
    correlation, undefined = metric(a, b)
    assert undefined == 4
    assert (correlation[:4] == 0).all()
    assert (correlation[4:] > 0.3).all()


def test_float32_constants_are_constant():
    constant = np.full((1000, 1), 0.1, dtype=np.float32)
    correlation, undefined = metrics.pearson(constant, np.random.default_rng(0).random((1000, 1)))
    assert (correlation[0], undefined) == (0, 1)


def test_correlation_given_depth_is_that_of_what_a_regression_on_depth_leaves(values):
    a, b = values
    totals = np.random.default_rng(1).integers(50, 3000, 80)
    terms = np.log1p(totals)[:, None] ** [0, 1, 2]
    left = [side - terms @ np.linalg.lstsq(terms, side, rcond=None)[0] for side in (a, b)]
    expected = [stats.pearsonr(x, y).statistic for x, y in zip(left[0].T, left[1].T, strict=True)]
    np.testing.assert_allclose(metrics.pearson_given_depth(a, b, totals), expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_left_of_a_prediction_that_follows_from_depth_alone(dtype):
    rng = np.random.default_rng(0)
    totals = rng.integers(50, 3000, 400)
    depth = np.log1p(totals).astype(dtype)[:, None]
    measured = depth + 0.1 * rng.standard_normal((400, 1))
    predicted = 3 + 2 * depth
    assert metrics.pearson(measured, predicted)[0][0] > 0.9
    assert metrics.pearson_given_depth(measured, predicted, totals)[0] == 0


def test_given_equal_depth_nothing_changes_and_few_spots_say_nothing(values):
    a, b = values
    b[:, 0] = np.nan
    b[4, 1] = np.inf
    same = metrics.pearson_given_depth(a, b, np.full(80, 700))
    np.testing.assert_allclose(same, metrics.pearson(a, b)[0], atol=1e-9)
    assert (same[:2] == 0).all()
    assert np.isnan(metrics.pearson_given_depth(a[:4], b[:4], np.arange(50, 54))).all()
    assert np.isfinite(metrics.pearson_given_depth(a[:5], b[:5], np.arange(50, 55))).all()


def test_errors_and_contrast(values):
    a, b = values
    np.testing.assert_allclose(metrics.mse(a, b), ((a - b) ** 2).mean(axis=0))
    np.testing.assert_allclose(metrics.sd_ratio(a, b), b.std(axis=0) / a.std(axis=0))
    a[:, 0] = 1
    assert np.isnan(metrics.sd_ratio(a, b)[0])


def test_gene_structure_is_the_correlation_of_the_upper_triangles(values, monkeypatch):
    a, b = values
    upper = np.triu_indices(7, 1)
    expected = stats.pearsonr(np.corrcoef(a.T)[upper], np.corrcoef(b.T)[upper]).statistic
    assert metrics.gene_structure(a, b) == pytest.approx(expected)
    monkeypatch.setattr(metrics, "_ROWS", 2)
    assert metrics.gene_structure(a, b) == pytest.approx(expected)
    b[:, 3] = 0
    kept = [0, 1, 2, 4, 5, 6]
    assert metrics.gene_structure(a, b) == pytest.approx(metrics.gene_structure(a[:, kept], b[:, kept]))
    assert np.isnan(metrics.gene_structure(a[:, :2], b[:, :2]))


@pytest.mark.parametrize("n_spots", [5, 12, 13])
def test_gene_structure_of_more_genes_than_spots_is_the_same(n_spots):
    rng = np.random.default_rng(n_spots)
    a = rng.standard_normal((n_spots, 12)) + rng.standard_normal((n_spots, 1))
    b = a + rng.standard_normal((n_spots, 12))
    b[:, 4] = 1
    kept, upper = np.delete(np.arange(12), 4), np.triu_indices(11, 1)
    expected = stats.pearsonr(np.corrcoef(a[:, kept].T)[upper], np.corrcoef(b[:, kept].T)[upper]).statistic
    assert metrics.gene_structure(a, b) == pytest.approx(expected, rel=1e-9)


def grid(side):
    line = sparse.diags([np.ones(side - 1)] * 2, [-1, 1])
    return sparse.csr_matrix(sparse.kron(sparse.eye(side), line) + sparse.kron(line, sparse.eye(side)))


def test_morans_i_is_scanpys():
    import scanpy as sc

    values = np.random.default_rng(0).random((81, 4))
    values[:, 0] = np.arange(81) // 9
    np.testing.assert_allclose(metrics.morans_i(values, grid(9)), sc.metrics.morans_i(grid(9), values.T), rtol=1e-6)


def test_morans_i_of_stripes_is_high_of_a_checkerboard_minus_one_and_of_constants_undefined():
    rows, columns = np.divmod(np.arange(64), 8)
    moran = metrics.morans_i(np.column_stack([rows > 3, (rows + columns) % 2, np.ones(64)]).astype(float), grid(8))
    assert moran[0] > 0.8
    assert moran[1] == pytest.approx(-1)
    assert np.isnan(moran[2])
    assert np.isnan(metrics.morans_i(np.eye(3), sparse.csr_matrix((3, 3)))).all()


def test_spatial_structure_is_one_for_the_same_and_undefined_for_a_constant():
    values = np.random.default_rng(0).random((81, 6))
    values[:, 0] = np.arange(81) // 9
    assert metrics.spatial_structure(values, values * 2, grid(9)) == pytest.approx(1)
    assert np.isnan(metrics.spatial_structure(values, np.ones_like(values), grid(9)))
    assert np.isnan(metrics.spatial_structure(values, values[:, [0] * 6], grid(9)))  # one Moran's I for all genes


# ---------------------------------------------------------------------- numbers worked out by hand


def test_rounding_makes_no_correlation_larger_than_one():
    values = np.random.default_rng(0).random((50, 500))
    for sign in (1, -1):
        correlation = metrics.pearson(values, sign * values)[0]
        assert np.abs(correlation).max() == 1
        np.testing.assert_allclose(correlation, sign)


@pytest.mark.parametrize(("sd", "mean", "constant"), [(0.5e-6, 1, 1), (2e-6, 1, 0), (1e-14, 0, 1), (1e-11, 0, 0)])
def test_what_varies_by_rounding_alone_is_constant(sd, mean, constant):
    signs = np.tile([1.0, -1.0], 40)[:, None]
    assert metrics.pearson(mean + sd * signs, signs)[1] == constant


def test_ranks_of_infinite_values_are_undefined_in_their_own_gene_alone():
    values = np.array([[1.0, 1], [2, 3], [np.inf, 9], [4, 10]])
    correlation, undefined = metrics.spearman(values, np.arange(4.0)[:, None] * [1, 1])
    np.testing.assert_array_equal(correlation, [0, 1])
    assert undefined == 1


def test_contrast_below_one_is_measured_too():
    np.testing.assert_allclose(metrics.sd_ratio(np.array([[0.0], [1.0]]), np.array([[0.0], [0.5]])), [0.5])


def test_structures_need_three_genes():
    a = np.array([[1.0, 1, 1], [-1, 1, 0], [1, -1, 1], [-1, -1, 0], [0, 0, 3]])
    assert metrics.gene_structure(a, a) == pytest.approx(1)
    path = sparse.diags([np.ones(4)] * 2, [-1, 1], format="csr")
    assert metrics.spatial_structure(a, a, path) == pytest.approx(1)
    assert np.isnan(metrics.spatial_structure(a[:, :2], a[:, :2], path))


def test_gene_structure_takes_the_cheaper_way(monkeypatch):
    values = np.random.default_rng(0).random((5, 5))
    for dear, given in (("_over_pairs_by_spots", values[:, :4]), ("_over_pairs", values)):
        with monkeypatch.context() as patch:
            patch.setattr(metrics, dear, None)
            assert metrics.gene_structure(given, given) == pytest.approx(1)


def test_coverage_counts_spots_inside_each_interval():
    """Half of a normal distribution lies within 0.674 standard deviations, nine tenths within 1.645."""
    predicted = np.zeros((4, 3))
    measured = np.array([[0.6, 0, 0], [-0.7, 1, 0], [1.6, 2, 0], [-1.7, 3, 0]]) + 5
    std = np.ones((4, 3))
    std[0, 1] = std[:, 2] = np.nan
    std[1, 1] = 0  # (a certain prediction holds what it says)
    found = metrics.coverage(measured, predicted + 5 + [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], std, [0.5, 0.9])
    np.testing.assert_allclose(found, [[0.25, 1 / 3, np.nan], [0.75, 1 / 3, np.nan]])
    half = metrics.coverage(measured, predicted + 5, 0.5 * std, [0.9])
    np.testing.assert_allclose(half[0, 0], 0.5)
    np.testing.assert_allclose(metrics.interval_width(np.array([[1.0], [3.0]]), 0.9), [4 * 1.644854], rtol=1e-6)
