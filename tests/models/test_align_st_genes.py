"""Where genes lie: among the programmes of training, of references, and by what text says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stpredict._genes import facts
from stpredict._sections.open import open_sections
from stpredict.models._data.table import training_table
from stpredict.models._reference.coexpression import learn_reference
from stpredict.models._reference.unseen import largest_cosine
from stpredict.models.align_st import _genes
from stpredict.models.align_st._genes import gene_space, own_coordinates, predicted_from_text

NAMES = [f"GENE{i}" for i in range(15)]


@pytest.fixture
def table(paired):
    """Spots of three sections."""
    sections = [open_sections(adata)[0] for adata in paired(3)]
    return training_table(sections, ["A", "B", "C"], genes=NAMES, keys=["X_fake"], min_counts=50)


@pytest.fixture
def reference(paired):
    """Counts of 15 genes in another section."""
    return paired(4)[3]


def text_and_truth(n=60, d=8, noise=0.5, seed=0):
    """Vectors of genes, and three columns that follow from them."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(n)]
    x = rng.standard_normal((n, d))
    y = x @ rng.standard_normal((d, 3)) + noise * rng.standard_normal((n, 3))
    return pd.DataFrame(x, index=names), pd.DataFrame(y, index=names, columns=["a", "b", "c"])


# ---------------------------------------------------------------------- measured in training


def test_axes_are_those_of_correlation_within_sections(table):
    centred = np.concatenate(
        [table.expression[rows] - table.expression[rows].mean(axis=0) for _, rows in table.of_sections()]
    )
    expected = np.corrcoef(centred, rowvar=False)
    loadings = own_coordinates(table, NAMES, 15).to_numpy()
    np.testing.assert_allclose(loadings @ loadings.T, expected, atol=1e-4)
    few = own_coordinates(table, NAMES, 4).to_numpy()
    np.testing.assert_allclose(np.square(few).sum(), np.sort(np.linalg.eigvalsh(expected))[-4:].sum(), rtol=1e-4)
    assert own_coordinates(table, NAMES, 20).shape == (15, 20)


def test_levels_and_deviations_are_those_of_training(table):
    space = gene_space(table, NAMES, axes=5)
    means = np.mean([table.expression[rows].mean(axis=0) for _, rows in table.of_sections()], axis=0)
    np.testing.assert_allclose(space.level, means, rtol=1e-5)
    centred = np.concatenate(
        [table.expression[rows] - table.expression[rows].mean(axis=0) for _, rows in table.of_sections()]
    )
    np.testing.assert_allclose(space.sd, centred.std(axis=0), rtol=1e-3)
    assert space.names == NAMES
    assert not space.from_text.any()
    assert np.isnan(space.by_text).all()


def test_coordinates_have_the_size_of_one_per_axis(table):
    assert np.square(gene_space(table, NAMES, axes=5).coordinates).mean() == pytest.approx(1, rel=1e-5)


def test_constant_genes_lie_nowhere(table):
    table.expression[:, 3] = 2.0
    space = gene_space(table, NAMES, axes=5)
    np.testing.assert_allclose(space.coordinates[3], 0, atol=1e-6)
    assert np.isfinite(space.coordinates).all()
    table.expression[:] = 2.0
    assert not gene_space(table, NAMES, axes=5).coordinates.any()


def test_a_constant_gene_changes_nothing_for_the_others(table):
    """Neither where they lie nor what text says of genes that nobody measured."""
    names = [*NAMES, *(f"MORE{i}" for i in range(15))]
    noise = np.random.default_rng(1).standard_normal(table.expression.shape).astype(np.float32)
    wide = np.concatenate([table.expression, table.expression + noise, np.zeros_like(noise[:, :1])], axis=1)
    text = np.random.default_rng(0).standard_normal((37, 8))
    text = pd.DataFrame(text, index=[*names, "CONSTANT", *(f"NEW{i}" for i in range(6))])
    spaces = []
    for genes, known in ((names, text.drop(index="CONSTANT")), ([*names, "CONSTANT"], text)):
        own = table.__class__(**vars(table) | {"expression": wide[:, : len(genes)]})
        spaces.append(gene_space(own, genes, text=known, axes=4))
    without, space = spaces
    rows = [space.names.index(name) for name in without.names]
    np.testing.assert_allclose(space.level[rows], without.level, rtol=1e-4)
    np.testing.assert_allclose(space.sd[rows], without.sd, rtol=1e-4)
    for ours, theirs in ((space.coordinates[rows], without.coordinates), (space.by_text[:30], without.by_text[:30])):
        np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-3)  # signs of axes are free


