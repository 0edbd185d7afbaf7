"""Many slides, three of them corrupt, in a run that is killed in the middle of a slide and then made again.

    python benchmarks/many_slides.py [--slides 40] [--side 1000] [--dask] [--folder FOLDER]

Slides are cut from simulated sections; one is truncated, one empty, one no image. ``stpredict predict`` runs in a process
of its own, which is killed (SIGKILL) while it writes a result about half-way; meanwhile a second process tries the same
folder. Then the same command runs again. With ``--dask``, slides go to two worker processes of a Dask cluster, one of which is killed instead.
Every line of the table is checked; the exit status is 1 if one is not as it must be.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import anndata
import numpy as np
import pandas as pd
import tifffile

import stpredict as st

CLI = [sys.executable, "-c", "import sys; from stpredict.cli import main; sys.exit(main())", "predict"]
CORRUPT = {"truncated": "is truncated", "empty": "cannot be read as a TIFF", "text": "cannot be read as a TIFF"}
DISTINCT = 4
PER_CM = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}


def make_slides(folder, n, side):
    """`n` slides of `side` × `side` µm, of which three cannot be read; and a model."""
    sections = st.datasets.simulate(DISTINCT + 1)
    rng = np.random.default_rng(0)
    for number in range(n - len(CORRUPT)):
        library = next(iter(sections[number % DISTINCT].uns["spatial"].values()))
        pixels = library["images"]["hires"]
        y, x = rng.integers(300, pixels.shape[0] - side - 300, 2)
        crop = pixels[y : y + side, x : x + side]
        path = folder / f"slide{number:02d}.tif"
        tifffile.imwrite(path, crop, photometric="rgb", tile=(256, 256), compression="deflate", **PER_CM)
    whole = (folder / "slide00.tif").read_bytes()
    (folder / "truncated.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.tif").write_bytes(b"")
    (folder / "text.tif").write_text("This is no image.\n")
    train = sections[-1]
    st.pp.tiles(train)
    st.pp.encode(train, show_progress=False)
    return st.tl.train(train, genes=list(train.var_names), method="ridge")


def results_in(out):
    return sorted(out.glob("*.zarr"))


def whole(out):
    """Results that can be read and in which no value is missing."""
    return [path for path in results_in(out) if np.isfinite(anndata.read_zarr(path).layers["predicted"]).all()]


def written(out):
    """When each file of each result was written."""
    files = (path for store in results_in(out) for path in store.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


def unfinished(out):
    """Results that are being written, or were when their process was killed."""
    return list(out.glob(".*.zarr.*.tmp/new"))


def killed_run(command, out, half):
    """Start a run, and kill it while it writes a result, when about half of them are there; and what a second one says."""
    second = None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and not (len(results_in(out)) >= half and unfinished(out)):
            if second is None and results_in(out):
                second = subprocess.run(command, capture_output=True, text=True, check=False)
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
    return second


def run_on_workers(slides, model, out, half):
    """A run on two Dask workers, of which one is killed when about half of the results are there."""
    from distributed import Client, LocalCluster

    killed = []

    def kill(pid):
        while len(results_in(out)) < half or not unfinished(out):
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        pid = next(iter(client.run(os.getpid).values()))
        Thread(target=kill, args=(pid,), daemon=True).start()
        report = st.tl.predict_many(slides, model, out, show_progress=False)
    return report, killed


def as_by_hand(path, slide, model):
    """Whether a result is what the single steps give."""
    adata = st.io.grid(st.read_wsi(slide))
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    expected = st.tl.predict_expression(adata, model, as_anndata=True)
    return np.allclose(anndata.read_zarr(path).X, expected.X, atol=1e-5)


def measure(args, folder):
    """Do it all; rows of (what, how it must be, how it is)."""
    slides, out = folder / "slides", folder / "predicted"
    slides.mkdir()
    model = make_slides(slides, args.slides, args.side)
    model.save(folder / "model")
    command = [*CLI, str(slides), "--model", str(folder / "model"), "--out", str(out)]
    good = args.slides - len(CORRUPT)
    rows = []

    start = time.perf_counter()
    if args.dask:
        report, killed = run_on_workers(slides, model, out, good // 2)
        rows.append(("workers killed", 1, len(killed)))
        done = int((report["status"] == "done").sum())
        rows.append(("slides not done in the run that lost a worker, beside the corrupt", "0 or 1", good - done))
    else:
        second = killed_run(command, out, good // 2)
        rows.append(("exit status of a second process on the same folder", 2, second.returncode))
        rows.append(("it says that the folder is in use", True, "is in use by another run" in second.stderr))
        rows.append(("results half-written when the run was killed, out of place", 1, len(unfinished(out))))
        rows.append(("report before the rerun", False, (out / "report.csv").exists()))
    first = time.perf_counter() - start
    before, there = written(out), len(results_in(out))
    rows.append(("results in place after it that are whole", there, len(whole(out))))

    start = time.perf_counter()
    rerun = subprocess.run(command, capture_output=True, text=True, check=False)
    again = time.perf_counter() - start
    report = pd.read_csv(out / "report.csv", keep_default_na=False).set_index("slide")
    count = report["status"].value_counts()
    after = written(out)
    bad = {name: report.loc[name, "error"] for name in CORRUPT}
    untouched = sum(after.get(path) == made for path, made in before.items())
    alike = [as_by_hand(path, slides / f"{path.stem}.tif", model) for path in results_in(out)[:: max(1, good // 4)]]
    page = (out / "report.html").read_text(encoding="utf-8")
    rows += [
        ("results after one rerun, whole", good, len(whole(out))),
        ("kept by the rerun", there, int(count.get("kept", 0))),
        ("done by the rerun", good - there, int(count.get("done", 0))),
        ("failed, each with its reason", len(CORRUPT), sum(CORRUPT[name] in error for name, error in bad.items())),
        ("files of kept results that were not touched", len(before), untouched),
        ("temporary files left", 0, len(list(out.glob(".*.tmp")) + list(out.glob(".running*")))),
        ("exit status of the rerun (some failed)", 1, rerun.returncode),
        ("pictures in report.html", good, page.count("data:image/jpeg")),
        ("results compared with the single steps, and alike", len(alike), sum(alike)),
    ]
    size = (out / "report.html").stat().st_size / 1024
    rows += [(what, "", value) for what, value in (("size of report.html, KiB", f"{size:.0f}"),)]
    rows += [("seconds, first run", "", f"{first:.1f}"), ("seconds, rerun", "", f"{again:.1f}")]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--side", type=int, default=1000, help="side of a slide, µm (1 µm per pixel)")
    parser.add_argument("--dask", action="store_true", help="on two Dask workers, one of which is killed")
    parser.add_argument("--folder", type=Path, help="folder to keep everything in; by default a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = measure(args, folder)
    print(f"{args.slides} slides of {args.side} × {args.side} µm, {len(CORRUPT)} corrupt\n")
    print("| | must be | is |\n|---|---|---|")
    for what, must, value in rows:
        print(f"| {what} | {must} | {value} |")
    wrong = [what for what, must, value in rows if must != "" and str(value) not in str(must).split(" or ")]
    print("\nAll as it must be." if not wrong else f"\nWRONG: {'; '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
