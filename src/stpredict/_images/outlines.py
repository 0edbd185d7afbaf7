"""Tissue as a user gives it: a mask of the whole slide, or outlines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    Tissue: TypeAlias = float | np.ndarray | Sequence[Any] | Any

SAME_ASPECT = 0.02
"""Relative difference of the aspects of mask and slide that is still the same, beside rounding."""

BEYOND = 0.05
"""How far an outline may reach beyond the slide, as a share of its longer side."""


def given_mask(tissue: Any, slide: tuple[int, int], shape: tuple[int, int], scale: float) -> np.ndarray:
    """Boolean mask of `shape` from what a user passed for a slide of `slide` pixels (height, width).

    Parameters
    ----------
    tissue
        Boolean mask of the whole slide, or outlines: polygons of shapely, (n, 2) arrays, or a GeoDataFrame.
    slide, shape
        Height and width of the slide and of the mask to make.
    scale
        Pixels of the slide per unit of the outlines.

    Raises
    ------
    TypeError, ValueError
        If it is neither, has another aspect than the slide, lies beside it, or is empty.
    """
    if isinstance(tissue, np.ndarray) and (tissue.dtype == bool or (tissue.ndim == 2 and tissue.shape[1] != 2)):
        mask = _resized(tissue, slide, shape)
    else:
        mask = _drawn(_rings(tissue), slide, shape, scale)
    if not mask.any():
        msg = "tissue= holds no tissue on this slide: the mask is False everywhere, or the outlines enclose nothing."
        raise ValueError(msg)
    return mask


def _resized(mask: np.ndarray, slide: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    if mask.dtype != bool or mask.ndim != 2 or not mask.size:
        msg = (
            f"A mask as tissue= is boolean (height, width), got {mask.dtype} {mask.shape}. Pass mask > 0, or the like."
        )
        raise ValueError(msg)
    height, width = mask.shape
    rounding = 1 / height + 1 / width
    if abs(height / width * slide[1] / slide[0] - 1) > SAME_ASPECT + rounding:
        turned = abs(width / height * slide[1] / slide[0] - 1) <= SAME_ASPECT + rounding
        msg = (
            f"The mask is {width} × {height} px wide and high, the slide {slide[1]} × {slide[0]}: it must cover the whole slide, at any "
            f"resolution.{' Pass mask.T.' if turned else ''}"
        )
        raise ValueError(msg)
    rows, columns = (((np.arange(n) + 0.5) * of / n).astype(int) for n, of in zip(shape, mask.shape, strict=True))
    return mask[rows[:, None], columns]


def _rings(tissue: Any) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Outer ring and holes, (n, 2) each, of every polygon."""
    if hasattr(tissue, "geometry"):  # a GeoDataFrame
        tissue = list(tissue.geometry)
    elif hasattr(tissue, "geom_type") or isinstance(tissue, np.ndarray):
        tissue = [tissue]
    if not isinstance(tissue, list | tuple):
        msg = (
            f"tissue= is a threshold, a boolean mask, or a list of outlines (polygons of shapely, or (n, 2) arrays of x and y); "
            f"got {type(tissue).__name__}."
        )
        raise TypeError(msg)
    rings = []
    for one in tissue:
        parts = list(one.geoms) if getattr(one, "geom_type", "") == "MultiPolygon" else [one]
        for part in parts:
            if getattr(part, "geom_type", "Polygon") != "Polygon":
                msg = f"Outlines of tissue are polygons, got a {part.geom_type}."
                raise ValueError(msg)
            if hasattr(part, "exterior"):
                rings.append((_points(part.exterior.coords), [_points(hole.coords) for hole in part.interiors]))
            else:
                rings.append((_points(part), []))
    return rings


def _points(values: Any) -> np.ndarray:
    try:
        points = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim == 2 and points.shape[1] == 3:  # (of polygons with a z)
        points = points[:, :2]
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        msg = "An outline of tissue is a polygon of shapely or an (n, 2) array of x and y, of at least 3 finite points."
        raise ValueError(msg)
    return points


def _drawn(
    rings: list[tuple[np.ndarray, list[np.ndarray]]], slide: tuple[int, int], shape: tuple[int, int], scale: float
) -> np.ndarray:
    from skimage.draw import polygon

    mask = np.zeros(shape, dtype=bool)
    size = np.array(slide[::-1])
    step = scale * np.array(shape[::-1]) / size
    for outer, holes in rings:
        low, high = outer.min(axis=0) * scale, outer.max(axis=0) * scale
        if (low < -BEYOND * size.max()).any() or (high > size + BEYOND * size.max()).any():
            corners = " to ".join(f"({x:.0f}, {y:.0f})" for x, y in (outer.min(axis=0), outer.max(axis=0)))
            width, height = size / scale
            msg = (
                f"An outline of tissue reaches from {corners}, beyond the slide of {width:.0f} × {height:.0f} px. Outlines are (x, y) "
                "in pixels at full resolution."
            )
            raise ValueError(msg)
        x, y = (outer * step - 0.5).T
        inside = polygon(y, x, shape)
        if not holes:
            mask[inside] = True
            continue
        own = np.zeros(shape, dtype=bool)
        own[inside] = True
        for hole in holes:
            x, y = (hole * step - 0.5).T
            own[polygon(y, x, shape)] = False
        mask |= own
    return mask
