"""Texture that is that of training, an octave off, is told; other differences are not."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.models._trust.texture import BANDS, FINEST, FOCUS, NAMES, Texture
from stpredict.pp._encoders.morphology import SCALES

PROFILE = np.array([-2.6, -2.0, -2.1, -2.6, -3.4])
"""Log energies of tissue whose cells are about an octave and a half above the finest."""

OTHERS = ["own:area", "own:glass"]


def features(shift=0.0, stain=0.0, n=200, seed=0, profile=PROFILE):
    """Features (spots, d) of tissue that looks `shift` octaves coarser than it is, and their names; spots vary in stain."""
    rng = np.random.default_rng(seed)
    inner = np.interp(np.arange(-1, SCALES + 1), np.arange(SCALES), profile)
    inner[[0, -1]] = 2 * profile[[0, -1]] - profile[[1, -2]]
    octaves = np.interp(np.arange(SCALES) - shift, np.arange(-1, SCALES + 1), inner)
    octaves[0] += FINEST
    of_spot = rng.normal(0, 0.5, (n, 1)) + stain
    bands = [octaves + of_spot - 0.8 * i + rng.normal(0, 0.1, (n, SCALES)) for i in range(len(BANDS))]
    stains = 0.5 + 0.3 * of_spot + rng.normal(0, 0.02, (n, 3))
    names = [f"X_morphology:{name}" for name in NAMES]
    return np.hstack([rng.normal(size=(n, 2)), *bands, stains]).astype(np.float32), [*OTHERS, *names]


@pytest.fixture(scope="module")
def texture():
    return Texture.learn(*features())


def size(texture, *args, **options):
    return texture.size(features(*args, **options)[0].mean(axis=0))


@pytest.mark.parametrize(("shift", "expected"), [(-1, 0.5), (-0.8, 0.5), (0, 1), (0.2, 1), (-0.2, 1), (0.8, 2), (1, 2)])
def test_tissue_that_is_moved_by_an_octave_looks_half_or_twice_as_large(texture, shift, expected):
    assert size(texture, shift, seed=1) == expected


def test_it_takes_few_spots(texture):
    assert [size(texture, shift, n=5, seed=2) for shift in (-1, 0, 1)] == [0.5, 1, 2]


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_darker_stain_is_no_other_scale_and_does_not_hide_one(texture, shift):
    assert size(texture, 0, stain=0.7, seed=3) == 1
    assert size(texture, shift, stain=0.7, seed=3) == (0.5 if shift < 0 else 2)


@pytest.mark.parametrize(
    "profile",
    [
        PROFILE + np.array([0.6, -0.6, 0.6, -0.6, 0.6]),  # another tissue
        PROFILE - 2.0 * FOCUS,  # a slide out of focus
        PROFILE - 4.0 * FOCUS,
        PROFILE + 1.5 * FOCUS,  # a sharper scanner
    ],
)
def test_other_differences_are_not_taken_for_a_scale(texture, profile):
    assert size(texture, profile=profile, seed=4) == 1


def test_a_section_like_another_one_that_was_measured_has_the_right_scale(texture):
    half = features(-1, seed=5)[0]
    joined = texture.joined_by(half[:30])
    assert joined.means.shape == (2, len(NAMES))
    assert joined.size(half.mean(axis=0)) == 1
    assert size(joined, 0, seed=6) == 1
    assert size(joined, 1, seed=6) == 2


def test_columns_are_found_by_name_and_features_without_them_tell_nothing(texture):
    np.testing.assert_array_equal(texture.columns, np.arange(2, 2 + len(NAMES)))
    seen, names = features()
    assert Texture.learn(seen[:, 1:], names[1:]).columns[0] == 1
    assert Texture.learn(seen[:, :-1], names[:-1]) is None
    assert Texture.learn(seen, [str(i) for i in range(seen.shape[1])]) is None
    wider = [name.replace("X_morphology:", "X_morphology_niche:") for name in names]
    assert Texture.learn(np.hstack([seen, seen]), [*wider, *names]).columns[0] == 2


def test_it_is_stored_as_arrays(texture):
    again = Texture.stored_in(texture.arrays() | {"other": np.zeros(1)})
    assert texture.arrays().keys() == Texture.SHAPES.keys()
    np.testing.assert_array_equal(again.covariance, texture.covariance)
    assert Texture.stored_in({}) is None


def test_features_that_do_not_vary_tell_nothing():
    seen, names = features()
    flat = Texture.learn(np.tile(seen.mean(axis=0), (50, 1)), names)
    assert flat.size(features(-1)[0].mean(axis=0)) == 1


def of_numbers(profile, covariance):
    """Training spots that have this `profile` (5,) in all stains, and darkness 0."""
    mean = np.concatenate([np.tile(profile, 3), np.zeros(3)])
    return Texture(np.arange(18), mean[None].astype(np.float32), np.asarray(covariance, dtype=np.float32))


def looks(texture, away, darker=0.0):
    """The size of tissue whose texture is `away` (5,) from that of training in all stains."""
    return texture.size(
        texture.means[0].astype(float) + np.concatenate([np.tile(away, 3) + darker, np.full(3, darker)])
    )


STEPS = np.array([0.0, 1, 3, 4, 1])
"""A profile with a third more in the finest octave has these steps to its neighbours: 1, 2, 1, -3."""
THIRD = np.array([0.33, 0, 0, 0, 0])


@pytest.mark.parametrize("variance", [0.01, 1, 1000])
def test_texture_moved_by_an_octave_is_told_however_much_spots_vary(variance):
    texture = of_numbers(STEPS + THIRD, variance * np.eye(18))
    assert looks(texture, [1, 2, 1, -3, 0]) == 0.5
    assert looks(texture, [0, -1, -2, -1, 3]) == 2
    assert looks(texture, [0, 0, 0, 0, 0]) == 1


def test_the_third_that_the_finest_octave_has_more_is_no_step():
    texture = of_numbers(THIRD, np.eye(18))
    assert [looks(texture, away) for away in np.eye(5)] == [1] * 5


def test_texture_that_falls_nearly_as_blur_takes_it_is_not_told_from_blur():
    falling = np.cumsum([0, *4.5 ** -np.arange(4.0)])
    texture = of_numbers(falling + THIRD, np.eye(18))
    assert looks(texture, [*4.0 ** -np.arange(4), 0]) == 1  # out of focus, or half as large
    assert looks(texture, [*5.5 ** -np.arange(4), 0]) == 0.5


def test_what_spots_differ_in_together_neither_hides_a_scale_nor_tells_one():
    """All features of a spot rise and fall together: a move is told beside a rise of all by 20, not beside one of 100."""
    texture = of_numbers(STEPS + THIRD, np.ones((18, 18)))
    assert [looks(texture, [1, 2, 1, -3, 0], darker) for darker in (0, 20, 100)] == [0.5, 0.5, 1]
    assert looks(texture, np.zeros(5), 20) == 1


def test_a_feature_that_does_not_vary_does_not_count():
    covariance = np.diag(np.where(np.arange(18) % 5, 1.0, 0))  # among others the finest octaves do not
    assert looks(of_numbers(STEPS + THIRD, covariance), [50, 2, 1, -3, 0]) == 0.5
