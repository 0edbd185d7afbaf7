"""Sections of too few spots, and spots at the border of the image."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict._sections.open import Where, open_all
from stpredict._sections.scale import ScaleHints, check_inside


@pytest.mark.parametrize("n", [0, 1, 2])
def test_sections_of_too_few_spots_are_refused_by_name(paired, n):
    few, fine = paired(2)
    few = few[:n].copy()
    if n < 2:
        with pytest.raises(ValueError, match=f"'section0' has {'only 1' if n else 'no'} spot"):
            open_all([fine, few], Where())
    assert [len(section) for section in open_all([fine, few], Where(), least_spots=n)] == [81, n]


def test_the_image_reaches_from_its_first_pixel_to_its_last(paired):
    check_inside(np.array([[0.0, 0], [9.9, 4.9]]), (5, 10), "A", ScaleHints())
    for off in ([-0.1, 0], [0, -0.1], [10, 0], [0, 5]):
        with pytest.raises(ValueError, match="1 of 2 spot centres lie outside the image of 10 × 5 px"):
            check_inside(np.array([[0.5, 0.5], off]), (5, 10), "A", ScaleHints())
