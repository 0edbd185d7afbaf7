"""Networks of aligned models, and embeddings of many spots by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from torch import Tensor

    Rows = Sequence[Tensor | np.ndarray]

CHUNK = 256
"""Spots embedded at once."""


class AlignedNetwork(Protocol):
    """What training and prediction need of a network beside being an ``nn.Module``."""

    def image(self, *images: Tensor) -> Tensor:
        """(batch, width): embedding of what spots look like."""

    def gene(self, *genes: Tensor) -> Tensor:
        """(batch, width): embedding of what spots express."""

    def decoded(self, *images: Tensor) -> Tensor:
        """(batch, genes): scaled expression that the decoder, if it has one, reads off what spots look like."""

    def contrastive(self, image: Tensor, gene: Tensor) -> Tensor:
        """Contrastive loss of embeddings of the same spots."""


def image_embeddings(network: AlignedNetwork, images: Rows) -> np.ndarray:
    """float32 (n, width): what spots look like in the joint space."""
    return in_pieces(network, network.image, images)


def gene_embeddings(network: AlignedNetwork, genes: Rows) -> np.ndarray:
    """float32 (n, width): what spots express in the joint space."""
    return in_pieces(network, network.gene, genes)


def decoded(network: AlignedNetwork, images: Rows) -> np.ndarray:
    """float32 (n, genes): scaled expression that the decoder reads off what spots look like."""
    return in_pieces(network, network.decoded, images)


@torch.inference_mode()
def in_pieces(network: AlignedNetwork, function: Callable[..., Tensor], rows: Rows) -> np.ndarray:
    """What `function` makes of `rows`, float32, a few spots at a time."""
    device = next(network.parameters()).device
    pieces = []
    for first in range(0, len(rows[0]), CHUNK):
        piece = [torch.as_tensor(values[first : first + CHUNK]).to(device) for values in rows]
        pieces.append(function(*piece).float().cpu())
    return torch.cat(pieces).numpy()
