"""Verdicts, and what is promised under them, on distances and errors that are given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stpredict.models._data.folds import HeldOut
from stpredict.models._data.table import Table
from stpredict.models._trust.domain import Domain
from stpredict.models._trust.reliability import LEVELS, NORMAL_QUANTILES, Reliability
from stpredict.models._trust.sight import Sight
from stpredict.models._trust.span import Span
from stpredict.models._trust.trust import Judgement, Trust

MIDDLE = len(LEVELS) // 2
NAMES = ["size:of nuclei", "own:glass", "own:tissue"]


@pytest.mark.parametrize(
    ("distance", "size", "kept", "widening"),
    [
        (1.35, 1, 1, 1),
        (1.675, 1, 0.5, 1.08125),
        (2.0, 1, 0, 1.1625),
        (0.1, 1, 1, 1),
        (3.35, 1, 0, 1.5),
        (5.35, 1, 0, 2),
        (90.0, 1, 0, 2),
        (1.0, 0.5, 0, 1.1625),
        (3.35, 2, 0, 1.5),
        (np.nan, 1, 1, 1),
    ],
)
def test_what_is_kept_of_correlations_and_how_much_wider_errors_are(distance, size, kept, widening):
    own, other = (Judgement("", distance, "", "", np.ones(1), other, size) for other in (False, True))
    assert own.kept == pytest.approx(kept)
    assert other.kept == pytest.approx(kept / 2)
    assert own.widening == other.widening == pytest.approx(widening)


def section(patient=None, *, is_scale_measured=False):
    """A section of four spots, the last of which was taken out of the object."""
    patients = [patient, None, patient, "of a spot that was taken out"]
    obs = pd.DataFrame({} if patient is None else {"patient": patients}, index=list("abcd"))
    return SimpleNamespace(adata=SimpleNamespace(obs=obs), rows=np.arange(3), is_scale_measured=is_scale_measured)


def judged(spots, shifted=0.0, *, size=None, nearest=(0, 1, 1), of=None, patients=("A",), **options):
    """What is said of a `section` whose spots lie at these distances."""
    domain = SimpleNamespace(
        distances=lambda *_: (np.array(spots), np.array(nearest), shifted, np.array([0.5, -3.0, 2.04]), np.zeros(3))
    )
    texture = None if size is None else SimpleNamespace(size=lambda mean: size)
    sight = SimpleNamespace(is_outdated=False, names=lambda _: NAMES)
    return Trust(domain, texture=texture).judge(of or section(), sight, ["s0", "s1"], patients, "patient", **options)


@pytest.mark.parametrize(
    ("spots", "shifted", "verdict"),
    [
        ([0.5, 1.35, 9], 2.0, "inside"),
        ([0.5, 1.36, 9], 2.0, "edge"),
        ([0.5, 1.0, 9], 2.1, "edge"),
        ([0.5, 2.0, 9], 2.0, "edge"),
        ([0.5, 2.01, 9], 0.0, "outside"),
    ],
)
def test_the_verdict_is_by_the_median_spot_and_by_the_mean(spots, shifted, verdict):
    found = judged(spots, shifted)
    assert (found.verdict, found.distance) == (verdict, spots[1])
    assert (found.nearest_section, found.other_patient, found.size, found.known) == ("s1", False, 1, "training")
    np.testing.assert_array_equal(found.spots, np.float32(spots))
    why = f"its spots lie {spots[1]:.2g} times as far from training spots as held-out ones did"
    differ = "; its features differ most in own:glass (-3.0 sd) and own:tissue (+2.0 sd)"
    assert found.why == why + ("" if verdict == "inside" else differ)


@pytest.mark.parametrize(("size", "looks", "true"), [(0.5, "half", "twice"), (2.0, "twice", "half")])
def test_tissue_of_another_size_is_outside_unless_its_scale_was_measured(size, looks, true):
    found = judged([1.0] * 3, size=size, known="measured")
    assert (found.verdict, found.size, found.known) == ("outside", size, "measured")
    assert found.why == (
        f"its spots lie 1 times as far from measured spots as held-out ones did; its tissue looks about {looks} as large as "
        "that of training, as if it were read at a wrong scale: check its microns per pixel, they may be about "
        f"{true} those that were taken"
    )
    sure = judged([1.0] * 3, size=size, of=section(is_scale_measured=True))
    assert (sure.verdict, sure.size) == ("inside", 1)
    assert judged([1.0] * 3, size=1.0).verdict == "inside"


@pytest.mark.parametrize(
    ("patient", "patients", "told"),
    [
        ("A", ["A"], ""),
        ("B", ["A"], "; it is of another patient than that of training"),
        ("B", ["A", "C", "A"], "; it is of another patient than the 2 that the model was trained on"),
        ("B", ["A", "C", "D"], ""),
        (None, ["A"], ""),
    ],
)
def test_another_patient_is_told_where_few_were_trained_on(patient, patients, told):
    found = judged([1.0] * 3, of=section(patient), patients=patients)
    assert (found.other_patient, found.verdict) == (bool(told), "edge" if told else "inside")
    assert found.why.endswith(told or "held-out ones did")


def test_where_nothing_is_known_every_spot_is_unknown():
    for trust, outdated, why in ((Trust(), False, "looks at no encoded"), (Trust(object()), True, "in another way")):
        found = trust.judge(range(4), SimpleNamespace(is_outdated=outdated), [], [], None)
        assert (found.verdict, found.nearest_section, found.size, found.other_patient) == ("unknown", "", 1, False)
        assert why in found.why
        assert np.isnan([found.distance, *found.spots]).all()
        assert len(found.spots) == 4


def trusted(spread=(0, 0, 0)):
    """Three genes with normal errors of sd 1, 2 and 3 around 0, 0 and 1."""
    errors = NORMAL_QUANTILES[:, None] * [1.0, 2, 3] + np.array([0.0, 0, 1])
    told = ([0.1, 0.5, 0.9], [0.1, 0.1, 0.2], errors, spread)
    return Trust(reliability=Reliability(*(np.asarray(values, dtype=np.float32) for values in told)))


NEAR, OTHER, FAR = (Judgement("", distance, "", "", np.ones(1), distance == 1.2) for distance in (1.0, 1.2, 3.35))


@pytest.mark.parametrize(
    ("judgement", "reached", "middle", "sd"),
    [
        (NEAR, [[0.9, 0.5], [0.57103, 0.33551], [1, 0.66449]], [1, 0], [3, 2]),
        (OTHER, [[0.45, 0.25], [0.12103, 0.08551], [0.77897, 0.41449]], [1, 0], np.sqrt([9.09, 4.09])),
        (FAR, [[0, 0], [0, 0], [0.32897, 0.16449]], [1.5, 0], [4.5, 3]),
    ],
)
def test_correlations_and_errors_to_expect(judgement, reached, middle, sd):
    found, errors = trusted().expected(judgement, np.array([2, -1, 1]))
    np.testing.assert_allclose(found[:, [0, 2]], reached, atol=1e-5)
    np.testing.assert_allclose(errors[MIDDLE, [0, 2]], middle, atol=1e-6)
    np.testing.assert_allclose(errors[0, [0, 2]] - middle, NORMAL_QUANTILES[0] * np.array(sd), rtol=1e-5)
    assert np.isnan(found[:, 1]).all()
    assert np.isnan(errors[:, 1]).all()


def test_correlations_to_expect_lie_between_0_and_1():
    trust = trusted()
    trust.reliability.pcc[:] = [-0.3, 1.2, 0.95]
    found, errors = trust.expected(NEAR, np.arange(3))
    assert np.isfinite(errors).all()
    np.testing.assert_allclose(found, [[0, 1, 0.95], [0, 0.83551, 0.62103], [0.16449, 1, 1]], atol=1e-5)


def test_a_model_without_any_knowledge_expects_nothing_and_gives_no_width():
    reached, errors = Trust().expected(NEAR, np.arange(2))
    assert (reached.shape, errors.shape) == ((3, 2), (21, 2))
    assert np.isnan(reached).all()
    assert np.isnan(errors).all()
    assert Trust().error_width(NEAR, has_spread=True) is None


def test_predictions_are_as_wide_as_errors_and_a_spread_of_their_own_is_scaled_to_that():
    np.testing.assert_allclose(trusted().error_width(FAR, has_spread=False), [1.5, 3, 4.5], rtol=1e-5)
    np.testing.assert_allclose(trusted([0.5, 4, 0]).error_width(FAR, has_spread=True), [3, 0.75, 1.5], rtol=1e-5)


def test_the_spread_that_is_learned_is_the_root_of_its_mean_square():
    trust = trusted()
    told = trust.learn_spread(np.array([[1.0, 0, 3], [7.0, 2, 3]], dtype=np.float32))
    np.testing.assert_allclose(told["held_out_spread"], [5, np.sqrt(2), 3], rtol=1e-6)
    np.testing.assert_array_equal(trust.reliability.spread, told["held_out_spread"])


def test_values_lie_between_the_outer_hundredths_of_what_was_predicted():
    base = Span.learn(np.column_stack([np.arange(101), 2.0 * np.arange(101)]))
    np.testing.assert_allclose(base.ends, [[1, 2], [99, 198]])
    own = Span(np.array([[5, 50, 0], [6, 60, 1]], dtype=np.float32))
    np.testing.assert_array_equal(own.joined(base, np.array([0, 1, -1])).ends, [[1, 2, 0], [99, 198, 1]])
    assert base.ends.shape == (Span.SHAPES["held_out_span_ends"][0], 2)
    inner = Span(np.array([[0, -3, 5], [120, 500, 6]], dtype=np.float32))
    np.testing.assert_array_equal(inner.joined(base, np.array([0, 1, -1])).ends, inner.ends)


def test_its_parts_are_stored_one_by_one():
    of_genes = {name: np.zeros(3) for name in (*Reliability.SHAPES, *Span.SHAPES)}
    again = Trust.stored_in(of_genes | {"weights": np.zeros(2)})
    assert (again.domain, again.texture) == (None, None)
    assert again.arrays().keys() == of_genes.keys() == Trust.shapes_in(of_genes | {"weights": 0}).keys()
    assert Trust.shapes_in({"domain_level": 0, "held_out_span_ends": 0}) == Domain.SHAPES | Span.SHAPES
    assert Trust.shapes_in({}) == Trust().arrays() == {}
    assert Trust.stored_in({}) == Trust()


def test_one_section_that_was_held_out_in_strips_says_nothing_of_the_levels_of_others():
    """Held-out errors of two sections are ± 2: kept as they are; those of one section are widened by how far sections lie apart."""
    told = {
        "expression": np.full((40, 1), 2.0),
        "section": np.repeat([0, 1], 20),
        "between_sections": lambda: np.ones(1),
    }
    predicted = np.tile([[1.0], [3.0]], (20, 1))
    both = Trust().relearned(SimpleNamespace(**told), HeldOut(np.arange(40), predicted))
    first = Trust().relearned(SimpleNamespace(**told), HeldOut(np.arange(20), predicted[:20]))
    alone = told | {"section": np.zeros(40, dtype=int)}
    only = Trust().relearned(SimpleNamespace(**alone), HeldOut(np.arange(20), predicted[:20]))
    for trust, end in ((both, 1), (first, np.sqrt(2)), (only, 1)):
        np.testing.assert_allclose(trust.reliability.errors[[0, -1], 0], [-end, end], rtol=1e-6)
        np.testing.assert_array_equal(trust.span.ends, [[1], [3]])


def test_what_looks_at_nothing_learns_of_errors_alone():
    table = SimpleNamespace(expression=np.full((20, 1), 2.0), section=np.zeros(20))
    learned = Trust.learn([], Sight(), table, HeldOut(np.arange(20), np.tile([[1.0], [3.0]], (10, 1))))
    assert (learned.domain, learned.texture) == (None, None)
    assert learned.reliability is not None


def test_one_section_is_enough_to_learn_where_training_spots_lie():
    rng = np.random.default_rng(0)
    features, nothing, number = rng.standard_normal((30, 4)), np.full((30, 1), 2.0), np.zeros(30, dtype=int)
    table = Table(nothing, nothing, nothing[:, 0], number, number, np.arange(30), rng.random((30, 2)))
    sight = SimpleNamespace(width=4, names=lambda section: [f"{section}:{i}" for i in range(4)])
    sight.of_rows = lambda section, rows: features[rows]
    learned = Trust.learn(["X"], sight, table, HeldOut(np.arange(30), nothing))
    assert learned.domain.places.shape == (30, 4)
    assert learned.texture is None
    np.testing.assert_allclose(learned.reliability.errors, 0)


def test_a_section_that_is_joined_is_known_by_its_spots_and_by_its_texture():
    asked = {}

    def joined(name):
        return SimpleNamespace(joined_by=lambda *told: asked.update({name: told}) or name)

    sight = SimpleNamespace(of_rows=lambda section, rows: rows * 10)
    trust = Trust(joined("domain"), texture=joined("texture"))
    few = trust.joined_by(None, sight, np.array([4, 7]), 3)
    assert (few.domain, few.texture) == ("domain", "texture")
    np.testing.assert_array_equal(asked["domain"][0], [40, 70])
    assert asked["domain"][1] == 3
    assert trust.joined_by(None, sight, np.arange(0), 3) is trust
    assert Trust(joined("domain")).joined_by(None, sight, np.arange(2), 3).texture is None
    assert Trust().joined_by(None, sight, np.arange(2), 3) == Trust()
    trust.joined_by(None, sight, np.arange(251), 3)
    rows = asked["texture"][0]
    assert len(rows) == 250
    assert (np.diff(rows) > 0).all()


def test_how_many_columns_are_seen_and_whether_tiles_are_described_as_then():
    config = {"features": {"X_a": {"n_features": 3}, "X_b": {"n_features": 4}}}
    assert (Sight().width, Sight.of({}).width, Sight.of(config).width) == (0, 0, 7)
    tiles = {"n_features": 5, "encoder_hash": "another"}
    assert Sight.of(config | {"tiles": tiles}).width == 12
    assert Sight.of({"tiles": tiles}).is_outdated
    assert not Sight.of(config).is_outdated
