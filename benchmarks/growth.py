"""Time and peak memory of the main functions against the number of spots, genes, cells and pixels, over two decades.

    python benchmarks/growth.py --figure docs/_static/growth.png    # about ten minutes on two cores
    python benchmarks/growth.py --axis genes --keep growth.json     # a part; what the file has is not measured again

Synthetic sections: bins of 8 µm on simulated tissue at 0.5 µm per pixel, read from a tiled JPEG pyramid, and counts that follow
a few programmes. Spots grow at 200 genes, genes at 1,000 spots; cells are those of a reference without images, of 200 genes.
Pixels are those of a slide that is tissue all over, on which about 256 spots are laid whatever its size.
Every axis is a process of its own, which has run all
functions once on something small, so that nothing is loaded or compiled while the clock runs. Time is that of the processor,
all threads together, so that it does not depend on what else the machine does; the shortest of up to three runs. Models that predict were trained on at most 1,000 spots, since exact retrieval costs the product of both numbers.
Memory is the highest resident memory while a function runs, less what was resident before: its result counts, its input does
not (Linux only). The exponent is the slope of log cost over log size within the upper decade: 1 is linear, and below 1 fixed
costs still weigh. Costs too small to be measured, under 20 ms or 8 MiB at the largest size, have none.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from slides import write_slide

import stpredict as st

SIZES = {
    "spots": (100, 316, 1_000, 3_162, 10_000),
    "genes": (180, 569, 1_800, 5_692, 18_000),
    "cells": (1_000, 3_162, 10_000, 31_623, 100_000),
    "pixels": tuple(side**2 for side in (3_072, 5_376, 9_728, 17_408, 30_720)),
}
AT = {"spots": "200 genes", "genes": "1,000 spots", "cells": "200 genes", "pixels": "256 spots"}
FIXED = {"spots": 1_000, "genes": 200}
"""What the other axis stays at."""
SMALL = {"spots": 300, "genes": 60, "cells": 300, "pixels": 2_816**2}
MPP, BIN_UM, MARGIN_PX = 0.5, 8.0, 300
PROGRAMMES = 8
RUNS, LONG = 3, 2.0
"""A function runs so often, unless a run takes longer (s)."""
LEAST = {"s": 0.02, "MiB": 8.0}
STRUCTURE = "gene structure of a reference"
MOST_PAIRED = 2_000
"""Genes whose structure is learned, at most: that is of pairs of genes, and grows with their square by nature."""
OF_SPOTS_ONLY = ("pp.tiles", "pp.encode", "tl.domains, k-means", "tl.domains, Leiden")
PAGE_FAULTS = "5"
"""Written to Linux's ``clear_refs``, this sets the highest resident memory back to what is resident now."""