# ---------------------------------------------------------------------- measured in references


def place(tables, seen, axes=6):
    return learn_reference(tables, seen, min_counts=50, study_key="library_id").coordinates(seen, axes)


def test_a_seen_gene_lies_where_its_eigenvectors_say(reference):
    frame = place([reference], NAMES, axes=15)
    counts = reference.X.astype(float)
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    correlation = np.corrcoef(values, rowvar=False)
    loadings = frame.loc[NAMES, list(range(15))].to_numpy()
    np.testing.assert_allclose(loadings @ loadings.T, correlation, atol=1e-5)
    power = np.sort(np.linalg.eigvalsh(correlation))[::-1]
    np.testing.assert_allclose(np.square(loadings).sum(axis=0), power, rtol=1e-4, atol=1e-6)


def test_an_unseen_gene_lies_where_its_correlation_says(reference):
    """A copy of a seen gene lies where that lies; a gene of noise lies near 0."""
    rng = np.random.default_rng(0)
    noise = rng.poisson(50, (reference.n_obs, 1))
    wide = AnnData(np.concatenate([reference.X, reference.X[:, 2:3], noise], axis=1).astype(np.float32))
    wide.var_names = [*NAMES, "TWIN", "NOISE"]
    frame = place([wide], NAMES)
    axes = list(range(6))
    np.testing.assert_allclose(frame.loc["TWIN", axes], frame.loc["GENE2", axes], atol=1e-6)
    assert np.linalg.norm(frame.loc["NOISE", axes]) < 0.5 * np.linalg.norm(frame.loc[NAMES, axes], axis=1).min()
    assert frame.loc["TWIN", "level"] == pytest.approx(frame.loc["GENE2", "level"])


def test_axes_are_of_seen_genes_alone(reference):
    """However the others vary together."""
    rng = np.random.default_rng(0)
    others = rng.poisson(np.exp(4 + rng.standard_normal((reference.n_obs, 1))) * np.ones(30))
    wide = AnnData(np.concatenate([reference.X, others], axis=1).astype(np.float32))
    wide.var_names = [*NAMES, *(f"OTHER{i}" for i in range(30))]
    frame = place([wide], NAMES, axes=3)
    values = np.log1p(1e4 * wide.X / wide.X.sum(axis=1, keepdims=True))[:, :15]
    power = np.sort(np.linalg.eigvalsh(np.corrcoef(values, rowvar=False)))[::-1]
    np.testing.assert_allclose(np.square(frame.loc[NAMES, [0, 1, 2]]).sum(axis=0), power[:3], rtol=1e-4)


def test_names_are_those_of_training(reference):
    named = reference.copy()
    named.var_names = ["ENSG00000141736", "CD45", *NAMES[2:]]
    frame = place([named], ["ERBB2", "PTPRC", *NAMES[2:10]])
    assert set(frame.index) == {"ERBB2", "PTPRC", *NAMES[2:]}


def test_of_two_names_of_one_gene_one_is_matched(reference):
    """Its own in the reference, where it has it; the other is placed by training."""
    reference.var_names = ["ERBB2", "CD45", *NAMES[2:]]
    learned = learn_reference([reference], ["HER2", "ERBB2", "CD45", *NAMES[2:10]], min_counts=50, study_key=None)
    assert list(learned.correlation.columns) == ["ERBB2", "CD45", *NAMES[2:10]]
    assert set(learned.names) == set(reference.var_names)
    assert learned.record["n_genes"] == 10


