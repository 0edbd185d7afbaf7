"""What references tell of genes and of distances, on numbers that can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat

from stpredict.models._data.folds import HeldOut
from stpredict.models._reference import distance, gene_correlation, unseen
from stpredict.models._reference.coexpression import ReferenceGenes, learn_reference
from stpredict.models._reference.gene_correlation import GeneStructure
from stpredict.models._reference.unseen import UnseenGenes
from stpredict.models._trust.reliability import NORMAL_QUANTILES

NAN = np.nan


def cells(*rows, study=None):
    """Counts of cells; a third gene fills each up to 10,000, so that log counts are those of the genes alone."""
    counts = np.array(rows, dtype=np.float32)
    counts = np.column_stack([counts, 10_000 - counts.sum(axis=1)])
    obs = pd.DataFrame({"study": study or ["one"] * len(counts)}, index=[f"cell{i}" for i in range(len(counts))])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=["A", "B", "REST"]))


# ---------------------------------------------------------------------- distance


def test_a_distance_is_that_of_means_over_that_between_training_sections():
    places, scale = np.array([[0.0, 0, 9], [4, 0, 9]]), np.array([2.0, 1, 0])
    # in units of scale the sections are (0, 0) and (2, 0): 2² over 2 features, so 2 is usual; the third feature does not count
    for features, expected in (
        ([[1.0, -1, 0], [3, 1, 9]], (1 + 1) / 2 / 2 / 2 * 1.0),  # its mean is (1, 0), at a distance 1 from both
        ([[0.0, 3, 9]], (9 + (4 + 9)) / 4 / 2),
        ([[0.0, 1e5, 9]], 1e6),  # no more than this
    ):
        assert distance.distance_to(places, scale, np.array(features)) == pytest.approx(expected, rel=1e-6)
    assert distance.distance_to(places, scale, np.array([[0.0, 1e5, 9]])) == 1e6
    assert distance.distance_to(places[[0, 0]], scale, np.ones((1, 3))) == 1  # these do not differ
    assert distance.distance_to(places, 0 * scale, np.ones((1, 3))) == 1
    small = distance.distance_to(places * 1e-5, scale, np.array([[0.0, 3e-5, 9]]))
    assert small == pytest.approx((9 + (4 + 9)) / 4 / 2, rel=1e-6)


def of_features(*values):
    """A section with these features (spots, d), whose spots lie in a row."""
    features = np.array(values, dtype=np.float32)
    return SimpleNamespace(
        features=lambda key, rows: features[rows],
        rows=np.arange(len(features)),
        centres=np.column_stack([np.arange(len(features)), np.zeros(len(features))]),
    )


def test_places_are_means_of_sections_and_the_scale_is_within_them():
    rounding = [[1e5], [1e5 + 0.03]]
    one = of_features([0, 1, *rounding[0], 0], [2, 1, *rounding[1], 2e-5])
    other = of_features([10, 1, *rounding[0], 0], [18, 1, *rounding[1], 2e-5])
    places, scale = distance.section_means_and_scale([one, other], ["X"])
    np.testing.assert_allclose(places[:, :2], [[1, 1], [14, 1]])
    np.testing.assert_allclose(scale, [np.sqrt((1 + 16) / 2), 0, 0, 1e-5], rtol=1e-5)
    strips, _ = distance.section_means_and_scale([of_features(*np.arange(10)[:, None])], ["X"])
    np.testing.assert_allclose(strips[:, 0], [0.5, 2.5, 4.5, 6.5, 8.5])


# ---------------------------------------------------------------------- gene structure


def structure(axes, variances, rest):
    """Of genes with these `axes` (genes, axes)."""
    numbers = (np.asarray(values, dtype=np.float32) for values in (axes, variances, rest))
    return GeneStructure(*numbers, places=np.zeros((0, 0)), scale=np.zeros(0), record={})


def test_what_genes_share_counts_for_more_than_what_they_do_not():
    """Two genes on one axis of variance 3; beside it is 1. At distance 1 the axis keeps 3/4 and the rest 1/2."""
    a, b = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])
    mean = np.column_stack([5 + 2 * a, 3 * b, np.full(4, 7.0), 1e4 + 0.005 * a, 1e-3 * b, 1e-10 * a])
    axes = np.array([[1.0], [1], [0], [0], [0], [0]]) / np.sqrt(2)
    axes[2:5, 0] = 1e-9  # known, and next to nothing on the axis
    axes[5] = axes[0]  # as much as the first gene, but it is predicted without any contrast
    found = structure(axes, [3], [1]).apply(mean, 1.0)
    np.testing.assert_allclose(found[:, 0], 5 + 2 * (5 * a + b) / np.sqrt(26), rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], 3 * (a + 5 * b) / np.sqrt(26), rtol=1e-5)
    np.testing.assert_array_equal(found[:, [2, 3, 5]], np.float32(mean[:, [2, 3, 5]]))  # they do not vary
    np.testing.assert_allclose(found[:, 4], mean[:, 4], rtol=1e-5)
    gone = structure([[1.0], [-1]] / np.sqrt(2), [1], [0]).apply(np.column_stack([a, a]), 1.0)
    np.testing.assert_array_equal(gone, 0)  # two genes that never rise together are predicted to


def log(*counts):
    return np.log1p(np.array(counts, dtype=float))


def test_structure_is_learned_within_studies_of_two_cells_or_more():
    """In study a both genes rise, in b the first alone; of c there is one cell, and one cell has 49 counts only."""
    adata = cells([1, 1], [5, 5], [8, 2], [2, 2], [90, 0], study=["a", "b", "a", "b", "c"])
    few = AnnData(np.float32([[9, 9, 31], [9, 9, 32], [9, 9, 32]]), var=adata.var, obs=adata.obs[:3])
    found = GeneStructure.learn([concat([adata, few[:1]], index_unique="-")], ["A", "B"], study_key="study")
    a = np.array([log(8) - log(1), log(5) - log(2)])[:, 0]
    b = np.array([log(2) - log(1), log(5) - log(2)])[:, 0]
    r = a @ b / np.sqrt((a @ a) * (b @ b))
    np.testing.assert_allclose(np.sort(found.variances), [1 - r, 1 + r], rtol=1e-5)
    np.testing.assert_allclose(np.abs(found.axes), np.sqrt(0.5), rtol=1e-5)
    assert found.rest.tolist() == [0]
    assert found.record == {"n_studies": 2, "n_spots": 4, "n_genes": 2}
    few.obs["study"] = "one"
    enough = GeneStructure.learn([few, adata], ["A", "B"], study_key="study")  # 50 counts are
    assert enough.record["n_spots"] == 6


def of_table(*sections):
    """A table of sections with this expression each."""
    values = np.concatenate([np.array(own, dtype=float) for own in sections])
    number = np.repeat(np.arange(len(sections)), [len(own) for own in sections])
    parts = [(i, np.flatnonzero(number == i)) for i in range(len(sections))]

    class Table(SimpleNamespace):
        def __len__(self):
            return len(self.expression)

    return Table(expression=values, section=number, of_sections=lambda: parts)


def test_of_more_than_fifty_genes_one_variance_is_kept_for_the_rest():
    """51 genes, of which two correlate by 0.6: variances are 1.6, 49 times 1, and the 0.4 that is left over."""
    drawn = np.column_stack([np.ones(60), np.random.default_rng(0).standard_normal((60, 51))])
    patterns = np.linalg.qr(drawn)[0][:, 1:]
    patterns[:, 50] = 0.6 * patterns[:, 0] + 0.8 * patterns[:, 50]
    found = GeneStructure.of_table(of_table(patterns))
    np.testing.assert_allclose(found.variances, [1.6, *[1] * 49], rtol=1e-4)
    np.testing.assert_allclose(found.rest, [0.4], rtol=1e-4)
    assert (found.axes.shape, found.record) == ((51, 50), {"n_studies": 1, "n_spots": 60, "n_genes": 51})


def test_structure_of_training_spots_is_that_within_sections_of_genes_that_vary():
    table = of_table([[0, 0, 5, NAN], [2, 2, 5, NAN]], [[10, 9, 5, NAN], [10, 7, 5, NAN]])
    found = GeneStructure.of_table(table)
    np.testing.assert_allclose(np.sort(found.variances), [1 - np.sqrt(0.5), 1 + np.sqrt(0.5)], rtol=1e-5)
    np.testing.assert_array_equal(found.axes[2:], 0)
    assert found.record == {"n_studies": 2, "n_spots": 4, "n_genes": 2}
    assert GeneStructure.of_table(of_table([[0, 5], [2, 5]])) is None
    assert GeneStructure.of_table(of_table([[5, 5], [5, 5]])) is None
    assert GeneStructure.of_table(of_table([[0, 0], [1e-6, 1e-6]])).record["n_genes"] == 2
    assert GeneStructure.of_table(of_table([[0, 0], [1e6, 1]])) is None  # beside the other gene it does not vary


# ---------------------------------------------------------------------- references for unseen genes


def test_genes_lie_where_their_correlation_with_seen_ones_says():
    """Seen genes correlate by .6, so their axes have variances 1.6 and .4; an unseen one follows the first alone."""
    correlation = pd.DataFrame([[1, 0.6], [0.6, 1], [0.5, 0]], index=["A", "B", "U"], columns=["A", "B"])
    moments = pd.DataFrame({"level": [1.0, 2, 3], "log_sd": [0.0, 0, 1]}, index=["A", "B", "U"])
    reference = ReferenceGenes(correlation, moments, {})
    assert reference.names == ["A", "B", "U"]
    found = reference.coordinates(["A", "B", "not there"], 3)
    places = found[[0, 1, 2]].to_numpy()
    np.testing.assert_allclose(np.abs(places[2]), [0.5 * np.sqrt(0.5 / 1.6), 0.5 * np.sqrt(0.5 / 0.4), 0], atol=1e-9)
    np.testing.assert_allclose(places[:2] @ places[:2].T, [[1, 0.6], [0.6, 1]], atol=1e-9)
    assert found.attrs["variance"] == pytest.approx([1.6, 0.4, 0])
    assert found.loc["U", ["level", "log_sd"]].tolist() == [3, 1]
    assert reference.coordinates(["A", "B"], 1).attrs["variance"] == pytest.approx([1.6])
    same = ReferenceGenes(pd.DataFrame([[1, 0.9985], [0.9985, 1]], ["A", "B"], ["A", "B"]), moments[:2], {})
    assert same.coordinates(["A", "B"], 2).attrs["variance"] == pytest.approx([1.9985, 0.0015])
    same.correlation.loc["A", "B"] = same.correlation.loc["B", "A"] = 0.9995
    assert same.coordinates(["A", "B"], 2).attrs["variance"] == pytest.approx([1.9995, 0])


def test_a_reference_tells_correlation_level_and_spread_of_genes():
    adata = cells([1, 7], [7, 1], [3, 3], [3, 3])  # whose log counts lie evenly about those of the last two
    found = learn_reference([adata], ["B", "A"], min_counts=50, study_key=None)
    values = log([1, 7], [7, 1], [3, 3], [3, 3])
    assert list(found.correlation.columns) == ["B", "A"]
    assert found.record == {"n_studies": 1, "n_spots": 4, "n_genes": 2}
    np.testing.assert_allclose(found.correlation.loc[["A", "B"], ["A", "B"]], [[1, -1], [-1, 1]], atol=1e-5)
    np.testing.assert_allclose(found.moments.loc[["A", "B"], "level"], values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.moments.loc[["A", "B"], "log_sd"], np.log(values.std(axis=0)), rtol=1e-4)
    assert found.moments.loc["REST", "log_sd"] == pytest.approx(np.log(1e-3))
    with pytest.raises(ValueError, match="Only 1 of the 2 genes to learn vary in the references"):
        learn_reference([adata], ["B", "NOWHERE"], min_counts=50, study_key=None)


# ---------------------------------------------------------------------- unseen genes


def test_what_is_told_of_unseen_genes():
    """Of PCC .1 + .5 · nearest + .2 · level; below a level of 0.4 it falls with its root."""
    genes = UnseenGenes(
        names=["A", "B", "C", "D"],
        similar=np.zeros((4, 2), dtype=np.int32),
        weights=np.array([[0.2, 0.6], [0.8, 0.1], [0.9, 0.9], [0, 0]], dtype=np.float32),
        level=np.array([1, 0.1, 9, 0], dtype=np.float32),
        sd=np.ones(4),
        reliability=np.array([0.1, 0.5, 0.2, 0.4]),
        error=np.array([1, 2, 3, 4], dtype=np.float32),
    )
    told = genes.told(np.array([1, 0, 2, 3]))
    assert list(told["genes"]) == ["B", "A", "C", "D"]
    np.testing.assert_allclose(told["distance"], [0.2, 0.4, 0.1, 1], rtol=1e-6)
    np.testing.assert_allclose(told["reliability"], [0.52 / 2, 0.6, 1, 0], rtol=1e-6)
    genes.reliability[3] = 0  # every gene that was hidden has a level, so all have as many counts as these
    np.testing.assert_allclose(genes.told(np.array([1, 3]))["reliability"], [0.52, 0], rtol=1e-6)
    genes.reliability[3] = 0.4
    empty = np.full((3, 2), NAN)
    prediction = SimpleNamespace(
        mean=empty.copy(),
        std=empty.copy(),
        judgement=SimpleNamespace(widening=1.5, kept=0.5),
        reached=empty.copy(),
        errors=np.full((21, 2), NAN),
    )
    fields = vars(prediction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unseen, "replace", lambda given, **more: SimpleNamespace(**vars(given) | more))
        filled = genes.filled(prediction, np.array([1]), np.array([[7.0], [8], [9]]), np.array([1]))
    np.testing.assert_array_equal(filled.mean, [[NAN, 7], [NAN, 8], [NAN, 9]])
    np.testing.assert_array_equal(filled.std, [[NAN, 3]] * 3)
    np.testing.assert_allclose(fields["reached"], [[NAN, 0.13], [NAN, NAN], [NAN, NAN]], rtol=1e-6)
    np.testing.assert_allclose(filled.errors[:, 1], NORMAL_QUANTILES * 3)
    assert list(filled.unseen["genes"]) == ["B"]


def test_seen_genes_that_do_not_vary_tell_nothing_of_unseen_ones():
    a, b = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])
    seen = np.column_stack([3 + 0.01 * a, 1e4 + 0.005 * b, 1e-10 * b])
    genes = UnseenGenes(
        ["U"],
        np.array([[0, 1, 2]], dtype=np.int32),
        np.full((1, 3), 0.5, dtype=np.float32),
        *np.array([[3.0], [2.0]], dtype=np.float32),
        np.zeros(4),
        np.ones(1),
    )
    parts = gene_correlation.Parts(lambda rows: seen[rows], 4, 4)
    np.testing.assert_allclose(next(iter(genes.of(parts, np.array([0]))))[:, 0], 3 + 2 * a, rtol=1e-6)


def hidden(measured, predicted, similar, weights):
    """Of sections with these spots."""
    return unseen.hidden_in_turn(
        of_table(*measured), HeldOut(np.arange(sum(map(len, measured))), np.concatenate(predicted)), similar, weights
    )


A, B = np.tile([1.0, -1, 1, -1], 3), np.tile([1.0, 1, -1, -1], 3)


def test_what_genes_reach_that_are_hidden_in_turn():
    """Each of the first two genes is told by the other; one is predicted constant, one measured constant, one nowhere."""
    first = np.column_stack([0.1 * (0.6 * A + 0.8 * B), 0.2 * B, A, 5 + 0 * A, NAN * A])
    second = np.column_stack([0.1 * A, 0.2 * B, A, A, NAN * A])
    predicted = np.column_stack([3 + 0.05 * A, 0.02 * B, 7 + 0 * A, A, A])
    similar, weights = np.array([[1], [0], [0], [0], [0]]), np.ones((5, 1))
    one = hidden([first], [predicted], similar, weights)
    np.testing.assert_allclose(one.pcc, [0.8, 0, NAN, NAN, NAN], atol=1e-9)
    np.testing.assert_allclose(one.spread, (0.5 + 0.1) / 2)  # of the first gene 0.05 / 0.1, of the second 0.02 / 0.2
    np.testing.assert_allclose(one.error, (np.sqrt(1 + 0.25 - 0.8) + np.sqrt(1.01)) / 2)
    both = hidden([first, second], [predicted, predicted], similar, weights)
    np.testing.assert_allclose(both.pcc, [0.4, 0, NAN, 1, NAN], atol=1e-9)
    np.testing.assert_allclose(both.spread, ((0.5 + 0.1) / 2 + 0.5) / 2)
    for few, known in ((9, False), (10, True)):
        of_few = hidden([first[:few]], [predicted[:few]], similar, weights)
        assert np.isfinite(of_few.pcc).any() == known
    nothing = hidden([first[:9]], [predicted[:9]], similar, weights)
    assert (nothing.spread, nothing.error, nothing.pcc.shape) == (1, 1, (5,))
    perfect = hidden([np.column_stack([A, A])], [np.column_stack([A, A])], np.array([[1], [0]]), np.ones((2, 1)))
    assert (perfect.spread, perfect.error) == (pytest.approx(1), pytest.approx(0, abs=1e-6))


def test_the_most_similar_genes_are_the_twenty_of_largest_correlation(monkeypatch):
    monkeypatch.setattr(unseen, "ROWS", 2)
    alike = np.array([np.linspace(-1, 1, 41), np.linspace(1, -1, 41), np.linspace(-1, -0.2, 41)], dtype=np.float32)
    similar, weights = unseen._most_similar(alike)
    np.testing.assert_array_equal(similar, [np.arange(40, 20, -1), np.arange(20), np.arange(40, 20, -1)])
    np.testing.assert_allclose(weights[:2], [np.linspace(1, 0.05, 20)] * 2, atol=1e-6)
    np.testing.assert_array_equal(weights[2], 0)


def test_moments_are_means_over_the_sections_that_measured_a_gene():
    table = of_table([[0, 1, NAN, 4], [2, 1, NAN, 4]], [[5, NAN, NAN, 4], [11, NAN, NAN, 4]])
    found = unseen._moments_of(table, list("abcd"))
    np.testing.assert_allclose(found["level"], [(1 + 8) / 2, 1, NAN, 4])
    np.testing.assert_allclose(np.exp(found["log_sd"]), [(1 + 3) / 2, 1e-3, NAN, 1e-3])


def test_levels_are_multiplied_and_spreads_moved_by_the_median_of_genes_that_both_have():
    reference = pd.DataFrame({"level": [1.0, 2, 0, 4, 5], "log_sd": [0.0, 1, 2, 3, 4]}, index=list("abcde"))
    own = pd.DataFrame({"level": [2.0, 6, 1, 20], "log_sd": [0.5, 1.25, 3, 3.25]}, index=list("abcd"))
    moved = unseen.like_training(reference, own)
    np.testing.assert_allclose(
        moved["level"], [3, 6, 0, 12, 15]
    )  # 2, 3 and 5 times; nothing of the gene that has no level
    np.testing.assert_allclose(moved["log_sd"], reference["log_sd"] + 0.375)
    pd.testing.assert_frame_equal(unseen.like_training(reference, own.rename(index=str.upper)), reference)
    without = unseen.like_training(reference[2:3], own)
    assert without.loc["c"].tolist() == [0, 3]
    small = reference[:1] * 0.5
    assert unseen.like_training(small, own).loc["a", "level"] == 2


def test_largest_cosines_leave_out_a_gene_itself(monkeypatch):
    monkeypatch.setattr(unseen, "ROWS", 2)
    genes = np.array([[3.0, 4], [0, 2], [0.5, 0], [-1, 0], [0, 0]])
    seen = genes[:3]
    np.testing.assert_allclose(unseen.largest_cosine(genes, seen), [0.8, 0.8, 0.6, 0, 0], atol=1e-6)
    np.testing.assert_allclose(unseen.largest_cosine(genes, seen, own=False), [1, 1, 1, 0, 0], atol=1e-6)
    opposite = unseen.largest_cosine(np.array([[1.0, 0], [-1, 0]]), np.array([[1.0, 0], [-1, 0]]))
    np.testing.assert_allclose(opposite, -1)


def test_reliability_is_learned_from_more_than_ten_genes():
    nearest, level = np.linspace(0, 1, 11), np.linspace(1, 2, 11) ** 2
    pcc = 0.1 + 0.3 * nearest + 0.1 * level
    learned = unseen.learn_reliability(pcc, nearest, level)
    np.testing.assert_allclose(learned, [0.1, 0.3, 0.1])
    assert np.isnan(unseen.learn_reliability(pcc[:10], nearest[:10], level[:10])).all()
    np.testing.assert_allclose(unseen.expected_pcc(learned, np.array([0, 0.5, 1]), np.array([0, 1, 9])), [0.1, 0.35, 1])
    np.testing.assert_array_equal(unseen.expected_pcc(np.array([-1.0, 0, 0]), nearest, level), 0)
    np.testing.assert_allclose(unseen._reliability(pcc, nearest, level), [0.1, 0.3, 0.1, (1 + 1.21) / 2], rtol=1e-9)
    falling = unseen._reliability(0.9 - 0.1 * level, nearest, level)
    assert falling[2] == pytest.approx(0)
    assert falling[1] < 0
    assert unseen._reliability(pcc[:0], nearest[:0], level[:0])[3] == 0


def test_unseen_genes_are_learned_by_what_references_say_of_seen_ones():
    """Of three seen genes the references lack the last; the unseen one is half as alike to the second as to the first."""
    correlation = pd.DataFrame([[0.8, 0.4], [1, 0.5], [0.5, 1]], index=["U", "B", "A"], columns=["B", "A"]).loc[
        ["B", "U", "A"]
    ]
    moments = pd.DataFrame({"level": [1.0, 2, 1], "log_sd": np.log([1.0, 3, 1])}, index=["B", "U", "A"])
    values = np.column_stack([2 + A, 2 + A, 2 + B])
    table, held = of_table(values), HeldOut(np.arange(12), np.column_stack([0.5 * A, 0.5 * A, B]))
    found = UnseenGenes.learn(ReferenceGenes(correlation, moments, {}), ["A", "B", "C"], table, held)
    assert found.names == ["U"]
    np.testing.assert_allclose(found.weights, [[0.8, 0.4, 0]], rtol=1e-6)
    np.testing.assert_array_equal(found.similar[0, :2], [1, 0])
    np.testing.assert_allclose([found.level, found.sd, found.error], [[4], [1.5], [1.5]], rtol=1e-5)
    np.testing.assert_array_equal(found.reliability, [NAN, NAN, NAN, 2])
    again = UnseenGenes.stored_in(found.arrays(), ["U"])
    np.testing.assert_array_equal(again.weights, found.weights)
    assert found.arrays().keys() == UnseenGenes.SHAPES.keys()
    assert found.reliability.shape == UnseenGenes.SHAPES["unseen_reliability"]
