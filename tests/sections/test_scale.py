"""The scale of a section: spots whose distance is known, factors from both sides of what is told and what is refused."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from stpredict._sections.niches import Niche
from stpredict._sections.scale import (
    Lattice,
    ScaleHints,
    check_coordinates,
    check_full_resolution,
    check_image_file,
    check_inside,
    find_lattice,
    lattice_mpp,
    resolve_mpp,
)
from stpredict._sections.wsidata import tile_side

HEXAGONAL, SQUARE, IRREGULAR = (Lattice(50.0, kind) for kind in ("hexagonal", "square", "irregular"))


def grid(n, across, down, shift=0.0):
    row, column = np.divmod(np.arange(n * n), n)
    return np.column_stack([across * column + shift * (row % 2), down * row])


# ---------------------------------------------------------------------- the lattice


@pytest.mark.parametrize(
    ("centres", "pitch", "kind"),
    [
        (grid(6, 50, 50), 50, "square"),
        (grid(6, 0.5, 0.5), 0.5, "square"),
        (grid(6, 50, 50 * 0.75**0.5, 25), 50, "hexagonal"),
        (grid(6, 10, 12), 11, "square"),  # every distance is 9 % off the mean
        (grid(6, 10, 12.4), 11.2, "irregular"),  # 11 %
        (grid(6, 10, 13), 10, "irregular"),  # rows are too far apart to be neighbours: two each
        (np.array([[0.0, 0], [10, 0], [0, 11]]), 10.5, "irregular"),  # 10 and 11, each from both ends
        (grid(6, 50, 50) + np.random.default_rng(0).normal(0, 1, (36, 2)), pytest.approx(50, abs=0.5), "square"),
    ],
)
def test_distance_and_kind_of_spots(centres, pitch, kind):
    lattice = find_lattice(centres)
    assert (lattice.pitch_px, lattice.kind) == (pytest.approx(pitch), kind)


@pytest.mark.parametrize("centres", [grid(2, 10, 10)[:2], np.zeros((5, 2))])
def test_two_spots_and_spots_at_one_place_have_no_distance(centres):
    assert find_lattice(centres) is None


@pytest.mark.parametrize(("n", "pitch"), [(19_998, 11), (20_000, 10)])
def test_of_many_spots_every_second_one_is_asked_for_its_neighbours(n, pitch):
    """Spots 10 and 12 apart take turns in the table."""
    number, wide = np.divmod(np.arange(n), 2)
    centres = np.column_stack([number * (10.0 + 2 * wide), wide * 1e6])
    assert find_lattice(centres).pitch_px == pytest.approx(pitch)


def test_eight_neighbours_are_looked_at():
    """Spots 10 apart, and ten at one place elsewhere."""
    clump = np.column_stack([1e4 + 1e-6 * np.arange(10.0), np.zeros(10)])
    lattice = find_lattice(np.concatenate([grid(6, 10, 10), clump]))
    assert lattice.pitch_px == pytest.approx(120 * 10 / (120 + 80), abs=1e-3)  # 60 pairs, seen from both ends


@pytest.mark.parametrize(
    ("hints", "lattice", "mpp"),
    [
        ({}, HEXAGONAL, 2.0),
        ({}, SQUARE, None),
        ({"pitch_um": 200.0}, SQUARE, 4.0),
        ({"pitch_um": 200.0}, HEXAGONAL, 4.0),
        ({"pitch_um": 200.0}, IRREGULAR, None),
        ({"pitch_um": 200.0}, None, None),
    ],
)
def test_scale_by_the_lattice(hints, lattice, mpp):
    assert lattice_mpp(ScaleHints(**hints), lattice) == mpp


# ---------------------------------------------------------------------- which source counts


def test_sources_in_their_order():
    every = {
        "argument": 1.9,
        "remembered": (1.91, "argument of before"),
        "metadata": 1.92,
        "cells": (1.93, "cells"),
        "image_file": 1.94,
    }
    names = ["argument", "argument of before", "scalefactors['microns_per_pixel']", "cells", "image file"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for (key, value), name in zip(list(every.items()), names, strict=True):
            mpp = value if isinstance(value, float) else value[0]
            assert resolve_mpp(ScaleHints(**every), IRREGULAR, "s") == (mpp, name)
            del every[key]
        assert resolve_mpp(ScaleHints(), HEXAGONAL, "s") == (2.0, "spot lattice")


@pytest.mark.parametrize(("lattice", "can"), [(SQUARE, True), (IRREGULAR, False), (None, False)])
def test_an_unknown_scale_is_refused_with_what_can_be_said(lattice, can):
    with pytest.raises(ValueError, match="unknown") as error:
        resolve_mpp(ScaleHints(), lattice, "s")
    assert ("how far apart the spots lie" in str(error.value)) == can


@pytest.mark.parametrize("mpp", [0.05, 20.0, 0.049, 20.1, np.nan])
def test_implausible_scales_are_refused(mpp):
    if mpp in (0.05, 20.0):
        assert resolve_mpp(ScaleHints(argument=mpp), None, "s") == (mpp, "argument")
    else:
        with pytest.raises(ValueError, match=r"outside of 0\.05–20"):
            resolve_mpp(ScaleHints(argument=mpp), None, "s")


@pytest.mark.parametrize(
    ("mpp", "outcome"),
    [
        (2.09, "as it is"),
        (1.91, "as it is"),
        (2.11, "told"),
        (1.89, "told"),
        (2.49, "told"),
        (1.61, "told"),
        (2.51, "refused"),
        (1.59, "refused"),
    ],
)
def test_scale_against_lattice(mpp, outcome):
    """5 % apart are told, 25 % apart refused; of image file and lattice the lattice counts."""
    if outcome == "refused":
        with pytest.raises(ValueError, match=r"but the spots lie 50\.0 px apart, which is 2 µm per pixel"):
            resolve_mpp(ScaleHints(argument=mpp), HEXAGONAL, "s")
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert resolve_mpp(ScaleHints(argument=mpp), HEXAGONAL, "s") == (mpp, "argument")
        expected = (2.0, "spot lattice") if outcome == "told" else (mpp, "image file")
        assert resolve_mpp(ScaleHints(image_file=mpp), HEXAGONAL, "s") == expected
    assert len(told) == (2 if outcome == "told" else 0)


@pytest.mark.parametrize(
    ("mpp", "source", "outcome"),
    [
        (2.09, "scalefactors", "as it is"),
        (1.91, "scalefactors", "as it is"),
        (2.11, "scalefactors", "told"),
        (1.89, "scalefactors", "told"),
        (2.49, "scalefactors", "told"),
        (1.61, "scalefactors", "told"),
        (2.51, "scalefactors", "refused"),
        (1.59, "scalefactors", "refused"),
        (9.0, "argument", "told"),
    ],
)
def test_scale_against_image_file(mpp, source, outcome):
    """Where no lattice tells; a scale that was passed is never refused."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_image_file(ScaleHints(), HEXAGONAL, mpp, source, 2.0, "s")
        assert not told
        if outcome == "refused":
            with pytest.raises(ValueError, match="Pass mpp= where you know"):
                check_image_file(ScaleHints(), IRREGULAR, mpp, source, 2.0, "s")
        else:
            check_image_file(ScaleHints(), IRREGULAR, mpp, source, 2.0, "s")
    assert len(told) == (outcome == "told")


