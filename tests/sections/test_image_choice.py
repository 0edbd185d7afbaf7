"""Which image is the H&E: what counts as a small copy of another one, and where an image lies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stpredict._sections.image_choice import Candidate, choose, colours_of, in_colour, levels_of

POINTS = np.array([[20.0, 30.0], [200.0, 40.0]])


def candidate(key, *, times=1.0, at=(0.0, 0.0), size=(240, 160)):
    """An image with so many pixels per unit, whose first pixel lies `at` a place."""
    affine = np.array([[times, 0, -times * at[0]], [0, times, -times * at[1]], [0, 0, 1]])
    return Candidate(key, affine, size)


class Image:
    """As much of an image of a SpatialData as is looked at."""

    def __init__(self, names=("r", "g", "b"), dtype=np.uint8):
        self.sizes = {"c": len(names), "y": 160, "x": 240}
        self.dtype = np.dtype(dtype)
        self.coords = {"c": SimpleNamespace(values=list(names))}


def sdata(*keys, **images):
    return SimpleNamespace(images={key: Image() for key in keys} | images)


def test_corners_are_those_of_the_image_in_the_coordinates_of_the_spots():
    turned = Candidate(
        "a", np.array([[0, -2.0, 400], [2, 0, -30], [0, 0, 1]]), (240, 160)
    )  # x' = 400 - 2 y, y' = 2 x - 30
    np.testing.assert_allclose(turned.corners(), [[15, 200], [95, 80]])
    assert turned.fineness == pytest.approx(4)


def test_the_share_of_spots_on_an_image_counts_its_first_pixel_and_not_the_one_behind_its_last():
    points = np.array([[0, 0], [239.9, 159.9], [240, 10], [10, 160], [-0.1, 10], [10, -0.1]])
    assert candidate("a").share_of(points) == pytest.approx(2 / 6)
    assert candidate("a", at=(-0.1, 0)).share_of(points) == pytest.approx(2 / 6)
    assert candidate("a").share_of(points[:0]) == 1


@pytest.mark.parametrize(
    ("copy", "is_copy"),
    [
        (candidate("s_hires", times=0.25, size=(60, 40)), True),
        (candidate("s_lowres", times=0.25, size=(59, 39)), True),  # rounded down: 4 units of 240
        (candidate("s_hires", times=0.25, size=(58, 40)), False),  # 8 of 240 are more than 2 %
        (candidate("s_hires", times=0.25, size=(60, 40), at=(4, 0)), True),
        (candidate("s_hires", times=0.25, size=(60, 40), at=(0, 6)), False),
        (candidate("s_hires", times=0.25, size=(120, 80)), False),  # of a larger field
        (candidate("s_other", times=0.25, size=(60, 40)), False),  # by no name of a copy
        (candidate("s_hires"), False),  # as fine
    ],
)
def test_a_small_copy_has_its_name_is_coarser_and_shows_the_same_field(copy, is_copy):
    full = candidate("s_full")
    if is_copy:
        assert choose(sdata(copy.key, "s_full"), "spots", [copy, full], POINTS) is full
    else:
        with pytest.raises(ValueError, match=r"lies on 2 images that may be the H&E: .* Pass image_key="):
            choose(sdata(copy.key, "s_full"), "spots", [copy, full], POINTS)


def test_the_image_under_more_than_half_of_the_spots_is_chosen():
    under, half = candidate("under"), candidate("half", at=(100, 0))
    assert choose(sdata("under", "half"), "spots", [half, under], POINTS) is under
    assert choose(sdata(), "spots", [half], POINTS[:1]) is half  # the only one, although beside it
    assert choose(sdata(), "spots", [], POINTS) is None


@pytest.mark.parametrize(
    ("names", "channels", "alpha"),
    [
        (("r", "g", "b"), (0, 1, 2), None),
        (("a", "b", "g", "r"), (3, 2, 1), 0),
        (("0", "1", "2"), (0, 1, 2), None),
        (("c0", "c1", "c2", "c3"), (0, 1, 2), 3),
    ],
)
def test_colours_lie_where_names_of_channels_say(names, channels, alpha):
    found = colours_of(Image(names))
    assert (tuple(found.channels), found.alpha) == (channels, alpha)


@pytest.mark.parametrize("names", [("0",), ("0", "1"), tuple("01234"), ("DAPI", "CD3", "CD8"), ("0", "1", "DAPI")])
def test_other_channels_are_no_colours(names):
    assert colours_of(Image(names)) is None


def test_images_in_colour_are_those_of_the_stain_and_sure_ones_before_others():
    unnamed = Image(("0", "1", "2"), np.uint16)
    found = sdata("cytassist_image", a=Image(), b=unnamed, c=Image(("0", "1", "2")), d=Image(("DAPI", "CD3", "CD8")))
    assert in_colour(found, found.images) == ["a", "c"]
    assert in_colour(found, ["b", "d", "cytassist_image"]) == ["b"]
    assert in_colour(found, ["cytassist_image"]) == ["cytassist_image"]
    four = sdata(rgba=Image(("r", "g", "b", "a"), np.uint16), four=Image(("0", "1", "2", "3")))
    assert in_colour(four, four.images) == ["rgba"]


def test_levels_come_finest_first():
    small = Image()
    small.sizes = {"c": 3, "y": 40, "x": 60}
    pyramid = SimpleNamespace(
        children={name: SimpleNamespace(data_vars={"image": level}) for name, level in (("1", small), ("0", Image()))}
    )
    assert [level.sizes["y"] for level in levels_of(pyramid)] == [160, 40]
