"""Read legacy Spatial Transcriptomics sections: a table of counts, a table of spots, an image."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._sections.scale import find_lattice
from stpredict._sections.totals import row_sums
from stpredict.io._library import SEPARATORS, check_mpp, check_name, library_entry, tell_dropped, with_decimal_points

if TYPE_CHECKING:
    from anndata import AnnData

SPOT_ID = re.compile(r"X?(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)$")
"""``10x13``, with fractions where the array was fitted to the image; R writes ``X10x13``."""

LONGEST_NAME = 60
"""Characters of a spot's name; two numbers have fewer."""

PIXELS = ["pixel_x", "pixel_y"]
GRIDS = (("x", "y"), ("new_x", "new_y"), ("id_x", "id_y"))
LONGEST_LINE = 2**25
"""Bytes: tables of counts have shorter ones, and a small compressed file may unfold to one that fills the memory."""

LARGEST_TABLE, MOST_LINES = 2**29, 10**6
"""Bytes of a table when it is unfolded, and its lines; the 1k array has a hundredth of that."""

DAMAGE = (ValueError, OSError, EOFError, zlib.error)
"""What a damaged table raises."""
SAME_SPOT = 0.02
"""Grid units: names of spots are rounded."""


def read_st(
    counts: str | Path,
    spots: str | Path,
    image: str | Path | None = None,
    *,
    library_id: str | None = None,
    spot_pitch_um: float | None = 200.0,
    spot_diameter_um: float | None = 100.0,
    mpp: float | None = None,
) -> AnnData:
    """Read one section of legacy Spatial Transcriptomics (the arrays before Visium) from its three files.

    Spots that both tables have are kept, in the order of the count table; one line says how many were left out.

    Parameters
    ----------
    counts
        Table of counts (tsv or csv, may be gzipped), spots × genes or genes × spots; spots are called ``10x13``.
    spots
        Table of spots (tsv or csv, may be gzipped): ``x``, ``y`` (or ``new_x``, ``new_y``), ``pixel_x``, ``pixel_y``
        and perhaps ``selected``, as the ST Spot Detector writes it; or ``spot_id``, ``pixel_x``, ``pixel_y``. Pixels
        are those of `image`.
    image
        The H&E image.
    library_id
        Name of the section. By default the name of the count file.
    spot_pitch_um
        Distance between neighbouring spots, centre to centre: 200 µm on the 1k array. None where unknown.
    spot_diameter_um
        Diameter of a spot, µm. None where unknown.
    mpp
        Microns per pixel of `image`, where you know it. By default it is found when it is needed: from the image
        file or from the spot lattice and `spot_pitch_um`.

    Returns
    -------
    One section. ``X``: raw counts (CSR, float32). ``obs``: ``array_row``, ``array_col``, ``total_counts``. ``obsm["spatial"]``: spot
    centres (x, y) in pixels. ``uns["spatial"][library_id]``: a small ``hires`` image for plots, ``scalefactors``, and
    ``metadata`` with ``source_image_path``, ``spot_pitch_um`` and ``spot_diameter_um``.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a table is damaged, has no pixel columns or duplicated spots, or the two tables share no spot.

    Warns
    -----
    UserWarning
        If spots are left out, with their number and why.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.read_st("C1.tsv.gz", "C1_selection.tsv", "C1.jpg")  # doctest: +SKIP
    """
    from anndata import AnnData
    from anndata.utils import make_index_unique
    from scipy import sparse

    check_mpp(mpp)
    counts, spots = Path(counts), Path(spots)
    name = check_name(counts.name.split(".")[0] if library_id is None else library_id)
    table, places = _read_counts(counts), _read_spots(spots)
    grid = _grid(table.index)
    which = _match(grid, places)
    keep = which >= 0
    if not keep.any():
        example = ", ".join(f"{places[c].iloc[0]:g}" for c in places if c not in PIXELS)
        msg = (
            f"{counts} and {spots} share no spot: the first are called {table.index[0]} and {example}. "
            "Both must be of the same section."
        )
        raise ValueError(msg)
    centres = places[PIXELS].to_numpy(np.float64)[which[keep]]
    adata = AnnData(
        sparse.csr_matrix(table.to_numpy(np.float32)[keep]),
        obs=pd.DataFrame({"array_row": grid[keep, 1], "array_col": grid[keep, 0]}, index=table.index[keep]),
        var=pd.DataFrame(index=make_index_unique(table.columns.astype(str))),
        obsm={keys.SPATIAL: centres},
    )
    adata.obs[keys.TOTAL_COUNTS] = row_sums(adata.X)
    metadata = {
        "technology": "Spatial Transcriptomics",
        "spot_pitch_um": spot_pitch_um,
        "spot_diameter_um": spot_diameter_um,
    }
    scalefactors = _scalefactors(centres, spot_pitch_um, spot_diameter_um, mpp)
    dropped = []
    if lost := int((~keep).sum()):
        dropped.append(f"{lost} of {len(keep)} spots with counts, which {spots.name} does not name or select")
    if lost := len(places) - len(np.unique(which[keep])):
        dropped.append(f"{lost} of {len(places)} places, for which {counts.name} has no counts")
    tell_dropped(name, dropped)
    adata.uns[keys.SPATIAL] = {
        name: library_entry(image, images={}, scalefactors=scalefactors, metadata=metadata),
    }
    return adata


