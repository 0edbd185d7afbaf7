"""The network of DeepSpot-M: a vision transformer that turns a tile into patch tokens, and genes that look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

LORA_SCALE = 2.0
"""By how much the product of the two factors of an adapted weight counts: alpha is twice the rank."""

HEAD_WIDTH = 64
EPS = 1e-6
"""Of the vision transformer's norms."""

AT_ONCE = 2**24
"""Numbers of genes × tiles × width that are held at a time; genes do not see each other."""


def merged(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights of the vision transformer by their own names, with low-rank changes added to what they change."""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    plain = {name.replace(".base_layer.", "."): value for name, value in own.items() if ".lora_" not in name}
    for name, down in own.items():
        if name.endswith(".lora_A.default.weight"):
            stem = name.removesuffix(".lora_A.default.weight")
            up = own[f"{stem}.lora_B.default.weight"]
            plain[f"{stem}.weight"] = plain[f"{stem}.weight"] + LORA_SCALE * up @ down
    return plain


class DeepSpotMNetwork(nn.Module):
    """Maps tiles (batch, 3, size, size) to genes (batch, genes).

    Parameters
    ----------
    vision
        Weights of the vision transformer, see `merged`.
    decoder
        Weights of the decoder by their names in it.
    source
        Gene embedding to read genes by.
    modality
        Row of the decoder's table of modalities that it belongs to; None where there is no table.
    heads
        Heads of the decoder.
    columns
        Genes to predict, by number.
    size
        Height and width of a tile.
    """

    def __init__(
        self,
        vision: Mapping[str, Tensor],
        decoder: Mapping[str, Tensor],
        *,
        source: str,
        modality: int | None,
        heads: int,
        columns: Tensor,
        size: int,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.layers = _count(decoder, "layers.")
        self.blocks = _count(vision, "encoder.layer.")
        patch = vision["embeddings.patch_embeddings.projection.weight"].shape[-1]
        kept = {f"vision.{name}": value for name, value in vision.items() if "position" not in name}
        kept |= {f"decoder.{n}": v for n, v in decoder.items() if n.startswith(("patch_proj.", "layers."))}
        kept["places"] = _places(vision["embeddings.position_embeddings"], size // patch)
        known = decoder[f"multi_source.bio_{source}"][columns]
        adapter, router = f"multi_source.adapters.{source}", f"routers.{source}"
        queries = _normed(_linear(known, decoder, f"{adapter}.0"), decoder, f"{adapter}.1")
        if modality is not None:
            queries = queries + decoder["multi_source.modality_emb"][modality]
        kept["queries"] = queries
        for name in ("weight_net", "bias_net"):
            hidden = F.gelu(_linear(known, decoder, f"{router}.{name}.0"))
            kept[name] = _linear(hidden, decoder, f"{router}.{name}.2")
        for name, value in kept.items():
            self.register_buffer(name.replace(".", "/"), value)

    def forward(self, tiles: Tensor) -> Tensor:
        """(batch, genes)."""
        weights = {name.replace("/", "."): value for name, value in self._buffers.items() if value is not None}
        tokens = self._tokens(tiles, weights)
        seen = _linear(tokens, weights, "decoder.patch_proj")
        queries, away, level = weights["queries"], weights["weight_net"], weights["bias_net"][:, 0]
        step = max(1, AT_ONCE // (len(tiles) * queries.shape[1]))
        parts = [
            (self._looked(queries[start : start + step], seen, weights) * away[start : start + step]).sum(dim=-1)
            for start in range(0, len(queries), step)
        ]
        return torch.cat(parts, dim=1) + level

    def _tokens(self, tiles: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """(batch, patches, width): patch tokens of the last block, without that of the class."""
        kernel = weights["vision.embeddings.patch_embeddings.projection.weight"]
        level = weights["vision.embeddings.patch_embeddings.projection.bias"]
        x = F.conv2d(tiles, kernel, level, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
        first = weights["vision.embeddings.cls_token"].expand(len(tiles), -1, -1)
        x = torch.cat([first, x], dim=1) + weights["places"]
        for number in range(self.blocks):
            at = f"vision.encoder.layer.{number}"
            normed = _normed(x, weights, f"{at}.norm1", EPS)
            names = (f"{at}.attention.attention.{name}" for name in ("query", "key", "value"))
            looked = _attention(*(_linear(normed, weights, name) for name in names), x.shape[-1] // HEAD_WIDTH)
            x = x + weights[f"{at}.layer_scale1.lambda1"] * _linear(looked, weights, f"{at}.attention.output.dense")
            gate, value = _linear(_normed(x, weights, f"{at}.norm2", EPS), weights, f"{at}.mlp.weights_in").chunk(2, -1)
            x = x + weights[f"{at}.layer_scale2.lambda1"] * _linear(
                F.silu(gate) * value, weights, f"{at}.mlp.weights_out"
            )
        return _normed(x, weights, "vision.layernorm", EPS)[:, 1:]

    def _looked(self, queries: Tensor, seen: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """(batch, genes, width): what genes found in the tokens, layer after layer."""
        x = queries.expand(len(seen), -1, -1)
        for number in range(self.layers):
            at = f"decoder.layers.{number}"
            w = weights[f"{at}.cross_attn.in_proj_weight"].chunk(3)
            b = weights[f"{at}.cross_attn.in_proj_bias"].chunk(3)
            sides = (F.linear(side, *pair) for side, pair in zip((x, seen, seen), zip(w, b, strict=True), strict=True))
            looked = _linear(_attention(*sides, self.heads), weights, f"{at}.cross_attn.out_proj")
            x = _normed(x + looked, weights, f"{at}.norm1")
            hidden = F.gelu(_linear(x, weights, f"{at}.ffn.0"))
            x = _normed(x + _linear(hidden, weights, f"{at}.ffn.3"), weights, f"{at}.norm2")
        return x


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _linear(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _normed(x: Tensor, weights: Mapping[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def _attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """(batch, queries, width) with as many heads; the scale is that of their width."""
    sides = (side.unflatten(-1, (heads, -1)).transpose(1, 2) for side in (queries, keys, values))
    return F.scaled_dot_product_attention(*sides).transpose(1, 2).flatten(2)


def _places(known: Tensor, side: int) -> Tensor:
    """(1, 1 + patches, width): embeddings of places, brought to `side` × `side` patches."""
    grid = known[:, 1:].transpose(1, 2)
    grid = grid.unflatten(2, (round(grid.shape[2] ** 0.5), -1)).float()
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([known[:, :1], grid.flatten(2).transpose(1, 2).to(known.dtype)], dim=1)
