"""From an encoder's output to the joint space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class ProjectionHead(nn.Module):
    """Linear projection with a residual non-linear correction, normalised: (…, n_in) → (…, n_out).

    References
    ----------
    Xie et al., Spatially Resolved Gene Expression Prediction from H&E Histology Images via Bi-modal Contrastive
    Learning. NeurIPS 2023.
    """

    def __init__(self, n_in: int, n_out: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.project = nn.Linear(n_in, n_out)
        self.correct = nn.Linear(n_out, n_out)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Project the last dimension."""
        projected = self.project(x)
        return self.norm(projected + self.dropout(self.correct(F.gelu(projected))))
