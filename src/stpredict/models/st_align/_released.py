"""One scale of ST-Align as in the authors' released code: eight tokens each, fusion without residuals, wide heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models.st_align._options import Options

HEADS = 8


class ReleasedScale(nn.Module):
    """Spots or niches: an image encoder, an expression encoder, and the fusion of both.

    All take part as `options.gene_tokens` tokens, which heads of two layers read side by side.

    Parameters
    ----------
    tokens
        Module that makes image tokens (batch, tokens, ``tokens.width``); their mean is the image's vector.
    n_inputs
        Length of the expression vector.
    options
        See `stpredict.models.st_align._options.Options`.
    layers
        Transformer layers on expression; with 0 the vector itself is spread over tokens.
    """

    def __init__(self, tokens: nn.Module, n_inputs: int, options: Options, *, layers: int) -> None:
        super().__init__()
        width, n = options.width, options.gene_tokens
        self.width = 2 * width
        self.tokens = nn.Sequential(tokens, MeanOfTokens(), Spread(tokens.width, width, n))
        self.gene_tokens = GeneTransformer(n_inputs, width, n, layers) if layers else Spread(n_inputs, width, n)
        self.image_head, self.gene_head, self.fused_head = (_head(n, width) for _ in range(3))
        self.fusion = ReleasedFusion(width)
        self.missing = nn.Parameter(torch.zeros(1, 1, width))

    def image(self, tokens: Tensor) -> Tensor:
        """(batch, 2 · width): direction of image tokens in the joint space."""
        return F.normalize(self.image_head(tokens), dim=1)

    def gene(self, tokens: Tensor) -> Tensor:
        """(batch, 2 · width): direction of expression tokens in the joint space."""
        return F.normalize(self.gene_head(tokens), dim=1)

    def align(self, image: Tensor, genes: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed the image, the expression, and both together; a learned token stands for expression not `known`."""
        tokens, gene_tokens = self.tokens(image), self.gene_tokens(genes)
        seen = torch.where(known[:, None, None], gene_tokens, self.missing)
        return self.image(tokens), self.gene(gene_tokens), self.fused_head(self.fusion(tokens, seen))


class ReleasedFusion(nn.Module):
    """Either side asks the other; the answers, without their askers, are narrowed, joined and normalised.

    Tokens (batch, n, width) and (batch, n, width) become (batch, n, width).
    """

    def __init__(self, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.image, self.genes = (Answer(width, dropout=dropout) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor, genes: Tensor) -> Tensor:
        """Fuse as many image tokens with as many expression tokens."""
        return self.norm(torch.cat([self.image(image, genes), self.genes(genes, image)], dim=2))


class Answer(nn.Module):
    """Cross-attention and a narrow feed-forward network: tokens (batch, n, width) to (batch, n, width / 2)."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.norm_own, self.norm_other = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(width, width // 8), nn.GELU(), nn.Linear(width // 8, width // 2))

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Let `own` ask `other`."""
        other = self.norm_other(other)
        return self.mlp(self.dropout(self.attention(self.norm_own(own), other, other, need_weights=False)[0]))


class MeanOfTokens(nn.Module):
    """Mean over tokens: (batch, n, width) to (batch, width)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Average."""
        return tokens.mean(dim=1)


class Spread(nn.Module):
    """A vector (batch, n_in) as tokens (batch, n, width), each the vector times a number of its own plus another.

    A vector of another length than `width` is projected first.
    """

    def __init__(self, n_in: int, width: int, n: int) -> None:
        super().__init__()
        self.project = nn.Linear(n_in, width) if n_in != width else nn.Identity()
        self.spread = nn.Conv1d(1, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Project and spread."""
        return self.spread(self.project(x)[:, None])


class GeneTransformer(nn.Module):
    """An expression vector (batch, n_in) as tokens (batch, n, width): three layers, a Transformer, two layers."""

    def __init__(self, n_in: int, width: int, n: int, layers: int) -> None:
        super().__init__()
        self.cut = nn.Sequential(
            nn.Linear(n_in, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Linear(width, n * width),
            nn.Unflatten(1, (n, width)),
        )
        layer = nn.TransformerEncoderLayer(
            width, HEADS, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.last = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        """Embed and cut into tokens."""
        return self.last(self.transformer(self.cut(x)))


def _head(n: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(1), nn.Linear(n * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 2 * width))
