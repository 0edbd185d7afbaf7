"""Microns per pixel that files state, and how coarse the levels of a pyramid are."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COARSEST_MPP = 20.0
"""µm per pixel; more describes a screen (72 dpi) and not a microscope."""

SQUARE = 0.02
"""Share by which height and width of a pixel may differ."""


def square_mpp(x: float | None, y: float | None, source: str) -> float | None:
    """µm per pixel from those along x and y; None where they are not known.

    Raises ValueError if the pixels are not square.
    """
    if not x or not 0 < x < COARSEST_MPP:
        return None
    if not y or x == y:
        return x
    if not 0 < y < COARSEST_MPP:
        return None
    if abs(x / y - 1) > SQUARE:
        msg = (
            f"{source} has pixels that are not square: {x:.4g} µm wide and {y:.4g} µm high, as it says. Resample it to "
            "square pixels; if it is wrong about one of them, correct its metadata."
        )
        raise ValueError(msg)
    return sqrt(x * y)


UNSEEN = 2.0
"""Pixels of the finest level: less than that across the whole image makes no difference."""


def downsample_of(finest: tuple[int, int], level: tuple[int, int]) -> float | None:
    """How many pixels of the finest level one of `level` is wide and high; both are (height, width).

    The whole number, where sizes that were rounded hide one; else the ratio of the longer sides. The ratio of the heights
    takes its place where no pixel is moved by it. None where nothing fits both directions within a pixel.
    """
    long = int(finest[1] >= finest[0])
    ratio, heights = finest[long] / level[long], finest[0] / level[0]
    for factor in (float(round(ratio)), ratio):
        if factor >= 1 and _fits(finest, level, factor):
            return heights if abs(heights / factor - 1) * max(finest) < UNSEEN else factor
    return None


def _fits(finest: Sequence[int], level: Sequence[int], factor: float) -> bool:
    return all(abs(whole / factor - part) <= 1 for whole, part in zip(finest, level, strict=True))