def section(folder: Path, spots: int, genes: int, seed: int = 0):
    """A section of so many bins and genes; its slide is in `folder`."""
    from anndata import AnnData
    from scipy import sparse

    rng = np.random.default_rng(seed)
    across = int(np.ceil(spots**0.5))
    row, column = np.divmod(np.arange(spots), across)
    pitch = BIN_UM / MPP
    programme = np.abs(rng.standard_normal((spots, PROGRAMMES), dtype=np.float32))
    loading = rng.gamma(0.3, size=(PROGRAMMES, genes)).astype(np.float32)
    parts = []
    for first in range(0, spots, 1_000):
        rate = programme[first : first + 1_000] @ loading
        rate *= 0.1 * genes / rate.sum(axis=1, keepdims=True)
        parts.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata = AnnData(sparse.vstack(parts, format="csr"))
    markers = st.datasets.marker_sets().loc["carcinoma", "gene"]
    adata.var_names = [*markers, *(f"G{i}" for i in range(genes))][:genes]
    adata.obs["patient"] = "P"
    adata.obsm["spatial"] = np.column_stack([column, row]) * pitch + MARGIN_PX
    factors = {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": pitch, "microns_per_pixel": MPP}
    metadata = {"source_image_path": str(folder / "slide.tif")}
    adata.uns["spatial"] = {f"s{seed}": {"images": {}, "scalefactors": factors, "metadata": metadata}}
    return adata


def verbs(adata, new) -> dict:
    """Functions by name, each to be called in this order."""
    from stpredict.models._reference.gene_correlation import GeneStructure

    genes = list(adata.var_names)
    few = adata[: FIXED["spots"]].copy()
    models = {method: st.tl.train(few, method=method, genes=genes, min_counts=1) for method in ("ridge", "knn")}

    def train(method):
        st.tl.train(adata, method=method, genes=genes, min_counts=1)

    return {
        "pp.tiles": lambda: st.pp.tiles(adata),
        "pp.encode": lambda: st.pp.encode(adata, show_progress=False),
        "tl.train, ridge": lambda: train("ridge"),
        "tl.train, knn": lambda: train("knn"),
        "tl.predict_expression, ridge": lambda: st.tl.predict_expression(new, models["ridge"]),
        "tl.predict_expression, knn": lambda: st.tl.predict_expression(new, models["knn"], key_added="knn"),
        "tl.domains, k-means": lambda: st.tl.domains(adata, use_rep="X_morphology", n_domains=5),
        "tl.domains, Leiden": lambda: st.tl.domains(adata, use_rep="X_morphology", key_added="leiden"),
        "tl.localize_tumor": lambda: st.tl.localize_tumor(new, force=True),
        "tl.evaluate": lambda: st.tl.evaluate(new, min_counts=1),
        STRUCTURE: lambda: GeneStructure.learn([adata], genes, min_counts=1),
    }


def of_cells(folder: Path, cells: int) -> dict:
    """Functions that learn from cells without images."""
    train, reference = section(folder, FIXED["spots"], FIXED["genes"]), section(folder, cells, FIXED["genes"], seed=1)
    st.pp.tiles(train)
    st.pp.encode(train, show_progress=False)
    how = {"reference": reference, "min_counts": 1}
    return {
        "tl.train, reference": lambda: st.tl.train(train, method="ridge", genes=list(train.var_names), **how),
        "pp.gene_embeddings, reference": lambda: st.pp.gene_embeddings(source="coexpression", **how),
    }


def of_pixels(folder: Path, pixels: int) -> dict:
    """Functions that read a slide without spots, on which as many are laid whatever its size."""
    side = round(pixels**0.5)
    path = folder / f"{side}.tif"
    write_slide(path, side, mpp=MPP)
    slide, pitch_um = st.read_wsi(path), side * MPP / 16
    spots = st.io.grid(slide, pitch_um=pitch_um)
    return {
        "read_wsi": lambda: st.read_wsi(path),
        "io.grid": lambda: st.io.grid(slide, pitch_um=pitch_um),
        "pp.tiles": lambda: st.pp.tiles(spots),
        "pp.encode": lambda: st.pp.encode(spots, show_progress=False),
    }


def resident(what: str) -> float:
    """Resident memory of this process in MiB: ``"VmRSS"``, now, or ``"VmHWM"``, the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def cost(function) -> tuple[float, float]:
    """Processor seconds and MiB that `function` takes."""
    seconds, extra = [], []
    while len(seconds) < RUNS and sum(seconds) < LONG:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text(PAGE_FAULTS)
        before, start = resident("VmRSS"), time.process_time()
        function()
        seconds.append(time.process_time() - start)
        extra.append(resident("VmHWM") - before)
    return min(seconds), max(extra)


def functions_of(folder: Path, axis: str, size: int) -> dict:
    """Functions by name at one size, each to be called in this order."""
    if axis in ("cells", "pixels"):
        return {"cells": of_cells, "pixels": of_pixels}[axis](folder, size)
    adata, new = (section(folder, **FIXED | {axis: size}, seed=seed) for seed in (0, 1))
    for one in (adata, new):
        st.pp.tiles(one)
        st.pp.encode(one, show_progress=False)
    functions = verbs(adata, new)
    left_out = (*(OF_SPOTS_ONLY if axis == "genes" else ()), *((STRUCTURE,) if adata.n_vars > MOST_PAIRED else ()))
    return {name: function for name, function in functions.items() if name not in left_out}


def child(folder: Path, axis: str, sizes: list[int]) -> None:
    """Measure some sizes, after something small, and print a line of JSON for each."""
    warnings.filterwarnings("ignore")
    for function in functions_of(folder, axis, SMALL[axis]).values():
        function()
    for size in sizes:
        print(
            json.dumps([size, {name: cost(call) for name, call in functions_of(folder, axis, size).items()}]),
            flush=True,
        )
        gc.collect()


def exponent(sizes, costs, unit: str) -> float:
    """Slope of log cost over log size in the upper decade; NaN where costs are too small to be measured."""
    if costs[-1] < LEAST[unit]:
        return np.nan
    upper = np.array(sizes) >= sizes[-1] / 10.1
    floor = np.maximum(costs, LEAST[unit] / 100)
    return float(np.polyfit(np.log(np.array(sizes)[upper]), np.log(floor[upper]), 1)[0])


def table(axis: str, measured: list[dict]) -> list[str]:
    """Markdown: time and memory of every function at the smallest and the largest size, and how they grow."""
    sizes = SIZES[axis]
    heads = [f"{sizes[0]:,} {axis}, s", f"{sizes[-1]:,} {axis}, s", "exponent", "MiB", "MiB", "exponent"]
    lines = [f"| grows with {axis} | " + " | ".join(heads) + " |", "|---" * 7 + "|"]
    for name in measured[0]:
        known = [(size, one[name]) for size, one in zip(sizes, measured, strict=True) if name in one]
        own = [size for size, _ in known]
        at = "" if own[-1] == sizes[-1] else f" (at {own[-1]:,})"
        cells = []
        for part, unit in enumerate(("s", "MiB")):
            costs = [cost[part] for _, cost in known]
            digits = ".2f" if unit == "s" else ",.0f"
            slope = exponent(own, costs, unit)
            cells += [f"{costs[0]:{digits}}", f"{costs[-1]:{digits}}{at}", "–" if np.isnan(slope) else f"{slope:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def draw(path: Path, results: dict[str, list[dict]]) -> None:
    """Curves of time and memory, a column for each axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(name for measured in results.values() for name in measured[0]))
    colour = dict(zip(names, plt.get_cmap("tab20").colors, strict=False))
    fig, axes = plt.subplots(2, len(results), figsize=(3.6 * len(results), 7), squeeze=False, sharey="row")
    for column, (axis, measured) in zip(axes.T, results.items(), strict=True):
        sizes = np.array(SIZES[axis], dtype=float)
        for part, (ax, unit) in enumerate(zip(column, LEAST, strict=True)):
            for name in measured[0]:
                costs = np.array([one[name][part] if name in one else np.nan for one in measured])
                shown = np.where(costs > LEAST[unit] / 10, costs, np.nan)
                ax.plot(sizes, shown, "o-", ms=3, lw=1.2, c=colour[name])
            low = LEAST[unit] * 2
            ax.plot(sizes[-3:], low * sizes[-3:] / sizes[-3], ":", c="0.4")
            ax.annotate("linear", (sizes[-1], low * 5), c="0.4", ha="right", va="top", size=8)
            ax.set(xscale="log", yscale="log", xlabel=axis)
            ax.grid(which="major", alpha=0.3)
        column[0].set_title(f"processor time, {AT[axis]}")
        column[1].set_title("memory beside the input")
    axes[0, 0].set_ylabel("s")
    axes[1, 0].set_ylabel("MiB")
    handles = [plt.Line2D([], [], color=colour[name], marker="o", ms=3, label=name) for name in names]
    fig.legend(handles=handles, loc="lower center", ncols=3, fontsize=8, frameon=False)
    fig.tight_layout(rect=(0, 0.13, 1, 1))
    fig.savefig(path, dpi=80)


