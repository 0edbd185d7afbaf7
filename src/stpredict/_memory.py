"""Giving memory back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def release() -> None:
    """Give freed memory back, where the C library keeps it (glibc).

    Large arrays of ever other sizes leave holes that it keeps for later: without this, work on a slide of 100,000 ×
    100,000 pixels comes to hold half a gigabyte more than it uses.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # other systems
        return None
