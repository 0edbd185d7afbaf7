"""The networks of ST-Align: image and expression of spots and of niches in one space, and their fusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from stpredict.models._training.processes import ALONE
from stpredict.models.nn._heads import ProjectionHead
from stpredict.models.nn._losses import expression_loss, info_nce, paired_info_nce
from stpredict.models.nn._tokens import GeneTokens
from stpredict.models.st_align._released import ReleasedScale

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models._training.processes import Share
    from stpredict.models.st_align._options import Options

HEADS = 8


BOTH = 2**0.5
"""Length of embeddings of spot and niche side by side, each of length 1."""


@dataclass(frozen=True)
class Losses:
    """Losses of one batch, and their sum."""

    spot: Tensor
    niche: Tensor
    fused: Tensor
    decoder: Tensor
    rebuilt: Tensor
    total: Tensor


class StAlignNetwork(nn.Module):
    """Four encoders, two fusions, and a decoder.

    Spots and niches have a joint space of image and expression each; embeddings of the two lie side by side, in rows of
    length 1.

    Parameters
    ----------
    spot_tokens, niche_tokens
        Modules that make image tokens (batch, tokens, ``tokens.width``).
    n_inputs
        Length of the expression vector.
    n_genes
        Genes that the decoder rebuilds.
    options
        See `stpredict.models.st_align._options.Options`.
    """

    def __init__(
        self, spot_tokens: nn.Module, niche_tokens: nn.Module, *, n_inputs: int, n_genes: int, options: Options
    ) -> None:
        super().__init__()
        pixels = options.image_encoder is not None
        self.options = options
        self.decay_vectors = options.decay_vectors
        kind = ReleasedScale if options.fusion == "released" else Scale
        self.spot = kind(spot_tokens, n_inputs, options, layers=0)
        self.niche = kind(niche_tokens, n_inputs, options, layers=options.niche_layers)
        both = self.spot.width + self.niche.width
        self.decoder = nn.Linear(both, n_genes) if options.decoder else None
        sizes = [niche_tokens.n_features, n_inputs, n_inputs, *([] if pixels else [spot_tokens.n_features])]
        self.rebuild = nn.ModuleList(nn.Linear(both, n) for n in sizes) if options.rebuild else None
        if not options.train_encoders:
            for scale in (self.spot, self.niche):
                for module in (scale.tokens, scale.gene_tokens):
                    module.requires_grad_(requires_grad=False)

    def image(self, spot: Tensor, niche: Tensor) -> Tensor:
        """(batch, 2 · width): embedding of what spots and their niches look like."""
        return _side_by_side(self.spot.image(self.spot.tokens(spot)), self.niche.image(self.niche.tokens(niche)))

    def gene(self, spot: Tensor, niche: Tensor) -> Tensor:
        """(batch, 2 · width): embedding of what spots and their niches express."""
        return _side_by_side(
            self.spot.gene(self.spot.gene_tokens(spot)), self.niche.gene(self.niche.gene_tokens(niche))
        )

    def decoded(self, spot: Tensor, niche: Tensor) -> Tensor:
        """(batch, genes): scaled expression that the decoder reads off what spots and their niches look like."""
        return self.decoder(self.image(spot, niche) * BOTH)

    def fused(self, spot: Tensor, niche: Tensor, spot_genes: Tensor, niche_genes: Tensor, known: Tensor) -> Tensor:
        """(batch, 2 · width): embedding of image and expression together; without the latter where not `known`.

        Only directions are contrasted, so lengths and distances of the fused vectors are free; they are given meaning by
        what is rebuilt from them (`metric`).
        """
        spots, niches = self.spot.align(spot, spot_genes, known)[2], self.niche.align(niche, niche_genes, known)[2]
        return torch.cat([spots, niches], dim=1) @ self.metric().T

    def metric(self) -> Tensor:
        """(d, 2 · width), d at most 2 · width: makes distances of fused embeddings those of the inputs that are rebuilt from them.

        Each of the inputs counts the same, however many columns it has. The identity where nothing is rebuilt.
        """
        if not self.rebuild:
            return torch.eye(self.spot.width + self.niche.width, device=self.spot.missing.device)
        weights = torch.cat([part.weight / part.weight.shape[0] ** 0.5 for part in self.rebuild])
        return torch.linalg.qr(weights, mode="r")[1]

    def losses(
        self,
        spot: Tensor,
        niche: Tensor,
        spot_genes: Tensor,
        niche_genes: Tensor,
        expression: Tensor,
        section: Tensor,
        cluster: Tensor,
        *,
        share: Share = ALONE,
    ) -> Losses:
        """Losses of a batch of spots, of which the arguments are the `share` of this process."""
        options = self.options
        same = None if options.negatives == "companions" else self._alike(share.whole(section), share.whole(cluster))
        known = torch.rand(len(spot), device=spot.device) >= options.hidden_expression
        spots, niches = self.spot.align(spot, spot_genes, known), self.niche.align(niche, niche_genes, known)
        by_spot, by_niche, by_fusion = (
            self._contrastive(*map(share.whole, pair), same)
            for pair in (spots[:2], niches[:2], (_direction(spots[2]), _direction(niches[2])))
        )
        decoder = spot.new_zeros((), dtype=torch.float32)
        if self.decoder:
            predicted = self.decoder(torch.cat([spots[0], niches[0]], dim=1))
            decoder = expression_loss(share.whole(predicted), share.whole(expression))
        rebuilt = spot.new_zeros((), dtype=torch.float32)
        if self.rebuild:
            fused = torch.cat([spots[2], niches[2]], dim=1)
            parts = zip(self.rebuild, (niche, spot_genes, niche_genes, spot), strict=False)
            errors = sum(F.mse_loss(rebuild(fused), part) for rebuild, part in parts)
            rebuilt = share.mean(errors / len(self.rebuild))
        total = options.spot * by_spot + options.niche * by_niche + options.cross * by_fusion
        return Losses(
            by_spot,
            by_niche,
            by_fusion,
            decoder,
            rebuilt,
            total + options.decoder * decoder + options.rebuild * rebuilt,
        )

    def _contrastive(self, a: Tensor, b: Tensor, same: Tensor | None) -> Tensor:
        """Contrastive loss of a whole batch, in which the companions of all spots come behind these."""
        options = self.options
        if options.negatives == "batch":
            return info_nce(a, b, temperature=options.temperature, same=same, soft=options.soft_targets)
        n = len(a) // (1 + options.companions)
        return paired_info_nce(a[:n], b[:n], b[n:].unflatten(0, (n, -1)), temperature=options.temperature)

    def _alike(self, section: Tensor, cluster: Tensor) -> Tensor | None:
        """Bool (batch, batch): other spots of the same section and cluster."""
        if self.options.clusters == 1:
            return None
        same = (section[:, None] == section) & (cluster[:, None] == cluster)
        return same.fill_diagonal_(False)

    def contrastive(self, image: Tensor, gene: Tensor) -> Tensor:
        """Contrastive loss of embeddings of the same spots, all others being negatives."""
        image, gene = F.normalize(image, dim=1), F.normalize(gene, dim=1)
        return info_nce(image, gene, temperature=self.options.temperature)


class Scale(nn.Module):
    """Spots or niches: an image encoder, an expression encoder, and the fusion of both."""

    def __init__(self, tokens: nn.Module, n_inputs: int, options: Options, *, layers: int) -> None:
        super().__init__()
        self.width = width = options.width
        self.tokens = tokens
        self.gene_tokens = _gene_encoder(n_inputs, width, options.gene_tokens, layers)
        self.image_head = ProjectionHead(tokens.width, width)
        self.gene_head = ProjectionHead(width, width)
        kind = Fusion if options.fusion == "attention" else Concatenation
        self.fusion = kind(tokens.width, width)
        self.missing = nn.Parameter(torch.zeros(1, 1, width))

    def image(self, tokens: Tensor) -> Tensor:
        """(batch, width): direction of image tokens in the joint space."""
        return F.normalize(self.image_head(tokens.mean(dim=1)), dim=1)

    def gene(self, tokens: Tensor) -> Tensor:
        """(batch, width): direction of expression tokens in the joint space."""
        return F.normalize(self.gene_head(tokens.mean(dim=1)), dim=1)

    def seen(self, genes: Tensor, known: Tensor) -> Tensor:
        """Expression tokens, a learned one in place of those of spots whose expression is not `known`."""
        return torch.where(known[:, None, None], genes, self.missing)

    def align(self, image: Tensor, genes: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed the image, the expression, and both together."""
        tokens, gene_tokens = self.tokens(image), self.gene_tokens(genes)
        fused = self.fusion(tokens, self.seen(gene_tokens, known))
        return self.image(tokens), self.gene(gene_tokens), fused