def measure(folder: str, axis: str, sizes: list[str], kept: dict, keep: Path | None) -> None:
    """Add the costs at some sizes to those that are kept."""
    command = [sys.executable, __file__, "--child", folder, axis, *sizes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            if line.startswith("["):
                size, costs = json.loads(line)
                kept[f"{axis} {size}"] = costs
                if keep:
                    keep.write_text(json.dumps(kept))
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="draw the curves into this PNG")
    parser.add_argument("--axis", choices=SIZES, action="append", help="only this (default: all)")
    parser.add_argument("--sizes", type=int, nargs="+", help="other sizes, with one --axis")
    parser.add_argument("--keep", type=Path, help="file that keeps what was measured, for runs in parts")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, axis, *sizes = arguments.child
        child(Path(folder), axis, [int(size) for size in sizes])
        return
    axes = arguments.axis or list(SIZES)
    if arguments.sizes:
        SIZES[axes[0]] = tuple(arguments.sizes)
    results = {}
    kept = json.loads(arguments.keep.read_text()) if arguments.keep and arguments.keep.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        most = max(*SIZES["spots"], FIXED["spots"])
        side = int(np.ceil(most**0.5) * BIN_UM / MPP) + 2 * MARGIN_PX
        write_slide(Path(folder) / "slide.tif", -(-side // 1024) * 1024, mpp=MPP)
        for axis in axes:
            missing = [str(size) for size in SIZES[axis] if f"{axis} {size}" not in kept]
            if missing:
                measure(folder, axis, missing, kept, arguments.keep)
            results[axis] = [kept[f"{axis} {size}"] for size in SIZES[axis]]
            print("\n".join(table(axis, results[axis])), end="\n\n", flush=True)
    if arguments.figure:
        draw(arguments.figure, results)


if __name__ == "__main__":
    main()
