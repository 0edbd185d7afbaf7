"""The network of ALIGN-ST: nuclei-aware tiles, prompted gene text, gene interaction graph, spatial refinement."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from stpredict.models._training.processes import ALONE, agreed
from stpredict.models.nn._losses import correlation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from stpredict.models._training.processes import Share
    from stpredict.models.align_st._options import Options

HEADS = 4
PCC_WEIGHT = 0.5
GENES_AT_ONCE = 2048

SPOTS_AT_ONCE = 8192
"""Spots whose nuclei go through the network together: a larger section does so in parts, in training anew on the way back."""

VALUES_AT_ONCE = 2**25
"""Values of predicted expression that losses are taken of together; of a larger section a few genes at a time."""


@dataclass(frozen=True)
class SlideTensors:
    """One section as the network sees it; spots in order.

    Attributes
    ----------
    features
        float32 (n, d), standardised image features.
    near, alike
        Row numbers (n, m) of neighbours in space and in feature space; -1 where there are no more.
    nuclei
        float32 (n, channels, size, size) nuclei maps of tiles, or None.
    """

    features: Tensor
    near: Tensor
    alike: Tensor
    nuclei: Tensor | None = None

    def to(self, device: torch.device) -> SlideTensors:
        """The same on another device."""
        return SlideTensors(*(part if part is None else part.to(device) for part in vars(self).values()))


@dataclass(frozen=True)
class Described:
    """Genes as the network sees them.

    Attributes
    ----------
    coordinates, from_text
        float32 (g, axes), place among the programmes of co-expression, and float32 (g,): 1 where it is predicted from
        text.
    facts, known
        float32 (g, facts, d) embeddings of facts about each gene, and bool (g, facts) which of them there are.
    """

    coordinates: Tensor
    from_text: Tensor
    facts: Tensor | None = None
    known: Tensor | None = None

    def take(self, rows: Tensor) -> Described:
        """Only the genes in `rows`."""
        return Described(*(part if part is None else part[rows] for part in vars(self).values()))

    def to(self, device: torch.device) -> Described:
        """The same on another device."""
        return Described(*(part if part is None else part.to(device) for part in vars(self).values()))


class NucleiBranch(nn.Module):
    """Five 3 × 3 convolutions over the nuclei map of a tile: tokens (n, places, width).

    Maps are scaled first, and continued beyond their border, so that no place is recognised by an edge of zeros.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        sizes, strides = (channels, 16, 32, 32, 64, width), (1, 2, 1, 2, 1)
        self.scale = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=s, padding=1, padding_mode="replicate"), nn.BatchNorm2d(b), nn.ReLU()
                )
                for a, b, s in zip(sizes[:-1], sizes[1:], strides, strict=True)
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, channels, size, size)."""
        return self.blocks(self.scale(maps)).flatten(2).transpose(1, 2)


class NucleiAttention(nn.Module):
    """A tile asks its nuclei, and adds the answer to what it knows."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.branch = NucleiBranch(channels, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def attention(self, tile: Tensor, tokens: Tensor) -> Tensor:
        """(n, places): where each tile (n, width) looks."""
        scores = torch.einsum("nw,npw->np", self.query(tile), self.key(tokens))
        return F.softmax(scores / tile.shape[1] ** 0.5, dim=1)

    def forward(self, tile: Tensor, maps: Tensor) -> Tensor:
        """Tiles (n, width) and their nuclei maps."""
        tokens = self.branch(maps)
        return tile + torch.einsum("np,npw->nw", self.attention(tile, tokens), self.value(tokens))


def _forgetful(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """What `function` returns; what its gradient needs is not kept, but computed once more."""
    if not torch.is_grad_enabled():
        return function(*given)
    norms = [part for part in getattr(function, "modules", list)() if isinstance(part, _BatchNorm)]
    return checkpoint(function, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), _not_counted(norms)))


