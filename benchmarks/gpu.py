"""How much of a GPU the toolkit uses: encoding with a large network, and training.

    python benchmarks/gpu.py                  # minutes on a GPU; without one, small and on the CPU
    python benchmarks/gpu.py --only encode | train

``encode`` compares `pp.encode` with the bare forward pass of the same ViT-L-sized network, same precision and batch
size, tiles already on the device, in turns within one process, and says which share of the device's measured matrix
rate that pass reaches. ``train`` counts end-to-end training steps per second. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from slides import write_slide

UM = 112.0


def device():
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    import torch

    if device().type == "cuda":
        torch.cuda.synchronize()


def seconds(run, rounds: int) -> float:
    """Median time of `run`, after one that warms up."""
    times = []
    for number in range(rounds + 1):
        wait()
        start = time.perf_counter()
        run()
        wait()
        if number:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def matrix_rate(precision, side: int) -> float:
    """Floating point operations per second of a square matrix product."""
    import torch

    a, b = (torch.randn(side, side, device=device(), dtype=precision) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, 10)


def operations(network, size: int) -> float:
    """Floating point operations of a forward pass per tile."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, size, size, device=device()))
    return counter.get_total_flops()


def encode(folder: Path, rounds: int) -> None:
    import timm
    import torch

    import stpredict as st

    on_gpu = device().type == "cuda"
    name, n_tiles, batch = ("vit_large_patch16_224", 16_384, 256) if on_gpu else ("vit_tiny_patch16_224", 128, 32)
    precision = torch.bfloat16 if on_gpu else torch.float32
    path = folder / "slide.tif"
    write_slide(path, 32_768 if on_gpu else 4096, steps=(1, 2, 4))
    adata = st.io.grid(st.read_wsi(path), pitch_um=UM, layout="square", min_tissue=0)[:n_tiles].copy()
    st.pp.tiles(adata, spot_um=UM)
    network = timm.create_model(name, pretrained=False, num_classes=0).eval().to(device())
    tiles = torch.randn(batch, 3, 224, 224, device=device()).contiguous(memory_format=torch.channels_last)

    def raw() -> None:
        with torch.inference_mode(), torch.autocast(device().type, precision, enabled=on_gpu):
            for _ in range(len(adata) // batch):
                network(tiles)

    bare = len(adata) // batch * batch / seconds(raw, rounds)
    how = {"niche": False, "batch_size": batch, "precision": str(precision)[6:], "show_progress": False}
    ours = len(adata) / seconds(lambda: st.pp.encode(adata, network, **how), rounds)
    peak = matrix_rate(precision, 8192 if on_gpu else 1024)
    used = bare * operations(network, 224) / peak
    print("| what | tiles/s | |\n|---|---|---|")
    print(f"| {name}, {str(precision)[6:]}, batches of {batch}, raw forward | {bare:.0f} | 1 |")
    print(f"| the same through `pp.encode` | {ours:.0f} | {ours / bare:.2f} |")
    print(f"| matrix products, {peak / 1e12:.2f} TFLOP/s: share that the raw forward reaches | | {used:.2f} |\n")


def train(rounds: int) -> None:
    import stpredict as st

    sections = st.datasets.simulate(2)
    for adata in sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    epochs = 4
    print("| training, end to end | steps/s | spots/s |\n|---|---|---|")
    for method in ("cmrcnet", "st_align"):
        how = {"method": method, "members": 1, "epochs": epochs, "show_progress": False, "genes": 200}
        how["genes"] = st.pp.gene_panel(sections, n_top=how["genes"])
        model = st.tl.train(sections, **how)
        batch = min(model.config["options"]["batch_size"], sum(adata.n_obs for adata in sections))
        steps = _steps(sections, batch, epochs)
        time_ = seconds(lambda how=how: st.tl.train(sections, **how), rounds)
        print(f"| {method}, batches of {batch} | {steps / time_:.1f} | {steps * batch / time_:.0f} |")


def _steps(sections, batch: int, epochs: int) -> int:
    """Steps of the run that chooses the epochs and of the one on all spots, about."""
    n = sum(adata.n_obs for adata in sections)
    return int(sum(max(part // batch, 6) * epochs for part in (n * 0.5, n)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["encode", "train"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    where = torch.cuda.get_device_name() if device().type == "cuda" else "CPU, at small size: not measured on GPU"
    print(f"{where}, torch {torch.__version__}\n")
    if arguments.only in (None, "encode"):
        with tempfile.TemporaryDirectory() as folder:
            encode(Path(folder), arguments.rounds)
    if arguments.only in (None, "train"):
        train(arguments.rounds)


if __name__ == "__main__":
    main()
