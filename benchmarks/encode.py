"""Speed and memory of `pp.encode`.

    python benchmarks/encode.py                     # everything, half an hour on two cores
    python benchmarks/encode.py --only ratio | decodes | precision | morphology | memory

``ratio`` takes turns, within one process, of `pp.encode`, of the bare forward pass of the same network on the same
tiles (decoded and normalised in memory, in channels-last layout, at the same precision and batch size), and, where it is installed, of LazySlide's
``feature_extraction`` on the same tiles of the same slide; it does so on a slide that was scanned at the network's
resolution and on one that was scanned twice as fine and has no level between. ``precision`` tells what bfloat16 changes on real tissue. ``memory`` is the peak of a whole fresh
process, from a pyramid of 10,000 × 10,000 to one of 100,000 × 100,000 pixels with as many spots. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from slides import write_slide

from stpredict._core.device import resolve_precision
from stpredict._sections.open import Where, open_sections

UM = 112.0
SIZE = 224
GRID = "`io.grid` alone"
MEAN, SD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


# ---------------------------------------------------------------------- against the bare network, and LazySlide


def ratio(folder: Path, rounds: int, n_tiles: int) -> None:
    import torch

    auto = resolve_precision("auto", torch.device("cpu"), inference=True)
    print(
        f"{torch.get_num_threads()} threads, {n_tiles} tiles, timm ResNet-18 at {SIZE} px, median of {rounds} rounds\n"
    )
    print(
        "| slide | precision | raw forward | `pp.encode` | of raw | LazySlide | × LazySlide |\n|---|---|---|---|---|---|---|"
    )
    for name, mpp, steps in (
        ("scanned at 0.5 µm", 0.5, (1, 2, 4, 8)),
        ("at 0.25 µm, next level 1 µm", 0.25, (1, 4, 16)),
    ):
        path = folder / f"{mpp}.tif"
        write_slide(path, int(6144 * 0.5 / mpp), mpp=mpp, steps=steps)
        rates = _rates(path, mpp, rounds, n_tiles, tuple({auto, "float32"}))
        theirs = rates.get("LazySlide")
        for precision in dict.fromkeys((auto, "float32")):
            raw, ours = rates[f"raw {precision}"], rates[f"encode {precision}"]
            told = f"{precision} (default)" if precision == auto else precision
            row = [name, told, _rate(raw), _rate(ours), f"{_median_ratio(ours, raw):.2f}"]
            row += [_rate(theirs), f"{_median_ratio(ours, theirs):.2f}"] if theirs else ["not installed", ""]
            print(f"| {' | '.join(row)} |", flush=True)


def _rate(rates: list[float]) -> str:
    return f"{statistics.median(rates):.1f} tiles/s"


def _median_ratio(ours: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def _rates(path: Path, mpp: float, rounds: int, n_tiles: int, precisions: tuple[str, ...]) -> dict[str, list[float]]:
    """Tiles per second of every contender, round by round."""
    import timm
    import torch

    import stpredict as st
    from stpredict._images import readers
    from stpredict.pp._encoders.network_encoder import CPU_BATCH
    from stpredict.pp._encoders.windows import read_crops

    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    network = network.to(memory_format=torch.channels_last)
    adata = st.io.grid(st.read_wsi(path, mpp), pitch_um=UM, layout="square", min_tissue=0)[:n_tiles].copy()
    st.pp.tiles(adata, spot_um=UM)
    view = open_sections(adata, Where())[0]
    crops = np.concatenate([c for _, c in read_crops(view, np.arange(len(view)), UM, UM / SIZE)])
    tiles = torch.from_numpy(crops).permute(0, 3, 1, 2)
    if tiles.shape[-1] != SIZE:
        tiles = torch.nn.functional.interpolate(tiles, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    batches = [_normalised(b) for b in tiles.split(CPU_BATCH)]

    def raw(precision: str) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            for batch in batches:
                network(batch)

    def encode(precision: str) -> None:
        readers.blocks.clear()
        st.pp.encode(adata, network, niche=False, precision=precision, show_progress=False)

    contenders = {f"{run.__name__} {p}": partial(run, p) for p in precisions for run in (raw, encode)}
    if peer := _lazyslide(path, mpp, n_tiles):
        contenders["LazySlide"] = peer
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if number:  # (the first round warms up)
                rates[name].append(len(adata) / (time.perf_counter() - start))
    return rates


def _normalised(tiles):
    import torch

    return ((tiles.float() / 255 - MEAN[0]) / SD[0]).contiguous(memory_format=torch.channels_last)


def _lazyslide(path: Path, mpp: float, n_tiles: int):
    """LazySlide's ``feature_extraction`` of the same tiles, with the network as it comes from timm; None without it."""
    try:
        import lazyslide as zs
        from wsidata import open_wsi
    except ImportError:
        return None
    import timm
    import torch
    from torchvision.transforms import v2

    import stpredict as st

    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    steps = [v2.ToImage(), v2.Resize((SIZE, SIZE)), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, SD)]
    slide = st.io.grid(open_wsi(str(path)), pitch_um=UM, layout="square", min_tissue=0, mpp=mpp)
    slide.shapes["grid"] = slide.shapes["grid"].iloc[:n_tiles]
    how = {"transform": v2.Compose(steps), "tile_key": "grid", "batch_size": 32, "device": "cpu", "pbar": False}
    return lambda: zs.tl.feature_extraction(slide, network, model_name="resnet18", **how)


# ---------------------------------------------------------------------- how often a chunk is decoded


