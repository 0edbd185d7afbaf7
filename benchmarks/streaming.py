"""Peak memory and speed of training on sections in memory and on sections streamed from disk.

    python benchmarks/streaming.py [--sections 50 200] [--distinct 12] [--stores FOLDER]

Simulated sections with features of the default encoder are written one store each; beyond ``--distinct`` they are
copies under other names and patients, since simulating takes longer than training. Images, noise-free truth and all else
that training does not read are left out, so that sections in memory cost no more than they must. ST-Align is trained for
two epochs, with one network, in a process of its own for every line of the table. Peak memory is that of the process,
libraries included; spots/s counts the spots of all steps, over the time of both training runs with what follows each
epoch.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import stpredict as st

HOW = ("memory", "disk")


def sections(n, distinct):
    """Yield sections ready for training, one at a time."""
    made = []
    for number in range(n):
        if number < distinct:
            adata = st.datasets.simulate(seed=number)
            st.pp.tiles(adata)
            st.pp.encode(adata, show_progress=False)
            made.append(lean(adata))
        adata = made[number % distinct].copy()
        adata.obs["patient"] = f"P{number}"
        for key in ("spatial", "tiles"):
            (library,) = adata.uns[key].values()
            adata.uns[key] = {f"section{number}": library}
        yield adata


def lean(adata):
    """Drop what training does not read."""
    del adata.layers["truth"], adata.uns["truth"]
    adata.obs = adata.obs[["patient"]].copy()
    for library in adata.uns["spatial"].values():
        library["images"] = {}
    return adata


def train(stores, how):
    """Train once, and print what it took as JSON."""
    import anndata

    from stpredict.models._training import ensemble

    seen = {"spots": 0, "seconds": 0.0}
    run_once = ensemble.train_network

    def timed(network, tensors, plan, **kwargs):
        start = time.perf_counter()
        run = run_once(network, tensors, plan, **kwargs)
        seen["seconds"] += time.perf_counter() - start
        seen["spots"] += plan.epochs * (len(tensors[0]) // plan.batch_size) * plan.batch_size
        return run

    ensemble.train_network = timed
    warnings.filterwarnings("ignore", "ST-Align has not left chance")
    start = time.perf_counter()
    given = [anndata.read_h5ad(path) for path in stores] if how == "memory" else stores
    model = st.tl.train(given, method="st_align", epochs=2, members=1, show_progress=False)
    print(
        json.dumps(
            {
                "spots": model.config["n_spots"],
                "val_pcc": model.history.values["val_pcc"][-1],
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "minutes": (time.perf_counter() - start) / 60,
                "speed": seen["spots"] / seen["seconds"],
            }
        )
    )


def compare(args, folder):
    """Write the stores, train on them in every way, and print the table."""
    n = max(args.sections)
    stores = [folder / f"{number:04d}.h5ad" for number in range(n)]
    if not all(store.exists() for store in stores):
        for store, adata in zip(stores, sections(n, args.distinct), strict=True):
            adata.write_h5ad(store)
    print("| sections | spots | read from | peak memory, MiB | spots/s | minutes in all | PCC of held-out spots |")
    print("|---|---|---|---|---|---|---|")
    for count in args.sections:
        for how in HOW:
            command = [sys.executable, __file__, "--how", how, "--train", *map(str, stores[:count])]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(
                f"| {count} | {told['spots']:,} | {how} | {told['peak_mib']:,.0f} | {told['speed']:,.0f} "
                f"| {told['minutes']:.1f} | {told['val_pcc']:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--distinct", type=int, default=12)
    parser.add_argument("--stores", type=Path, help="folder to keep the stores in; by default a temporary one")
    parser.add_argument("--how", choices=HOW, help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train, args.how)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.stores or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            compare(args, folder)
