"""Manifests: which slides there are, what they are called, and what is known of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._images import tiff
from stpredict._images.vendor import ONLY_OPENSLIDE, TIFF_TOO
from stpredict._images.whole import SUFFIXES as WHOLE_SUFFIXES
from stpredict._sections.stored import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGES = (*tiff.SUFFIXES, *WHOLE_SUFFIXES, *TIFF_TOO, *ONLY_OPENSLIDE)
TABLES = (".csv", ".tsv")
OWN_COLUMNS = ("path", "slide", "mpp")
TAKEN = ("array_row", "array_col", "tissue_fraction", "library_id", "tumor", "tumor_score")
"""Columns that results have in ``obs`` anyway."""


@dataclass(frozen=True)
class Slide:
    """One line of a manifest."""

    name: str
    path: Path
    mpp: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_store(self) -> bool:
        """Whether it is a section in a store, whose spots are known, rather than an image."""
        return self.path.suffix in ENDINGS


def slides_of(manifest: str | Path | Iterable[str | Path] | pd.DataFrame) -> list[Slide]:
    """The slides that a manifest lists, checked: there are some, and each has a name of its own.

    Raises
    ------
    FileNotFoundError
        If the manifest, or every slide in it, does not exist.
    TypeError
        If the manifest is none.
    ValueError
        If it lists no slide, a column is missing or wrong, or names are unusable or come twice.
    """
    if isinstance(manifest, pd.DataFrame):
        slides = _from_table(manifest, Path(), "The manifest")
    elif isinstance(manifest, str | Path):
        slides = _from_path(Path(manifest).expanduser())
    elif hasattr(manifest, "__iter__"):
        paths = list(manifest)
        if wrong := [path for path in paths if not isinstance(path, str | Path)]:
            msg = f"A manifest lists paths of slides; got a {type(wrong[0]).__name__}. Sections in memory go to stpredict.tl.predict_expression."
            raise TypeError(msg)
        slides = [_slide(Path(path)) for path in paths]
    else:
        msg = f"manifest must be a folder, a CSV, a DataFrame or a list of paths; got a {type(manifest).__name__}."
        raise TypeError(msg)
    _check(slides)
    return slides


def _from_path(path: Path) -> list[Slide]:
    if not path.exists():
        msg = f"There is no {path}. Pass a folder of slides, a CSV with a column 'path', or a list of paths."
        raise FileNotFoundError(msg)
    if path.suffix.lower() in TABLES:
        try:
            table = pd.read_csv(path, sep=None, engine="python", dtype=str, encoding="utf-8-sig")
        except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
            msg = f"{path} cannot be read as a table ({error}). Pass a CSV with a column 'path'."
            raise ValueError(msg) from error
        return _from_table(table, path.parent, str(path))
    if path.is_file() or path.suffix in ENDINGS:
        return [_slide(path)]
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    images = [p for p in inside if p.is_file() and p.suffix.lower() in IMAGES]
    found = images or [p for p in inside if p.suffix in ENDINGS]
    if not found:
        msg = f"There is no slide in {path}: no file ends in {', '.join(dict.fromkeys(IMAGES))}, or in {', '.join(ENDINGS)}."
        raise ValueError(msg)
    return [_slide(p) for p in found]


def _slide(path: Path) -> Slide:
    return Slide(path.name.split(".ome.")[0].removesuffix(path.suffix), path.expanduser().absolute())


def _from_table(table: pd.DataFrame, folder: Path, what: str) -> list[Slide]:
    table = table.rename(columns=str)
    if "path" not in table:
        msg = f"{what} has no column 'path'; it has {', '.join(table.columns) or 'none'}."
        raise ValueError(msg)
    metadata = [column for column in table.columns if column not in OWN_COLUMNS]
    if bad := [column for column in metadata if "/" in column or column.startswith("_") or column in TAKEN]:
        msg = f"{what} has columns that results cannot take over into obs: {', '.join(bad)}. Rename them."
        raise ValueError(msg)
    if table["path"].isna().any():
        msg = f"{what} lacks the path in line {int(np.flatnonzero(table['path'].isna())[0]) + 1}."
        raise ValueError(msg)
    scales = _scales(table, what)
    slides = []
    for number, (_, row) in enumerate(table.iterrows()):
        plain = _slide(folder / Path(str(row["path"]).strip()).expanduser())
        name = plain.name if "slide" not in table or pd.isna(row["slide"]) else str(row["slide"]).strip()
        slides.append(Slide(name, plain.path, scales[number], {key: _plain(row[key]) for key in metadata}))
    return slides


def _scales(table: pd.DataFrame, what: str) -> list[float | None]:
    if "mpp" not in table:
        return [None] * len(table)
    numbers = pd.to_numeric(table["mpp"], errors="coerce")
    if (wrong := (numbers.isna() & table["mpp"].notna()).to_numpy()).any():
        msg = (
            f"{what} has mpp={table['mpp'].iloc[int(np.flatnonzero(wrong)[0])]!r}, which is no number of µm per pixel."
        )
        raise ValueError(msg)
    return [None if np.isnan(mpp) else float(mpp) for mpp in numbers]


def _plain(value: Any) -> Any:
    """A cell as a plain Python value; None where it is empty."""
    if pd.isna(value):
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float) else str(value)


def _check(slides: list[Slide]) -> None:
    if not slides:
        msg = "The manifest lists no slide."
        raise ValueError(msg)
    for slide in slides:
        if not slide.name or slide.name.startswith((".", "_")) or set(slide.name) & set("/\\\0\n"):
            msg = (
                f"{slide.name!r} cannot name a slide, as its result is a folder of that name: it must not be empty, start "
                "with '.' or '_', or hold '/'. Name slides in a column 'slide'."
            )
            raise ValueError(msg)
    count = Counter(slide.name.casefold() for slide in slides)
    if twice := [slide for slide in slides if count[slide.name.casefold()] > 1]:
        msg = (
            f"Several slides are called {twice[0].name!r} ({', '.join(str(s.path) for s in twice[:3])}). Give each a name of "
            "its own, in a column 'slide' of a CSV or DataFrame."
        )
        raise ValueError(msg)
    if not any(slide.path.exists() for slide in slides):
        msg = f"None of the slides exists; the first would be {slides[0].path}. Paths in a CSV are relative to the CSV."
        raise FileNotFoundError(msg)