def test_levels_are_moved_to_those_of_training(table, reference):
    deeper = reference.copy()
    deeper.X[:, 14] = np.rint(deeper.X[:, 14] * 20)
    frame = place([deeper], NAMES[:14])
    seen = table.__class__(**vars(table) | {"expression": table.expression[:, :14]})
    space = gene_space(seen, NAMES[:14], reference=frame, axes=6)
    assert space.names == NAMES
    own, theirs = space.level[:14], frame.loc[NAMES[:14], "level"]
    factor = np.median(own / theirs)
    assert space.level[14] == pytest.approx(frame.loc["GENE14", "level"] * factor, rel=1e-4)


def test_seen_genes_that_no_reference_measures_lie_where_training_says(table, reference):
    whole = gene_space(table, NAMES, reference=place([reference], NAMES), axes=6)
    part = gene_space(table, NAMES, reference=place([reference[:, 2:].copy()], NAMES), axes=6)
    assert not part.from_text.any()
    alike = lambda space: np.corrcoef(space.coordinates)[:2, 2:]  # noqa: E731
    assert np.corrcoef(alike(whole).ravel(), alike(part).ravel())[0, 1] > 0.5


# ---------------------------------------------------------------------- predicted from text


def test_leaving_a_gene_out_equals_learning_without_it(monkeypatch):
    """The same penalty, so that only the shortcut is put to the test."""
    text, measured = text_and_truth()
    _, left_out = predicted_from_text(text, measured)
    size = np.square(text - text.mean()).to_numpy().sum()
    for penalty in (0.01, 1.0, 100.0):
        monkeypatch.setattr(_genes, "PENALTIES", (penalty,))
        _, left_out = predicted_from_text(text, measured)
        for gene in ("g0", "g17", "g59"):
            x, y = text.drop(index=gene).to_numpy(), measured.drop(index=gene).to_numpy()
            weights = np.linalg.solve(
                (x - x.mean(0)).T @ (x - x.mean(0)) + penalty * size / len(text) * np.eye(8),
                (x - x.mean(0)).T @ (y - y.mean(0)),
            )
            expected = (text.loc[gene].to_numpy() - x.mean(0)) @ weights + y.mean(0)
            np.testing.assert_allclose(left_out.loc[gene], expected, rtol=1e-6, atol=1e-8)


def test_a_gene_of_which_only_text_is_known_is_placed_by_ridge(monkeypatch):
    text, measured = text_and_truth()
    known = measured.iloc[:50]
    predicted, left_out = predicted_from_text(text, known)
    assert list(predicted.index) == list(text.index)
    assert list(left_out.index) == list(known.index)
    for column in measured:
        assert np.corrcoef(predicted.loc["g50":, column], measured.loc["g50":, column])[0, 1] > 0.9


def test_the_penalty_is_that_of_eleven_with_which_genes_left_out_are_predicted_best():
    """From a hundredth to a thousand in steps of half a power of ten, for every column by itself."""
    text, measured = text_and_truth(n=30, d=6, noise=2.0)
    measured["a"] = np.random.default_rng(3).standard_normal(30)
    x, y = text.to_numpy(), measured.to_numpy()
    size = np.square(x - x.mean(axis=0)).sum() / len(x)
    left_out = []
    for penalty in 10.0 ** np.arange(-2, 3.25, 0.5):
        predicted = np.empty_like(y)
        for row in range(len(x)):
            own, theirs = np.delete(x, row, axis=0), np.delete(y, row, axis=0)
            middle, level = own.mean(axis=0), theirs.mean(axis=0)
            gram = (own - middle).T @ (own - middle) + penalty * size * np.eye(6)
            weights = np.linalg.solve(gram, (own - middle).T @ (theirs - level))
            predicted[row] = (x[row] - middle) @ weights + level
        left_out.append(predicted)
    errors = np.square(np.array(left_out) - y).sum(axis=1)
    assert len(set(errors.argmin(axis=0))) > 1
    found = predicted_from_text(text, measured)[1].to_numpy()
    best = np.array([left_out[choice][:, column] for column, choice in enumerate(errors.argmin(axis=0))]).T
    np.testing.assert_allclose(found, best, atol=1e-6)


