"""Options of CMRCNet, and the paper's values of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from stpredict._checks import one_of


@dataclass(frozen=True)
class Options:
    """Options of CMRCNet; the defaults are ours, `PUBLISHED` are the paper's.

    Attributes
    ----------
    image_encoder
        timm vision transformer that is trained along on the spot's pixels; None learns from frozen features.
    depth, pretrained
        Blocks of it to keep, and whether it starts from published weights.
    width
        Length of embeddings and tokens.
    epochs
        Most epochs to train; how many is chosen on held-out spots.
    patience
        Epochs without improvement there after which training stops.
    batch_size, learning_rate, weight_decay
        Of AdamW; the learning rate falls along a cosine to a tenth.
    feature_dropout
        Share of frozen features hidden from a training step.
    standardise_genes
        Give every gene mean 0 and variance 1 before networks see it.
    level_sections
        Move every section's mean expression to the mean over sections.
    normalise, temperature, detach_targets
        Of the contrastive loss, see `stpredict.models.nn._losses.soft_contrastive`.
    mask, mask_share
        Hide whole image tokens (``"tokens"``) or single numbers of them (``"elements"``), and which share.
    shared_fusion
        Both fusion blocks share their weights, as in the released code.
    rebuilt
        Spots of a batch whose image tokens are rebuilt; None takes all. It is the dearest part of a step.
    reconstruction, decoder
        Weight of the reconstruction loss, and of the regression loss of a linear decoder; 0 leaves it out.
    neighbours
        Reference spots that a prediction is made of.
    weighted
        Weigh these by exp(cosine / temperature) instead of equally.
    members
        Networks, trained with different seeds, whose similarities are averaged.
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
    feature_dropout: float = 0.5
    standardise_genes: bool = True
    level_sections: bool = True
    normalise: bool = True
    temperature: float = 0.1
    detach_targets: bool = True
    mask: str = "tokens"
    mask_share: float = 0.5
    shared_fusion: bool = False
    rebuilt: int | None = 32
    reconstruction: float = 1.0
    decoder: float = 1.0
    neighbours: int = 200
    weighted: bool = True
    members: int = 3

    @property
    def read_out(self) -> dict[str, Any]:
        """How a prediction is made of reference spots, as arguments of `stpredict.models._retrieval.retrieve`."""
        return {"k": self.neighbours, "temperature": self.temperature if self.weighted else None}


PUBLISHED = Options(
    image_encoder="vit_base_patch32_224",
    depth=8,
    epochs=60,
    patience=60,
    batch_size=64,
    learning_rate=1e-4,
    weight_decay=1e-3,
    feature_dropout=0.0,
    standardise_genes=False,
    level_sections=False,
    normalise=False,
    temperature=1.0,
    detach_targets=False,
    mask="elements",
    shared_fusion=True,
    rebuilt=None,
    decoder=0.0,
    neighbours=50,
    weighted=False,
    members=1,
)
PRESETS = {"default": Options(), "published": PUBLISHED}


def checked(preset: str, changed: dict[str, Any]) -> Options:
    """Take the options of `preset`, with changes.

    Raises
    ------
    ValueError, TypeError
        If the preset or an option is unknown, or a value makes no sense.
    """
    one_of(preset, PRESETS, "preset")
    known = [field.name for field in fields(Options)]
    if unknown := [name for name in changed if name not in known]:
        msg = f"method='cmrcnet' has no option {', '.join(unknown)}; it has {', '.join(known)}."
        raise TypeError(msg)
    options = replace(PRESETS[preset], **changed)
    one_of(options.mask, ("tokens", "elements"), "mask")
    positive = ("width", "epochs", "patience", "batch_size", "neighbours", "members", "learning_rate", "temperature")
    for name in (*positive, *(["rebuilt"] if options.rebuilt is not None else [])):
        if not getattr(options, name) > 0:
            msg = f"{name} must be positive, got {getattr(options, name)!r}."
            raise ValueError(msg)
    for name in ("weight_decay", "reconstruction", "decoder"):
        if not getattr(options, name) >= 0:
            msg = f"{name} must not be negative, got {getattr(options, name)!r}."
            raise ValueError(msg)
    for name in ("feature_dropout", "mask_share"):
        if not 0 <= getattr(options, name) < 1:
            msg = f"{name} must lie in [0, 1), got {getattr(options, name)!r}."
            raise ValueError(msg)
    if options.width % 8:
        msg = f"width must be a multiple of 8 (attention heads), got {options.width}."
        raise ValueError(msg)
    return options
