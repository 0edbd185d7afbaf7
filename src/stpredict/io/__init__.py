"""Reading sections from files, and handing them on as SpatialData."""

from stpredict._core.offered import offers
from stpredict.io._grid import grid
from stpredict.io._st import read_st
from stpredict.io._to_spatialdata import to_spatialdata
from stpredict.io._visium import read_visium
from stpredict.io._wsi import read_wsi

__all__ = ["grid", "read_st", "read_visium", "read_wsi", "to_spatialdata"]

__getattr__, __dir__ = offers(__name__, __all__)