class Fusion(nn.Module):
    """Attention-based fusion: image and expression tokens ask each other, and what either finds is joined.

    Every answer is added to its own asker and passed through a feed-forward network; tokens are then averaged, so that
    the two sides may have different numbers of them.
    """

    def __init__(self, n_image: int, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.project = nn.Linear(n_image, width) if n_image != width else nn.Identity()
        self.image, self.genes = (Asking(width, dropout=dropout) for _ in range(2))
        self.head = nn.Linear(width, width)

    def forward(self, image: Tensor, genes: Tensor) -> Tensor:
        """Fuse tokens (batch, n, n_image) with tokens (batch, m, width) to (batch, width)."""
        image = self.project(image)
        found = [self.image(image, genes).mean(dim=1), self.genes(genes, image).mean(dim=1)]
        return self.head(torch.cat(found, dim=1))


class Asking(nn.Module):
    """Cross-attention and feed-forward: tokens (batch, n, width) ask (batch, m, width), (batch, n, width / 2)."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.norm_own, self.norm_other = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, dropout=dropout, batch_first=True)
        self.project = nn.Linear(width, width // 2)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width // 2, width // 2),
        )

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Let `own` ask `other`."""
        other = self.norm_other(other)
        found = own + self.attention(self.norm_own(own), other, other, need_weights=False)[0]
        return self.project(found) + self.mlp(found)


class Concatenation(nn.Module):
    """Mean image token and mean expression token side by side, projected: what the fusion is measured against."""

    def __init__(self, n_image: int, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(n_image + width, width)

    def forward(self, image: Tensor, genes: Tensor) -> Tensor:
        """Join tokens (batch, n, n_image) and tokens (batch, m, width) to (batch, width)."""
        return self.head(torch.cat([image.mean(dim=1), genes.mean(dim=1)], dim=1))


def _gene_encoder(n_inputs: int, width: int, n_tokens: int, layers: int) -> nn.Module:
    """Expression vector to tokens, by one layer and a Transformer of some more."""
    tokens = GeneTokens(n_inputs, width, n_tokens=n_tokens)
    if layers == 0:
        return tokens
    layer = nn.TransformerEncoderLayer(width, HEADS, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
    return nn.Sequential(tokens, nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))


def _side_by_side(spot: Tensor, niche: Tensor) -> Tensor:
    """Join embeddings of length 1 to one of length 1, whose cosines are means of theirs."""
    return torch.cat([spot, niche], dim=1) / BOTH


def _direction(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)
