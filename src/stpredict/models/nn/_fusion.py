"""Image tokens that ask gene tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class CrossAttention(nn.Module):
    """What tokens keep of themselves plus what they find in others: V₁(x) + softmax(ReLU(Qx) ReLU(Ky)ᵀ/√d) V₂(y)."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.own, self.others = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Tokens (batch, n, width) ask tokens (batch, m, width)."""
        found = F.scaled_dot_product_attention(F.relu(self.query(x)), F.relu(self.key(y)), self.others(y))
        return self.dropout(self.own(x) + found)


class ReleasedCrossAttention(nn.Module):
    """The same as CMRCNet's released code has it: with heads, and values made of queries and keys.

    With q = dropout(ReLU(Qx)) and k = dropout(ReLU(Ky)), every head has V₁(q) + softmax(qkᵀ/√(d/heads)) V₂(k).
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.own, self.others = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Tokens (batch, n, width) ask tokens (batch, m, width)."""
        q, k = self.dropout(F.relu(self.query(x))), self.dropout(F.relu(self.key(y)))
        found = F.scaled_dot_product_attention(self._split(q), self._split(k), self._split(self.others(k)))
        return self.own(q) + found.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        """(batch, n, width) → (batch, heads, n, width / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FusionBlock(nn.Module):
    """Self-attention, feed-forward and cross-attention to the other modality, each added to its input.

    Parameters
    ----------
    width
        Length of tokens.
    heads
        Of the self-attention; of the cross-attention too, where it is as `released`.
    dropout, cross_dropout
        Shares of numbers that are left out of a training step.
    released
        Cross-attention as in CMRCNet's released code, and dropout after self-attention instead of on its weights.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 8,
        dropout: float = 0.1,
        cross_dropout: float = 0.25,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.0 if released else dropout, batch_first=True)
        self.attention_dropout = nn.Dropout(dropout if released else 0.0)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.cross: nn.Module = (
            ReleasedCrossAttention(width, heads=heads, dropout=cross_dropout)
            if released
            else CrossAttention(width, dropout=cross_dropout)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Update tokens `x` (batch, n, width) with `y` (batch, m, width)."""
        normed = self.norm_attention(x)
        x = x + self.attention_dropout(self.attention(normed, normed, normed, need_weights=False)[0])
        x = x + self.mlp(self.norm_mlp(x))
        return x + self.cross(x, y)
