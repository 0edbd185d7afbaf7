"""Centres of cells that a SpatialData has as labels: an image in which every cell has its number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._sections.image_choice import levels_of

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 2**27
"""Numbers of cells above this are not counted out."""

BLOCK = 4096
_found: dict[str, pd.DataFrame] = {}
"""Centres of the last labels on disk, by the name that Dask gives their content: every call asks again."""


def centres_of_labels(labels: Any, name: str) -> pd.DataFrame:
    """Centroid (``x``, ``y``) of every label but 0 in pixels of the finest level, block by block.

    Raises ValueError if the numbers are too large to be counted out.
    """
    level = levels_of(labels)[0].data
    key = getattr(level, "name", None)
    if key not in _found:
        centres = _centres(level, name)
        if key is None:
            return centres
        _found.clear()
        _found[key] = centres
    return _found[key]


def _centres(level: Any, name: str) -> pd.DataFrame:
    import pandas as pd

    height, width = level.shape
    sums = np.zeros((3, 1))  # number, x, y
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            block = np.asarray(level[top : top + BLOCK, left : left + BLOCK])
            y, x = np.nonzero(block)
            if not len(y):
                continue
            cells = block[y, x].astype(np.int64)
            n = int(cells.max()) + 1
            if cells.min() < 0 or n > LARGEST:
                msg = (
                    f"Labels {name!r} have numbers outside of 1–{LARGEST}. Let the table annotate shapes instead, with "
                    "sdata.set_table_annotates_spatialelement(table_name, region=…, region_key=…, instance_key=…)."
                )
                raise ValueError(msg)
            if n > sums.shape[1]:
                sums = np.pad(sums, ((0, 0), (0, n - sums.shape[1])))
            for row, weights in enumerate((None, x + (left + 0.5), y + (top + 0.5))):
                sums[row, :n] += np.bincount(cells, weights, minlength=n)
    there = np.flatnonzero(sums[0])
    return pd.DataFrame((sums[1:, there] / sums[0, there]).T, index=there, columns=["x", "y"])
