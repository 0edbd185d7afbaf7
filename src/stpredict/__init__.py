"""Spatial gene expression from H&E slides, inside AnnData and SpatialData."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stpredict._core.settings import settings
from stpredict._core.version import __version__

if TYPE_CHECKING:
    from stpredict import datasets, io, models, pl, pp, tl
    from stpredict._doctor import doctor
    from stpredict.io import read_st, read_visium, read_wsi

_MODULES = ("datasets", "io", "models", "pl", "pp", "tl")
_READERS = ("read_st", "read_visium", "read_wsi")

__all__ = [*_MODULES, *_READERS, "__version__", "doctor", "settings"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"stpredict.{name}")
    if name in _READERS:
        return getattr(import_module("stpredict.io"), name)
    if name == "doctor":
        return import_module("stpredict._doctor").doctor
    raise import_module("stpredict._core.offered").nothing_called(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted(__all__)
