"""The table of training spots, its folds and sums, by numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict._sections.open import open_sections
from stpredict.models._data.chunks import Parts, rows_of
from stpredict.models._data.folds import HeldOut, choose, inner_folds, judged, residual_sd, sample, strips
from stpredict.models._data.linalg import cross, principal_axes
from stpredict.models._data.rows import DiskRows, DiskRowStore
from stpredict.models._data.table import Table, mean_over_sections, training_table

NAN = np.nan


def table(expression, section, *, design=None, group=None):
    expression, section = np.array(expression, dtype=np.float32), np.array(section)
    n = len(section)
    design = np.zeros((n, 1)) if design is None else np.array(design)
    return Table(
        design=design.astype(np.float32),
        expression=expression,
        log_total=np.arange(n, dtype=float),
        section=section,
        group=section if group is None else np.array(group),
        row=np.arange(n),
        centres=np.column_stack([np.zeros(n), np.arange(n)]),
    )


# ---------------------------------------------------------------------- sections and levels


def test_levels_of_sections_are_means_over_those_that_measured():
    means = np.array([[1, 2, NAN], [4, NAN, NAN]], dtype=np.float32)
    found = mean_over_sections(means)
    np.testing.assert_array_equal(found, [2.5, 2, NAN])
    assert found.dtype == np.float32


def test_sections_are_moved_to_one_level():
    spots = table([[1, 5], [3, 5], [10, 6], [14, 6]], [0, 0, 1, 1])
    moved = spots.aligned()
    np.testing.assert_array_equal(moved.expression, [[6, 5.5], [8, 5.5], [5, 5.5], [9, 5.5]])
    np.testing.assert_array_equal(moved.log_total, [1, 2, 1, 2])
    assert [(number, rows.tolist()) for number, rows in spots.of_sections()] == [(0, [0, 1]), (1, [2, 3])]


def test_what_was_not_measured_is_filled_in_from_the_design(tmp_path):
    """Within the first section expression is twice the design; the level is that section's own."""
    design = np.array([[0.01], [0.02], [0.06], [5.01], [5.02], [5.03]])
    known = [[4.02, 7], [4.04, 7], [4.12, 7]]
    spots = table([*known, [NAN, 1], [NAN, 2], [NAN, 3]], [0, 0, 0, 1, 1, 1], design=design)
    slope = 2 / 1.01  # the penalty is a hundredth of the design's variance
    filled = 4.06 + slope * np.array([-0.01, 0, 0.01])
    for store in (None, DiskRowStore(tmp_path)):
        out = np.asarray(spots.filled(store).expression[:])
        np.testing.assert_allclose(out[3:, 0], filled, rtol=1e-6)
        np.testing.assert_array_equal(out[:3], spots.expression[:3])
        np.testing.assert_array_equal(out[3:, 1], [1, 2, 3])
        np.testing.assert_allclose(np.asarray(spots.aligned(store).expression[3:])[:, 0], filled, rtol=1e-6)


def test_sections_that_lack_a_gene_do_not_shape_it_and_a_gene_that_none_has_is_zero():
    design = [[-1.0], [1.0]] * 3
    expression = [[-2, NAN], [2, NAN], [-6, NAN], [6, NAN], [NAN, NAN], [NAN, NAN]]
    filled = table(expression, [0, 0, 1, 1, 2, 2], design=design).filled().expression
    np.testing.assert_allclose(filled[4:, 0], [-4 / 1.01, 4 / 1.01], rtol=1e-6)
    assert (filled[:, 1] == 0).all()
    whole = table([[1], [2]], [0, 1])
    assert whole.filled() is whole


def test_features_that_do_not_vary_fill_in_the_level():
    filled = table([[2], [4], [NAN], [NAN]], [0, 0, 1, 1], design=np.ones((4, 1))).filled()
    assert filled.expression[2:].tolist() == [[3], [3]]


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([[0], [2], [4]], 4 * 4 / 3),
        ([[1], [3]], 2 * 3 / 2),
        ([[1], [3], [NAN]], 2 * 3 / 2),
        ([[1], [NAN]], 0),
        ([[NAN], [NAN]], 0),
        ([[5]], 0),
    ],
)
def test_a_further_section_varies_by_the_spread_of_those_known(means, expected):
    assert table(means, range(len(means))).between_sections() == pytest.approx(expected)


