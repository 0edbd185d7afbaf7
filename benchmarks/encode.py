"""Speed and memory of `pp.encode`.

    python benchmarks/encode.py            # everything, a few minutes on two cores
    python benchmarks/encode.py --only ratio | morphology | memory

Prints a Markdown table. The ratio is against the bare forward pass of the same network on the same tiles, already
decoded and normalised in memory, in channels-last layout, taken in turns within one process.
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
from pathlib import Path

import numpy as np

MPP = 0.5
PITCH_UM = 100.0


def write_slide(path: Path, side: int) -> None:
    """Tiled, JPEG-compressed TIFF of simulated tissue, repeated; written tile by tile."""
    import tifffile

    import stpredict as st

    tissue = st.datasets.simulate(seed=1)
    library = next(iter(tissue.uns["spatial"].values()))
    pixels = library["images"]["hires"][300:1324, 300:1324]
    n = -(-side // 512)

    def tiles():
        for i in range(n * n):
            y, x = (i // n % 2) * 512, (i % n % 2) * 512
            yield np.ascontiguousarray(pixels[y : y + 512, x : x + 512])

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(512, 512), photometric="rgb", compression="jpeg"
        )


def section(path: Path, side: int, n_spots: int | None = None):
    """AnnData with a hexagonal lattice of spots over the slide."""
    import anndata as ad

    pitch = PITCH_UM / MPP
    margin = 600
    rows = np.arange(margin, side - margin, pitch * np.sqrt(3) / 2)
    centres = np.array(
        [
            (x + (i % 2) * pitch / 2, y)
            for i, y in enumerate(rows)
            for x in np.arange(margin, side - margin - pitch, pitch)
        ]
    )[:n_spots]
    adata = ad.AnnData(np.zeros((len(centres), 0), dtype=np.float32))
    adata.obsm["spatial"] = centres
    adata.uns["spatial"] = {
        "slide": {
            "images": {},
            "scalefactors": {"microns_per_pixel": MPP},
            "metadata": {"source_image_path": str(path), "spot_pitch_um": PITCH_UM},
        }
    }
    return adata


def ratio(folder: Path, rounds: int) -> list[str]:
    import timm
    import torch

    import stpredict as st
    from stpredict.pp._windows import read_crops

    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    network = network.to(memory_format=torch.channels_last)
    path = folder / "ratio.tif"
    write_slide(path, 6144)
    adata = section(path, 6144, 256)
    st.pp.tiles(adata)
    view = st.pp._encode.open_sections(adata)[0]
    crops = np.concatenate([c for _, c in read_crops(view, np.arange(len(view)), 112.0, MPP)])
    batches = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255 - 0.5).div_(0.25)
    batches = [b.contiguous(memory_format=torch.channels_last) for b in batches.split(st.settings.batch_size)]
    raw, encode = [], []
    with torch.inference_mode():
        for batch in batches[:2]:
            network(batch)
    for _ in range(rounds):
        start = time.perf_counter()
        with torch.inference_mode():
            for batch in batches:
                network(batch)
        raw.append(len(crops) / (time.perf_counter() - start))
        start = time.perf_counter()
        st.pp.encode(adata, network, niche=False, show_progress=False)
        encode.append(len(crops) / (time.perf_counter() - start))
    share = statistics.median(e / r for e, r in zip(encode, raw, strict=True))
    return [
        f"| timm ResNet-18, 224 px, raw forward | {statistics.median(raw):.1f} tiles/s | 1 |",
        f"| the same through `pp.encode` | {statistics.median(encode):.1f} tiles/s | {share:.2f} |",
    ]


def morphology(rounds: int) -> list[str]:
    import stpredict as st
    from stpredict._images import readers

    rows = []
    for name, load in (("her2st C2", lambda: st.datasets.her2st("C2")), ("mouse colon", st.datasets.mouse_colon)):
        adata, rates = load(), []
        st.pp.tiles(adata)
        for _ in range(rounds):
            readers._open_cached.cache_clear()
            start = time.perf_counter()
            st.pp.encode(adata, show_progress=False)
            rates.append(adata.n_obs / (time.perf_counter() - start))
        rows.append(
            f"| default encoder, spot + niche, {name}, JPEG decoding included | {statistics.median(rates):.0f} spots/s | |"
        )
    return rows


def memory(folder: Path) -> list[str]:
    """Peak resident memory of a fresh process that encodes a slide, at two sizes."""
    rows = []
    for encoder in ("morphology", "resnet18"):
        peaks = []
        for side in (12_288, 24_576):
            path = folder / f"{side}.tif"
            if not path.exists():
                write_slide(path, side)
            command = [sys.executable, __file__, "--child", encoder, str(path), str(side)]
            peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        rows.append(
            f"| {encoder}, peak memory, 12,288² px → 24,576² px | {peaks[0]:.2f} → {peaks[1]:.2f} GiB | {peaks[1] / peaks[0]:.3f} |"
        )
    return rows


def child(encoder: str, path: str, side: int) -> None:
    import stpredict as st

    n_spots = None if encoder == "morphology" else 60 * (side // 12_288) ** 2
    adata = section(Path(path), side, None)
    if n_spots:  # a network is slow on a CPU: fewer spots, spread over the whole slide
        adata = adata[np.linspace(0, adata.n_obs - 1, n_spots).astype(int)].copy()
    st.pp.tiles(adata, mpp=MPP)
    tool = None
    if encoder != "morphology":
        import timm

        tool = timm.create_model(encoder, pretrained=False, num_classes=0)
    st.pp.encode(adata, tool, show_progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["ratio", "morphology", "memory"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], arguments.child[1], int(arguments.child[2]))
        return
    print(f"{os.cpu_count()} CPU cores\n\n| what | value | ratio |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (
            ("ratio", lambda: ratio(Path(folder), arguments.rounds)),
            ("morphology", lambda: morphology(arguments.rounds)),
            ("memory", lambda: memory(Path(folder))),
        ):
            if arguments.only in (None, name):
                print(*rows(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
