"""Read the output of Space Ranger."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.expansion import check_gzip, check_parquet
from stpredict._images import open_image
from stpredict._images.whole import check_size
from stpredict._sections.scale import VISIUM_PITCH_UM, check_full_resolution
from stpredict._sections.totals import row_sums
from stpredict.io._cells import place_cells
from stpredict.io._library import SEPARATORS, check_mpp, check_name, library_entry, tell_dropped, with_decimal_points
from stpredict.io._matrix import find_counts, read_counts
from stpredict.io._run import CELLS, GZIP_DAMAGE, SCALE_FACTORS, SEGMENTED, VisiumFiles, find_run, name_of, unpack

if TYPE_CHECKING:
    from anndata import AnnData

VISIUM_SPOT_UM = 55.0
LONGEST_TEXT = 2**20
"""Bytes of a header or of the scale factors."""

POSITION_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
OTHER_NAMES = {
    **dict.fromkeys(("barcodes", "Unnamed: 0"), "barcode"),
    **dict(zip(("tissue", "row", "col", "imagerow", "imagecol"), POSITION_COLUMNS[1:], strict=True)),
}
"""Columns as Seurat calls them, of a table that R wrote with the barcodes as names of its rows."""

POSITION_FILES = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")


def read_visium(
    path: str | Path,
    *,
    library_id: str | None = None,
    image: str | Path | None = None,
    counts_file: str | None = None,
    bin_um: int | None = None,
    mpp: float | None = None,
) -> AnnData:
    """Read one section from the output of Space Ranger (Visium, CytAssist, Visium HD bins or cells; versions 1 to 4).

    Spots in tissue are kept, in the order of the count matrix; one line says what was left out. The downscaled images are
    loaded, for plots; of the full-resolution image only the path is kept, and its size is checked against theirs.

    Parameters
    ----------
    path
        Folder with ``spatial`` and ``filtered_feature_bc_matrix.h5`` (or the folder of that name), or its parent; for
        Visium HD the folder with ``binned_outputs``, or one of the bins in it, or ``segmented_outputs`` for cells. A folder
        with all files beside each other, gzipped or not and behind a sample's name, as GEO has them, is read too; of
        several samples in it, give folder and name, ``"GSE1/GSM1_A"``.
    library_id
        Name of the section. By default the name of the folder, or of the sample.
    image
        The full-resolution H&E image that was given to Space Ranger. Without it only the coarse ``hires`` image is
        available.
    counts_file
        Count matrix (h5, or folder of mtx files) inside `path`, where its name is not the usual one.
    bin_um
        Bin size of Visium HD, µm. By default 8 where there are several.
    mpp
        Microns per full-resolution pixel, where you know it. By default it is found when it is needed: from the scale
        factors (Visium HD), the image file, or the spot lattice.

    Returns
    -------
    One section. ``X``: raw counts (CSR, float32). ``obs``: ``total_counts`` and, not of cells, ``in_tissue``, ``array_row``, ``array_col``. ``var``: unique
    gene symbols, ``gene_ids``, ``feature_types``. ``obsm["spatial"]``: centres (x, y) in full-resolution pixels.
    ``uns["spatial"][library_id]``: ``images`` (``hires``, ``lowres``; uint8), ``scalefactors``, and ``metadata`` with
    ``source_image_path``, ``spot_pitch_um`` and ``spot_diameter_um``.

    Raises
    ------
    FileNotFoundError
        If a folder or file that is needed, or the image, does not exist.
    ValueError
        If a file is damaged or would fill the memory once it is unpacked, counts and positions do not belong together, or
        the image is not the full-resolution one; if `path` is an archive, or holds several sections.

    Warns
    -----
    UserWarning
        If spots or features are left out, with their numbers and why.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.read_visium("outs", image="slide.tif")  # doctest: +SKIP
    """
    check_mpp(mpp)
    run = find_run(Path(path), bin_um)
    name = check_name(name_of(Path(path), run) if library_id is None else library_id)
    outlines = run.folder / CELLS
    are_cells = outlines.is_file() or run.folder.name == SEGMENTED
    positions = None if are_cells else read_positions(run, only_tissue=True)
    scalefactors = _read_scalefactors(run)
    images = _read_images(run)
    if image is not None:
        check_full_resolution(open_image(image), images, scalefactors, name)
    dropped: list[str] = []
    adata = read_counts(find_counts(run, counts_file), dropped)
    if mpp is not None:
        scalefactors["microns_per_pixel"] = float(mpp)
    if positions is None:
        adata = place_cells(adata, outlines, dropped)
        metadata: dict[str, Any] = {"technology": "10x Visium HD cells"}
    else:
        if not adata.obs_names.isin(positions.index).all():  # (some lie off the tissue, or nowhere)
            positions = read_positions(run)
        adata = _in_tissue(adata, positions, dropped)
        size_um = scalefactors.get("bin_size_um", run.bin_um)
        metadata = {
            "technology": "10x Visium HD" if size_um else "10x Visium",
            "spot_pitch_um": float(size_um or VISIUM_PITCH_UM),
            "spot_diameter_um": float(size_um or VISIUM_SPOT_UM),
        }
    tell_dropped(name, dropped)
    adata.obs[keys.TOTAL_COUNTS] = row_sums(adata.X)
    adata.uns[keys.SPATIAL] = {name: library_entry(image, images=images, scalefactors=scalefactors, metadata=metadata)}
    return adata


def _read_scalefactors(run: VisiumFiles) -> dict[str, float]:
    path = run.spatial_file(re.escape(SCALE_FACTORS))
    if path is None:
        msg = f"{run.spatial / SCALE_FACTORS} is missing. It is part of Space Ranger's output; copy the whole 'spatial' folder."
        raise FileNotFoundError(msg)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read(LONGEST_TEXT).decode("utf-8-sig")
        factors = {key: float(np.asarray(value).item()) for key, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError, *GZIP_DAMAGE) as error:
        msg = f"{path} is damaged ({error}). Get it again from Space Ranger's output."
        raise ValueError(msg) from error
    bad = [key for key, value in factors.items() if not (np.isfinite(value) and value > 0)]
    if bad:
        msg = f"{path} has scale factors that are not positive ({', '.join(bad)}). Get it again."
        raise ValueError(msg)
    return factors


def _read_images(run: VisiumFiles) -> dict[str, np.ndarray]:
    images = {}
    with TemporaryDirectory() as scratch:
        for key in ("hires", "lowres"):
            path = run.spatial_file(rf"tissue_{key}_image\.[a-z]+")
            if path is None:
                continue
            if path.suffix == ".gz":
                path = unpack(path, Path(scratch) / path.name.removesuffix(".gz"))
            image = open_image(path)
            check_size(image.shape[0] * image.shape[1], path.stat().st_size, str(path))
            images[key] = image.read(0, 0, image.shape[1], image.shape[0])
    return images


def _in_tissue(adata: AnnData, positions: pd.DataFrame, dropped: list[str]) -> AnnData:
    """Spots in tissue, with their positions."""
    unknown = ~adata.obs_names.isin(positions.index)
    if unknown.any():
        examples = (
            f"{adata.obs_names[unknown][0]}, and positions have barcodes such as {next(iter(positions.index), 'none')}"
        )
        msg = (
            f"{unknown.sum()} of {adata.n_obs} barcodes of the count matrix have no position ({examples}). "
            "Counts and the 'spatial' folder must come from the same run."
        )
        raise ValueError(msg)
    own = positions if positions.index.equals(adata.obs_names) else positions.loc[adata.obs_names]
    inside = (own["in_tissue"] == 1).to_numpy()
    if not inside.any():
        msg = "No spot of the count matrix lies in tissue (in_tissue is 0 everywhere)."
        raise ValueError(msg)
    if not inside.all():
        dropped.append(f"{(~inside).sum()} of {len(inside)} spots, which lie off the tissue (in_tissue is 0)")
        adata, own = adata[inside].copy(), own[inside]
    adata.obs = own[["in_tissue", "array_row", "array_col"]].copy()
    # x is the column and y the row of the image.
    adata.obsm[keys.SPATIAL] = own[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(np.float64, copy=True)
    return adata


def read_positions(run: VisiumFiles, *, only_tissue: bool = False) -> pd.DataFrame:
    """Positions of all spots by barcode, as Space Ranger writes them.

    Versions differ in the file's name and in whether it has a header, so the header is looked for in the file itself.
    With `only_tissue`, those off the tissue may be left out: of 11 million bins of 2 µm most often are. Raises
    FileNotFoundError if there is no such file; ValueError if it is damaged, has other columns, or names a spot twice.
    """
    path = next((found for name in POSITION_FILES if (found := run.spatial_file(re.escape(name)))), None)
    if path is None:
        msg = f"{run.spatial} holds no spot positions; one of {', '.join(POSITION_FILES)} is needed."
        raise FileNotFoundError(msg)
    try:
        (check_parquet if path.suffix == ".parquet" else check_gzip)(path)
        table = _read_parquet(path, only_tissue) if path.suffix == ".parquet" else _read_positions_csv(path)
        table = table.rename(columns=OTHER_NAMES) if "barcode" not in table else table
        missing = [name for name in POSITION_COLUMNS if name not in table]
        if missing:
            msg = f"it has no column {', '.join(missing)}"
            raise ValueError(msg)
        table = table.set_index("barcode")[POSITION_COLUMNS[1:]]
        table.index = table.index.astype(str)
        table = table.astype({"in_tissue": int, "array_row": int, "array_col": int})
        table = table.astype(dict.fromkeys(POSITION_COLUMNS[4:], float))
    except (ValueError, TypeError, *GZIP_DAMAGE) as error:
        msg = f"{path} is damaged or no table of spot positions ({error}). Get it again from Space Ranger's output."
        raise ValueError(msg) from error
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()].unique()
        msg = f"{path} names {len(twice)} spots more than once: {', '.join(twice[:3])}. Keep one row for each."
        raise ValueError(msg)
    return table


def _read_parquet(path: Path, only_tissue: bool) -> pd.DataFrame:
    """A parquet table; the rows off the tissue are never in memory if they are not wanted."""
    from pyarrow import parquet, types

    schema = parquet.read_schema(path)
    known = set(POSITION_COLUMNS) <= set(schema.names) and types.is_integer(schema.field("in_tissue").type)
    if not (only_tissue and known):
        return pd.read_parquet(path)
    return pd.read_parquet(path, columns=POSITION_COLUMNS, filters=[("in_tissue", "==", 1)])


def _read_positions_csv(path: Path) -> pd.DataFrame:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        line = file.readline(LONGEST_TEXT).decode("utf-8-sig").strip().replace('"', "")
    separator = max(SEPARATORS, key=line.count)
    first = line.split(separator)
    how: dict[str, Any] = {"sep": separator, "dtype": {"barcode": str}, "encoding": "utf-8-sig"}
    if "in_tissue" in first or "tissue" in first or first[0] == "barcode":
        table = pd.read_csv(path, **how)
    elif len(first) != len(POSITION_COLUMNS):
        msg = f"it has {len(first)} columns instead of {len(POSITION_COLUMNS)}"
        raise ValueError(msg)
    else:
        table = pd.read_csv(path, header=None, names=POSITION_COLUMNS, **how)
    return with_decimal_points(table, separator)
