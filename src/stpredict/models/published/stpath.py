"""STPath: a transformer over all spots of a slide, from GigaPath features, places, organ and technology to genes.

After Huang et al., STPath: a generative foundation model for integrating spatial transcriptomics and whole-slide images
(npj Digital Medicine, 2025).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict._core.checks import one_of
from stpredict._core.device import resolve_device
from stpredict._core.files import read_text
from stpredict._genes.symbols import resolve
from stpredict.models._data.chunks import rows_of
from stpredict.models.published.cards import STPATH
from stpredict.models.published.contract import FixedModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from stpredict._sections.section import Section
    from stpredict.models.published.cards import Card

ORGANS = (
    "",
    "",
    "",
    "spinal cord",
    "brain",
    "breast",
    "bowel",
    "skin",
    "heart",
    "kidney",
    "prostate",
    "lung",
    "liver",
    "uterus",
    "bone",
    "muscle",
    "eye",
    "pancreas",
    "mouth",
    "ovary",
    "glioma",
    "glioblastoma",
    "stomach",
    "colon",
    "others",
)
"""Organs in the order of the network's table; its first rows stand for none."""

TECHNOLOGIES = ("", "spatial transcriptomics", "visium", "xenium", "visium hd")
NONE = 0
"""Row of both tables for what is not told."""

SPECIAL = 2
"""Outputs before the first gene: padding, and the mask that stands for unmeasured expression."""

MASK = 1
EXTENT = 100.0
"""Places run from 0 to this along both axes of the slide, as in training."""

PAIRS = 2**24
"""Pairs of spots that are looked at at a time: memory grows with the number of spots, not with its square."""

BLOCK = {
    "attn.layernorm_qkv.0.weight": ("d",),
    "attn.layernorm_qkv.0.bias": ("d",),
    "attn.layernorm_qkv.1.weight": ("3d", "d"),
    "attn.layernorm_qkv.1.bias": ("3d",),
    "attn.W_output.0.weight": ("d", "d"),
    "attn.W_output.0.bias": ("d",),
    "attn.edge_bias.0.weight": ("h", 3),
    "mlp.fc1.weight": ("m", "d"),
    "mlp.fc1.bias": ("m",),
    "mlp.norm.weight": ("m",),
    "mlp.norm.bias": ("m",),
    "mlp.fc2.weight": ("d", "m"),
    "mlp.fc2.bias": ("d",),
}
REST = {
    "input_encoder.image_embed.weight": ("d", "f"),
    "input_encoder.image_embed.bias": ("d",),
    "input_encoder.gene_embed.weight": ("d", "g"),
    "input_encoder.tech_embed.weight": ("t", "d"),
    "input_encoder.organ_embed.weight": ("o", "d"),
    "gene_exp_head.0.weight": ("d",),
    "gene_exp_head.0.bias": ("d",),
    "gene_exp_head.1.weight": ("g", "d"),
    "gene_exp_head.1.bias": ("g",),
}
"""Names of the network's weights and their shapes."""


