"""Time and peak memory of exact retrieval from a large reference bank, beside brute force in numpy.

    python benchmarks/retrieval.py [--references 1000000] [--width 256] [--genes 250] [--queries 5000] [--k 50]

A bank of unit vectors and the expression of its spots, both float16, as models keep them. The search is timed alone, then
with the expression of the neighbours (mean and standard deviation), as in prediction; then, where faiss is installed, the
approximate search (``settings.search``), once with the making of its index and once with the index made. Vectors vary along
24 axes and have noise in all others, which is what makes approximate search possible at all. Brute force is a matrix product
with the bank in float32, ``argpartition`` and a sort, 64 queries at a time; it does ``--brute`` of the queries, and its
time is scaled. Each runs in a process of its own; peak memory is that of the process, libraries included. What the
search found is compared with brute force rank by rank: the share of equal rows, and the largest difference in similarity
(float64), which tells whether the others are ties but for rounding. Recall is the share of the neighbours that were found.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

HOW = ("search", "search + expression", "approximate, with index", "approximate", "brute force")
ROWS = 10_000
AXES = 24


def rows_of_length_1(n, width, seed):
    """float16 (n, width), made a few rows at a time."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, width), dtype=np.float16)
    axes = np.random.default_rng(99).standard_normal((AXES, width), dtype=np.float32)
    for first in range(0, n, ROWS):
        part = 0.5 * rng.standard_normal((min(ROWS, n - first), width), dtype=np.float32)
        part += rng.standard_normal((len(part), AXES), dtype=np.float32) @ axes
        out[first : first + ROWS] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return out


def brute_force(queries, bank, k):
    """Rows of the k most similar vectors, best first."""
    bank = bank.astype(np.float32)
    found = []
    for first in range(0, len(queries), 64):
        similarity = queries[first : first + 64] @ bank.T
        best = np.argpartition(similarity, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(similarity, best, axis=1), axis=1)
        found.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(found)


def work(args):
    """Do one thing, and print what it took as JSON."""
    import anndata  # noqa: F401 - what a user has loaded counts
    import torch

    import stpredict as st
    from stpredict.models._retrieval.search import nearest, retrieve

    torch.set_num_threads(args.threads)
    bank = rows_of_length_1(args.references, args.width, 0)
    queries = rows_of_length_1(args.queries, args.width, 1).astype(np.float32)
    expression = np.zeros((0, args.genes), dtype=np.float16)
    if args.how == "search + expression":
        expression = rows_of_length_1(args.references, args.genes, 2)
    if args.how == "brute force":
        queries = queries[: args.brute]
    if args.how.startswith("approximate"):
        st.settings.search = "approximate"
    if args.how == "approximate":
        nearest(queries[:1], bank, args.k)
    start = time.perf_counter()
    if args.how == "search" or args.how.startswith("approximate"):
        found = nearest(queries, bank, args.k)[0]
    elif args.how == "brute force":
        found = brute_force(queries, bank, args.k)
    else:
        retrieve(queries, bank, expression, k=args.k, temperature=0.1)
    seconds = (time.perf_counter() - start) * args.queries / len(queries)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"seconds": seconds, "peak": peak, "arrays": (bank.nbytes + expression.nbytes) / 2**20}
    if args.how == "search":
        np.save(args.found, found[: args.brute])
    elif args.how.startswith("approximate"):
        exact = np.load(args.found)
        told["recall"] = float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=False)]))
    elif args.how == "brute force":
        ours = np.load(args.found)
        worst = max(
            np.abs((bank[a].astype(np.float64) - bank[b]) @ query).max()
            for a, b, query in zip(ours, found, queries, strict=True)
        )
        told |= {"equal": float(np.mean(ours == found)), "worst": float(worst)}
    print(json.dumps(told))


def compare(args, folder):
    """Print a Markdown table."""
    told = {}
    for how in HOW:
        if how.startswith("approximate") and find_spec("faiss") is None:
            continue
        own = [*sys.argv[1:], "--how", how, "--found", str(folder / "found.npy")]
        done = subprocess.run([sys.executable, __file__, *own], stdout=subprocess.PIPE, text=True, check=True)
        told[how] = json.loads(done.stdout)
    brute = told["brute force"]
    print(
        f"{args.references:,} references × {args.width}, {args.queries:,} queries, k = {args.k}, {args.genes} genes, "
        f"{args.threads} thread(s). Neighbours at the same rank as by brute force: {brute['equal']:.4%}; the others differ "
        f"in similarity by {brute['worst']:.1e} at most.\n"
    )
    print(
        "| | s | times brute force | recall | bank and expression, MiB | peak memory, MiB |\n|---|---|---|---|---|---|"
    )
    for how, one in told.items():
        faster = brute["seconds"] / one["seconds"]
        recall = f"{one.get('recall', 1):.3f}"
        print(f"| {how} | {one['seconds']:.1f} | {faster:.2f} | {recall} | {one['arrays']:,.0f} | {one['peak']:,.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--brute", type=int, default=320, help="queries that brute force does")
    parser.add_argument("--threads", type=int, default=1, help="set OMP_NUM_THREADS to the same for numpy")
    parser.add_argument("--how", choices=HOW, help=argparse.SUPPRESS)
    parser.add_argument("--found", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.how:
        work(args)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            compare(args, Path(temporary))
