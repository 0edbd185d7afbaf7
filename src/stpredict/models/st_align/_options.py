"""Options of ST-Align, and the paper's values of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stpredict._core.checks import one_of
from stpredict.models._aligned import options as aligned


@dataclass(frozen=True)
class Options(aligned.AlignedOptions):
    """Options of ST-Align; the defaults are ours, `PUBLISHED` are the paper's.

    Those that CMRCNet and ST-Align share (``AlignedOptions``, in the API reference), where `image_encoder` is trained on
    spot tiles only (niche images come as frozen features), and:

    Attributes
    ----------
    expression_key
        ``obsm`` key of cell embeddings (of scGPT and its like) that take the place of the spot's expression; niches
        get their mean. None encodes expression itself.
    spot, niche
        Weights of the contrastive losses between image and expression of a spot, and of a niche; the loss between the
        fused spot and the fused niche gets what is left to 1.
    fusion
        ``"attention"``; ``"concatenation"`` of image and expression; or ``"released"``, the tokens, fusion and heads of
        the authors' code, where the joint space is twice as wide.
    hidden_expression
        Share of training spots whose expression is hidden from the fusion, so that it learns to do without.
    rebuild
        Weight of the loss that rebuilds image features and expression of spot and niche from the fused embedding; 0
        leaves it out.
    gene_tokens
        Tokens that expression is cut into; half of the paper's eight halve the cost of a step.
    niche_layers
        Transformer layers on the tokens of niche expression.
    train_encoders
        Train the encoders of features and expression; otherwise only heads, fusion and decoder.
    soft_targets
        Spread the contrastive targets over spots that look alike.
    clusters
        Expression clusters that every section is cut into; spots of one section and cluster are no negatives of each
        other. 1 makes negatives of all other spots.
    companions
        Spots of other clusters of the same section, each of another one, that join every spot in its batch.
    negatives
        What a spot is told apart from: the whole ``"batch"``, in both directions, or, as in the authors' code, its own
        ``"companions"`` alone, image being asked for expression and the spot for its niche.
    decay_vectors
        Weight decay on biases and the weights of norms as well.
    """

    NAME: ClassVar[str] = "ST-Align"

    expression_key: str | None = None
    spot: float = 0.4
    niche: float = 0.3
    fusion: str = "attention"
    hidden_expression: float = 0.3
    rebuild: float = 3.0
    gene_tokens: int = 4
    niche_layers: int = 0
    train_encoders: bool = True
    soft_targets: bool = True
    clusters: int = 6
    companions: int = 0
    negatives: str = "batch"
    decay_vectors: bool = True

    POSITIVE: ClassVar[tuple[str, ...]] = (*aligned.AlignedOptions.POSITIVE, "clusters", "gene_tokens")
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = (
        *aligned.AlignedOptions.NOT_NEGATIVE,
        "spot",
        "niche",
        "rebuild",
        "niche_layers",
        "companions",
    )
    SHARES: ClassVar[tuple[str, ...]] = (*aligned.AlignedOptions.SHARES, "hidden_expression")

    @property
    def cross(self) -> float:
        """Weight of the contrastive loss between the fused spot and the fused niche."""
        return 1 - self.spot - self.niche

    def check(self) -> None:
        """Refuse values that make no sense, alone or together."""
        super().check()
        one_of(self.fusion, ("attention", "concatenation", "released"), "fusion")
        one_of(self.negatives, ("batch", "companions"), "negatives")
        if self.cross < 0:
            msg = (
                f"spot={self.spot:g} and niche={self.niche:g} leave nothing for the fused loss; their sum must not "
                "exceed 1."
            )
            raise ValueError(msg)
        if self.negatives == "companions" and (self.soft_targets or not self.companions):
            msg = (
                "negatives='companions' tells every spot apart from its companions alone; it needs companions of 1 or "
                f"more and soft_targets=False, got companions={self.companions} and soft_targets={self.soft_targets}."
            )
            raise ValueError(msg)
        if self.companions >= self.clusters:
            msg = (
                f"companions={self.companions} come from other clusters than the spot's own, one from each, so clusters "
                f"must be at least {self.companions + 1}; it is {self.clusters}."
            )
            raise ValueError(msg)


PUBLISHED = Options(
    image_encoder="resnet50",
    width=512,
    epochs=100,
    patience=100,
    batch_size=64,
    learning_rate=5e-4 * 64 / 256,
    weight_decay=0.04,
    feature_dropout=0.0,
    standardise_genes=False,
    level_sections=False,
    decoder=0.0,
    members=1,
    hidden_expression=0.0,
    rebuild=0.0,
    fusion="released",
    gene_tokens=8,
    niche_layers=6,
    soft_targets=False,
    companions=5,
    negatives="companions",
    decay_vectors=False,
    warm_up=2,
    final_rate=1e-6 / (5e-4 * 64 / 256),
    final_weight_decay=0.4,
)
PRESETS = {"default": Options(), "published": PUBLISHED}