class STPath(FixedModel):
    """Spots look at each other, the nearer the more as every head has learned; all are predicted from their images alone.

    The network's spatial bias is a mean over the four sign changes of a frame, of a linear function without intercept, so
    that of the frame nothing is left: what remains is a weight of every head on the distance of two spots. Computed in
    this form it needs no memory for pairs of spots.
    """

    method: ClassVar[str] = "stpath"
    card: ClassVar[Card] = STPATH
    compares_spots = True

    def checked(self, choices: dict[str, str]) -> dict[str, str]:
        """Organ and technology, each by the name in the network's table.

        Raises ValueError if the network has none of this name.
        """
        tables = {"organ": ORGANS, "technology": TECHNOLOGIES}
        told = {what: re.sub(r"[\s_]+", " ", str(value).strip().lower()) for what, value in choices.items()}
        for what, value in told.items():
            one_of(value, [name for name in tables[what] if name], what)
        return told

    def gene_names(self) -> list[str]:
        """Approved symbols of the Ensembl ids in the order of the outputs; else a symbol of the list, else the id."""
        path = self.weights.files["genes"]
        try:
            ids = json.loads(read_text(path))
            if not isinstance(ids, dict) or not all(isinstance(one, str) for one in ids.values()):
                msg = "it maps no symbols to ids"
                raise ValueError(msg)
        except (ValueError, RecursionError) as error:
            msg = f"{path} is damaged ({error}); get it again from {self.card.source}."
            raise ValueError(msg) from error
        ordered = sorted(set(ids.values()))
        listed = {one: symbol for symbol, one in reversed(ids.items())}
        approved = resolve(ordered)
        names, taken = [], set()
        for one in ordered:
            name = next((n for n in (approved.get(one), listed[one]) if n is not None and n not in taken), one)
            names.append(name)
            taken.add(name)
        return names

    def check_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refuse tensors that are missing, not needed or of the wrong shape."""
        blocks = n_blocks(tensors)
        wanted = REST | {f"model.blks.{i}.{name}": dims for i in range(blocks) for name, dims in BLOCK.items()}
        if not blocks or wanted.keys() != tensors.keys():
            odd = sorted(wanted.keys() ^ tensors.keys())[:3]
            self.refuse(f"{', '.join(odd) or 'its blocks'} missing or not known")
        d = len(tensors["gene_exp_head.0.weight"])
        sizes = {"d": d, "3d": 3 * d, "f": self.card.width, "g": len(self._all) + SPECIAL}
        sizes |= {"o": len(ORGANS), "t": len(TECHNOLOGIES)}
        for name, dims in wanted.items():
            shape = tuple(tensors[name].shape)
            if len(shape) != len(dims) or any(
                (size if isinstance(size, int) else sizes.setdefault(size, n)) != n
                for size, n in zip(dims, shape, strict=True)
            ):
                self.refuse(f"{name} is {shape}, which does not fit {len(self._all)} genes, or the rest of it")
        if d % sizes["h"]:
            self.refuse(f"{d} numbers per spot are no multiple of {sizes['h']} heads")

    def values(self, section: Section, columns: np.ndarray, size: int | None) -> Iterator[tuple[slice, np.ndarray]]:
        """All spots go through the network at once; genes are read off part by part."""
        import torch
        import torch.nn.functional as F

        device = resolve_device(None)
        weights = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        with torch.inference_mode():
            spots = self._spots(section, weights)
            places = torch.from_numpy(scaled(section.centres)).to(device)
            for number in range(n_blocks(weights)):
                prefix = f"model.blks.{number}."
                block = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
                spots = spots + attended(spots, places, block)
                spots = spots + mixed(spots, block)
            weight, bias = (weights[f"gene_exp_head.0.{what}"] for what in ("weight", "bias"))
            spots = F.layer_norm(spots, weight.shape, weight, bias)
            taken = torch.from_numpy(columns + SPECIAL).to(device)
            head, level = weights["gene_exp_head.1.weight"][taken], weights["gene_exp_head.1.bias"][taken]
        step = size or rows_of(len(columns))
        for start in range(0, len(spots), step):
            with torch.inference_mode():
                genes = F.linear(spots[start : start + step], head, level).cpu().numpy()
            yield slice(start, start + len(genes)), genes

    def _spots(self, section: Section, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(spots, d): what the network starts from, with the mask in place of measured expression."""
        import torch
        import torch.nn.functional as F

        features = torch.from_numpy(section.features(next(iter(self.config["features"]))))
        image, level = (weights[f"input_encoder.image_embed.{what}"] for what in ("weight", "bias"))
        organ = row_of(ORGANS, self._choices.get("organ"))
        technology = row_of(TECHNOLOGIES, self._choices.get("technology"))
        return (
            F.linear(features.to(image.device), image, level)
            + weights["input_encoder.gene_embed.weight"][:, MASK]
            + weights["input_encoder.tech_embed.weight"][technology]
            + weights["input_encoder.organ_embed.weight"][organ]
        )


def row_of(names: Sequence[str], chosen: str | None) -> int:
    """Row of a table that stands for what was chosen."""
    return NONE if chosen is None else names.index(chosen)


def n_blocks(tensors: Mapping[str, torch.Tensor]) -> int:
    """How many blocks there are, by the largest number."""
    found = (re.fullmatch(r"model\.blks\.(\d+)\..*", name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def scaled(centres: np.ndarray) -> np.ndarray:
    """float32 (n, 2): places from 0 to `EXTENT` along each axis on its own; 0 along one on which all are the same."""
    away = np.asarray(centres - centres.min(axis=0), dtype=np.float64)
    extent = away.max(axis=0)
    share = np.divide(away, extent, out=np.zeros_like(away), where=extent > 0)
    return np.asarray(share * EXTENT, dtype=np.float32)


def attended(spots: torch.Tensor, places: torch.Tensor, block: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What spots take from each other; every head adds its weight times the distance of two spots to their score."""
    import torch
    import torch.nn.functional as F

    (n, d), away = spots.shape, block["attn.edge_bias.0.weight"][:, 2]
    weight, bias = (block[f"attn.layernorm_qkv.0.{what}"] for what in ("weight", "bias"))
    each = F.layer_norm(spots, weight.shape, weight, bias)
    each = F.linear(each, *(block[f"attn.layernorm_qkv.1.{what}"] for what in ("weight", "bias")))
    queries, keys, values = (part.reshape(n, len(away), -1).transpose(0, 1) for part in each.chunk(3, dim=-1))
    taken = []
    step = max(1, PAIRS // (n * len(away)))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        distance = torch.cdist(places[rows], places, compute_mode="donot_use_mm_for_euclid_dist")
        biased = away[:, None, None] * distance
        taken.append(F.scaled_dot_product_attention(queries[:, rows], keys, values, attn_mask=biased))
    together = torch.cat(taken, dim=1).transpose(0, 1).reshape(n, d)
    return F.linear(together, *(block[f"attn.W_output.0.{what}"] for what in ("weight", "bias")))


def mixed(spots: torch.Tensor, block: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Two layers on every spot, with a norm between them."""
    import torch.nn.functional as F

    hidden = F.gelu(F.linear(spots, block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
    hidden = F.layer_norm(hidden, hidden.shape[-1:], block["mlp.norm.weight"], block["mlp.norm.bias"])
    return F.linear(hidden, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