def test_all_rows_are_the_table_itself():
    spots = table([[1], [2], [3]], [0, 0, 1])
    assert spots.take(np.ones(3, dtype=bool)) is spots
    assert spots.take(np.arange(3)) is spots
    assert spots.take(np.array([True, False, True])).expression.tolist() == [[1], [3]]
    assert spots.take(np.array([2])).row.tolist() == [2]


# ---------------------------------------------------------------------- from sections


def tabled(adata, **how):
    (section,) = open_sections(adata)
    how = {"min_counts": 1} | how
    return training_table([section], ["P"], genes=["GENE1", "GENE0"], keys=["X_fake"], **how)


def test_ten_spots_are_enough_and_nine_are_not(paired):
    adata = paired(side=4)
    assert len(tabled(adata[:10].copy())) == 10
    with pytest.raises(ValueError, match=r"Only 9 spots have min_counts=1 .*at least 10"):
        tabled(adata[:9].copy())


def test_spots_with_fewer_counts_are_left_out(paired, tmp_path):
    adata = paired(side=4)
    adata.X[:3] = 0
    adata.X[1, 0], adata.X[2, 0] = 1, 2
    assert tabled(adata, min_counts=0).row.tolist() == [*range(1, 16)]
    assert tabled(adata, min_counts=2).row.tolist() == [*range(2, 16)]
    assert tabled(adata, min_counts=3).row.tolist() == [*range(3, 16)]
    two = tabled(adata, not_measured=np.array([[False, True]]), store=DiskRowStore(tmp_path))
    assert isinstance(two.design, DiskRows)
    assert isinstance(two.expression, DiskRows)
    assert isinstance(two.log_total, np.ndarray)
    assert np.isnan(np.asarray(two.expression[:])).all(axis=0).tolist() == [False, True]
    assert two.log_total[:2] == pytest.approx(np.log([2, 3]))
    assert set(two.group) == set(two.section) == {0}


# ---------------------------------------------------------------------- folds


def test_three_patients_are_enough_for_folds():
    folds, note = inner_folds(table(np.zeros((8, 1)), [0, 0, 1, 1, 2, 2, 3, 3], group=[0, 0, 0, 0, 1, 1, 2, 2]))
    assert note == "inner folds hold out groups (3)"
    assert sorted(held.nonzero()[0].tolist() for held in folds) == [[0, 1, 2, 3], [4, 5], [6, 7]]
    folds, note = inner_folds(table(np.zeros((4, 1)), [0, 0, 1, 1], group=[0, 0, 1, 1]))
    assert note == "inner folds hold out sections (2)"
    assert sorted(held.nonzero()[0].tolist() for held in folds) == [[0, 1], [2, 3]]


def test_strips_lie_across_the_longer_side():
    centres = np.column_stack([[0, 9, 0, 9, 0], [40, 30, 20, 10, 0]])
    assert [rows.tolist() for rows in strips(centres)] == [[4], [3], [2], [1], [0]]
    assert [rows.tolist() for rows in strips(centres[:, ::-1])] == [[4], [3], [2], [1], [0]]


def test_genes_are_judged_where_test_and_training_measured_them():
    spots = table(np.zeros((4, 1)), [0, 1, 2, 2])
    train, test = spots.take(np.array([0, 1])), spots.take(np.array([2, 3]))
    lacking = np.array([[True, False, False, True], [True, True, False, False], [False, False, True, False]])
    assert judged(lacking, train, test).tolist() == [[False, True, False, True]] * 2
    assert judged(None, train, test) is True
    assert judged(np.zeros((3, 4), dtype=bool), train, test) is True


def test_kept_rows_are_bounded_by_number_and_by_values():
    assert len(sample(3000, 1)) == 2000
    assert len(sample(3000, 2**12)) == 2**21 // 2**12
    assert len(sample(10, 2**22)) == 2
    assert sample(4, 3).tolist() == [0, 1, 2, 3]
    some = sample(3000, 1)
    assert (np.diff(some) > 0).all()
    assert some[-1] > 2500


def test_errors_are_root_mean_squares_and_the_spread_where_nothing_is_known():
    spots = table([[1, 5, 1], [2, 5, 3], [9, 9, NAN]], [0, 1, 2])
    held = HeldOut(np.array([0, 1]), np.array([[4, 2, NAN], [6, NAN, NAN]], dtype=np.float32))
    np.testing.assert_allclose(residual_sd(spots, held), [np.sqrt((9 + 16) / 2), 3, 1], rtol=1e-6)
    held = HeldOut(np.array([0, 1]), np.array([[4, 2, 1], [6, 5, 3]], dtype=np.float32))
    np.testing.assert_allclose(residual_sd(spots, held), [np.sqrt(12.5), np.sqrt(4.5), 0], rtol=1e-6)


