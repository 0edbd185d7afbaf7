"""The picture below the spots: whether two show the same, whether spots lie on tissue, labels and tiles of a whole slide."""

from __future__ import annotations

import re
import warnings
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest

from stpredict._core.warning import StpredictWarning
from stpredict._images import SlideImage
from stpredict._sections import labelled, picture
from stpredict._sections.labelled import centres_of_labels
from stpredict._sections.on_tissue import check_on_tissue
from stpredict._sections.picture import _resized, check_same_picture
from stpredict._sections.wsidata import of_same_slide, tile_spec, tiles_at, whole_slide_of

SIDE = 128
NOISE = np.random.default_rng(0).standard_normal((4, SIDE, SIDE))
FLIPS = {
    "turned by 180°": np.s_[::-1, ::-1],
    "mirrored from left to right": np.s_[:, ::-1],
    "mirrored from top to bottom": np.s_[::-1],
}


def grey(values, sd=30.0):
    """A picture in colour with this brightness, in standard deviations."""
    values = values / values.std()
    return np.clip(np.rint(150 + sd * values), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def outcome(full, small, *, levels=1, source="slide.tif"):
    """What is said of a full-resolution image beside a small one."""
    image = SlideImage([full[:: 2**i, :: 2**i] for i in range(levels)], source=source)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            check_same_picture(image, small, "s", "hires")
        except ValueError as error:
            return f"refused: {error}"
    return f"told: {told[0].message}" if told else "fine"


def like(correlation):
    """A picture whose brightness correlates with the first one as given."""
    one, other = NOISE[0], NOISE[1]
    other = other - (one * other).mean() / (one * one).mean() * one
    return grey(correlation * one / one.std() + np.sqrt(1 - correlation**2) * other / other.std())


@pytest.mark.parametrize(
    ("correlation", "said"),
    [(0.82, "fine"), (0.78, "told"), (0.33, "told"), (0.27, "refused"), (-0.9, "refused")],
)
def test_pictures_of_one_slide_and_of_two(correlation, said):
    assert outcome(grey(NOISE[0]), like(correlation)).startswith(said)


@pytest.mark.parametrize("how", FLIPS)
def test_a_turned_or_mirrored_picture_is_refused_by_what_was_done(how):
    assert f"is {how} beside the hires image (correlation 1.00" in outcome(grey(NOISE[0][FLIPS[how]]), grey(NOISE[0]))


@pytest.mark.parametrize(
    ("own", "turned", "said"),
    [(0.6, 0.83, "refused"), (0.7, 0.83, "refused"), (0.75, 0.83, "told"), (0.5, 0.78, "told"), (0.85, 0.95, "fine")],
)
def test_of_a_picture_that_hardly_changes_when_turned(own, turned, said):
    """Symmetric but for a little; it counts as turned where it is alike, and more than 0.1 more than as it lies."""
    even, odd, far = NOISE[0] + NOISE[0][::-1], NOISE[1] - NOISE[1][::-1], NOISE[2]
    for pattern in (even, odd, far):
        pattern /= pattern.std()
    length = 2 / (own + turned)
    part = np.sqrt((turned - own) / (turned + own))
    rest = np.sqrt(max((length / (1 + part**2)) * length - 1 - part**2, 0))
    assert outcome(grey(even + part * odd), grey(even - part * odd + rest * far)).startswith(said)


@pytest.mark.parametrize(("sd", "said"), [(1.9, "fine"), (2.2, "refused")])
def test_flat_pictures_show_nothing(sd, said):
    assert outcome(grey(NOISE[0], sd), grey(NOISE[1])).startswith(said)
    assert outcome(grey(NOISE[1]), grey(NOISE[0], sd)).startswith(said)


@pytest.mark.parametrize(("columns", "said"), [(8, "fine"), (9, "refused")])
def test_a_twentieth_of_the_picture_must_be_shown(columns, said):
    """Of 128 columns, 2 less than those that are not black."""
    small = grey(NOISE[1])
    small[:, columns:] = 0
    assert outcome(grey(NOISE[0]), small).startswith(said)


def test_large_images_are_compared_by_their_coarsest_level(monkeypatch):
    full, other = grey(np.random.default_rng(1).standard_normal((256, 256))), grey(NOISE[0])
    monkeypatch.setattr(picture, "MOST_PIXELS", 128 * 128)
    assert outcome(full, other, levels=2).startswith("refused")
    assert outcome(full, other) == "fine"
    monkeypatch.setattr(picture, "MOST_PIXELS", 128 * 128 - 1)
    assert outcome(full, other, levels=2) == "fine"
    monkeypatch.undo()
    assert outcome(full, other, source="slide.PNG") == "fine"


@pytest.mark.parametrize("kind", ["8 bit", "with alpha", "fractions", "without colours"])
def test_brightness_of_a_small_picture(kind):
    small = grey(NOISE[0], 20)
    expected = small[..., 0].astype(float)
    given = {
        "8 bit": small,
        "with alpha": np.dstack([small, np.full((SIDE, SIDE), 255, np.uint8)]),
        "fractions": small / 255,
        "without colours": small[..., 0],
    }[kind]
    bright, shown = _resized(given, (SIDE, SIDE))
    np.testing.assert_allclose(bright, expected, rtol=1e-5)
    assert shown.all()
    assert _resized(np.ones((4, 4)), (4, 4))[0].tolist() == [[255.0] * 4] * 4


def test_what_is_black_and_two_pixels_beside_it_is_not_shown():
    values = np.full((20, 20), 41.0)
    values[:, 10:] = 40
    _, shown = _resized(values, (20, 20))
    np.testing.assert_array_equal(shown, np.broadcast_to(np.arange(20) < 8, (20, 20)))


# ---------------------------------------------------------------------- spots on tissue


def said_of_spots(on, off, *, mirrored=0, flags=None):
    """`on` spots of 10 px on tissue, `off` beside it, of which `mirrored` would lie on it if mirrored from left to right."""
    mask = np.zeros((100, 100), bool)
    mask[50:, 60:] = True
    places = [(80, 80)] * on + [(20, 80)] * mirrored + [(50, 20)] * (off - mirrored)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_on_tissue(mask, np.array(places, float).reshape(-1, 2), 10.0, "s", flags)
    return str(told[0].message) if told else ""


@pytest.mark.parametrize(
    ("on", "off", "mirrored", "flagged", "said"),
    [
        (12, 8, 0, True, ""),
        (11, 9, 0, True, "only 55% of 20 spots .* Is the image of another section"),
        (11, 9, 0, False, ""),
        (6, 14, 0, False, ""),
        (5, 15, 0, False, "only 25% of 20 spots .* Is the image of another section"),
        (0, 19, 0, False, ""),
        (2, 18, 18, False, r"With the image mirrored from left to right 90% would"),
        (3, 17, 17, True, "Is the image of another section"),
    ],
)
def test_spots_on_tissue(on, off, mirrored, flagged, said):
    flags = np.arange(on + off) >= 0 if flagged else None
    told = said_of_spots(on, off, mirrored=mirrored, flags=flags)
    assert re.search(said, told) if said else not told


@pytest.mark.parametrize("how", FLIPS)
def test_which_way_the_image_would_fit(how):
    mask = np.zeros((100, 100), bool)
    mask[60:, 60:] = True
    spot = np.argwhere(mask[FLIPS[how]])[820][::-1]
    with pytest.warns(StpredictWarning, match=f"With the image {how} 100% would"):
        check_on_tissue(mask, np.array([spot] * 20, float), 10.0, "s", None)


def test_only_flagged_spots_are_looked_at_and_a_tenth_of_tissue_is_enough():
    assert not said_of_spots(20, 10, flags=np.arange(30) < 20)
    assert not said_of_spots(10, 19, flags=np.arange(29) >= 10)
    for rows, told in ((2, False), (1, True)):  # 2 or 1 of the 10 rows of a window
        mask = np.zeros((20, 20), bool)
        mask[5 : 5 + rows] = True
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_on_tissue(mask, np.full((20, 2), 10.0), 10.0, "s", None)
            check_on_tissue(mask & False, np.full((20, 2), 10.0), 10.0, "s", None)
        assert len(caught) == told


# ---------------------------------------------------------------------- labels, and tiles of a whole slide


def test_centres_of_labels_over_blocks(monkeypatch):
    monkeypatch.setattr(labelled, "BLOCK", 3)
    numbers = np.zeros((5, 7), np.uint16)
    numbers[0, :2] = 2  # in the first block
    numbers[1:5, 6] = 9  # over two blocks, in a column of its own
    level = SimpleNamespace(data=numbers)
    centres = centres_of_labels(level, "cells")
    assert centres.index.tolist() == [2, 9]
    np.testing.assert_allclose(centres, [[1, 0.5], [6.5, 3]])
    numbers[:] = 0
    assert centres_of_labels(level, "cells").empty  # an array without a name is read again
    named = SimpleNamespace(data=da.from_array(numbers + 1))
    found = centres_of_labels(named, "cells")
    assert centres_of_labels(named, "cells") is found
    assert centres_of_labels(SimpleNamespace(data=da.from_array(numbers + 4)), "cells").index.tolist() == [4]
    assert len(labelled._found) == 1
    monkeypatch.setattr(labelled, "LARGEST", 9)
    for numbers, fine in (([[8]], True), ([[9]], False), ([[-1, 2]], False)):
        level = SimpleNamespace(data=np.array(numbers))
        if fine:
            assert centres_of_labels(level, "cells").index.tolist() == [8]
        else:
            with pytest.raises(ValueError, match="Labels 'cells' have numbers outside of 1"):
                centres_of_labels(level, "cells")


def test_tiles_lie_around_their_centres():
    tiles = tiles_at(np.array([[200.0, 300], [500.4, 300.6]]), 0.5)
    assert tiles[["tile_id", "x", "y", "tissue_id"]].to_numpy().tolist() == [[0, 88, 188, -1], [1, 388, 189, -1]]
    assert tiles.bounds.to_numpy().tolist() == [[88, 188, 312, 412], [388, 189, 612, 413]]
    spec = tile_spec(0.5, 100.0)
    assert spec == {"height": 224, "width": 224, "stride_height": 200, "stride_width": 200, "mpp": 0.5}


def test_the_slide_of_a_wsidata():
    def slide(**reader):
        return whole_slide_of(SimpleNamespace(reader=SimpleNamespace(**reader)))

    assert slide(file="a.svs", properties=SimpleNamespace(mpp="0.5")) == ("a.svs", 0.5)
    assert slide(file="a.svs", properties=SimpleNamespace(mpp=None)) == ("a.svs", None)
    assert slide(properties=SimpleNamespace(mpp=1)) is None
    other = SimpleNamespace(reader=None)
    assert whole_slide_of(other) is whole_slide_of(object()) is None
    assert of_same_slide(other, other) is other
