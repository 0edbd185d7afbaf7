from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData, concat
from scipy import sparse

from stpredict._evaluation.metrics import pearson
from stpredict._sections.open import open_sections
from stpredict.models._reference.gene_correlation import GeneStructure

GENES = [f"GENE{i}" for i in range(30)]


def programmes(n=400, *, seed=0, genes=GENES, depth=5000, shift=0.0):
    """Cells whose genes 0–9 and 10–19 rise and fall together, and whose genes 20–29 go their own way."""
    rng = np.random.default_rng(seed)
    log_rate = np.repeat(rng.standard_normal((n, 2)), 10, axis=1)
    log_rate = np.concatenate([log_rate, rng.standard_normal((n, 10))], axis=1) + shift
    rate = np.exp(0.7 * log_rate)
    counts = rng.poisson(depth * rate / rate.sum(axis=1, keepdims=True)).astype(np.float32)
    adata = AnnData(sparse.csr_matrix(counts))
    adata.var_names = GENES
    return adata[:, genes].copy()


@pytest.fixture(scope="module")
def structure():
    return GeneStructure.learn([programmes(), programmes(seed=1)], GENES)


def dense_structure(adatas):
    """Correlation of log1p CP10k within studies, the long way."""
    parts = []
    for adata in adatas:
        counts = adata.X.toarray().astype(float)
        values = np.log1p(counts * 1e4 / counts.sum(axis=1, keepdims=True))
        parts.append(values - values.mean(axis=0))
    return np.corrcoef(np.concatenate(parts), rowvar=False)


def test_it_is_the_correlation_within_studies(structure):
    rebuilt = (structure.axes * structure.variances) @ structure.axes.T
    np.testing.assert_allclose(rebuilt, dense_structure([programmes(), programmes(seed=1)]), atol=1e-5)
    assert structure.record == {"n_studies": 2, "n_spots": 800, "n_genes": 30}


def test_differences_between_studies_do_not_count():
    """A study with other levels of the same genes changes correlations only by its own noise."""
    shift = np.where(np.arange(30) % 2, 3.0, 0)
    plain = GeneStructure.learn([programmes(), programmes(seed=1)], GENES)
    shifted = GeneStructure.learn([programmes(), programmes(seed=1, shift=shift)], GENES)
    one_object = concat([programmes(), programmes(seed=1, shift=shift)], label="study", index_unique="-")

    def odd_even(structure):
        """Mean correlation of the programme-free genes: 0 by construction."""
        rebuilt = (structure.axes * structure.variances) @ structure.axes.T
        return np.abs(rebuilt[20:, 20:][~np.eye(10, dtype=bool)]).mean()

    assert odd_even(shifted) < odd_even(plain) + 0.05
    split = GeneStructure.learn([one_object], GENES, study_key="study")
    np.testing.assert_allclose(split.axes, shifted.axes, atol=1e-4)
    assert odd_even(GeneStructure.learn([one_object], GENES)) > 1.5 * odd_even(split)


def test_expectation_is_that_of_the_textbook(structure):
    """With all axes kept, `apply` is C (C + e I)⁻¹ z, per gene scaled back."""
    rng = np.random.default_rng(0)
    predicted = rng.standard_normal((50, 30)).astype(np.float32) * 3 + 7
    correlation = dense_structure([programmes(), programmes(seed=1)])
    z = (predicted - predicted.mean(axis=0)) / predicted.std(axis=0)
    expected = z @ np.linalg.solve(correlation + 2 * np.eye(30), correlation)
    expected = expected / expected.std(axis=0) * predicted.std(axis=0) + predicted.mean(axis=0)
    np.testing.assert_allclose(structure.apply(predicted, 2.0), expected, atol=1e-3)


def test_noisy_predictions_come_nearer_to_the_truth(structure):
    new = programmes(seed=9)
    counts = new.X.toarray()
    truth = np.log1p(counts * 1e4 / counts.sum(axis=1, keepdims=True))
    noise = np.random.default_rng(1).standard_normal(truth.shape) * 2 * truth.std(axis=0)
    noisy = (truth + noise).astype(np.float32)
    before, after = pearson(truth, noisy)[0], pearson(truth, structure.apply(noisy, 4.0))[0]
    assert before[:20].mean() < 0.5
    assert after[:20].mean() > 0.75
    assert after[20:].mean() > before[20:].mean() - 0.05