def test_the_candidate_of_the_best_correlation_is_chosen():
    """Scores are means over sections, here of correlations ±1; errors are those of the best alone."""
    spots = table(
        [[0, 1], [1, NAN], [4, NAN], [0, 5], [1, 9], [2, NAN], [0, 7], [2, 7], [7, 8]], np.repeat([0, 1, 2], 3)
    )
    spots.design[:] = np.array([0, 1, 4, 0, 1, 2, 0, 2, 7])[:, None]

    def predictions(train, design):
        yield np.hstack([-design, -design])
        yield np.hstack([2 * design + 1, 0 * design])

    found = choose(spots, [0.1, 0.7], predictions)
    assert found.value == 0.7
    assert found.scores[1] > found.scores[0]
    assert found.note == "inner folds hold out groups (3)"
    assert found.held.rows.tolist() == list(range(9))
    np.testing.assert_array_equal(found.held.predicted[:, 0], 2 * spots.design[:, 0] + 1)
    squares = [1, 4, 25, 1, 4, 9, 1, 9, 64]
    others = [1, 25, 81, 49, 49, 64]
    np.testing.assert_allclose(found.residual_sd, [np.sqrt(np.mean(squares)), np.sqrt(np.mean(others))], rtol=1e-6)
    few = choose(spots, [0.1, 0.7], predictions, looked_at=np.array([2, 8]))
    assert few.held.predicted[:, 0].tolist() == [9, 15]
    one = choose(table(spots.expression[:, :1], spots.section, design=spots.design), [1, 2], lambda *both: (
        prediction[:, :1] for prediction in predictions(*both)
    ))  # fmt: skip
    assert one.scores == pytest.approx([-1, 1])


def test_a_gene_that_no_fold_can_judge_has_the_error_of_its_spread():
    spots = table([[1, 0], [3, 0], [NAN, 1], [NAN, 1], [NAN, 0], [NAN, 1]], [0, 0, 1, 1, 2, 2])
    found = choose(spots, [0], lambda _, design: [np.zeros((len(design), 2), dtype=np.float32)])
    np.testing.assert_allclose(found.residual_sd, [1, np.sqrt(0.5)])


# ---------------------------------------------------------------------- linear algebra and parts


def test_products_of_many_rows_are_exact():
    """2 × 10 000 rows, more than are multiplied at once."""
    left = np.ones((10_000, 1), dtype=np.float32)
    right = np.column_stack([np.arange(10_000), np.ones(10_000)]).astype(np.float32)
    assert cross(left, right).tolist() == [[49_995_000, 10_000]]


@pytest.mark.parametrize("turned", [False, True])
def test_axes_of_small_and_tiny_matrices(turned):
    """Axes of a size down to a ten-millionth of the largest count, whatever the units."""
    for scale in (1.0, 1e-9):
        x = np.diag([1.0, 1e-3, 1e-4]) * scale
        x = np.vstack([x, np.zeros((2, 3))])
        squares, axes = principal_axes(x.T if turned else x)
        np.testing.assert_allclose(squares, np.array([1, 1e-6]) * scale**2, rtol=1e-6)
        assert np.abs(axes[:3]).round(6).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_rows_at_a_time_hold_eight_million_values():
    assert (rows_of(1), rows_of(2**10), rows_of(2**15), rows_of(2**16)) == (2**23, 2**13, 256, 256)


def test_parts_are_cut_and_made_again_each_time():
    made, mapped = [], []
    parts = Parts(lambda rows: made.append(rows) or rows.start, 10, 5)
    assert parts.rows == [slice(0, 5), slice(5, 10)]
    doubled = parts.map(lambda start: mapped.append(start) or 2 * start)
    both = Parts.side_by_side([parts, doubled])
    assert both.rows == doubled.rows == parts.rows
    for _ in range(2):
        assert list(both) == [[0, 0], [5, 10]]
    assert (len(made), len(mapped)) == (4, 4)
    pair = Parts.side_by_side([parts.map(str)])
    first, again = list(pair), list(pair)
    assert first[0] is not again[0]
    assert Parts(len, 0, 1).rows == [slice(0, 0)]
    assert Parts(len, 1, 1).rows == [slice(0, 1)]