def test_text_that_says_nothing_tells_the_mean():
    text, measured = text_and_truth(n=100)
    silent = pd.DataFrame(np.random.default_rng(5).standard_normal((100, 40)), index=text.index)
    predicted, _ = predicted_from_text(silent, measured.iloc[:60])
    assert (predicted.iloc[60:] - measured.iloc[:60].mean()).std().max() < 0.4 * measured.std().min()


@pytest.mark.parametrize("n", [19, 20])
def test_too_few_genes_teach_nothing(n):
    text, measured = text_and_truth()
    predicted, left_out = predicted_from_text(text, measured.iloc[:n])
    assert len(predicted) == (60 if n == 20 else 0)
    assert len(left_out) == (20 if n == 20 else 0)
    assert predicted_from_text(None, measured)[0].empty


def test_genes_in_two_dimensions_of_a_thousand(monkeypatch):
    """More dimensions than genes, of which most are empty."""
    text, measured = text_and_truth(d=2, noise=0)
    wide = pd.concat([text, pd.DataFrame(np.zeros((60, 998)), index=text.index)], axis=1)
    wide.columns = range(1000)
    predicted, left_out = predicted_from_text(wide, measured.iloc[:40])
    np.testing.assert_allclose(predicted.iloc[40:], measured.iloc[40:], atol=0.1)
    assert np.isfinite(left_out.to_numpy()).all()


def test_the_space_says_whose_coordinates_come_from_text(table):
    both = pd.DataFrame(
        np.random.default_rng(0).standard_normal((20, 8)), index=[*NAMES[:14], *(f"NEW{i}" for i in range(6))]
    )
    space = gene_space(table, NAMES, text=both, axes=4)
    assert space.names == NAMES  # 14 genes with both are too few
    wide = table.__class__(**vars(table) | {"expression": np.concatenate([table.expression] * 2, axis=1)})
    names = [*NAMES, *(f"TWIN{i}" for i in range(15))]
    both = pd.DataFrame(
        np.random.default_rng(0).standard_normal((35, 8)), index=[*names[:29], *(f"NEW{i}" for i in range(6))]
    )
    space = gene_space(wide, names, text=both, axes=4)
    assert space.names == [*names, *(f"NEW{i}" for i in range(6))]
    assert space.from_text.tolist() == [0] * 30 + [1] * 6
    assert np.isfinite(space.by_text[:29]).all()
    assert np.isnan(space.by_text[29]).all()
    assert (space.sd > 0).all()


def test_stored_texts_are_those_of_the_table():
    texts = facts.texts()
    assert texts.index.is_unique
    assert np.isfinite(texts.to_numpy()).all()
    np.testing.assert_array_equal(texts.loc[["ERBB2", "CD3D"]], facts.text_table(["HER2", "CD3D"]))


# ---------------------------------------------------------------------- how far


def test_the_nearest_is_never_the_gene_itself():
    genes = np.array([[1, 0], [0, 2], [3, 3], [5, 0.0], [0, -1]], dtype=np.float32)
    found = largest_cosine(genes, genes[:3])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [half, half, half, 1, 0], atol=1e-6)
    np.testing.assert_allclose(largest_cosine(genes, genes[:3], own=False)[:3], 1, atol=1e-6)


def test_the_nearest_of_many_is_found_in_pieces():
    genes = np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32)
    alike = genes @ genes.T / np.outer(np.linalg.norm(genes, axis=1), np.linalg.norm(genes, axis=1))
    np.fill_diagonal(alike, -1)
    np.testing.assert_allclose(largest_cosine(genes, genes), alike.max(axis=1), atol=1e-5)
