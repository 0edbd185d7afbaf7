"""Progress bars, in a terminal and in notebooks."""

from __future__ import annotations

import warnings
from typing import Any


def progress_bar(**options: Any) -> Any:
    """Return a bar of tqdm, made with the same options; a bar of text in notebooks without ipywidgets, which need no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm
    return tqdm(**options)
