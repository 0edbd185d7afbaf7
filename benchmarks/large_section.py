"""ALIGN-ST and ST-Align on one section of very many spots: time and peak memory of training and of predicting.

    python benchmarks/large_section.py [--spots 100000] [--genes 1000] [--method align_st "align_st, nuclei" st_align]

A synthetic section: spots 100 µm apart on a square lattice, features of 232 numbers for spot and niche, counts of a few
programmes that the features show, and ten nuclei per spot. One network is trained for one epoch of the choice of epochs and
one of the member (a step of ALIGN-ST is the whole section), then the section is predicted twice. Each method runs in a
process of its own; peak memory is that of the process, libraries and the section itself included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings

import numpy as np
from common import timer

import stpredict as st

METHODS = ("align_st", "align_st, nuclei", "st_align")
PROGRAMMES, WIDTH, NUCLEI = 8, 116, 10
ROWS = 5_000


def section(spots: int, genes: int, *, nuclei: bool):
    """A section that is ready for training."""
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    small = st.datasets.simulate()
    st.pp.tiles(small)
    st.pp.encode(small, show_progress=False)
    if nuclei:
        st.pp.nuclei(small, show_progress=False)
    (name,) = small.uns["spatial"]
    rng = np.random.default_rng(0)
    programme = np.abs(rng.standard_normal((spots, PROGRAMMES), dtype=np.float32))
    loading = rng.gamma(0.3, size=(PROGRAMMES, genes)).astype(np.float32)
    counts = []
    for first in range(0, spots, ROWS):
        rate = programme[first : first + ROWS] @ loading
        rate *= 0.2 * genes / rate.sum(axis=1, keepdims=True)
        counts.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata = AnnData(sparse.vstack(counts, format="csr"), obs=pd.DataFrame(index=[f"s{i}" for i in range(spots)]))
    adata.var_names = [f"G{i}" for i in range(genes)]
    adata.obs["patient"] = "P"
    adata.obs["total_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    row, column = np.divmod(np.arange(spots), int(np.ceil(spots**0.5)))
    adata.obsm["spatial"] = 100.0 * np.column_stack([column, row]) + 100
    for key in ("X_morphology", "X_morphology_niche"):
        shown = programme @ rng.standard_normal((PROGRAMMES, WIDTH), dtype=np.float32)
        adata.obsm[key] = shown + rng.standard_normal(shown.shape, dtype=np.float32)
        record = dict(small.uns[key])
        adata.uns[key] = record
    adata.uns["tiles"] = small.uns["tiles"]
    adata.uns["spatial"] = {name: small.uns["spatial"][name] | {"images": {}}}
    if nuclei:
        record = dict(small.uns["nuclei"][name])
        few = np.asarray(record["table"])
        table = few[rng.integers(0, len(few), NUCLEI * spots)].astype(np.float32)
        table[:, :2] = np.repeat(adata.obsm["spatial"], NUCLEI, axis=0) + rng.uniform(-50, 50, (NUCLEI * spots, 2))
        adata.uns["nuclei"] = {name: record | {"table": table}}
    return adata


def child(spots: int, genes: int, what: str) -> None:
    """Train and predict, and print what it took as JSON."""
    warnings.filterwarnings("ignore")
    method, nuclei = what.split(",")[0], "nuclei" in what
    adata = section(spots, genes, nuclei=nuclei)
    told = {}
    timed = timer(told)
    timed("section", lambda: None)
    options = {"nuclei": nuclei} if method == "align_st" else {}
    train = {"method": method, "genes": list(adata.var_names), "epochs": 1, "members": 1, "show_progress": False}
    model = timed("train", lambda: st.tl.train(adata, **train, **options))
    timed("predict", lambda: st.tl.predict_expression(adata, model))
    timed("predict again", lambda: st.tl.predict_expression(adata, model))
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=1_000)
    parser.add_argument("--method", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.spots, arguments.genes, arguments.child)
        return
    print(f"{arguments.spots:,} spots, {arguments.genes:,} genes\n")
    print("| | train, s | predict, s | predict again, s | peak memory, GiB: section | training | predicting |")
    print("|---" * 7 + "|")
    for what in arguments.method:
        own = ["--spots", str(arguments.spots), "--genes", str(arguments.genes), "--child", what]
        done = subprocess.run([sys.executable, __file__, *own], check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        seconds = [f"{told[name]:.0f}" for name in ("train", "predict", "predict again")]
        peaks = [f"{told[f'{name} peak']:.2f}" for name in ("section", "train", "predict again")]
        print(f"| {what} | {' | '.join(seconds + peaks)} |", flush=True)


if __name__ == "__main__":
    main()
