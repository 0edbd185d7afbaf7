"""Path2Space: an ensemble of two-layer perceptrons from CTransPath features to genes.

After Shulman et al., AI-predicted spatial transcriptomics unlocks breast cancer biomarkers from pathology (Cell, 2026).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._core.device import resolve_device
from stpredict._core.files import read_text
from stpredict.models.published.cards import PATH2SPACE
from stpredict.models.published.contract import FixedModel
from stpredict.models.published.weights import read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

    from stpredict._sections.section import Section
    from stpredict.models.published.cards import Card

ROWS = 2048
"""Spots that all members predict together: members are many, and each is read once per part."""

MEMBER = re.compile(r"members\.(\d+)\.(layer[01]\.0\.(?:weight|bias))")
LAYERS = ("layer0.0.weight", "layer0.0.bias", "layer1.0.weight", "layer1.0.bias")
FOLDER, CHECKPOINT = "mlp_ensemble", "result_*_*_0/model_trained.pth"
"""Where the authors' archive has the members, one file each."""


class Path2Space(FixedModel):
    """The mean of all members: ReLU(W₁ ReLU(W₀ x + b₀) + b₁) of the raw features x."""

    method: ClassVar[str] = "path2space"
    card: ClassVar[Card] = PATH2SPACE

    @classmethod
    def names_in(cls, folder: Path) -> dict[str, str] | None:
        """The authors' own names, where `folder` is their archive."""
        return {"network": FOLDER, "genes": "genes.txt"} if (folder / FOLDER).is_dir() else None

    def gene_names(self) -> list[str]:
        """One name per line, in the order of the outputs."""
        lines = read_text(self.weights.files["genes"]).splitlines()
        names = [line.strip() for line in lines if line.strip()]
        if len(set(names)) != len(names) or not names:
            msg = f"{self.weights.files['genes']} must name genes, each once; get it again from {self.card.source}."
            raise ValueError(msg)
        return names

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights of all members, ``members.<number>.layer0.0.weight`` and so on."""
        folder = self.weights.files["network"]
        if self._kept is None and folder.is_dir():
            found: dict[str, torch.Tensor] = {}
            for number, path in enumerate(sorted(folder.glob(CHECKPOINT))):
                found |= {f"members.{number}.{name}": tensor for name, tensor in read_tensors(path).items()}
            self.check_tensors(found)
            self._kept = found
        return super().tensors()

    def check_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refuse tensors that are not those of members that all predict the same genes."""
        if not tensors or not all(MEMBER.fullmatch(name) for name in tensors):
            self.refuse("it holds no members, or something else beside them")
        d, g = self.card.width, len(self._all)
        for number in range(n_members(tensors)):
            found: Any = [tensors.get(f"members.{number}.{layer}") for layer in LAYERS]
            if any(tensor is None for tensor in found):
                self.refuse(f"member {number} is not whole")
            hidden = len(found[1])
            shapes = [tuple(tensor.shape) for tensor in found]
            if shapes != [(hidden, d), (hidden,), (g, hidden), (g,)]:
                self.refuse(f"member {number} does not go from {d} features to the {g} genes of its list")

    def values(self, section: Section, columns: np.ndarray, size: int | None) -> Iterator[tuple[slice, np.ndarray]]:
        """The mean of all members, part by part; only the outputs asked for are computed."""
        import torch

        tensors, device = self.tensors(), resolve_device(None)
        n, wanted = n_members(tensors), torch.from_numpy(columns)
        key = next(iter(self.config["features"]))
        whole = np.array_equal(columns, np.arange(len(self._all)))
        for start in range(0, len(section), size or ROWS):
            rows = slice(start, min(start + (size or ROWS), len(section)))
            spots = torch.from_numpy(section.features(key, rows)).to(device)
            total = torch.zeros(len(spots), len(columns), device=device)
            with torch.inference_mode():
                for number in range(n):
                    w0, b0, w1, b1 = (tensors[f"members.{number}.{layer}"] for layer in LAYERS)
                    if not whole:
                        w1, b1 = w1[wanted], b1[wanted]
                    hidden = torch.relu(torch.addmm(b0.to(device), spots, w0.to(device).T))
                    total += torch.relu(torch.addmm(b1.to(device), hidden, w1.to(device).T))
            yield rows, (total / n).cpu().numpy()


def n_members(tensors: Mapping[str, torch.Tensor]) -> int:
    """How many members there are, by the largest number."""
    return 1 + max(int(name.split(".")[1]) for name in tensors)
