"""Scanners' own formats, through OpenSlide."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._images.scale import square_mpp

if TYPE_CHECKING:
    from pathlib import Path

TIFF_TOO = (".svs", ".ndpi")
"""Suffixes of vendors' TIFFs, which tifffile reads where OpenSlide is not installed or does not know the file."""

ONLY_OPENSLIDE = (".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm")


def wanted(path: Path) -> bool:
    """Whether OpenSlide should read the file. Raises ImportError if nothing else could, and it is not installed."""
    suffix = path.suffix.lower()
    if suffix not in TIFF_TOO + ONLY_OPENSLIDE:
        return False
    installed = find_spec("openslide") is not None
    if suffix in ONLY_OPENSLIDE:
        if not installed:
            msg = f"{path.name} can only be read by OpenSlide: pip install 'stpredict[wsi]', or convert it to OME-TIFF."
            raise ImportError(msg)
        return True
    if not installed:
        return False
    import openslide

    return openslide.OpenSlide.detect_format(path) is not None


def open_slide(path: Path) -> tuple[list[OpenSlideLevel], float | None]:
    """Levels of a slide, finest first, and the µm per pixel of the finest where the file says so.

    Raises ValueError if OpenSlide cannot read the file, or its pixels are not square.
    """
    import openslide

    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        msg = f"{path} cannot be read by OpenSlide ({error}). Get the slide again, with the files that belong to it."
        raise ValueError(msg) from error
    stated = (slide.properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    x, y = (float(text) if text else None for text in stated)
    levels = [OpenSlideLevel(slide, path, level) for level in range(slide.level_count)]
    return levels, square_mpp(x, y, str(path))


class OpenSlideLevel:
    """One level of a slide; where the scanner saw nothing, pixels are transparent."""

    def __init__(self, slide: Any, path: Path, level: int) -> None:
        self._slide, self._path, self._level = slide, path, level
        width, height = slide.level_dimensions[level]
        self.shape = (height, width, 4)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        import openslide

        rows, columns = window
        downsample = self._slide.level_downsamples[self._level]
        corner = round(columns.start * downsample), round(rows.start * downsample)
        size = columns.stop - columns.start, rows.stop - rows.start
        try:
            return np.asarray(self._slide.read_region(corner, self._level, size))
        except openslide.OpenSlideError as error:
            msg = f"{self._path} is truncated or damaged ({error}). Get the slide again."
            raise ValueError(msg) from error