def _scalefactors(
    centres: np.ndarray, pitch_um: float | None, diameter_um: float | None, mpp: float | None
) -> dict[str, float]:
    factors = {}
    if mpp is not None:
        factors["microns_per_pixel"] = float(mpp)
    elif pitch_um and (lattice := find_lattice(centres)):
        mpp = pitch_um / lattice.pitch_px
    if mpp is not None and diameter_um:
        factors["spot_diameter_fullres"] = diameter_um / mpp
    return factors


def _read_counts(path: Path) -> pd.DataFrame:
    """Spots × genes, with the spots' own names."""
    separator, header = _first_line(path)
    try:
        table = pd.read_csv(path, sep=separator, header=None, skiprows=1, index_col=0, low_memory=False)
        table = with_decimal_points(table, separator)
    except DAMAGE as error:
        msg = f"{path} cannot be read as a table of counts ({error}). Get it again."
        raise ValueError(msg) from error
    if not table.shape[1]:
        msg = f"{path} has one column; counts of several genes are needed, separated by tabs, commas or semicolons."
        raise ValueError(msg)
    if len(header) - table.shape[1] not in (0, 1):
        msg = f"{path} is damaged: {len(header)} names in its first line, but {table.shape[1] + 1} columns below it."
        raise ValueError(msg)
    table.columns = header[-table.shape[1] :]
    if not _are_spots(table.index):
        if not _are_spots(table.columns):
            msg = (
                f"Neither rows nor columns of {path} are spots: they are called {table.index[0]!r} and "
                f"{table.columns[0]!r}, where one should be like '10x13'."
            )
            raise ValueError(msg)
        table = table.T
    table.index.name = None
    if not table.index.is_unique:
        msg = f"{path} has duplicated spots ({', '.join(table.index[table.index.duplicated()][:3])})."
        raise ValueError(msg)
    if not _are_numbers(table):
        msg = f"{path} has cells that are empty or no numbers, or too large. Counts are needed in all of them."
        raise ValueError(msg)
    if nameless := sum(pd.isna(name) or not str(name).strip() for name in table.columns):
        msg = f"{path} has {nameless} gene(s) without a name. Name them, or drop their columns."
        raise ValueError(msg)
    return table