def decodes(folder: Path) -> None:
    """Chunks of the file that are decoded, beside those that there are to decode."""
    import torch

    import stpredict as st
    from stpredict._images.tiff import TiffLevel

    class Mean(torch.nn.Module):
        def forward(self, tiles):
            return tiles.mean(dim=(2, 3))

    path, decoded, chunk = folder / "decodes.tif", [], TiffLevel._chunk
    write_slide(path, 16_384, steps=(1, 2, 4, 8))
    adata = st.io.grid(st.read_wsi(path), pitch_um=100, min_tissue=0)
    st.pp.tiles(adata)
    TiffLevel._chunk = lambda self, file, i: (decoded.append((self._level, i)), chunk(self, file, i))[1]
    print(f"| {adata.n_obs} spots, spot + niche, 16,384² px | chunks decoded | of | times each |\n|---|---|---|---|")
    for name, encoder, niche in (
        ("a network", Mean(), True),
        ("the same, spot only", Mean(), False),
        ("default", None, True),
    ):
        decoded.clear()
        st.pp.encode(adata, encoder, niche=niche, show_progress=False)
        print(f"| {name} | {len(decoded)} | {len(set(decoded))} | {len(decoded) / len(set(decoded)):.2f} |", flush=True)
    TiffLevel._chunk = chunk


# ---------------------------------------------------------------------- what bfloat16 costs


def precision() -> None:
    """Ridge on an ImageNet network's features of C2 to C5 of her2st, each predicted from the others."""
    import stpredict as st

    sections = {name: st.datasets.her2st(name) for name in ("C2", "C3", "C4", "C5")}
    both, seconds = ("float32", "bfloat16"), {}
    for kind in both:
        start = time.perf_counter()
        for adata in sections.values():
            st.pp.tiles(adata)
            st.pp.encode(adata, "efficientnet_lite0", key_added=f"X_{kind}", precision=kind, show_progress=False)
        seconds[kind] = time.perf_counter() - start
    fine, coarse = (np.concatenate([a.obsm[f"X_{kind}"] for a in sections.values()]) for kind in both)
    print(f"Features differ by {np.linalg.norm(fine - coarse) / np.linalg.norm(fine):.4f} (relative norm).\n")
    print("| trained on | tested on | mean PCC of 250 genes | encoding, s |\n|---|---|---|---|")
    for trained, tested in (("float32", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16")):
        scores = []
        for name, adata in sections.items():
            train = [other for other_name, other in sections.items() if other_name != name]
            keys = [f"X_{trained}", f"X_{trained}_niche"]
            model = st.tl.train(train, genes=st.pp.gene_panel(train, n_top=250), features=keys, method="ridge")
            test = adata.copy()
            for key in keys:
                test.obsm[key] = adata.obsm[key.replace(trained, tested)]
            st.tl.predict_expression(test, model)
            scores.append(st.tl.evaluate(test, metrics="pcc")["value"].mean())
        took = f"{seconds[tested]:.0f}" if trained == tested else ""
        print(f"| {trained} | {tested} | {np.mean(scores):.4f} | {took} |", flush=True)


# ---------------------------------------------------------------------- the default encoder


def morphology(rounds: int) -> None:
    import stpredict as st
    from stpredict._images import readers

    print("| default encoder, spot + niche, JPEG decoding included | spots/s |\n|---|---|")
    for name, load in (("her2st C2", lambda: st.datasets.her2st("C2")), ("mouse colon", st.datasets.mouse_colon)):
        adata, rates = load(), []
        st.pp.tiles(adata)
        for _ in range(rounds):
            readers._open_cached.cache_clear()
            start = time.perf_counter()
            st.pp.encode(adata, show_progress=False)
            rates.append(adata.n_obs / (time.perf_counter() - start))
        print(f"| {name} | {statistics.median(rates):.0f} |", flush=True)


# ---------------------------------------------------------------------- memory


def memory(folder: Path) -> None:
    print("| peak memory, `read_wsi` to features | 10,000² px | 100,000² px | ratio |\n|---|---|---|---|")
    for side in (10_000, 100_000):
        write_slide(folder / f"{side}.tif", side)
    for encoder, n_spots in ((GRID, 3000), ("morphology", 3000), ("resnet18", 200)):
        peaks = []
        for side in (10_000, 100_000):
            command = [sys.executable, __file__, "--child", encoder, str(folder / f"{side}.tif"), str(n_spots)]
            peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"| {encoder}, {n_spots} spots | {peaks[0]:.2f} GiB | {peaks[1]:.2f} GiB | {peaks[1] / peaks[0]:.3f} |")


def child(encoder: str, path: str, n_spots: int) -> None:
    """Encode about `n_spots` spots all over the tissue of a slide, or only lay them, and print this process's peak."""
    import stpredict as st

    slide = st.read_wsi(path)
    area = np.prod(np.array(st._images.open_image(path).shape) * 0.5, dtype=float)
    adata = st.io.grid(slide, pitch_um=float(np.sqrt(area / n_spots)), spot_um=None, layout="square")
    if encoder != GRID:
        network = None
        if encoder != "morphology":
            import timm

            network = timm.create_model(encoder, pretrained=False, num_classes=0)
        st.pp.tiles(adata)
        st.pp.encode(adata, network, show_progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["ratio", "decodes", "precision", "morphology", "memory"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=512)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.child:
        child(arguments.child[0], arguments.child[1], int(arguments.child[2]))
        return
    print(f"{os.cpu_count()} CPU cores, CPU only: not measured on GPU\n")
    with tempfile.TemporaryDirectory() as folder:
        for name, run in (
            ("ratio", lambda: ratio(Path(folder), arguments.rounds, arguments.tiles)),
            ("decodes", lambda: decodes(Path(folder))),
            ("precision", precision),
            ("morphology", lambda: morphology(arguments.rounds)),
            ("memory", lambda: memory(Path(folder))),
        ):
            if arguments.only in (None, name):
                run()
                print()


if __name__ == "__main__":
    main()
