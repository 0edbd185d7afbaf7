"""What networks are trained to make small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def soft_contrastive(
    image: Tensor,
    gene: Tensor,
    *,
    temperature: float,
    normalised: bool,
    detached: bool,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Contrastive loss of a batch in both directions, with soft targets: spots that are alike may be confused.

    Targets are the softmax of the mean of image–image and gene–gene similarities. Guessing costs ln(batch), whatever
    the targets.

    Parameters
    ----------
    image, gene
        Embeddings (batch, d) of the same spots.
    temperature
        Similarities are divided by it. With unnormalised embeddings the targets' are multiplied by it instead, as in
        the published code; at its temperature of 1 this is the same.
    normalised
        Compare directions (cosine) instead of plain products.
    detached
        Hold the targets fixed; otherwise the loss can also be lowered by making them easy.
    reduction
        ``"mean"`` over the batch, or ``"none"``: one loss per spot (batch,).

    References
    ----------
    Xie et al., Spatially Resolved Gene Expression Prediction from H&E Histology Images via Bi-modal Contrastive
    Learning. NeurIPS 2023.
    """
    if normalised:
        image, gene = F.normalize(image, dim=1), F.normalize(gene, dim=1)
    logits = gene @ image.T / temperature
    alike = (image @ image.T + gene @ gene.T) / 2
    targets = F.softmax(alike / temperature if normalised else alike * temperature, dim=1)
    if detached:
        targets = targets.detach()
    found = F.cross_entropy(logits, targets, reduction=reduction)
    return (found + F.cross_entropy(logits.T, targets.T, reduction=reduction)) / 2


def info_nce(a: Tensor, b: Tensor, *, temperature: float, same: Tensor | None = None, soft: bool = False) -> Tensor:
    """Contrastive loss of a batch in both directions.

    Parameters
    ----------
    a, b
        Embeddings (batch, d) of the same spots, rows of length 1.
    temperature
        Cosines are divided by it.
    same
        bool (batch, batch), spots that are too alike to be told apart; they are no negatives of each other.
    soft
        Spread the target over spots that are alike in both embeddings, as `soft_contrastive` does.

    References
    ----------
    van den Oord et al., Representation Learning with Contrastive Predictive Coding. arXiv 1807.03748 (2018).
    """
    logits = a @ b.T / temperature
    targets = torch.eye(len(a), device=a.device)
    if soft:
        alike = ((a @ a.T + b @ b.T) / 2 / temperature).detach()
        targets = F.softmax(alike if same is None else alike.masked_fill(same, -torch.inf), dim=1)
    if same is not None:
        logits = logits.masked_fill(same, -torch.inf)
    return (_cross_entropy(logits, targets) + _cross_entropy(logits.T, targets)) / 2


def paired_info_nce(a: Tensor, b: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Contrastive loss of a batch in one direction, every spot with negatives of its own.

    Parameters
    ----------
    a, b
        Embeddings (batch, d) of the same spots, rows of length 1.
    negatives
        (batch, n, d), embeddings of the kind of `b` of other spots.
    temperature
        Cosines are divided by it.
    """
    own = (a * b).sum(dim=1, keepdim=True)
    logits = torch.cat([own, torch.einsum("bd,bnd->bn", a, negatives)], dim=1) / temperature
    return -F.log_softmax(logits, dim=1)[:, 0].mean()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy; what no target names, such as hidden logits (-inf), does not count."""
    return -(targets * F.log_softmax(logits, dim=1).masked_fill(targets == 0, 0)).sum(dim=1).mean()


def expression_loss(predicted: Tensor, measured: Tensor) -> Tensor:
    """MSE + ½ (1 − PCC), the correlation taken per gene over the batch (batch, genes)."""
    return F.mse_loss(predicted, measured) + 0.5 * (1 - correlation(predicted, measured).mean())


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of every column; 0 where one is constant."""
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    length = torch.linalg.vector_norm(a, dim=0) * torch.linalg.vector_norm(b, dim=0)
    return (a * b).sum(dim=0) / length.clamp_min(1e-6)
