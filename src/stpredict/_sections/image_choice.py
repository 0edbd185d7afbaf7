"""Which image of a SpatialData is the H&E of some spots."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stpredict._images.colour import Colours, named_channels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spatialdata import SpatialData

NUMBERED = re.compile(r"(channel|ch|c)?[ :_-]*\d+", re.IGNORECASE)
"""Channels that nobody named."""

SMALL_COPY = re.compile(r"hires|lowres", re.IGNORECASE)
"""Space Ranger's small copies of the full-resolution image, as readers name them."""

NO_STAIN = re.compile(r"cytassist|label|macro|thumbnail|overview", re.IGNORECASE)
"""Other pictures of the slide, which stand beside the H&E."""

SAME_EXTENT = 0.02
"""Share of the image by which the corners of a copy may lie apart."""


class Candidate(NamedTuple):
    """An image that may be the H&E of a region."""

    key: str
    affine: np.ndarray
    """3 × 3, from the region's coordinates to the image's pixels."""
    size: tuple[int, int]
    """Width and height, pixels."""

    @property
    def fineness(self) -> float:
        """Pixels per unit area of the region's coordinates."""
        return abs(float(np.linalg.det(self.affine[:2, :2])))

    def share_of(self, points: np.ndarray) -> float:
        """Share of points (n, 2), in the region's coordinates, that lie on the image."""
        places = points @ self.affine[:2, :2].T + self.affine[:2, 2]
        return float(((places >= 0) & (places < self.size)).all(axis=1).mean()) if len(points) else 1.0

    def corners(self) -> np.ndarray:
        """First and last of the image, (2, 2), in the region's coordinates."""
        ends = np.array([(0, 0), self.size]) - self.affine[:2, 2]
        corners: np.ndarray = ends @ np.linalg.inv(self.affine[:2, :2]).T
        return corners


def levels_of(image: Any) -> list[Any]:
    """DataArrays (c, y, x) of an image, finest first."""
    if not hasattr(image, "children"):
        return [image]
    levels = [next(iter(scale.data_vars.values())) for scale in image.children.values()]
    return sorted(levels, key=lambda level: -level.sizes["y"])


def colours_of(image: Any) -> Colours | None:
    """Where the colours of an image lie: by the names of its channels, else three or four that nobody named."""
    level = levels_of(image)[0]
    names = _channel_names(level)
    if (where := named_channels(names)) is not None:
        return Colours(channels=where[:3], alpha=where[3] if len(where) == 4 else None)
    if len(names) not in (3, 4) or not all(NUMBERED.fullmatch(name) for name in names):
        return None
    return Colours(alpha=3 if len(names) == 4 else None)


def checked_colours(sdata: SpatialData, key: str) -> Colours:
    """Where the colours of an image lie that the user chose. Raises ValueError if it has none."""
    colours = colours_of(sdata.images[key])
    if colours is None:
        msg = (
            f"Image {_described(sdata, key)} is no H&E image: it should have three channels, called r, g and b. Choose "
            "another image_key=; if the channels are the colours, name them: sdata.set_channel_names(image, ['r', 'g', 'b'])."
        )
        raise ValueError(msg)
    return colours


def in_colour(sdata: SpatialData, keys: Iterable[str]) -> list[str]:
    """Those of some images that can be H&E: named r, g, b or 8-bit; where there are none, three unnamed channels."""
    coloured = [key for key in keys if colours_of(sdata.images[key]) is not None]
    coloured = [key for key in coloured if not NO_STAIN.search(key)] or coloured
    sure = [key for key in coloured if _is_sure(levels_of(sdata.images[key])[0])]
    return sure or coloured


def choose(sdata: SpatialData, region: str, candidates: Sequence[Candidate], points: np.ndarray) -> Candidate | None:
    """The image on which the spots (`points`, in the region's coordinates) lie; small copies of it do not count.

    Raises ValueError if it may be either of several.
    """
    below = [c for c in candidates if c.share_of(points) > 0.5] or list(candidates)
    below = [c for c in below if not any(_is_copy(c, other) for other in below)]
    if len(below) > 1:
        told = ", ".join(_described(sdata, c.key) for c in below)
        msg = (
            f"Region {region!r} lies on {len(below)} images that may be the H&E: {told}. Pass image_key= to choose one."
        )
        raise ValueError(msg)
    return below[0] if below else None


def _is_copy(image: Candidate, other: Candidate) -> bool:
    """Whether `image` is a small copy of a finer one."""
    if not SMALL_COPY.search(image.key) or image.fineness >= other.fineness:
        return False
    apart = np.abs(image.corners() - other.corners()).max()
    return bool(apart <= SAME_EXTENT * np.ptp(other.corners(), axis=0).max())


def _is_sure(level: Any) -> bool:
    return named_channels(_channel_names(level)) is not None or (level.sizes["c"] == 3 and level.dtype == np.uint8)


def _channel_names(level: Any) -> list[str]:
    names = level.coords["c"].values if "c" in level.coords else range(level.sizes["c"])
    return [str(name) for name in names]


def _described(sdata: SpatialData, key: str) -> str:
    level = levels_of(sdata.images[key])[0]
    names = _channel_names(level)
    told = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{key!r} ({level.sizes['x']} × {level.sizes['y']} px, {level.dtype}, channels {told})"
