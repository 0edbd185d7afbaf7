"""Read the output of Space Ranger."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.checks import check_sparse
from stpredict._images import open_image
from stpredict._sections.scale import VISIUM_PITCH_UM, check_full_resolution
from stpredict.io._library import check_mpp, check_name, library_entry

if TYPE_CHECKING:
    from anndata import AnnData

VISIUM_SPOT_UM = 55.0
COUNTS = "filtered_feature_bc_matrix"
MTX = ("matrix.mtx", "features.tsv", "barcodes.tsv")
GENES = "Gene Expression"
"""Type of the features that are kept."""

POSITION_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
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
    """Read one section from the output folder of Space Ranger (Visium, CytAssist, Visium HD bins; versions 1 to 4).

    Spots in tissue are kept, in the order of the count matrix. The downscaled images are loaded, for plots; of the
    full-resolution image only the path is kept, and its size is checked against theirs.

    Parameters
    ----------
    path
        Folder with ``spatial`` and ``filtered_feature_bc_matrix.h5`` (or the folder of that name), or its parent; for
        Visium HD the folder with ``binned_outputs``, or one of the bins in it.
    library_id
        Name of the section. By default the name of the folder.
    image
        The full-resolution H&E image that was given to Space Ranger. Without it only the coarse ``hires`` image is
        at hand.
    counts_file
        Count matrix (h5, or folder of mtx files) inside `path`, where its name is not the usual one.
    bin_um
        Bin size of Visium HD, µm. By default 8 where there are several.
    mpp
        Microns per full-resolution pixel, where you know it. By default it is found when it is needed: from the scale
        factors (Visium HD), the image file, or the spot lattice.

    Returns
    -------
    One section. ``X``: raw counts (CSR, float32). ``obs``: ``in_tissue``, ``array_row``, ``array_col``. ``var``: unique
    gene symbols, ``gene_ids``, ``feature_types``. ``obsm["spatial"]``: spot centres (x, y) in full-resolution pixels.
    ``uns["spatial"][library_id]``: ``images`` (``hires``, ``lowres``; uint8), ``scalefactors``, and ``metadata`` with
    ``source_image_path``, ``spot_pitch_um`` and ``spot_diameter_um``.

    Raises
    ------
    FileNotFoundError
        If a folder or file that is needed, or the image, does not exist.
    ValueError
        If a file is damaged, counts and positions do not belong together, or the image is not the
        full-resolution one.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.read_visium("outs", image="slide.tif")  # doctest: +SKIP
    """
    check_mpp(mpp)
    folder, size_um = _find_run(Path(path), bin_um)
    name = check_name(_default_name(Path(path)) if library_id is None else library_id)
    spatial = _find_spatial(folder)
    positions = read_positions(spatial)
    scalefactors = _read_scalefactors(spatial / "scalefactors_json.json")
    images = _read_images(spatial)
    if image is not None:
        check_full_resolution(open_image(image), images, scalefactors, name)
    adata = _in_tissue(_read_counts(_find_counts(folder, counts_file)), positions)
    if mpp is not None:
        scalefactors["microns_per_pixel"] = float(mpp)
    size_um = scalefactors.get("bin_size_um", size_um)
    metadata = {
        "technology": "10x Visium HD" if size_um else "10x Visium",
        "spot_pitch_um": float(size_um or VISIUM_PITCH_UM),
        "spot_diameter_um": float(size_um or VISIUM_SPOT_UM),
    }
    adata.uns[keys.SPATIAL] = {name: library_entry(image, images=images, scalefactors=scalefactors, metadata=metadata)}
    return adata


def _find_run(path: Path, bin_um: int | None) -> tuple[Path, float | None]:
    """Folder that holds ``spatial`` and the counts, and the bin size if it is Visium HD."""
    if not path.is_dir():
        msg = f"There is no folder {path}. Give the folder of Space Ranger's output, usually called 'outs'."
        raise FileNotFoundError(msg)
    if not any((path / part).exists() for part in ("spatial", "binned_outputs")) and (path / "outs").is_dir():
        path = path / "outs"
    bins = {
        int(b.name[7:10]): b for b in path.glob("binned_outputs/square_*um") if re.fullmatch(r"square_\d{3}um", b.name)
    }
    if not bins:
        _refuse_segmented(path)
    if bins:
        chosen = bin_um if bin_um is not None else 8 if 8 in bins else min(bins)
        if chosen not in bins:
            msg = f"{path} has no bins of {chosen} µm; it has {', '.join(map(str, sorted(bins)))}."
            raise ValueError(msg)
        return bins[chosen], float(chosen)
    if bin_um is not None and path.name != f"square_{bin_um:03d}um":
        msg = f"bin_um={bin_um} is for Visium HD, but {path} has no 'binned_outputs'."
        raise ValueError(msg)
    return path, None


def _refuse_segmented(path: Path) -> None:
    """Refuse the cells of Space Ranger 4, which are no spots, with what reads them.

    Raises
    ------
    ValueError
        If that is what the folder holds.
    """
    if (path / "segmented_outputs").is_dir() or (path / "cell_segmentations.geojson").is_file():
        msg = (
            f"{path} holds cell segmentations of Space Ranger, not spots or bins. Give the folder with 'binned_outputs' to "
            "read bins, or read the cells with spatialdata_io.visium_hd, which gives a SpatialData, and pass table_key="
            "'cell_segmentations' to every function."
        )
        raise ValueError(msg)


def _default_name(path: Path) -> str:
    """Name of the run: the folder, or the first one above it that is not Space Ranger's own."""
    path = path.resolve()
    while path.name in ("outs", "binned_outputs") or re.fullmatch(r"square_\d{3}um", path.name):
        path = path.parent
    return path.name


