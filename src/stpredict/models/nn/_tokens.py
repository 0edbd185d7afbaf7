"""Tokens of what a spot looks like and of what it expresses."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from stpredict._core.hub import weights_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


class FeatureTokens(nn.Module):
    """One token per frozen feature vector: (batch, sum of `sizes`) → (batch, len(sizes), width).

    Parameters
    ----------
    sizes
        Length of each feature vector, in the order of the columns.
    width
        Length of a token.
    dropout
        Share of features that are hidden from a training step.
    norm
        Bring all tokens to one length; otherwise unusual features make long tokens.
    """

    def __init__(self, sizes: Sequence[int], width: int, *, dropout: float, norm: bool = True) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.n_features = sum(sizes)
        self.width = width
        self.dropout = nn.Dropout(dropout)
        last = nn.LayerNorm if norm else nn.Identity
        self.embed = nn.ModuleList(nn.Sequential(nn.Linear(size, width), last(width)) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Split the columns into feature vectors and embed each."""
        parts = torch.split(x, self.sizes, dim=1)
        return torch.stack([embed(self.dropout(part)) for embed, part in zip(self.embed, parts, strict=True)], dim=1)


class PatchTokens(nn.Module):
    """Tokens of a network that is trained along: uint8 (batch, 3, size, size) → (batch, tokens, width).

    A vision transformer gives its own tokens, a convolutional network one for each place of its last feature map.

    Training tiles are flipped and turned by right angles at random: tissue has no upside.

    Parameters
    ----------
    encoder
        Name of a timm network.
    depth
        Number of blocks of a vision transformer to keep; None keeps all.
    heads
        Attention heads of a vision transformer; None leaves as many as it has.
    pretrained
        Start from the published weights, which timm downloads or finds in its cache.
    size
        Side of the tiles, in pixels.

    Raises
    ------
    ValueError
        If these cannot be had.
    """

    def __init__(
        self, encoder: str, *, size: int, depth: int | None = None, heads: int | None = None, pretrained: bool = False
    ) -> None:
        import timm

        super().__init__()
        kept = {name: n for name, n in (("depth", depth), ("num_heads", heads)) if n is not None}
        if timm.get_pretrained_cfg(encoder).fixed_input_size:
            kept["img_size"] = size
        with weights_of(encoder) if pretrained else nullcontext():
            self.network = timm.create_model(encoder, pretrained=pretrained, num_classes=0, **kept)
        self.width = self.network.num_features
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("sd", torch.tensor(IMAGENET_SD).view(1, 3, 1, 1) * 255)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network up to its last tokens."""
        if self.training:
            x = turn_and_flip(x)
        found = self.network.forward_features((x - self.mean) / self.sd)
        return found.flatten(2).transpose(1, 2) if found.ndim == 4 else found


def turn_and_flip(images: Tensor) -> Tensor:
    """Turn each image by a random multiple of 90° and mirror half of them."""
    turns = torch.randint(4, (len(images),), device=images.device)
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    out = torch.empty_like(images)
    for turn in range(4):
        for mirror in (False, True):
            rows = (turns == turn) & (mirrored == mirror)
            turned = torch.rot90(images[rows], turn, dims=(2, 3))
            out[rows] = turned.flip(3) if mirror else turned
    return out


class GeneTokens(nn.Module):
    """Tokens of an expression vector by one self-normalising layer: (batch, genes) → (batch, n_tokens, width).

    References
    ----------
    Klambauer et al., Self-Normalizing Neural Networks. NeurIPS 2017.
    """

    def __init__(self, n_genes: int, width: int, *, n_tokens: int = 8, dropout: float = 0.25) -> None:
        super().__init__()
        self.shape = (n_tokens, width)
        self.layer = nn.Sequential(nn.Linear(n_genes, n_tokens * width), nn.ELU(), nn.AlphaDropout(dropout))
        nn.init.kaiming_normal_(self.layer[0].weight, nonlinearity="linear")
        nn.init.zeros_(self.layer[0].bias)

    def forward(self, expression: Tensor) -> Tensor:
        """Embed and cut into tokens."""
        return self.layer(expression).unflatten(1, self.shape)
