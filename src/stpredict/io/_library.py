"""The entry of ``uns["spatial"]`` for one section: only what is known is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict._core.warning import warn
from stpredict._images import open_image
from stpredict._sections.scale import PLAUSIBLE_MPP

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = ("\t", ",", ";")

DECIMAL_COMMA = r"\s*[+-]?\d*[.,]?\d*(?:[eE][+-]?\d+)?\s*"

OVERVIEW = 1000
"""Longer side of the ``hires`` image that is made for plots, px."""


def library_entry(
    image: str | Path | None, *, scalefactors: dict[str, float], metadata: dict[str, Any], images: dict[str, Any]
) -> dict[str, Any]:
    """Images, scale factors and metadata of a section; a slide without ``hires`` image gets one, for plots.

    Raises FileNotFoundError if the image file does not exist, ValueError if the image cannot be read.
    """
    metadata = {key: value for key, value in metadata.items() if value is not None}
    if image is not None:
        slide = open_image(image)
        metadata["source_image_path"] = str(Path(image).resolve())
        if "hires" not in images:
            images = {**images, "hires": slide.thumbnail(OVERVIEW)}
            scalefactors = {**scalefactors, "tissue_hires_scalef": max(images["hires"].shape) / max(slide.shape)}
    return {"images": images, "scalefactors": scalefactors, "metadata": metadata}


def check_name(library_id: str) -> str:
    """Refuse a library id that cannot be stored."""
    if not library_id or "/" in library_id:
        msg = f"library_id must be a name without '/', as it is a key in the h5ad file; got {library_id!r}."
        raise ValueError(msg)
    return library_id


def check_mpp(mpp: float | None) -> None:
    """Refuse a scale that no slide has."""
    low, high = PLAUSIBLE_MPP
    if mpp is not None and not low <= mpp <= high:
        msg = f"mpp={mpp} µm per pixel is outside of {low}–{high}; a scanner at 20× gives about 0.5."
        raise ValueError(msg)


def tell_dropped(library_id: str, dropped: list[str]) -> None:
    """Warn, in one line, of what a reader left out; say nothing where it left out nothing."""
    if dropped:
        warn(f"Section {library_id!r} is read without {'; '.join(dropped)}.")


def with_decimal_points(table: pd.DataFrame, separator: str) -> pd.DataFrame:
    """Read numbers with decimal commas, of a table whose columns are separated by semicolons."""
    if separator != ";":
        return table
    for name in table.columns:
        text = table[name]
        if text.dtype.kind in "OU" or str(text.dtype) == "str":
            numbers = text.astype(str).str.fullmatch(DECIMAL_COMMA)
            if len(text) and numbers.all():
                table[name] = text.astype(str).str.replace(",", ".").astype(float)
    return table
