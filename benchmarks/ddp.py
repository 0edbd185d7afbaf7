"""Training by several processes beside training by one: the same network? how many spots a second?

    python benchmarks/ddp.py [--methods cmrcnet st_align align_st] [--sections 4] [--epochs 4] [--processes 2]
    python benchmarks/ddp.py --methods align_st --sections 1 --spots 20000 --epochs 1    # one large section

Simulated sections with features of the default encoder are written to stores, and streamed from there by every process;
ALIGN-ST has them in memory. Lines marked "exact" train without anything random but the order of the spots or sections (no
dropout, no masks), so that processes must come to the same network: the table tells the largest difference of the bank's
embeddings, or of the weights of ALIGN-ST, which keeps none, and of the training loss. The other lines train as users do. Spots/s counts the spots of all steps over the time of both training runs, with what
follows each epoch; beside it per second of one process's processor, which does not count what else the machine does or
waiting for the other process. With CUDA every process takes a GPU of its own; without, one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
from large_section import section

import stpredict as st

EXACT = {
    "cmrcnet": {"feature_dropout": 0.0, "mask_share": 0.0},
    "st_align": {"feature_dropout": 0.0, "hidden_expression": 0.0},
    "align_st": {"feature_dropout": 0.0, "dropout": 0.0},
}


def write_stores(folder, n, spots):
    """Simulated sections, without what training does not read; sections of so many `spots` and 1,000 genes, if any."""
    for number in range(n):
        if spots:
            section(spots, 1_000, nuclei=False).write_h5ad(folder / f"{number}.h5ad")
            continue
        adata = st.datasets.simulate(seed=number)
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
        del adata.layers["truth"], adata.uns["truth"]
        adata.obs["patient"] = f"P{number}"
        adata.write_h5ad(folder / f"{number}.h5ad")


def without_dropout(network):
    """The network with nothing left out at random."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, (nn.Dropout, nn.AlphaDropout)):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return network


def train(args):
    """Train once in this process, and leave what it came to."""
    import torch

    from stpredict.models._training import ensemble

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*has not left chance")
    seen = {"spots": 0, "seconds": 0.0, "processor": 0.0}
    run_once, seeded = ensemble.train_network, ensemble.seeded

    def timed(network, tensors, plan, **kwargs):
        start, processor = time.perf_counter(), time.process_time()
        run = run_once(network, tensors, plan, **kwargs)
        seen["seconds"] += time.perf_counter() - start
        seen["processor"] += time.process_time() - processor
        size = min(plan.batch_size, len(tensors[0]))
        steps = len(run.values["train_total"]) * max(len(tensors[0]) // size, 6)
        if args.method == "align_st":
            size = np.mean([len(rows) for _, rows, _ in network._sections if len(rows)])
        seen["spots"] += steps * size
        return run

    ensemble.train_network = timed
    own = {"epochs": args.epochs, "patience": args.epochs, "members": 1}
    if args.exact:
        ensemble.seeded = lambda *given: without_dropout(seeded(*given))
        own |= EXACT[args.method]
    sections = args.stores
    if args.method == "align_st":
        sections = [anndata.read_h5ad(path) for path in sorted(Path(args.stores).iterdir())]
    model = st.tl.train(sections, method=args.method, show_progress=False, **own)
    if os.environ.get("RANK", "0") == "0":
        weights = [values.ravel() for name, values in model.arrays.items() if name.startswith("network.")]
        np.save(f"{args.out}.npy", model.arrays["bank"] if "bank" in model.arrays else np.concatenate(weights))
        speeds = {name: seen["spots"] / seen[name] for name in ("seconds", "processor")}
        told = {"values": model.history.values} | speeds
        Path(f"{args.out}.json").write_text(json.dumps(told))


def measured(folder, method, *, exact, processes, epochs):
    """Bank or weights, history and speed of a training by so many processes."""
    out = folder / f"{method}{exact}{processes}"
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [__file__, "--stores", folder / "stores", "--out", out, "--method", method, "--epochs", str(epochs)]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    subprocess.run([*command, *(["--exact"] if exact else [])], env=environment, check=True, stderr=subprocess.DEVNULL)
    return np.load(f"{out}.npy"), json.loads(Path(f"{out}.json").read_text())


def compare(args, folder):
    """Print a Markdown table."""
    import torch

    (folder / "stores").mkdir()
    write_stores(folder / "stores", args.sections, args.spots)
    gpus = torch.cuda.device_count()
    where = f"{gpus} GPU(s): {torch.cuda.get_device_name()}" if gpus else "CPU, one core a process; not measured on GPU"
    large = f" of {args.spots:,} spots" if args.spots else ""
    print(f"{args.sections} simulated sections{large}, {args.epochs} epochs; {where}.\n")
    heads = "spots/s | a second of its processor | difference of the bank or weights | of the training loss"
    print(f"| method | processes | val PCC | {heads} |\n{'|---' * 7}|")
    for method in args.methods:
        for exact in (True, False):
            for processes in (1, args.processes):
                bank, told = measured(folder, method, exact=exact, processes=processes, epochs=args.epochs)
                loss = np.array(told["values"]["train_total"])
                if processes == 1:
                    alone, alone_loss = bank, loss
                    differences = "|  |  |"
                else:
                    differences = f"| {np.abs(bank - alone).max():.1e} | {np.abs(loss - alone_loss).max():.1e} |"
                name = f"{method}, exact" if exact else method
                pcc = max(told["values"]["val_pcc"])
                speeds = f"{told['seconds']:,.0f} | {told['processor']:,.0f}"
                print(f"| {name} | {processes} | {pcc:.4f} | {speeds} {differences}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(EXACT), default=list(EXACT))
    parser.add_argument("--sections", type=int, default=4)
    parser.add_argument("--spots", type=int, help="of synthetic sections in place of simulated ones")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--stores", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--exact", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out:
        train(args)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            compare(args, Path(temporary))
