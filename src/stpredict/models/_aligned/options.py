"""Options that every aligned model has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from stpredict.models._base.options import NetworkOptions


@dataclass(frozen=True)
class AlignedOptions(NetworkOptions):
    """Options that CMRCNet and ST-Align share; each adds its own.

    Attributes
    ----------
    image_encoder
        timm network that is trained on the spot's pixels; None learns from frozen features.
    depth, pretrained
        Blocks of `image_encoder` to keep, where it is a vision transformer, and whether it starts from published weights.
    width
        Length of embeddings and tokens.
    epochs
        Most epochs to train; how many is chosen on held-out spots.
    patience
        Epochs without improvement there after which training stops.
    batch_size, learning_rate, weight_decay
        Spots in a batch, and settings of the optimiser AdamW.
    warm_up
        Epochs over which the learning rate rises from 0.
    final_rate, final_weight_decay
        Learning rate at the end as a share of `learning_rate`, and weight decay there (None: as at the start), both
        approached along a cosine.
    feature_dropout
        Share of frozen features hidden from a training step.
    standardise_genes
        Give every gene mean 0 and variance 1 before networks see it.
    level_sections
        Move every section's mean expression to the mean over sections.
    temperature
        Temperature of the contrastive losses.
    decoder
        Weight of the regression loss of a linear decoder on image embeddings; 0 leaves it out.
    neighbours
        Reference spots that a prediction is made of.
    weighted
        Weight these by exp(cosine / temperature) instead of equally.
    members
        Networks, trained with different seeds, whose similarities are averaged.
    bank_spots
        Reference spots that the model keeps at most; of more training spots as many are drawn, from every section in
        proportion.
    """

    image_encoder: str | None = None
    depth: int | None = None
    pretrained: bool = False
    width: int = 256
    epochs: int = 40
    patience: int = 8
    batch_size: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warm_up: int = 0
    final_rate: float = 0.1
    final_weight_decay: float | None = None
    feature_dropout: float = 0.5
    standardise_genes: bool = True
    level_sections: bool = True
    temperature: float = 0.1
    decoder: float = 1.0
    neighbours: int = 200
    weighted: bool = True
    members: int = 3
    bank_spots: int = 20_000

    NAME: ClassVar[str]
    companions: ClassVar[int] = 0
    POSITIVE: ClassVar[tuple[str, ...]] = (
        "width",
        "epochs",
        "patience",
        "batch_size",
        "neighbours",
        "members",
        "bank_spots",
        "learning_rate",
        "temperature",
    )
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ("weight_decay", "decoder", "warm_up", "final_rate")
    SHARES: ClassVar[tuple[str, ...]] = ("feature_dropout",)

    def offline(self) -> Self:
        """The same without published weights."""
        return replace(self, pretrained=False)

    @property
    def read_out(self) -> dict[str, Any]:
        """How a prediction is made of reference spots, as arguments of `stpredict.models._retrieval.search.retrieve`."""
        return {"k": self.neighbours, "temperature": self.temperature if self.weighted else None}
