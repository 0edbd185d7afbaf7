"""Read count matrices of Space Ranger: h5, or the three files of a Matrix Market matrix."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict._core.checks import check_sparse
from stpredict._core.expansion import check_gzip, check_hdf5
from stpredict._core.files import check_regular
from stpredict.io._matrix_h5 import read_h5
from stpredict.io._run import VisiumFiles, called, joined_message, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

COUNTS = "filtered_feature_bc_matrix"
CELL_COUNTS = "filtered_feature_cell_matrix"
RAW = "raw_feature_bc_matrix"
MTX = ("matrix.mtx", "features.tsv", "barcodes.tsv")
OLD_FEATURES = "genes.tsv"
"""Name of the features before version 3 of Cell Ranger, which states no types."""

GENES = "Gene Expression"
"""Type of the features that are kept."""

OF_SECTION = re.compile(r"[ACGTN]+-(\d+)")
"""A spot's barcode, with the number of its section."""


def find_counts(run: VisiumFiles, counts_file: str | None) -> list[Path]:
    """The count matrix: one h5 file, a folder, or the three files of a matrix.

    Raises FileNotFoundError if there is none, ValueError if there are several.
    """
    folder, sample = run.folder, run.sample
    if counts_file is not None:
        if not (folder / counts_file).exists():
            msg = f"There is no count matrix {folder / counts_file}."
            raise FileNotFoundError(msg)
        return [folder / counts_file]
    for name in (COUNTS, CELL_COUNTS, RAW):
        for plain in (folder / f"{name}.h5", folder / name):
            if plain.exists() and not sample:
                return [plain]
        # (downloads put the sample's name before the file's)
        found = called(folder, rf"{name}\.h5", sample) or [p for p in called(folder, name, sample) if p.is_dir()]
        if len(found) > 1:
            msg = f"{folder} has several count matrices ({', '.join(p.name for p in found)}); pass counts_file=."
            raise ValueError(msg)
        if found:
            return found
    if trio := _three_files(folder, sample):
        return trio
    msg = (
        f"{folder} has no count matrix ({COUNTS}.h5, or a folder {COUNTS}); pass counts_file= if it is named otherwise."
    )
    raise FileNotFoundError(msg)


def read_counts(files: Sequence[Path], dropped: list[str]) -> AnnData:
    """Raw counts (CSR, float32) of the genes; what else was measured is added to `dropped`.

    Raises ValueError if they cannot be read, or are those of several sections.
    """
    path = files[0]
    try:
        with warnings.catch_warnings(), TemporaryDirectory() as scratch:
            warnings.filterwarnings("ignore", ".* names are not unique")
            adata = _read(list(files), Path(scratch))
            check_sparse(adata.X, "the matrix")
            if "feature_types" in adata.var and not (genes := adata.var["feature_types"] == GENES).all():
                others = ", ".join(sorted(set(adata.var["feature_types"][~genes].astype(str))))
                dropped.append(f"{(~genes).sum()} of {adata.n_vars} features, which are no genes ({others})")
                adata = adata[:, genes].copy()
    except Exception as error:  # (scanpy, h5py, gzip and scipy each raise their own on damaged files)
        msg = f"{path} cannot be read as a count matrix of Space Ranger ({error}). Get it again."
        raise ValueError(msg) from error
    if not adata.obs_names.is_unique:
        msg = f"{path} names spots more than once. Give the matrix of one section, not an aggregated one."
        raise ValueError(msg)
    sections = {found[1] for barcode in adata.obs_names if (found := OF_SECTION.fullmatch(barcode))}
    if len(sections) > 1:
        raise ValueError(joined_message(path))
    adata.X = adata.X.tocsr().astype(np.float32, copy=False)
    _name_by_ids(adata)
    return adata


def _three_files(folder: Path, sample: str = "") -> list[Path]:
    """Matrix, features and barcodes in a folder; empty where one is missing."""
    names = ("matrix.mtx", f"(features|{OLD_FEATURES.removesuffix('.tsv')})\\.tsv", r"barcodes\.tsv")
    found = [called(folder, name, sample) for name in names]
    return [files[0] for files in found] if all(found) else []


def _read(files: list[Path], scratch: Path) -> AnnData:
    import scanpy as sc

    path = files[0]
    if len(files) == 1 and path.is_dir():
        files = _three_files(path)
        if not files:
            return sc.read_10x_mtx(path, make_unique=False)  # (says what is missing)
    for own in files:
        check_regular(own)
        check_gzip(own)
    if len(files) == 1:
        if path.suffix == ".gz":
            path = unpack(path, scratch / "counts.h5")
        check_hdf5(path)
        # (every feature, of which the genes are taken afterwards: scanpy's own choice copies the matrix)
        found = read_h5(path)
        return sc.read_10x_h5(path, gex_only=False) if found is None else found
    old = files[1].name.removesuffix(".gz").endswith(OLD_FEATURES)
    names = [OLD_FEATURES if old and name == MTX[1] else name if old else f"{name}.gz" for name in MTX]
    if {path.name for path in files} == set(names):
        return sc.read_10x_mtx(files[0].parent, make_unique=False)
    for path, name in zip(files, names, strict=True):
        is_packed, wanted = path.suffix == ".gz", name.endswith(".gz")
        change = shutil.copyfile if is_packed == wanted else unpack if is_packed else pack
        change(path, scratch / name)
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
