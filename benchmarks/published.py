"""What a published model costs beside its own forward pass: stand-ins of realistic size, random weights, no download.

OMP_NUM_THREADS=1 python benchmarks/published.py [--spots 2000] [--genes 14000] [--members 8] [--hidden 512] [--repeats 5]
(with lazyslide-models 0.1, transformers and einops installed STPath is measured too, against the network there)
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData

import stpredict as st
from stpredict._sections.open import open_sections

if TYPE_CHECKING:
    from collections.abc import Callable

    from stpredict._sections.section import Section


def section_of(key: str, width: int, n: int, **record: object) -> Section:
    """A section without image and counts, with random features."""
    adata = AnnData(obs={"patient": ["P1"] * n})
    side = int(np.ceil(n**0.5))
    adata.obsm["spatial"] = np.argwhere(np.ones((side, side)))[:n] * 100.0
    adata.obsm[key] = np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)
    adata.uns[key] = record
    adata.uns["spatial"] = {"one": {"images": {}, "scalefactors": {}, "metadata": {"spot_pitch_um": 100.0}}}
    return open_sections(adata)[0]


def alternately(repeats: int, **calls: Callable[[], object]) -> dict[str, float]:
    """Median CPU seconds of every call; they take turns. What else the machine does is not counted."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            took[name].append(time.process_time() - start)
    return {name: float(np.median(seconds[1:])) for name, seconds in took.items()}  # (the first call reads files)


def told(name: str, seconds: dict[str, float], same: float) -> None:
    share = seconds["forward"] / seconds["ours"]
    print(
        f"{name}: forward pass {seconds['forward']:.2f} s, ours {seconds['ours']:.2f} s, share {share:.3f}; largest difference {same:.1e}"
    )


def path2space(chosen: argparse.Namespace, folder: Path) -> None:
    torch.manual_seed(0)
    genes = [f"GENE{i}" for i in range(chosen.genes)]
    members = []
    for number in range(chosen.members):
        inner, outer = torch.nn.Linear(768, chosen.hidden), torch.nn.Linear(chosen.hidden, chosen.genes)
        members.append((inner, outer))
        path = folder / f"mlp_ensemble/result_{number}_0_0/model_trained.pth"
        path.parent.mkdir(parents=True)
        layers = {"layer0.0": inner, "layer1.0": outer}
        torch.save({f"{n}.{k}": v for n, layer in layers.items() for k, v in layer.state_dict().items()}, path)
    (folder / "genes.txt").write_text("\n".join(genes))
    record = {"encoder": "ctranspath", "encoder_hash": "0", "spot_um": 100.0, "mpp": 0.45, "stain_norm": "macenko"}
    section = section_of("X_ctranspath", 768, chosen.spots, **record)
    model = st.models.pretrained("path2space", path=folder)
    spots = torch.from_numpy(section.features("X_ctranspath"))

    @torch.inference_mode()
    def forward() -> np.ndarray:
        total = torch.zeros(len(spots), chosen.genes)
        for inner, outer in members:
            total += torch.relu(outer(torch.relu(inner(spots))))
        return (total / len(members)).numpy()

    same = float(np.abs(model.predict(section).mean - forward()).max())
    told("path2space", alternately(chosen.repeats, forward=forward, ours=lambda: model.predict(section)), same)


def stpath(chosen: argparse.Namespace, folder: Path) -> None:
    from lazyslide_models.feature_prediction.stpath import N_ORGANS, N_TECH, rescale_coords
    from lazyslide_models.feature_prediction.stpath._model import STFM

    torch.manual_seed(0)
    network = STFM(chosen.genes + 2, N_TECH, N_ORGANS).eval()
    torch.save(network.state_dict(), folder / "stfm.pth")
    ids = {f"GENE{i:05d}": f"ENSX{i:011d}" for i in range(chosen.genes)}
    (folder / "symbol2ensembl.json").write_text(json.dumps(ids))
    record = {"encoder": "prov-gigapath", "encoder_hash": "0", "spot_um": 112.0, "mpp": 0.5}
    section = section_of("X_prov-gigapath", 1536, chosen.spots, **record)
    model = st.models.pretrained("stpath", path=folder)
    spots, none = torch.from_numpy(section.features("X_prov-gigapath")), torch.zeros(chosen.spots, dtype=torch.long)
    places = rescale_coords(torch.from_numpy(section.centres).float())

    @torch.inference_mode()
    def forward() -> np.ndarray:
        return network(img_tokens=spots, coords=places, batch_idx=none, tech_tokens=none, organ_tokens=none)[
            :, 2:
        ].numpy()

    same = float(np.abs(model.predict(section).mean - forward()).max())
    told("stpath", alternately(chosen.repeats, forward=forward, ours=lambda: model.predict(section)), same)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in {"spots": 2000, "genes": 14_000, "members": 8, "hidden": 512, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    for measured in (path2space, stpath):
        with tempfile.TemporaryDirectory() as folder, st.settings.override(cache_dir=Path(folder) / "cache"):
            try:
                measured(chosen, Path(folder))
            except ImportError as error:
                print(f"{measured.__name__}: not measured, {error}")


if __name__ == "__main__":
    main()
