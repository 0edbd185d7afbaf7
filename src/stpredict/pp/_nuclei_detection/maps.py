"""Maps of the nuclei in the window of every spot, for models that look at where nuclei lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stpredict._sections.section import Section

CHANNELS = ("coverage", "centres", "size", "elongation", "hematoxylin")
"""Of a map: share covered by nuclei; nuclei per 100 µm²; and coverage times diameter / 10 µm, eccentricity and stain."""

CHUNK = 1000
"""Spots at a time."""

WIDEST = 6
"""A nucleus is painted within this many cells of its centre."""


def check_nuclei(section: Section, key: str = keys.NUCLEI) -> Mapping[str, Any]:
    """Return what is known of the nuclei of a section. Raises ValueError if nuclei were not looked for."""
    record = section.adata.uns.get(key, {}).get(section.name)
    if record is None:
        msg = f"The nuclei of section {section.name!r} are not known: run stpredict.pp.nuclei first."
        raise ValueError(msg)
    return record


def nuclei_maps(
    section: Section, *, um: float = 112.0, size: int = 32, rows: np.ndarray | None = None, key: str = keys.NUCLEI
) -> np.ndarray:
    """Nuclei in a square window of `um` around every spot, painted on a grid.

    Every nucleus is painted as the ellipse of its area, eccentricity and direction, and covers exactly its area.

    Parameters
    ----------
    section
        A section that went through `stpredict.pp.nuclei`; its image is not needed.
    um
        Side of the window, µm.
    size
        Cells along a side.
    rows
        Spots of the section; None means all.
    key
        Where `stpredict.pp.nuclei` left its table.

    Returns
    -------
    float32 (spots, `CHANNELS`, size, size), rows from top to bottom as in the image; 0 where there are no nuclei.

    Raises
    ------
    ValueError
        If nuclei were not looked for.
    """
    record = check_nuclei(section, key)
    mpp = float(record["mpp"])
    table = np.asarray(record["table"], dtype=np.float32)
    centres = section.centres / section.image_scale * mpp
    centres = centres if rows is None else centres[rows]
    cell = um / size
    shapes = _Ellipses(table, cell)
    maps = np.zeros((len(centres), len(CHANNELS), size, size), np.float32)
    for start, spot, nucleus in pairs(centres, table[:, :2] * np.float64(mpp), um / 2 + shapes.reach * cell):
        at = (table[nucleus, :2] * mpp - centres[start + spot] + um / 2) / cell
        part = maps[start : start + CHUNK]
        _paint(part, spot, at, shapes, nucleus, cell)
        part[:, 0] = np.minimum(part[:, 0], 1)
    return maps


def pairs(
    centres: np.ndarray, points: np.ndarray, reach: float, *, p: float = np.inf
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Which points lie within `reach` of which centres, by the p-norm, a chunk of centres at a time.

    Yields (number of the first centre, numbers of centres within the chunk, numbers of points).
    """
    from scipy.spatial import cKDTree

    if len(points) == 0:
        return
    tree = cKDTree(points)
    for start in range(0, len(centres), CHUNK):
        near = tree.query_ball_point(centres[start : start + CHUNK], reach, p=p, return_sorted=True)
        counts = np.array([len(found) for found in near])
        if counts.sum():
            yield start, np.repeat(np.arange(len(near)), counts), np.concatenate(near).astype(np.int64)


class _Ellipses:
    """Nuclei as ellipses, in cells of a map."""

    def __init__(self, table: np.ndarray, cell: float) -> None:
        _, _, area, eccentricity, self.angle, stain = table.T
        ratio = np.sqrt(np.maximum(1 - eccentricity**2, 0.01))  # short over long axis
        blur = 0.25  # (half a cell, squared): thin ones must not fall between cells
        self.long = np.sqrt(area / (np.pi * ratio) / cell**2 + blur).astype(np.float32)
        self.short = np.sqrt(area * ratio / np.pi / cell**2 + blur).astype(np.float32)
        self.cells = area / cell**2
        self.values = np.stack([np.sqrt(4 * area / np.pi) / 10, eccentricity, stain])
        widest = float(self.long.max(initial=0)) + 0.5
        self.reach = min(int(np.ceil(widest)), WIDEST)


def _paint(
    maps: np.ndarray, spot: np.ndarray, at: np.ndarray, shapes: _Ellipses, nucleus: np.ndarray, cell: float
) -> None:
    """Add nuclei at `at` (pairs, 2; cells) to the maps of their spots."""
    size = maps.shape[-1]
    corner = np.floor(at).astype(np.int64)
    offset = np.arange(-shapes.reach, shapes.reach + 1)
    y, x = (corner[:, ::-1].T[..., None] + offset)[:, :, :]
    dx = (x + 0.5 - at[:, :1]).astype(np.float32)[:, None, :]
    dy = (y + 0.5 - at[:, 1:]).astype(np.float32)[:, :, None]
    long, short, angle = (v[nucleus, None, None] for v in (shapes.long, shapes.short, shapes.angle))
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / long
    aside = (dy * np.cos(angle) - dx * np.sin(angle)) / short
    paint = np.clip((1 - np.sqrt(along**2 + aside**2)) * short + 0.5, 0, 1)
    paint *= (shapes.cells[nucleus] / np.maximum(paint.sum(axis=(1, 2)), 1e-6))[:, None, None]
    inside = ((y >= 0) & (y < size))[:, :, None] & ((x >= 0) & (x < size))[:, None, :] & (paint > 0)
    place = (spot[:, None, None] * size + y[:, :, None]) * size + x[:, None, :]
    place, paint = place[inside], paint[inside]
    which = np.broadcast_to(nucleus[:, None, None], inside.shape)[inside]
    n, shape = len(maps) * size * size, (len(maps), size, size)
    maps[:, 0] += np.bincount(place, paint, minlength=n).reshape(shape)
    for channel, value in enumerate(shapes.values, start=2):
        maps[:, channel] += np.bincount(place, paint * value[which], minlength=n).reshape(shape)
    here = ((corner >= 0) & (corner < size)).all(axis=1)
    centre = (spot[here] * size + corner[here, 1]) * size + corner[here, 0]
    maps[:, 1] += np.bincount(centre, minlength=n).reshape(shape) * (100 / cell**2)