def test_levels_and_contrast_stay(structure):
    predicted = np.random.default_rng(0).gamma(2, size=(60, 30)).astype(np.float32)
    for distance in (0.1, 1, 100, 1e6):
        out = structure.apply(predicted, distance)
        np.testing.assert_allclose(out.mean(axis=0), predicted.mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(out.std(axis=0), predicted.std(axis=0), rtol=1e-3)


def test_the_farther_the_more(structure):
    predicted = np.random.default_rng(0).standard_normal((60, 30)).astype(np.float32)
    moved = [np.abs(structure.apply(predicted, e) - predicted).mean() for e in (1e-4, 0.1, 1, 10, 1e6)]
    assert moved[0] < 0.01
    assert moved == sorted(moved)


def test_constant_unknown_and_single_predictions_stay():
    references = [programmes(genes=GENES[:25])]
    with pytest.warns(UserWarning, match="5 of the model's 30 genes are not measured, or constant, in all references"):
        structure = GeneStructure.learn(references, GENES)
    predicted = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    predicted[:, 3] = 2.5
    out = structure.apply(predicted, 10)
    np.testing.assert_array_equal(out[:, [3, *range(25, 30)]], predicted[:, [3, *range(25, 30)]])
    assert (out[:, 4] != predicted[:, 4]).all()
    np.testing.assert_array_equal(structure.apply(predicted[:1], 10), predicted[:1])


def test_a_gene_that_some_references_lack_takes_part_through_the_others(structure):
    partly = GeneStructure.learn([programmes(), programmes(seed=1, genes=GENES[5:])], GENES)
    assert partly.record["n_genes"] == 30
    assert partly.axes[:5].any(axis=1).all()
    rebuilt = (partly.axes * partly.variances) @ partly.axes.T
    np.testing.assert_allclose(np.diag(rebuilt), 1, atol=1e-4)
    assert np.linalg.eigvalsh(rebuilt).min() > -1e-4


def test_many_genes_are_kept_as_few_axes():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((500, 3)) @ rng.standard_normal((3, 200)) * 0.5
    adata = AnnData(rng.poisson(np.exp(factors + 3)).astype(np.float32))
    structure = GeneStructure.learn([adata], list(adata.var_names))
    assert structure.axes.shape == (200, 50)
    power = structure.variances.sum() + 150 * structure.rest[0]
    assert power == pytest.approx(200, rel=1e-4)


def test_orders_of_rows_matrices_and_chunks_do_not_matter(monkeypatch):
    from stpredict._sections import references
    from stpredict.models._reference import gene_correlation

    whole = GeneStructure.learn([programmes()], GENES)
    monkeypatch.setattr(references, "ROWS", 37)
    dense = programmes()
    dense.X = dense.X.toarray()
    np.testing.assert_allclose(GeneStructure.learn([dense], GENES).variances, whole.variances, rtol=1e-5)
    predicted = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    at_once = whole.apply(predicted, 3)
    monkeypatch.setattr(gene_correlation, "rows_of", lambda _: 7)
    np.testing.assert_allclose(whole.apply(predicted, 3), at_once, atol=1e-6)


# ---------------------------------------------------------------------- distance


def test_distance_is_one_for_one_more_of_the_same_and_grows(paired, structure):
    sections = [open_sections(adata)[0] for adata in paired(8)]
    placed = structure.placed(sections[:6], ["X_fake", "X_fake_niche"])
    features = np.hstack([sections[7].features("X_fake"), sections[7].features("X_fake_niche")])
    near = placed.distance(features)
    assert 0.2 < near < 3
    assert placed.distance(features + 1) > 20 * near
    stretched = placed.distance(features * [1, 1, 1, 1, 1, 1e4])  # the units of a feature are those of training
    assert stretched > near


def test_one_training_section_is_compared_by_strips(paired, structure):
    (first, second) = (open_sections(adata)[0] for adata in paired(2))
    placed = structure.placed([first], ["X_fake"])
    assert placed.places.shape == (5, 4)
    assert 0.05 < placed.distance(second.features("X_fake")) < 3


def test_without_features_nothing_is_known_of_distance(paired, structure):
    sections = [open_sections(adata)[0] for adata in paired(2)]
    assert structure.distance(sections[0].features("X_fake")) == 1
    placed = structure.placed(sections, [])
    assert placed.distance(np.zeros((81, 0), dtype=np.float32)) == 1
    same = structure.placed([sections[0], sections[0]], ["X_fake"])
    assert same.distance(sections[1].features("X_fake")) == 1


# ---------------------------------------------------------------------- bad input


def log_counts(adata):
    adata.X = np.log1p(adata.X)


def nan_counts(adata):
    adata.X.data[0] = np.nan


def other_names(adata):
    adata.var_names = [f"ENSG{i}" for i in range(adata.n_vars)]


def twice(adata):
    adata.var_names = ["GENE1", *adata.var_names[1:]]


def shallow(adata):
    adata.X.data[:] = 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (log_counts, r"reference\[1\]: X holds fractional values.*raw counts are needed"),
        (nan_counts, r"reference\[1\]: X holds NaN"),
        (other_names, r"reference\[1\] measures none of the model's 30 genes \(it has ENSG0, ENSG1, ENSG2"),
        (twice, r"reference\[1\] has duplicated gene names"),
        (shallow, r"reference\[1\] has fewer than two spots or cells with min_counts=50 counts.*lower min_counts"),
    ],
)
def test_bad_references_are_refused(damage, message):
    references = [programmes(), programmes(seed=1)]
    damage(references[1])
    with pytest.raises(ValueError, match=message):
        GeneStructure.learn(references, GENES)


def test_nothing_one_row_and_one_gene_are_refused():
    with pytest.raises(ValueError, match="reference is empty"):
        GeneStructure.learn([], GENES)
    with pytest.raises(ValueError, match=r"reference\[0\] has fewer than two spots"):
        GeneStructure.learn([programmes()[:1].copy()], GENES)
    with pytest.raises(ValueError, match="Only 1 of the model's genes vary in the references"):
        GeneStructure.learn([programmes()], ["GENE1", "OTHER"])