def _find_spatial(folder: Path) -> Path:
    if not (folder / "spatial").is_dir():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        msg = f"{folder} has no folder 'spatial', as Space Ranger writes it; it holds {found}."
        raise FileNotFoundError(msg)
    return folder / "spatial"


def _read_scalefactors(path: Path) -> dict[str, float]:
    if not path.is_file():
        msg = f"{path} is missing. It is part of Space Ranger's output; copy the whole 'spatial' folder."
        raise FileNotFoundError(msg)
    try:
        factors = {key: float(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        msg = f"{path} is damaged ({error}). Get it again from Space Ranger's output."
        raise ValueError(msg) from error
    bad = [key for key, value in factors.items() if not (np.isfinite(value) and value > 0)]
    if bad:
        msg = f"{path} has scale factors that are not positive ({', '.join(bad)}). Get it again."
        raise ValueError(msg)
    return factors


def _read_images(spatial: Path) -> dict[str, np.ndarray]:
    images = {}
    for key in ("hires", "lowres"):
        path = next(iter(sorted(spatial.glob(f"tissue_{key}_image.*"))), None)
        if path is not None:
            image = open_image(path)
            images[key] = image.read(0, 0, image.shape[1], image.shape[0])
    return images


def _find_counts(folder: Path, counts_file: str | None) -> Path:
    if counts_file is not None:
        if not (folder / counts_file).exists():
            msg = f"There is no count matrix {folder / counts_file}."
            raise FileNotFoundError(msg)
        return folder / counts_file
    # Downloads from 10x Genomics put the sample's name before the file's.
    candidates = [folder / f"{COUNTS}.h5", folder / COUNTS, *sorted(folder.glob(f"*{COUNTS}.h5"))]
    found = list(dict.fromkeys(p for p in candidates if p.exists()))
    if not found:
        msg = f"{folder} has no count matrix ({COUNTS}.h5, or a folder {COUNTS}); pass counts_file= if it is named otherwise."
        raise FileNotFoundError(msg)
    if len(found) > 1 and found[0] not in candidates[:2]:
        msg = f"{folder} has several count matrices ({', '.join(p.name for p in found)}); pass counts_file=."
        raise ValueError(msg)
    return found[0]


def _read_counts(path: Path) -> AnnData:
    import scanpy as sc

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* names are not unique")
            # (every feature, of which the genes are taken below: scanpy's own choice copies the matrix)
            adata = _read_mtx(path) if path.is_dir() else sc.read_10x_h5(path, gex_only=False)
            check_sparse(adata.X, "the matrix")
            if "feature_types" in adata.var and not (genes := adata.var["feature_types"] == GENES).all():
                adata = adata[:, genes].copy()
    except Exception as error:  # (scanpy, h5py, gzip and scipy each raise their own on damaged files)
        msg = f"{path} cannot be read as a count matrix of Space Ranger ({error}). Get it again."
        raise ValueError(msg) from error
    if not adata.obs_names.is_unique:
        msg = f"{path} names spots more than once. Give the matrix of one section, not an aggregated one."
        raise ValueError(msg)
    adata.X = adata.X.tocsr().astype(np.float32, copy=False)
    _name_by_ids(adata)
    return adata


def _read_mtx(path: Path) -> AnnData:
    """The three files of a matrix, each gzipped or not."""
    import scanpy as sc

    plain = [path / name for name in MTX if (path / name).is_file() and not (path / f"{name}.gz").is_file()]
    if not plain or (path / "genes.tsv").is_file():
        return sc.read_10x_mtx(path, make_unique=False)
    with TemporaryDirectory() as scratch:
        for name in MTX:
            target = Path(scratch) / f"{name}.gz"
            if path / name not in plain:
                shutil.copyfile(path / f"{name}.gz", target)
                continue
            with (path / name).open("rb") as source, gzip.open(target, "wb", compresslevel=1) as out:
                shutil.copyfileobj(source, out)
        return sc.read_10x_mtx(scratch, make_unique=False)


def _name_by_ids(adata: AnnData) -> None:
    """Make gene names unique; genes that share a symbol are numbered by their ids, not by their place in the file."""
    from anndata.utils import make_index_unique

    if "gene_ids" in adata.var and not adata.var_names.is_unique:
        order = np.argsort(adata.var["gene_ids"].astype(str).to_numpy(), kind="stable")
        names = np.empty(adata.n_vars, dtype=object)
        names[order] = make_index_unique(pd.Index(adata.var_names[order].astype(object)))
        adata.var_names = names
    adata.var_names_make_unique()


def _in_tissue(adata: AnnData, positions: Any) -> AnnData:
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
    own = positions.loc[adata.obs_names]
    inside = (own["in_tissue"] == 1).to_numpy()
    if not inside.any():
        msg = "No spot of the count matrix lies in tissue (in_tissue is 0 everywhere)."
        raise ValueError(msg)
    if not inside.all():
        adata, own = adata[inside].copy(), own[inside]
    adata.obs = own[["in_tissue", "array_row", "array_col"]].copy()
    # x is the column and y the row of the image.
    adata.obsm[keys.SPATIAL] = own[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(np.float64, copy=True)
    return adata


def read_positions(folder: Path) -> pd.DataFrame:
    """Positions of all spots by barcode, from the ``spatial`` folder of Space Ranger.

    Versions differ in the file's name and in whether it has a header, so the header is looked for in the file itself.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, has other columns, or names a spot twice.
    """
    path = next((folder / name for name in POSITION_FILES if (folder / name).is_file()), None)
    if path is None:
        msg = f"{folder} holds no spot positions; one of {', '.join(POSITION_FILES)} is needed."
        raise FileNotFoundError(msg)
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_positions_csv(path)
        missing = [name for name in POSITION_COLUMNS if name not in table]
        if missing:
            msg = f"it has no column {', '.join(missing)}"
            raise ValueError(msg)
        table = table.set_index("barcode")[POSITION_COLUMNS[1:]]
        table.index = table.index.astype(str)
        table = table.astype({"in_tissue": int, "array_row": int, "array_col": int})
        table = table.astype(dict.fromkeys(POSITION_COLUMNS[4:], float))
    except (ValueError, TypeError, OSError) as error:
        msg = f"{path} is damaged or no table of spot positions ({error}). Get it again from Space Ranger's output."
        raise ValueError(msg) from error
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()].unique()
        msg = f"{path} names {len(twice)} spots more than once: {', '.join(twice[:3])}. Keep one row for each."
        raise ValueError(msg)
    return table


def _read_positions_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().strip().replace('"', "").split(",")
    if first[0] == "barcode" or "in_tissue" in first:
        return pd.read_csv(path, dtype={"barcode": str}, encoding="utf-8-sig")
    if len(first) != len(POSITION_COLUMNS):
        msg = f"it has {len(first)} columns instead of {len(POSITION_COLUMNS)}"
        raise ValueError(msg)
    return pd.read_csv(path, header=None, names=POSITION_COLUMNS, dtype={"barcode": str}, encoding="utf-8-sig")
