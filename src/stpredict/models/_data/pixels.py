"""Tiles as pixels, for networks that are trained from the image itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.settings import settings
from stpredict._core.warning import warn
from stpredict.models._data.rows import DiskRowStore
from stpredict.pp._encoders.windows import read_crops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section
    from stpredict.models._data.rows import Rows, RowStore
    from stpredict.models._data.table import Table

MAX_ENLARGEMENT = 2.0

SPOT_UM = 112.0
"""Side of a spot's tile in µm."""

MOST_HELD = 2**29
"""Bytes of tiles that are held in memory for training; more lie in a file, from which each batch is read."""

AT_ONCE = 2048
"""Tiles of a section that are read before they are kept."""


def read_tiles(section: Section, size: int, *, um: float = SPOT_UM, rows: slice = slice(None)) -> np.ndarray:
    """uint8 (n_spots, 3, size, size): the square window of `um` around every spot, or those in `rows`, held in memory.

    Warns
    -----
    UserWarning
        If tiles are enlarged more than twice.
    """
    _tell_of_enlargement(section, size, um)
    return _read(section, np.arange(len(section))[rows], size, um)


def _tell_of_enlargement(section: Section, size: int, um: float) -> None:
    if section.mpp > MAX_ENLARGEMENT * um / size:
        msg = (
            f"Section {section.name!r}: the image has {section.mpp:.3g} µm per pixel, so a {um:g} µm tile is enlarged "
            f"{section.mpp * size / um:.1f}× to {size} px. Is this the full-resolution image?"
        )
        warn(msg)


def _read(section: Section, wanted: np.ndarray, size: int, um: float) -> np.ndarray:
    """Tiles of the spots `wanted`, row numbers in order."""
    import torch
    import torch.nn.functional as F

    tiles = np.empty((len(wanted), 3, size, size), dtype=np.uint8)
    for read, crops in read_crops(section, wanted, um, max(um / size, section.mpp)):
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2)
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        tiles[np.searchsorted(wanted, read)] = pixels.numpy()
    return tiles


def pixels_of(table: Table, sections: Sequence[Section], size: int, store: RowStore) -> Rows:
    """uint8 (n, 3, size, size): the tile of every row of `table`, kept in the `store`, or where there are many in a file.

    The file is in ``settings.cache_dir``; it has no name, and goes when the tiles are forgotten.
    """
    large = len(table) * 3 * size**2 > MOST_HELD
    tiles = (DiskRowStore(settings.cache_dir) if large else store).collect()
    for number, rows in table.of_sections():
        _tell_of_enlargement(sections[number], size, SPOT_UM)
        wanted = table.row[rows]
        for first in range(0, len(wanted), AT_ONCE):
            tiles.append(_read(sections[number], wanted[first : first + AT_ONCE], size, SPOT_UM))
    return tiles.done()
