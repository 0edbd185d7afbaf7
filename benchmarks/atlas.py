"""Learning from a reference as large as a cell atlas: time and peak memory, from disk and from memory.

    python benchmarks/atlas.py [--cells 100000] [--genes 18000] [--seen 1000] [--atlas atlas.h5ad] [--how path backed memory columns]

A synthetic atlas is written as .h5ad: sparse counts, 3 % of which are not 0, of cells of a few studies that lie mixed. Then the gene
structure (what `stpredict.tl.train(reference=…)` learns for most methods) and the gene coordinates of ALIGN-ST are learned
from it, for the genes with the highest mean, each in a process of its own: from the path, from an AnnData in backed mode,
from one in memory, and from the path of a copy that is stored by columns. Peak memory is that of the process, libraries included.
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

HOW = ("path", "backed", "memory", "columns")
WHAT = ("gene structure", "ALIGN-ST coordinates")
ROWS = 2_000
STUDIES = 5
SHARE = 0.03
"""Of the counts that are not 0."""


def write_atlas(path: Path, cells: int, genes: int) -> None:
    """Write an .h5ad, a block of cells at a time."""
    import h5py
    import pandas as pd
    from anndata import AnnData
    from anndata.io import sparse_dataset, write_elem
    from scipy import sparse

    rng = np.random.default_rng(0)
    chance = rng.lognormal(0, 1.5, genes).astype(np.float32)
    chance = np.sort(np.minimum(chance * SHARE / chance.mean(), 0.9))[::-1]
    chance *= SHARE / chance.mean()
    obs = pd.DataFrame({"library_id": pd.Categorical([f"study{i % STUDIES}" for i in range(cells)])})
    obs.index = [f"cell{i}" for i in range(cells)]
    AnnData(
        sparse.csr_matrix((cells, genes), dtype=np.float32), obs, pd.DataFrame(index=[f"G{i}" for i in range(genes)])
    ).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        for first in range(0, cells, ROWS):
            n = min(ROWS, cells - first)
            block = sparse.csr_matrix(rng.random((n, genes), dtype=np.float32) < chance, dtype=np.float32)
            block.data = 1 + rng.geometric(0.6, block.nnz).astype(np.float32)
            if first == 0:
                write_elem(file, "X", block)
            else:
                sparse_dataset(file["X"]).append(block)


def by_columns(path: Path) -> Path:
    """Copy of an atlas that is stored by columns."""
    import anndata

    copy = path.with_suffix(".columns.h5ad")
    if not copy.exists():
        adata = anndata.read_h5ad(path)
        adata.X = adata.X.tocsc()
        adata.write_h5ad(copy)
    return copy


def child(path: Path, seen: int, what: str, how: str) -> None:
    """Learn once, and print what it took as JSON."""
    import anndata
    import torch  # noqa: F401 (what training has loaded counts)

    from stpredict.models._reference.coexpression import learn_reference
    from stpredict.models._reference.gene_correlation import GeneStructure

    start = time.perf_counter()
    given = path if how in ("path", "columns") else anndata.read_h5ad(path, backed="r" if how == "backed" else None)
    read = time.perf_counter() - start
    names = [f"G{i}" for i in range(seen)]
    learn = GeneStructure.learn if what == WHAT[0] else learn_reference
    learn([given], names, min_counts=50, study_key="library_id")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "read": read, "peak": peak}))


def elsewhere(call: str) -> None:
    """Do a call of this module in a process of its own, whose memory goes with it."""
    command = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from atlas import *; {call}"
    subprocess.run([sys.executable, "-c", command], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=18_000)
    parser.add_argument("--seen", type=int, default=1_000, help="genes of the model")
    parser.add_argument("--atlas", type=Path, help="keep the atlas here; where it exists it is not written again")
    parser.add_argument("--how", choices=HOW, nargs="+", default=HOW)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.atlas, arguments.seen, *arguments.child)
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = arguments.atlas or Path(temporary) / "atlas.h5ad"
        if not path.exists():
            elsewhere(f"write_atlas(Path({str(path)!r}), {arguments.cells}, {arguments.genes})")
        if "columns" in arguments.how:
            elsewhere(f"by_columns(Path({str(path)!r}))")
        print(f"{arguments.cells:,} cells × {arguments.genes:,} genes, {arguments.seen:,} genes of a model\n")
        print("| | from | s | peak memory, GiB |\n|---|---|---|---|")
        for what in WHAT:
            for how in arguments.how:
                stored = path.with_suffix(".columns.h5ad") if how == "columns" else path
                own = ["--atlas", str(stored), "--seen", str(arguments.seen), "--child", what, how]
                done = subprocess.run([sys.executable, __file__, *own], check=True, stdout=subprocess.PIPE, text=True)
                told = json.loads(done.stdout.splitlines()[-1])
                print(f"| {what} | {how} | {told['seconds']:.0f} | {told['peak']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
