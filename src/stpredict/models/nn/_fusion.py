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


class FusionBlock(nn.Module):
    """Self-attention, feed-forward and cross-attention to the other modality, each added to its input."""

    def __init__(self, width: int, *, heads: int = 8, dropout: float = 0.1, cross_dropout: float = 0.25) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.cross = CrossAttention(width, dropout=cross_dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Update tokens `x` (batch, n, width) with `y` (batch, m, width)."""
        normed = self.norm_attention(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        x = x + self.mlp(self.norm_mlp(x))
        return x + self.cross(x, y)
