"""Cells end to end: from segmented cells and a slide to predicted genes.

    python benchmarks/cells.py                   # 100,000 cells, default encoder, ridge of 500 genes
    python benchmarks/cells.py --cells 20000

Writes what Space Ranger 4 writes of segmented cells (outlines as GeoJSON, 500 genes) beside a slide of simulated tissue at
0.27 µm per pixel with one cell in 100 µm², then works on it in a fresh process: `read_visium`, `pp.tiles` with windows of 32
and 128 µm, `pp.encode`, `tl.train`, `tl.predict_expression`. Prints seconds and the peak memory of the process so far.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from slides import write_slide

MPP = 0.27
UM2_PER_CELL = 100.0
GENES = 500
COUNTS_PER_CELL = 60
MARGIN_PX = 300


def write_run(folder: Path, n: int) -> None:
    """Cells of Space Ranger 4, and the slide."""
    import h5py

    rng = np.random.default_rng(0)
    extent = (n * UM2_PER_CELL) ** 0.5 / MPP
    side = -(-int(extent + 2 * MARGIN_PX) // 1024) * 1024
    write_slide(folder / "slide.tif", side, mpp=MPP)
    here = folder / "segmented_outputs"
    (here / "spatial").mkdir(parents=True)
    (here / "spatial" / "scalefactors_json.json").write_text(json.dumps({"microns_per_pixel": MPP}), encoding="utf-8")
    angles = np.linspace(0, 2 * np.pi, 24)
    circle = 4 / MPP * np.column_stack([np.cos(angles), np.sin(angles)])
    circle[-1] = circle[0]
    with (here / "cell_segmentations.geojson").open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for i, xy in enumerate(rng.uniform(MARGIN_PX, MARGIN_PX + extent, (n, 2)), start=1):
            outline = {"type": "Polygon", "coordinates": [np.round(xy + circle, 1).tolist()]}
            feature = {"type": "Feature", "geometry": outline, "properties": {"cell_id": i}}
            file.write(("" if i == 1 else ",") + json.dumps(feature))
        file.write("]}")
    with h5py.File(here / "filtered_feature_cell_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        step = GENES // COUNTS_PER_CELL
        first = np.arange(COUNTS_PER_CELL) * step
        group["indices"] = (first + rng.integers(0, step, (n, COUNTS_PER_CELL))).ravel().astype(np.int32)
        group["data"] = rng.integers(1, 4, n * COUNTS_PER_CELL).astype(np.int32)
        group["indptr"] = np.arange(n + 1, dtype=np.int64) * COUNTS_PER_CELL
        group["shape"] = np.array([GENES, n])
        group["barcodes"] = np.array([f"cellid_{i:09d}-1" for i in range(1, n + 1)], dtype="S")
        names = [f"G{i}" for i in range(GENES)]
        for key, values in (("id", names), ("name", names), ("feature_type", ["Gene Expression"] * GENES)):
            group[f"features/{key}"] = np.array(values, dtype="S")
        group["features/genome"] = np.array(["GRCh38"] * GENES, dtype="S")


def child(folder: Path) -> None:
    import scanpy  # noqa: F401  (libraries are loaded now, so that the first stage does not pay for them)
    import torch  # noqa: F401

    import stpredict as st

    total = 0.0

    def timed(stage, call):
        nonlocal total
        start = time.perf_counter()
        value = call()
        seconds = time.perf_counter() - start
        total += seconds
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {stage} | {seconds:.1f} | {peak:.2f} |", flush=True)
        return value

    print("| stage | s | peak memory so far, GiB |\n|---|---|---|")
    adata = timed("read", lambda: st.read_visium(folder, image=folder / "slide.tif"))
    timed("tiles", lambda: st.pp.tiles(adata, spot_um=32, niche_um=128))
    timed("encode", lambda: st.pp.encode(adata, show_progress=False))
    genes = list(adata.var_names)
    model = timed("train", lambda: st.tl.train(adata, method="ridge", genes=genes, min_counts=10))
    timed("predict", lambda: st.tl.predict_expression(adata, model))
    print(f"\n{adata.n_obs:,} cells: {total:.0f} s, {total / adata.n_obs * 1e6:.0f} µs per cell")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the run is written (default: a temporary folder)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    if arguments.prepare:
        write_run(arguments.prepare, arguments.cells)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        # Both in processes of their own: a child's peak memory counts what its parent held when it was started.
        subprocess.run([sys.executable, __file__, "--prepare", scratch, "--cells", str(arguments.cells)], check=True)
        subprocess.run([sys.executable, __file__, "--child", scratch], check=True)


if __name__ == "__main__":
    main()
