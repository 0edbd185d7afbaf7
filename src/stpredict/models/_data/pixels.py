"""Tiles as pixels, for networks that are trained from the image itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.settings import settings
from stpredict._core.warning import warn
from stpredict.models._data.rows import DiskRowStore, RowStore
from stpredict.pp._encoders.windows import read_crops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section
    from stpredict.models._data.rows import Collected, DiskRows, Rows
    from stpredict.models._data.table import Table

MAX_ENLARGEMENT = 2.0

SPOT_UM = 112.0
"""Side of a spot's tile in µm."""

MOST_HELD = 2**29
"""Bytes of tiles that are held in memory; more lie in a file, from which each batch is read."""

AT_ONCE = 2048
"""Tiles of a section that are read before they are kept."""


def read_tiles(section: Section, size: int, *, rows: slice = slice(None)) -> Rows:
    """uint8 (n_spots, 3, size, size): the tile around every spot, or those in `rows`; in a file where there are many.

    Warns
    -----
    UserWarning
        If tiles are enlarged more than twice.
    """
    wanted = np.arange(len(section))[rows]
    tiles = _collect(len(wanted), size, RowStore())
    _append(tiles, section, wanted, size)
    return tiles.done()


def pixels_of(table: Table, sections: Sequence[Section], size: int, store: RowStore) -> Rows:
    """uint8 (n, 3, size, size): the tile of every row of `table`, kept in the `store`, or where there are many in a file."""
    tiles = _collect(len(table), size, store)
    for number, rows in table.of_sections():
        _append(tiles, sections[number], table.row[rows], size)
    return tiles.done()


def _collect(n: int, size: int, store: RowStore) -> Collected | DiskRows:
    """Room for `n` tiles. A file is in ``settings.cache_dir``; it has no name, and goes when the tiles are forgotten."""
    large = n * 3 * size**2 > MOST_HELD
    return (DiskRowStore(settings.cache_dir) if large else store).collect()


def _append(tiles: Collected | DiskRows, section: Section, wanted: np.ndarray, size: int) -> None:
    """Read the tiles of the spots `wanted`, row numbers in order."""
    if section.mpp > MAX_ENLARGEMENT * SPOT_UM / size:
        msg = (
            f"Section {section.name!r}: the image has {section.mpp:.3g} µm per pixel, so a {SPOT_UM:g} µm tile is enlarged "
            f"{section.mpp * size / SPOT_UM:.1f}× to {size} px. Is this the full-resolution image?"
        )
        warn(msg)
    for first in range(0, max(len(wanted), 1), AT_ONCE):
        tiles.append(_read(section, wanted[first : first + AT_ONCE], size))


def _read(section: Section, wanted: np.ndarray, size: int) -> np.ndarray:
    """Tiles of the spots `wanted`, in memory."""
    import torch
    import torch.nn.functional as F

    tiles = np.empty((len(wanted), 3, size, size), dtype=np.uint8)
    for read, crops in read_crops(section, wanted, SPOT_UM, max(SPOT_UM / size, section.mpp)):
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2)
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        tiles[np.searchsorted(wanted, read)] = pixels.numpy()
    return tiles
