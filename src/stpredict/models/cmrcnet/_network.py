"""The networks of CMRCNet: image and expression in one space, and image tokens rebuilt from genes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

from stpredict.models._training.processes import ALONE
from stpredict.models.nn._fusion import FusionBlock
from stpredict.models.nn._heads import ProjectionHead
from stpredict.models.nn._losses import expression_loss, soft_contrastive
from stpredict.models.nn._tokens import GeneTokens

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models._training.processes import Share
    from stpredict.models.cmrcnet._options import Options

LAYERS = 2
"""Fusion blocks."""


@dataclass(frozen=True)
class Losses:
    """Losses of one batch, and their sum."""

    contrastive: Tensor
    reconstruction: Tensor
    decoder: Tensor
    total: Tensor


class CmrcnetNetwork(nn.Module):
    """Image encoder, expression encoder, masked reconstruction and decoder.

    Parameters
    ----------
    tokens
        Module that makes image tokens (batch, tokens, ``tokens.width``).
    n_genes
        Genes of the expression vector.
    options
        See `stpredict.models.cmrcnet._options.Options`.
    """

    def __init__(self, tokens: nn.Module, n_genes: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.tokens = tokens
        self.image_head = ProjectionHead(tokens.width, options.width)
        self.gene_head = ProjectionHead(n_genes, options.width)
        self.rebuild = Reconstruction(tokens.width, n_genes, options) if options.reconstruction else None
        self.decoder = nn.Linear(options.width, n_genes) if options.decoder else None

    def image(self, x: Tensor) -> Tensor:
        """(batch, width): embedding of what spots look like."""
        return self.image_head(self.tokens(x).mean(dim=1))

    def gene(self, expression: Tensor) -> Tensor:
        """(batch, width): embedding of what spots express."""
        return self.gene_head(expression)

    def decoded(self, x: Tensor) -> Tensor:
        """(batch, genes): scaled expression that the decoder reads off what spots look like."""
        return self.decoder(self.image(x))

    def losses(self, x: Tensor, expression: Tensor, *, share: Share = ALONE) -> Losses:
        """Losses of a batch of spots, of which `x` and `expression` are the `share` of this process."""
        options = self.options
        tokens = self.tokens(x)
        image, gene = self.image_head(tokens.mean(dim=1)), self.gene(expression)
        reconstruction = decoder = image.new_zeros(())
        contrastive = self.contrastive(
            share.whole(image), share.whole(gene), reduction="none" if options.log_each else "mean"
        )
        if self.rebuild:
            some = share.first(options.rebuilt)
            error = self.rebuild(tokens[some], expression[some], image[some])
            reconstruction = share.mean(error, options.rebuilt)
        if self.decoder:
            decoder = expression_loss(share.whole(self.decoder(image)), share.whole(expression))
        total = (
            torch.log1p(contrastive).mean()
            + options.reconstruction * torch.log1p(reconstruction)
            + options.decoder * decoder
        )
        return Losses(contrastive.mean(), reconstruction, decoder, total)

    def contrastive(self, image: Tensor, gene: Tensor, *, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Contrastive loss of embeddings of the same spots, of all together or of each."""
        options = self.options
        return soft_contrastive(
            image,
            gene,
            temperature=options.temperature,
            normalised=options.normalise,
            detached=options.detach_targets,
            reduction=reduction,
        )


class Reconstruction(nn.Module):
    """Cross-modal mask reconstruction: masked image tokens are completed from gene tokens.

    The mean of the completed tokens must come to lie on the embedding of the whole image.
    """

    def __init__(self, n_image: int, n_genes: int, options: Options) -> None:
        super().__init__()
        width = options.width
        self.mask, self.share, self.detached = options.mask, options.mask_share, options.detach_targets
        self.image = nn.Linear(n_image, width)
        self.genes = GeneTokens(n_genes, width)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.ask = nn.MultiheadAttention(width, 4, batch_first=True)
        n_blocks = 1 if options.shared_fusion else LAYERS
        blocks = [FusionBlock(width, released=options.released_fusion) for _ in range(n_blocks)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, tokens: Tensor, expression: Tensor, image: Tensor) -> Tensor:
        """Mean squared error of the rebuilt image embedding (batch, width)."""
        genes = self.genes(expression)
        x = self._masked(self.image(tokens))
        x = self.ask(x, genes, genes, need_weights=False)[0]
        for layer in range(LAYERS):
            x = self.blocks[layer % len(self.blocks)](x, genes)
        return F.mse_loss(x.mean(dim=1), image.detach() if self.detached else image)

    def _masked(self, x: Tensor) -> Tensor:
        if self.mask == "elements":
            return x * (torch.rand_like(x) >= self.share)
        order = torch.rand(x.shape[:2], device=x.device).argsort(dim=1)
        hidden = order < math.ceil(self.share * x.shape[1])
        return torch.where(hidden[..., None], self.hidden, x)