@contextmanager
def _not_counted(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """What `norms` see here they have counted already."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class SpatialRefinement(nn.Module):
    """GraphSAGE over neighbours in space and in feature space."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(layers))

    def forward(self, tile: Tensor, near: Tensor, alike: Tensor, share: Share = ALONE) -> Tensor:
        """Tiles (n, width) and row numbers of their neighbours; each process refines its `share`, and all get the whole."""
        near, alike = share.rows(near), share.rows(alike)
        for layer in self.layers:
            own = share.rows(tile)
            around = torch.cat([own, _mean_over(tile, near), _mean_over(tile, alike)], dim=1)
            tile = share.whole(own + F.gelu(layer(around)))
        return tile


def _mean_over(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of `values` (n, w) over `rows` (n, m), -1 for none; 0 where there are none at all."""
    there = (rows >= 0).to(values.dtype)
    total = torch.einsum("nmw,nm->nw", values[rows.clamp_min(0)], there)
    return total / there.sum(dim=1, keepdim=True).clamp_min(1)


class PromptedText(nn.Module):
    """Transformer over [CLS; prompts; facts] of every gene, whose prompts listen to the tissue at every layer.

    Visual prompts ask the section's tiles, layer by layer; projected, they replace a share α of the text prompts.
    """

    def __init__(self, n_inputs: int, options: Options) -> None:
        super().__init__()
        width, n = options.width, options.prompts
        self.alpha = options.alpha if options.interaction else 0.0
        self.project = nn.Linear(n_inputs, width)
        self.start = nn.Parameter(0.02 * torch.randn(1 + n, width))
        self.visual = nn.Parameter(0.02 * torch.randn(n, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, HEADS, 2 * width, options.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(options.text_layers)
        )
        self.asking = nn.ModuleList(
            nn.MultiheadAttention(width, HEADS, batch_first=True) for _ in range(options.text_layers)
        )
        self.across = nn.ModuleList(nn.Linear(width, width) for _ in range(options.text_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, facts: Tensor, known: Tensor, tiles: Tensor) -> Tensor:
        """(g, width): genes by their facts (g, facts, d), in the light of a section's tiles (n, width)."""
        g, n = len(facts), len(self.visual)
        tokens = torch.cat([self.start.expand(g, -1, -1), self.project(facts)], dim=1)
        padded = torch.cat([torch.zeros(g, 1 + n, dtype=torch.bool, device=facts.device), ~known], dim=1)
        visual = self.visual[None]
        for layer, ask, across in zip(self.layers, self.asking, self.across, strict=True):
            if self.alpha:
                visual = visual + ask(visual, tiles[None], tiles[None], need_weights=False)[0]
                prompts = self.alpha * across(visual) + (1 - self.alpha) * tokens[:, 1 : 1 + n]
                tokens = torch.cat([tokens[:, :1], prompts, tokens[:, 1 + n :]], dim=1)
            tokens = layer(tokens, src_key_padding_mask=padded)
        return self.norm(tokens[:, 0])


class GeneGraph(nn.Module):
    """A gene listens to the genes that are most like it, by gated attention; starts as the identity."""

    def __init__(self, width: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)
        self.score = nn.Linear(width, 1)
        self.join = nn.Linear(2 * width, width)
        with torch.no_grad():
            self.join.weight.copy_(torch.cat([torch.eye(width), 0.01 * torch.randn(width, width)], dim=1))
            self.join.bias.zero_()

    def attention(self, genes: Tensor, pool: Tensor, itself: Tensor) -> tuple[Tensor, Tensor]:
        """Row numbers (g, k) of each gene's neighbours in `pool`, and how much it listens to each.

        `itself` (g,) is each gene's own row there, and no row of the pool where it is not in it.
        """
        alike = F.normalize(genes, dim=1) @ F.normalize(pool, dim=1).T
        own = torch.arange(len(pool), device=pool.device)[None] == itself[:, None]
        alike = alike.masked_fill(own, -torch.inf)
        rows = alike.topk(min(self.neighbours, len(pool) - 1), dim=1).indices
        gate = torch.tanh(self.left(genes)[:, None] * self.right(pool)[rows])
        return rows, F.softmax(self.score(gate)[..., 0], dim=1)

    def forward(self, genes: Tensor, pool: Tensor, itself: Tensor) -> Tensor:
        """Genes (g, width) among the `pool` (p, width)."""
        rows, weights = self.attention(genes, pool, itself)
        return self.join(torch.cat([genes, torch.einsum("gk,gkw->gw", weights, pool[rows])], dim=1))


@dataclass(frozen=True)
class Losses:
    """Losses of a step."""

    total: Tensor
    mse: Tensor
    correlation: Tensor


class AlignStNetwork(nn.Module):
    """Tiles and genes in one space; expression is their dot product.

    Parameters
    ----------
    n_features, n_facts, n_channels
        Length of image features, of the embedding of a fact, and channels of nuclei maps (0: without nuclei).
    options
        See `Options`.
    """

    shares_rows = False
    """A step is a section, of which several processes share spots and genes."""

    def __init__(self, n_features: int, n_facts: int, n_channels: int, options: Options) -> None:
        super().__init__()
        width = options.width
        self.options = options
        self.look = nn.Sequential(
            nn.Dropout(options.feature_dropout),
            nn.Linear(n_features, 2 * width),
            nn.GELU(),
            nn.Dropout(options.dropout),
            nn.Linear(2 * width, width),
        )
        self.nuclei = NucleiAttention(n_channels, width) if n_channels else None
        self.refine = SpatialRefinement(width, options.refinement)
        self.place = nn.Linear(options.axes, width) if options.coordinates else None
        self.place_told = nn.Linear(options.axes, width) if options.coordinates else None
        self.text = PromptedText(n_facts, options) if options.text_layers else None
        self.graph = GeneGraph(width, options.gene_neighbours) if options.gene_neighbours else None

    def tiles(self, slide: SlideTensors, share: Share = ALONE) -> Tensor:
        """(n, width): refined tiles of a section, of which each process embeds its `share`."""
        share = share.over(len(slide.features))
        tile = self.look(share.rows(slide.features))
        if self.nuclei is not None:
            parts = -(-share.n // (SPOTS_AT_ONCE * share.of))  # the same in all processes
            ask = self.nuclei if parts == 1 else partial(_forgetful, self.nuclei)
            pairs = zip(tile.tensor_split(parts), share.rows(slide.nuclei).tensor_split(parts), strict=True)
            tile = torch.cat([ask(*pair) for pair in pairs])
        return self.refine(share.whole(tile), slide.near, slide.alike, share)

    def described(self, genes: Described, tiles: Tensor) -> Tensor:
        """(g, width): genes before they listen to each other."""
        out = 0.0
        if self.place is not None:
            text = genes.from_text[:, None]
            out = (1 - text) * self.place(genes.coordinates) + text * self.place_told(genes.coordinates)
        if self.text is not None:
            out = out + self.text(genes.facts, genes.known, tiles)
        return out

    def described_in_parts(self, genes: Described, tiles: Tensor, *, size: int = GENES_AT_ONCE) -> Tensor:
        """What `described` returns, of any number of genes."""
        parts = torch.arange(len(genes.from_text), device=tiles.device).split(size)
        return torch.cat([self.described(genes.take(part), tiles) for part in parts])

    def genes(self, genes: Tensor, pool: Tensor, itself: Tensor) -> Tensor:
        """(g, width): described genes after they listened to the described `pool`."""
        return genes if self.graph is None else self.graph(genes, pool, itself)

    def expression(self, tiles: Tensor, genes: Tensor) -> Tensor:
        """(n, g): standardised expression."""
        return tiles @ genes.T / self.options.width**0.5

    def losses(self, number: Tensor, *, share: Share = ALONE) -> Losses:
        """Losses of one whole section over some of the genes, as seen and as if unseen; see `learn_from`.

        Each process embeds its `share` of the spots, and predicts its share of the genes for all of them.
        """
        slide, rows, targets = self._sections[int(number[0])]
        device = number.device
        n = targets.shape[1]
        drawn = agreed(torch.randperm(n)[: self.options.genes_per_step or n], device)
        tiles = self.tiles(slide.to(device), share)
        rows = rows.to(device)
        as_unseen = self.options.as_unseen if self.place is not None and self._unseen is not None else 0.0
        parts = [(1 - as_unseen, self._seen, drawn)]
        if as_unseen:
            has = torch.isfinite(self._unseen.coordinates[drawn]).all(dim=1)
            if has.any():
                parts.append((as_unseen, self._unseen, drawn[has]))
        mse = away = torch.zeros((), device=device)
        for weight, genes, some in parts:
            among = share.over(len(some)) if len(some) >= share.of else ALONE  # too few to share
            own, itself = among.rows(some), among.rows(torch.arange(len(some), device=device))
            described = self.described(genes.take(own).to(device), tiles)
            final = self.genes(described, self._heard(described, genes, some, tiles, among), itself)
            errors, alike = self._agreement(tiles, rows, final, targets, own)
            mse = mse + weight * among.mean(errors)
            away = away + weight * (1 - among.mean(alike))
        return Losses(mse + PCC_WEIGHT * away, mse, away)

    def _agreement(
        self, tiles: Tensor, rows: Tensor, genes: Tensor, targets: Tensor, some: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean square error, and mean correlation, of the prediction for `rows` and `targets` (rows, genes), of `some` genes."""
        if len(rows) * len(some) <= VALUES_AT_ONCE:
            predicted, truth = self.expression(tiles, genes)[rows], targets[:, some].to(tiles.device)
            return F.mse_loss(predicted, truth), correlation(predicted, truth).mean()

        def sums(own: Tensor, few: Tensor, measured: Tensor) -> Tensor:
            predicted, truth = self.expression(own, few), targets[:, measured].to(own.device)
            return torch.stack([F.mse_loss(predicted, truth), correlation(predicted, truth).mean()]) * len(few)

        own, size = tiles[rows], max(VALUES_AT_ONCE // len(rows), 1)
        parts = zip(genes.split(size), some.split(size), strict=True)
        mse, alike = sum(_forgetful(sums, own, *part) for part in parts) / len(some)
        return mse, alike

    def _heard(self, described: Tensor, genes: Described, drawn: Tensor, tiles: Tensor, share: Share) -> Tensor:
        """(p, width): the `genes` that a step's `drawn` ones may listen to, these first; all, as in prediction.

        Of the drawn, those in the `share` of this process are `described`. The others speak as they do in prediction,
        without dropout, and do not learn in this step.
        """
        if self.graph is None:
            return described
        described = share.whole(described)
        left = torch.isfinite(genes.coordinates).all(dim=1)
        left[drawn] = False
        if not left.any():
            return described
        rest = left.nonzero()[:, 0]
        share = share.over(len(rest))
        training = self.training
        self.eval()
        with torch.no_grad():
            own = genes.take(share.rows(rest)).to(tiles.device)
            others = share.whole(self.described_in_parts(own, tiles, size=64))  # measured: the fastest on a CPU
        self.train(training)
        return torch.cat([described, others])

    def learn_from(
        self, sections: list[tuple[SlideTensors, Tensor, Tensor]], seen: Described, unseen: Described | None
    ) -> AlignStNetwork:
        """Sections (slide, rows that are measured, targets (rows, g)) and seen genes for `losses`.

        `unseen` are the seen genes as text describes them, coordinates NaN where it does not; None if it describes none.
        """
        self._sections, self._seen, self._unseen = sections, seen, unseen
        return self
