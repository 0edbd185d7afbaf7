"""LazySlide's ``WSIData``: a SpatialData about one whole-slide image that stays outside of it, with tiles on it.

Coordinates of its shapes are pixels of that image, and its scale is known to the reader that it carries. Nothing here
imports LazySlide or wsidata.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stpredict._sections.scale import SPOT_UM

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

TILE_SPEC = "tile_spec"
"""``attrs``: how tiles are laid out, by the name of their shapes."""

NO_TISSUE = -1
"""``tissue_id`` of tiles that belong to no outline of tissue."""


class WholeSlide(NamedTuple):
    """The image that a ``WSIData`` is about."""

    path: str
    mpp: float | None


def whole_slide_of(sdata: SpatialData) -> WholeSlide | None:
    """The slide of a ``WSIData``; None for any other SpatialData."""
    reader = getattr(sdata, "reader", None)
    if reader is None or not hasattr(reader, "file"):
        return None
    mpp = reader.properties.mpp
    return WholeSlide(str(reader.file), float(mpp) if mpp else None)


def of_same_slide(sdata: SpatialData, original: SpatialData) -> SpatialData:
    """Make of a SpatialData a ``WSIData`` about the slide of `original`; where that is none, `sdata` itself."""
    if whole_slide_of(original) is None:
        return sdata
    sdata.attrs = deepcopy(dict(sdata.attrs))
    wsi = type(original).from_spatialdata(sdata, reader=original.reader)
    if original.wsi_store is not None:
        wsi.set_wsi_store(original.wsi_store)
    return wsi


def tiles_at(centres: np.ndarray, mpp: float) -> GeoDataFrame:
    """Tiles as LazySlide keeps them: squares, as wide as spot windows, with their number and upper left corner."""
    from geopandas import GeoDataFrame
    from shapely import box

    side = tile_side(mpp)
    x, y = np.rint(centres - side / 2).astype(int).T
    columns = {"tile_id": np.arange(len(x)), "x": x, "y": y, "tissue_id": np.full(len(x), NO_TISSUE)}
    return GeoDataFrame(columns, geometry=box(x, y, x + side, y + side))


def tile_side(mpp: float) -> int:
    """Side of a tile, px."""
    return round(SPOT_UM / mpp)


def tile_spec(mpp: float, pitch_um: float) -> dict[str, Any]:
    """What ``attrs`` says of such tiles."""
    side, stride = tile_side(mpp), round(pitch_um / mpp)
    return {"height": side, "width": side, "stride_height": stride, "stride_width": stride, "mpp": mpp}