# ---------------------------------------------------------------------- coordinates of another image


@pytest.mark.parametrize(("diameter", "fits"), [(62.0, True), (63.0, False), (18.0, True), (17.0, False)])
def test_distance_of_spots_against_their_diameter(diameter, fits):
    """50 px apart: no less than 0.8 diameters and no more than 2.8."""
    hints = ScaleHints(spot_diameter_px=diameter)
    for lattice in (None, IRREGULAR):
        check_coordinates(hints, lattice, "s")
    check_coordinates(ScaleHints(), SQUARE, "s")
    check_coordinates(ScaleHints(spot_diameter_px=0.0), SQUARE, "s")
    if fits:
        check_coordinates(hints, SQUARE, "s")
    else:
        with pytest.raises(ValueError, match=r"spots lie 50\.0 px apart but spot_diameter_fullres is"):
            check_coordinates(hints, SQUARE, "s")


@pytest.mark.parametrize(("argument", "confirmed"), [(2.09, True), (1.91, True), (2.11, False), (1.89, False)])
def test_a_diameter_is_wrong_where_lattice_and_argument_agree(argument, confirmed):
    hints = ScaleHints(argument=argument, spot_diameter_px=5.0)
    if confirmed:
        check_coordinates(hints, HEXAGONAL, "s")
    else:
        with pytest.raises(ValueError, match="spot_diameter_fullres"):
            check_coordinates(hints, HEXAGONAL, "s")
    for unsure in (hints, ScaleHints(metadata=2.0, spot_diameter_px=5.0)):
        with pytest.raises(ValueError, match="spot_diameter_fullres"):
            check_coordinates(unsure, SQUARE if unsure is hints else HEXAGONAL, "s")


