"""ST-Align: images and expression of spots and of niches in one space, and their attention-based fusion."""

from __future__ import annotations

from stpredict.models.st_align._model import StAlign
from stpredict.models.st_align._options import PRESETS, Options

__all__ = ["PRESETS", "Options", "StAlign"]
