"""Training an image encoder from the pixels of very many tiles: peak memory and time.

    python benchmarks/pixels.py [--tiles 5000 50000] [--network test_vit]
    python benchmarks/pixels.py --tiles 50000 --most 1000        # trained on 1,000 of them, predicts all

A synthetic slide (tiled JPEG pyramid at 0.5 µm per pixel, all simulated tissue) with spots 50 µm apart, and counts of 100 genes that
follow a few programmes. CMRCNet is trained together with a small network of timm (random weights) for one epoch that chooses
the number of epochs and one of the only member, then the section is predicted. Every size runs in a process of its own;
peak memory is that of the process, libraries included. What tiles take on disk is 3 × 224 × 224 bytes each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from common import timer
from growth import section
from slides import write_slide

import stpredict as st

GENES, PITCH_UM, MPP = 100, 50.0, 0.5


def child(path: str, tiles: int, network: str, most: int | None) -> None:
    """Train and predict, and print what it took as JSON."""
    warnings.filterwarnings("ignore")
    adata = section(Path(path).parent, tiles, GENES)
    side = int(np.ceil(tiles**0.5))
    row, column = np.divmod(np.arange(tiles), side)
    adata.obsm["spatial"] = (np.column_stack([column, row]) + 2) * PITCH_UM / MPP
    (library,) = adata.uns["spatial"].values()
    library["scalefactors"]["spot_diameter_fullres"] = PITCH_UM / MPP
    st.pp.tiles(adata)
    told = {}
    timed = timer(told)
    timed("section", lambda: None)
    how = {
        "method": "cmrcnet",
        "image_encoder": network,
        "depth": 1,
        "pretrained": False,
        "epochs": 1,
        "members": 1,
        "min_counts": 1,
    }
    model = timed(
        "train", lambda: st.tl.train(adata[:most].copy(), genes=list(adata.var_names), show_progress=False, **how)
    )
    timed("predict", lambda: st.tl.predict_expression(adata, model))
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--network", default="test_vit")
    parser.add_argument("--most", type=int, help="train on so many only")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]), arguments.network, arguments.most)
        return
    print("| tiles | on disk, GiB | train, s | predict, s | peak memory, GiB: section | training | predicting |")
    print("|---" * 7 + "|")
    for tiles in arguments.tiles:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "slide.tif"
            write_slide(path, int((np.ceil(tiles**0.5) + 4) * PITCH_UM / MPP), mpp=MPP)
            own = ["--child", str(path), str(tiles), "--network", arguments.network]
            own += ["--most", str(arguments.most)] if arguments.most else []
            done = subprocess.run([sys.executable, __file__, *own], check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        seconds = [f"{told[name]:.0f}" for name in ("train", "predict")]
        peaks = [f"{told[f'{name} peak']:.2f}" for name in ("section", "train", "predict")]
        print(f"| {tiles:,} | {tiles * 3 * 224**2 / 2**30:.1f} | {' | '.join(seconds + peaks)} |", flush=True)


if __name__ == "__main__":
    main()