def _read_spots(path: Path) -> pd.DataFrame:
    """Spots under tissue: pixels, and the grid position in one or two ways."""
    separator, _ = _first_line(path)
    try:
        table = with_decimal_points(pd.read_csv(path, sep=separator, encoding="utf-8-sig"), separator)
    except DAMAGE as error:
        msg = f"{path} cannot be read as a table of spots ({error}). Get it again."
        raise ValueError(msg) from error
    missing = [name for name in PIXELS if name not in table]
    if missing:
        msg = (
            f"{path} has no column {' and '.join(missing)} (it has {', '.join(map(str, table.columns))}). "
            "Where spots lie on the image must be known: export the table again from the ST Spot Detector."
        )
        raise ValueError(msg)
    if "selected" in table:
        table = table[table["selected"] == 1]
        if table.empty:
            msg = f"{path} has no selected spot (column 'selected' is 1 nowhere)."
            raise ValueError(msg)
    names = next((table[c] for c in ("spot_id", table.columns[0]) if c in table and _are_spots(table[c])), None)
    if names is not None:
        table[["id_x", "id_y"]] = _grid(names)
    grids = [pair for pair in GRIDS if set(pair) <= set(table)]
    if not grids:
        msg = f"{path} does not say which spot is which: columns x and y, or spot_id (like '10x13'), are needed."
        raise ValueError(msg)
    table = table[[*PIXELS, *(name for pair in grids for name in pair)]]
    if not _are_numbers(table):
        msg = f"{path} has positions that are empty or no numbers, or too large (decimal commas are read between semicolons only)."
        raise ValueError(msg)
    for pair in grids:
        if table.duplicated(list(pair)).any():
            msg = f"{path} has duplicated spots ({' x '.join(f'{v:g}' for v in table[table.duplicated(list(pair))][list(pair)].iloc[0])})."
            raise ValueError(msg)
    return table


def _are_numbers(table: pd.DataFrame) -> bool:
    """Whether all cells are numbers, and none is too large for one of 32 bits."""
    if not all(pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes):
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(table.to_numpy(np.float32)).all())


def _match(wanted: np.ndarray, places: pd.DataFrame) -> np.ndarray:
    """Row of `places` for each grid position, −1 where there is none; by whichever of its grids fits best."""
    from scipy.spatial import cKDTree

    best = np.full(len(wanted), -1)
    for pair in GRIDS:
        if not set(pair) <= set(places) or places.empty:
            continue
        distance, row = cKDTree(places[list(pair)].to_numpy(np.float64)).query(wanted)
        row = np.where(distance < SAME_SPOT, row, -1)
        if (row >= 0).sum() > (best >= 0).sum():
            best = row
    return best


def _first_line(path: Path) -> tuple[str, list[str]]:
    if not path.is_file():
        msg = f"There is no file {path}."
        raise FileNotFoundError(msg)
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig") as file
        ):
            _check_size(path)
            line = file.readline().rstrip("\r\n")
    except DAMAGE as error:
        msg = f"{path} cannot be read as a table ({error}). Get it again."
        raise ValueError(msg) from error
    separator = max(SEPARATORS, key=line.count)
    return separator, [name.strip('"') for name in line.split(separator)]


def _check_size(path: Path) -> None:
    """Refuse a table that is too large to be one of this technology, before it fills the memory."""
    size = lines = since = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        while block := file.read(2**20):
            size, lines = size + len(block), lines + block.count(b"\n")
            since = len(block) - 1 - end if (end := block.rfind(b"\n")) >= 0 else since + len(block)
            if size > LARGEST_TABLE or lines > MOST_LINES or since > LONGEST_LINE:
                msg = (
                    f"tables of spots have at most {MOST_LINES:,} lines, of {LONGEST_LINE:,} bytes each and "
                    f"{LARGEST_TABLE:,} in all"
                )
                raise ValueError(msg)


def _are_spots(names: pd.Index | pd.Series) -> bool:
    return len(names) > 0 and all(
        isinstance(name, str) and len(name) <= LONGEST_NAME and SPOT_ID.match(name) for name in names
    )


def _grid(names: pd.Index | pd.Series) -> np.ndarray:
    """(n, 2) grid positions (x, y) that spots are named after; all are (see `_are_spots`)."""
    return np.array([[float(part) for part in cast("re.Match[str]", SPOT_ID.match(name)).groups()] for name in names])
