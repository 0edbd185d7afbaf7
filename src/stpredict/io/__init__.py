"""Reading sections from files, and handing them on as SpatialData."""

from stpredict.io._to_spatialdata import to_spatialdata

__all__ = ["to_spatialdata"]
