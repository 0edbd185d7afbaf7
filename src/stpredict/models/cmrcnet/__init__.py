"""CMRCNet: contrastive alignment with cross-modal mask reconstruction, read out by retrieval."""

from __future__ import annotations

from stpredict.models.cmrcnet._model import CmrcNet
from stpredict.models.cmrcnet._options import PRESETS, Options

__all__ = ["PRESETS", "CmrcNet", "Options"]
