"""Outputs of Space Ranger and of legacy ST, small and made by construction."""

from __future__ import annotations

import gzip
import json

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import io as scipy_io
from scipy import sparse

HIRES = 0.2
FULL = (900, 1000)
"""Height and width of the full-resolution image."""
GENES = ["ERBB2", "CD74", "CD74", "MKI67"]
HEADER = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"


def visium_positions(n=8, pitch=90.0):
    """All spots of a slide by barcode; those of the first row are outside of the tissue."""
    row, column = np.divmod(np.arange(n * n), n)
    return pd.DataFrame(
        {
            "barcode": [f"BC{i:03d}-1" for i in range(n * n)],
            "in_tissue": (row > 0).astype(int),
            "array_row": row,
            "array_col": 2 * column + row % 2,
            "pxl_row_in_fullres": 60 + row * pitch * np.sqrt(0.75),
            "pxl_col_in_fullres": 80 + (column + 0.5 * (row % 2)) * pitch,
        }
    )


def write_matrix(folder, barcodes, counts, *, h5):
    ids = [f"ENSG{i:011d}" for i in range(len(GENES))]
    if not h5:
        folder = folder / "filtered_feature_bc_matrix"
        folder.mkdir()
        scipy_io.mmwrite(folder / "matrix.mtx", sparse.coo_matrix(counts.T), field="integer")
        (folder / "matrix.mtx.gz").write_bytes(gzip.compress((folder / "matrix.mtx").read_bytes()))
        (folder / "matrix.mtx").unlink()
        features = "".join(f"{i}\t{g}\tGene Expression\n" for i, g in zip(ids, GENES, strict=True))
        (folder / "features.tsv.gz").write_bytes(gzip.compress(features.encode()))
        (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("".join(f"{b}\n" for b in barcodes).encode()))
        return
    matrix = sparse.csc_matrix(counts.T)
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"] = matrix.shape
        group["barcodes"] = np.array(barcodes, dtype="S")
        for key, values in {"id": ids, "name": GENES, "feature_type": ["Gene Expression"] * len(GENES)}.items():
            group[f"features/{key}"] = np.array(values, dtype="S")
        group["features/genome"] = np.array(["GRCh38"] * len(GENES), dtype="S")


@pytest.fixture
def write_visium():
    """Write one run of Space Ranger; returns the counts of its spots in tissue, by barcode."""

    def write(folder, *, version=2, h5=True, hires=True, barcodes=None):
        (folder / "spatial").mkdir(parents=True)
        table = visium_positions()
        name = "tissue_positions_list.csv" if version == 1 else "tissue_positions.csv"
        shuffled = table.sample(frac=1, random_state=0)
        shuffled.to_csv(folder / "spatial" / name, index=False, header=version > 1)
        factors = {
            "tissue_hires_scalef": HIRES,
            "tissue_lowres_scalef": HIRES / 2,
            "spot_diameter_fullres": 58.0,
            "fiducial_diameter_fullres": 90.0,
        }
        (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
        pixels = np.random.default_rng(0).integers(0, 256, (*FULL, 3), dtype=np.uint8)
        for key, step in (("hires", 5), ("lowres", 10)):
            if hires or key == "lowres":
                Image.fromarray(pixels[::step, ::step]).save(folder / "spatial" / f"tissue_{key}_image.png")
        inside = table.loc[table["in_tissue"] == 1, "barcode"].tolist() if barcodes is None else barcodes
        counts = np.random.default_rng(1).poisson(2.0, (len(inside), len(GENES)))
        write_matrix(folder, inside, counts, h5=h5)
        return pd.DataFrame(counts, index=inside)

    return write


@pytest.fixture
def write_full():
    """Write the full-resolution image that the hires one was made from."""

    def write(path):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*FULL, 3), dtype=np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def write_hd():
    """Write a run of Visium HD with bins of 8 and 16 µm on a slide of 0.5 µm per pixel."""

    def write(folder):
        for um in (8, 16):
            here = folder / "binned_outputs" / f"square_{um:03d}um"
            (here / "spatial").mkdir(parents=True)
            n = 80 // um * 2
            row, column = np.divmod(np.arange(n * n), n)
            table = pd.DataFrame(
                {
                    "barcode": [f"s_{um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)],
                    "in_tissue": np.ones(n * n, dtype=int),
                    "array_row": row,
                    "array_col": column,
                    "pxl_row_in_fullres": 10 + (row + 0.5) * um / 0.5,
                    "pxl_col_in_fullres": 30 + (column + 0.5) * um / 0.5,
                }
            )
            table.to_parquet(here / "spatial" / "tissue_positions.parquet", index=False)
            factors = {
                "tissue_hires_scalef": HIRES,
                "tissue_lowres_scalef": HIRES / 2,
                "spot_diameter_fullres": um / 0.5,
                "bin_size_um": float(um),
                "microns_per_pixel": 0.5,
                "regist_target_img_scalef": HIRES,
            }
            (here / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
            counts = np.random.default_rng(um).poisson(1.0, (n * n, len(GENES)))
            write_matrix(here, table["barcode"].tolist(), counts, h5=True)
        return folder

    return write
