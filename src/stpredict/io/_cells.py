"""Cells that Space Ranger 4 segmented on Visium HD: their outlines, and where their centres are."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.files import check_regular

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

CELL_ID = re.compile(r"(?:cellid_)?0*(\d+)(?:-\d+)?")
"""A cell's barcode, ``cellid_000000012-1``, or its number in the outlines, ``12``."""


def place_cells(adata: AnnData, outlines: Path, dropped: list[str]) -> AnnData:
    """Add the centres of cells, full-resolution pixels, by their outlines; the counts keep their order.

    Raises ValueError if the outlines are damaged, or cells of the matrix have none.
    """
    centres = _centres(outlines)
    numbers = [CELL_ID.fullmatch(name) for name in adata.obs_names]
    places = [centres.get(int(found[1])) if found else None for found in numbers]
    lost = [name for name, place in zip(adata.obs_names, places, strict=True) if place is None]
    if lost:
        msg = (
            f"{len(lost)} of {adata.n_obs} cells of the count matrix have no outline in {outlines} ({lost[0]}). "
            "Both must come from the same run."
        )
        raise ValueError(msg)
    if without := len(centres) - adata.n_obs:
        dropped.append(f"{without} of {len(centres)} cells, which have an outline and no counts")
    adata.obsm[keys.SPATIAL] = np.array(places, dtype=np.float64).reshape(-1, 2)
    return adata


def _centres(path: Path) -> dict[int, tuple[float, float]]:
    """Centroid (x, y) of every cell's outline, by its number."""
    from shapely.geometry import shape

    check_regular(path)
    try:
        features = json.loads(path.read_text(encoding="utf-8-sig"))["features"]
        found = {}
        for feature in features:
            number = CELL_ID.fullmatch(str(feature["properties"]["cell_id"]))
            centre = shape(feature["geometry"]).centroid
            if number is None or centre.is_empty:
                msg = f"a cell has no number or an empty outline: {feature['properties']}"
                raise ValueError(msg)
            found[int(number[1])] = (centre.x, centre.y)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError) as error:
        msg = f"{path} is damaged or holds no outlines of cells ({error}). Get it again from Space Ranger's output."
        raise ValueError(msg) from error
    return found
