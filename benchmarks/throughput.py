"""What `tl.predict_many` costs beside the work on the slides: spots per second of many slides against those of one.

    python benchmarks/throughput.py                                              # 40 slides, ViT-S
    python benchmarks/throughput.py --network vit_large_patch16_224 --slides 4 --side 400

Slides of `--side` µm are cut from simulated sections; the network (random weights, bfloat16 where the processor has it) lies
in a folder. *One slide* is the single steps on one slide after the other, with the network in memory: `read_wsi`, `io.grid`,
`pp.tiles`, `pp.encode`, `tl.predict_expression`. *Many* is `tl.predict_many`, which also loads and hashes the network, writes
every result with its digest and draws the report. Both in turns, in one process. Where the machine has other work, the ratio of processor
times tells more than that of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

import stpredict as st
from stpredict.pp._encoders import catalogue, network_encoder
from stpredict.pp._encoders.catalogue import build_encoder

KEY = "X_network"


def write_network(folder, name):
    """A timm model with random weights, as a folder."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir()
    network = timm.create_model(name, pretrained=False, num_classes=0)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "model.safetensors")
    config = {
        "architecture": name,
        "num_features": network.num_features,
        "pretrained_cfg": {"input_size": [3, 224, 224]},
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_slides(folder, n, side):
    folder.mkdir()
    sections = st.datasets.simulate(3)
    rng = np.random.default_rng(0)
    for number in range(n):
        pixels = next(iter(sections[number % 3].uns["spatial"].values()))["images"]["hires"]
        y, x = rng.integers(300, np.array(pixels.shape[:2]) - side - 300)
        how = {"photometric": "rgb", "tile": (256, 256), "compression": "deflate"}
        per_cm = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(folder / f"{number:02d}.tif", pixels[y : y + side, x : x + side], **how, **per_cm)
    return sections[0]


def spent(since=(0.0, 0.0)):
    """Seconds by the clock, and those of the processor, all threads together."""
    return np.array([time.perf_counter(), time.process_time()]) - since


def one_by_one(slides, model, tool):
    """What the single steps on all slides take, the network in memory."""
    start = spent()
    for path in slides:
        adata = st.io.grid(st.read_wsi(path))
        st.pp.tiles(adata)
        st.pp.encode(adata, tool, key_added=KEY, niche=False, show_progress=False)
        st.tl.predict_expression(adata, model, as_anndata=True)
    return spent(start)


def counted(calls, place, name):
    """Count the calls of a function."""
    call = getattr(place, name)

    def counting(*args, **kwargs):
        calls[name] = calls.get(name, 0) + 1
        return call(*args, **kwargs)

    setattr(place, name, counting)


def measure(args, folder):
    write_network(folder / "network", args.network)
    train = write_slides(folder / "slides", args.slides, args.side)[::20].copy()
    st.pp.tiles(train)
    st.pp.encode(train, folder / "network", key_added=KEY, niche=False, show_progress=False)
    model = st.tl.train(train, genes=list(train.var_names), method="ridge")
    slides = sorted((folder / "slides").iterdir())
    tool = build_encoder(folder / "network", device=None, precision=None, batch_size=None, mpp=None)
    one_by_one(slides[:2], model, tool)
    calls: dict[str, int] = {}
    counted(calls, catalogue, "_load_timm")
    counted(calls, network_encoder, "identity_of")
    single, many = [], []
    for number in range(args.rounds):
        single.append(one_by_one(slides, model, tool))
        start = spent()
        out = folder / f"out{number}"
        report = st.tl.predict_many(slides, model, out, encoder=folder / "network", show_progress=False)
        many.append(spent(start))
        assert report["status"].eq("done").all(), report["error"].tolist()
    spots, ratio = int(report["spots"].sum()), np.median(np.array(single) / np.array(many), axis=0)
    more = np.median(np.array(many) - np.array(single), axis=0) / len(slides)
    print(
        "| network | slides | spots | one slide, spots/s | many, spots/s | of one | more, s a slide | of processor time | more | built, hashed per run |"
    )
    print("|---" * 10 + "|")
    built = ", ".join(f"{calls[name] / args.rounds:g}" for name in ("_load_timm", "identity_of"))
    told = " | ".join(f"{share:.3f} | {seconds:.2f}" for share, seconds in zip(ratio, more, strict=True))
    rates = " | ".join(f"{spots / np.median(took, axis=0)[0]:.1f}" for took in (single, many))
    print(f"| {args.network} | {len(slides)} | {spots} | {rates} | {told} | {built} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vit_small_patch16_224")
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments, Path(temporary))
    print(f"\n{os.cpu_count()} CPU cores, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s)")
