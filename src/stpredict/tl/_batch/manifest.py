"""Manifests: which slides there are, what they are called, and what is known of each."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core.files import expanded
from stpredict._images import tiff
from stpredict._images.vendor import ONLY_OPENSLIDE, TIFF_TOO
from stpredict._images.whole import SUFFIXES as WHOLE_SUFFIXES
from stpredict._sections.stored import ENDINGS
from stpredict.io._library import check_mpp

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGES = (*tiff.SUFFIXES, *WHOLE_SUFFIXES, *TIFF_TOO, *ONLY_OPENSLIDE)
TABLES = (".csv", ".tsv")
OWN_COLUMNS = ("path", "slide", "mpp")
LONGEST = 240
"""Bytes of a name, of 255 that a file's name can have with its ending."""

TAKEN = (
    "index",
    "array_row",
    "array_col",
    "tissue_fraction",
    "library_id",
    "predicted_distance",
    "tumor",
    "tumor_score",
)
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

    Raises FileNotFoundError if the manifest, or every slide in it, does not exist; TypeError if the manifest is none;
    ValueError if it lists no slide, a column is missing or wrong, or names are unusable or come twice.
    """
    if isinstance(manifest, pd.DataFrame):
        slides = _from_table(manifest, Path(), "The manifest")
    elif isinstance(manifest, str | Path):
        slides = _from_path(expanded(manifest))
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
            table = _read_table(path)
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


def _read_table(path: Path) -> pd.DataFrame:
    """Cells of a table as text; columns are separated by the one of ``,``, ``;`` and tab that the header has most of."""
    if not path.is_file():
        msg = "it is no file"
        raise ValueError(msg)
    text = path.read_text(encoding="utf-8-sig")
    if "\0" in text:
        msg = "it holds zero bytes"
        raise ValueError(msg)
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=header.count)  # the first of them where there is none, as in a table of one column
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # (of cells that it would drop)
            return pd.read_csv(StringIO(text), sep=separator, dtype=str, index_col=False).dropna(how="all")
    except pd.errors.ParserWarning as error:
        msg = (
            f"its lines have more cells than its header has names; put what holds a {separator!r} into quotation marks, and "
            "write 0.5 with a point"
        )
        raise ValueError(msg) from error


def _slide(path: Path) -> Slide:
    return Slide(path.name.split(".ome.")[0].removesuffix(path.suffix), expanded(path).absolute())


def _from_table(table: pd.DataFrame, folder: Path, what: str) -> list[Slide]:
    table = table.rename(columns=lambda name: str(name).strip())
    if twice := sorted(name for name, n in Counter(table.columns).items() if n > 1):
        msg = f"{what} has several columns called {', '.join(map(repr, twice))}. Give each a name of its own."
        raise ValueError(msg)
    if "path" not in table:
        msg = f"{what} has no column 'path'; it has {', '.join(table.columns) or 'none'}."
        raise ValueError(msg)
    metadata = [column for column in table.columns if column not in OWN_COLUMNS]
    if bad := [column for column in metadata if not _can_be_stored(column)]:
        shown = ", ".join(repr(column[:40]) for column in bad)
        msg = (
            f"{what} has columns that results cannot take over into obs: {shown}. Rename them: not empty, not longer than "
            f"{LONGEST} bytes, without '/', control characters, and a '.' or '_' to begin with, and none of {', '.join(TAKEN)}."
        )
        raise ValueError(msg)
    if table["path"].isna().any():
        msg = f"{what} lacks the path in line {int(np.flatnonzero(table['path'].isna())[0]) + 1}."
        raise ValueError(msg)
    scales = _scales(table, what)
    slides = []
    for number, (_, row) in enumerate(table.iterrows()):
        plain = _slide(folder / expanded(str(row["path"]).strip()))
        name = plain.name if "slide" not in table or pd.isna(row["slide"]) else str(row["slide"]).strip()
        slides.append(Slide(name, plain.path, scales[number], {key: _plain(row[key]) for key in metadata}))
    return slides


def _can_be_stored(column: str) -> bool:
    """Whether a name can be a column of ``obs`` in a store, where every column is a folder."""
    fits = 0 < len(column.encode("utf-8", "surrogateescape")) <= LONGEST and column.isprintable()
    return fits and "/" not in column and column[0] not in "._" and column not in TAKEN


def _scales(table: pd.DataFrame, what: str) -> list[float | None]:
    if "mpp" not in table:
        return [None] * len(table)
    numbers = pd.to_numeric(table["mpp"], errors="coerce")
    if (wrong := (numbers.isna() & table["mpp"].notna()).to_numpy()).any():
        msg = (
            f"{what} has mpp={table['mpp'].iloc[int(np.flatnonzero(wrong)[0])]!r}, which is no number of µm per pixel."
        )
        raise ValueError(msg)
    for mpp in numbers.dropna():
        try:
            check_mpp(float(mpp))
        except ValueError as error:
            msg = f"{what}: {error}"
            raise ValueError(msg) from error
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
        if (
            not slide.name
            or not slide.name.isprintable()
            or slide.name.startswith((".", "_"))
            or set(slide.name) & set("/\\")
        ):
            msg = (
                f"{slide.name!r} cannot name a slide, as its result is a folder of that name: it must not be empty, start "
                "with '.' or '_', or hold '/', '\\' or control characters. Name slides in a column 'slide'."
            )
            raise ValueError(msg)
        if len(slide.name.encode("utf-8", "surrogateescape")) > LONGEST:
            msg = (
                f"The name of the slide {slide.name[:40]!r}… is too long for a folder: {LONGEST} bytes at most. "
                "Name slides in a column 'slide'."
            )
            raise ValueError(msg)
        if "\0" in str(slide.path):
            msg = f"The path of the slide {slide.name!r} holds a zero byte."
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
