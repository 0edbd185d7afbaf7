"""Reading sections from files, and handing them on as SpatialData."""

from stpredict.io._st import read_st
from stpredict.io._to_spatialdata import to_spatialdata
from stpredict.io._visium import read_visium

__all__ = ["read_st", "read_visium", "to_spatialdata"]
