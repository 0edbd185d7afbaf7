"""Visium HD end to end: from Space Ranger's folder and a slide to predicted genes in a zarr store.

    python benchmarks/hd.py                   # 50,000 and 500,000 bins of 8 µm, default encoder, ridge of 1,000 genes
    python benchmarks/hd.py --bins 50000      # one size only
    python benchmarks/hd.py --bin-um 2 --bins 100000 1000000  # bins of 2 µm

Writes synthetic runs (simulated tissue at 0.27 µm per pixel as a tiled, pyramidal JPEG TIFF; bins on a slightly rotated
lattice; 18,000 genes, of which a bin of 8 µm has counts of 100 and one of 2 µm of 25; of bins of 2 µm the positions of all
3,350 × 3,350 of a capture area, as Space Ranger writes them), then works on each in a fresh process: `read_visium`, `pp.tiles`, `pp.encode`,
`tl.predict_expression(out=…)`. Prints a Markdown table with the cost per bin, its ratio between the sizes and the peak
memory of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from slides import write_slide

MPP = 0.27
TILT = np.deg2rad(0.4)
GENES = 18_000
COUNTS_PER_BIN = {8: 100, 2: 25}
CAPTURE_UM = 6700
"""Side of the capture area whose bins of 2 µm have positions, in tissue or not."""
PREDICTED = 1000
MARGIN_PX = 600
STAGES = ("read", "tiles", "encode", "predict")


def barcodes_of(bin_um: int, row: np.ndarray, column: np.ndarray) -> list[str]:
    return [f"s_{bin_um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)]


def write_positions(path: Path, bin_um: int, across: int) -> int:
    """Positions of all bins, some rows of the lattice at a time; returns how far those in tissue reach, px."""
    import pandas as pd
    import pyarrow
    from pyarrow import parquet

    pitch = bin_um / MPP
    wide = CAPTURE_UM // bin_um if bin_um == 2 else across
    reach, writer = 0.0, None
    for first in range(0, wide, 256):
        rows = np.arange(first, min(first + 256, wide))
        row, column = (places.ravel() for places in np.meshgrid(rows, np.arange(wide), indexing="ij"))
        inside = (row < across) & (column < across)
        x, y = column * pitch, row * pitch
        x, y = np.cos(TILT) * x - np.sin(TILT) * y, np.sin(TILT) * x + np.cos(TILT) * y
        x, y = x + np.sin(TILT) * across * pitch + MARGIN_PX, y + MARGIN_PX
        table = {"barcode": barcodes_of(bin_um, row, column), "in_tissue": inside.astype(int)}
        table |= {"array_row": row, "array_col": column, "pxl_row_in_fullres": y, "pxl_col_in_fullres": x}
        part = pyarrow.Table.from_pandas(pd.DataFrame(table), preserve_index=False)
        writer = writer or parquet.ParquetWriter(path, part.schema)
        writer.write_table(part)
        reach = max(reach, *(float(values[inside].max(initial=0)) for values in (x, y)))
    writer.close()
    return int(reach)


def write_run(folder: Path, bin_um: int, n_bins: int) -> None:
    """Space Ranger's folder with bins of one size, and the slide beside it."""
    import h5py

    across, per_bin = round(n_bins**0.5), COUNTS_PER_BIN[bin_um]
    here = folder / "binned_outputs" / f"square_{bin_um:03d}um"
    (here / "spatial").mkdir(parents=True)
    reach = write_positions(here / "spatial" / "tissue_positions.parquet", bin_um, across)
    write_slide(folder / "slide.tif", -(-(reach + MARGIN_PX) // 1024) * 1024, mpp=MPP)
    factors = {"spot_diameter_fullres": bin_um / MPP, "bin_size_um": float(bin_um), "microns_per_pixel": MPP}
    (here / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors), encoding="utf-8")
    rng = np.random.default_rng(0)
    barcodes = barcodes_of(bin_um, *np.divmod(np.arange(across * across), across))
    n = len(barcodes)
    with h5py.File(here / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        step = GENES // per_bin
        starts = np.arange(per_bin, dtype=np.int64) * step
        indices = group.create_dataset("indices", shape=(n * per_bin,), dtype=np.int64)
        data = group.create_dataset("data", shape=(n * per_bin,), dtype=np.int32)
        for first in range(0, n, 2**14):
            some = slice(first * per_bin, min(first + 2**14, n) * per_bin)
            drawn = rng.integers(0, step, (min(first + 2**14, n) - first, per_bin), dtype=np.int32)
            indices[some], data[some] = (starts + drawn).ravel(), 1 + (drawn.ravel() == 0)
        group["indptr"] = np.arange(n + 1, dtype=np.int64) * per_bin
        group["shape"] = np.array([GENES, n])
        group["barcodes"] = np.array(barcodes, dtype="S")
        names = [f"G{i}" for i in range(GENES)]
        for key, values in (("id", names), ("name", names), ("feature_type", ["Gene Expression"] * GENES)):
            group[f"features/{key}"] = np.array(values, dtype="S")
        group["features/genome"] = np.array(["GRCh38"] * GENES, dtype="S")


def train_model(path: Path) -> None:
    """Ridge from the default encoder to 1,000 genes, on two small simulated sections."""
    import anndata as ad

    import stpredict as st

    which = np.random.default_rng(0).integers(0, 192, PREDICTED)
    train = []
    for section in st.datasets.simulate(2):
        many = ad.AnnData(section.X[:, which], obs=section.obs, obsm=section.obsm, uns=section.uns)
        many.var_names = [f"G{i}" for i in range(PREDICTED)]
        st.pp.tiles(many)
        st.pp.encode(many, show_progress=False)
        train.append(many)
    st.tl.train(train, method="ridge", genes=list(many.var_names)).save(path)


def prepare(folder: Path, bin_um: int, sizes: list[int]) -> None:
    train_model(folder / "model")
    for n_bins in sizes:
        (folder / str(n_bins)).mkdir()
        write_run(folder / str(n_bins), bin_um, n_bins)


def child(folder: Path, model_path: Path) -> None:
    import scanpy  # noqa: F401  (libraries are loaded now, so that the first stage does not pay for them)
    import torch  # noqa: F401
    import zarr  # noqa: F401

    import stpredict as st

    seconds, peaks = {}, {}
    result: dict[str, object] = {"seconds": seconds, "peaks": peaks}

    def timed(stage, call):
        start = time.perf_counter()
        value = call()
        seconds[stage] = time.perf_counter() - start
        peaks[stage] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return value

    model = st.models.load(model_path)
    adata = timed("read", lambda: st.read_visium(folder, image=folder / "slide.tif"))
    timed("tiles", lambda: st.pp.tiles(adata))
    timed("encode", lambda: st.pp.encode(adata, show_progress=False))
    out = folder / "predicted.zarr"
    timed("predict", lambda: st.tl.predict_expression(adata, model, out=out))
    result["bins"] = adata.n_obs
    files = {stat.st_ino: stat.st_size for stat in (path.stat() for path in out.rglob("*") if path.is_file())}
    result["store"] = sum(files.values()) / 2**30  # (X and the layer are the same files)
    print(json.dumps(result))


def table(results: list[dict]) -> list[str]:
    """Markdown: a column of seconds and one of µs per bin for each size, and the ratio of the last to the first."""
    sizes = [f"{r['bins']:,} bins, s" for r in results] + [f"{r['bins']:,} bins, µs per bin" for r in results]
    lines = [f"| stage | {' | '.join(sizes)} | ratio per bin |", "|---" * (len(sizes) + 2) + "|"]
    for stage in (*STAGES, "all"):
        seconds = [sum(r["seconds"].values()) if stage == "all" else r["seconds"][stage] for r in results]
        each = [s / r["bins"] * 1e6 for s, r in zip(seconds, results, strict=True)]
        cells = [f"{s:.1f}" for s in seconds] + [f"{e:.1f}" for e in each]
        lines.append(f"| {stage} | {' | '.join(cells)} | {each[-1] / each[0]:.2f} |")
    for r in results:
        rate = r["bins"] / sum(r["seconds"].values())
        told = ", ".join(f"{stage} {r['peaks'][stage]:.2f}" for stage in STAGES)
        lines.append(
            f"\n{r['bins']:,} bins: {rate:,.0f} bins/s; peak memory, GiB, after {told}; store {r['store']:.2f} GiB"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--bin-um", type=int, choices=sorted(COUNTS_PER_BIN), default=8)
    parser.add_argument("--folder", type=Path, help="where the runs are written (default: a temporary folder)")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    if arguments.prepare:
        prepare(arguments.prepare, arguments.bin_um, arguments.bins)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        # Everything in processes of their own: a child's peak memory counts what its parent held when it was started.
        sizes = [str(n_bins) for n_bins in arguments.bins]
        how = ["--prepare", scratch, "--bin-um", str(arguments.bin_um), "--bins", *sizes]
        subprocess.run([sys.executable, __file__, *how], check=True)
        results = []
        for size in sizes:
            command = [sys.executable, __file__, "--child", f"{scratch}/{size}", f"{scratch}/model"]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results.append(json.loads(told.splitlines()[-1]))
    print(f"{os.cpu_count()} CPU cores, bins of {arguments.bin_um} µm\n", *table(results), sep="\n")


if __name__ == "__main__":
    main()