@pytest.mark.parametrize(
    ("scale", "by_scale", "by_diameter"),
    [
        (0.15, False, False),
        (0.17, True, False),
        (0.19, True, True),
        (0.24, True, True),
        (0.26, False, True),
        (0.6, False, True),
        (0.65, False, False),
    ],
)
def test_which_downscaled_image_the_coordinates_may_be_of(scale, by_scale, by_diameter):
    """0.4 µm per pixel where 2 are seen is a factor of 0.2 ± a quarter; half a diameter apart is 0.5 / 2.8 to 0.5 / 0.8."""
    factors = {"scalefactors": {"regist_scalef": scale, "tissue_hires_scalef": scale}}
    with pytest.raises(ValueError, match="px apart") as error:
        resolve_mpp(ScaleHints(argument=0.4, **factors), HEXAGONAL, "s")
    assert ("Divide obsm['spatial'] by tissue_hires_scalef" in str(error.value)) == by_scale
    with pytest.raises(ValueError, match="px apart") as error:
        check_coordinates(ScaleHints(spot_diameter_px=100.0, **factors), SQUARE, "s")
    assert ("Divide obsm['spatial'] by tissue_hires_scalef" in str(error.value)) == by_diameter


@pytest.mark.parametrize(("scale", "is_small"), [(0.94, True), (0.96, False)])
def test_an_image_that_is_hardly_smaller_explains_nothing(scale, is_small):
    hints = ScaleHints(argument=1.58, scalefactors={"tissue_hires_scalef": scale})
    with pytest.raises(ValueError, match="px apart") as error:
        resolve_mpp(hints, HEXAGONAL, "s")
    assert ("Divide" in str(error.value)) == is_small


# ---------------------------------------------------------------------- spots on the image


@pytest.mark.parametrize(
    ("off", "told"),
    [
        ([10, 4], r"spots reach \(10, 4\)"),
        ([0, 5], r"spots reach \(0, 5\)"),
        ([-1, 0], "some are negative"),
        ([4, 9], r"With x and y exchanged they fit"),
        ([0, 6], r"With x and y exchanged they fit"),
        ([5, 9], r"\(5, 9\)\)\. Multiplied by tissue_hires_scalef=0\.5 they would fit"),
        ([19, 9], r"\(19, 9\)\)\. Multiplied by tissue_hires_scalef=0\.5 they would fit"),
        ([20, 9], r"\(20, 9\)\)\. If these few"),
        ([-1, 6], r"\(0, 6\)\)\. If these few"),
    ],
)
def test_spots_beside_an_image_of_10_by_5_pixels(off, told):
    factors = {"tissue_lowres_scalef": 0.0, "tissue_hires_scalef": 0.5, "regist_scalef": 0.1}
    centres = np.array([[0.0, 0]] * 20 + [off])
    with pytest.raises(ValueError, match="1 of 21 spot centres lie outside the image of 10 × 5 px .*" + told):
        check_inside(centres, (5, 10), "s", ScaleHints(scalefactors=factors))


@pytest.mark.parametrize(("n", "are_few"), [(21, True), (20, False)])
def test_less_than_a_twentieth_may_be_strays(n, are_few):
    with pytest.raises(ValueError, match="outside") as error:
        check_inside(np.array([[0.0, 0]] * (n - 1) + [[99, 99]]), (5, 10), "s", ScaleHints())
    assert ("strays" in str(error.value)) == are_few


@pytest.mark.parametrize("key", ["hires", "lowres"])
@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((1000, 2000), None),
        ((951, 2099), None),
        ((1049, 1901), None),
        ((949, 2000), "this is another one"),
        ((1051, 2000), "this is another one"),
        ((1000, 1899), "this is another one"),
        ((1000, 2101), "this is another one"),
        ((100, 200), "this is the {} one"),
    ],
)
def test_an_image_is_about_as_large_as_its_small_copies_say(key, shape, told):
    """Within 5 % on both sides."""
    image = SimpleNamespace(shape=shape, source="slide.tif")
    small = {key: np.zeros((100, 200, 3), np.uint8)}
    if told is None:
        check_full_resolution(image, small, {f"tissue_{key}_scalef": 0.1}, "s")
    else:
        with pytest.raises(ValueError, match=told.format(key)):
            check_full_resolution(image, small, {f"tissue_{key}_scalef": 0.1}, "s")
    for images, factors in (({}, {f"tissue_{key}_scalef": 0.1}), (small, {}), (small, {f"tissue_{key}_scalef": 0.0})):
        check_full_resolution(image, images, factors, "s")


def test_windows_are_224_pixels_at_half_a_micron_and_niches_five_windows_wide():
    assert tile_side(0.5) == 224
    assert Niche().um * 2 == 5 * 224
