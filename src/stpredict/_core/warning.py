"""Warnings that point at the user's own line."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


class StpredictWarning(UserWarning):
    """A warning of this package."""


def warn(message: str, category: type[Warning] = StpredictWarning) -> None:
    """Warn at the line that called into this package, also where joblib or another library lies in between."""
    frame, level, users = sys._getframe(), 1, 1
    while frame.f_back is not None:
        level += 1
        if frame.f_code.co_filename.startswith(PACKAGE):
            users = level
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=users)
