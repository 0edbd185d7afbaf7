"""Options of CMRCNet, and the paper's values of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stpredict._core.checks import one_of
from stpredict.models._aligned import options as aligned


@dataclass(frozen=True)
class Options(aligned.AlignedOptions):
    """Options of CMRCNet; the defaults are ours, `PUBLISHED` are the paper's.

    Those that CMRCNet and ST-Align share (``AlignedOptions``, in the API reference), and:

    Attributes
    ----------
    heads
        Attention heads of a trained vision transformer; None leaves as many as it has.
    normalise
        Compare directions of embeddings (cosine) in the contrastive loss, instead of plain products.
    detach_targets
        Hold the soft targets of the contrastive loss fixed; otherwise training can also lower the loss by making them easy.
    log_each
        Average log(1 + contrastive loss) over spots, as in the released code, instead of taking it of their mean.
    mask, mask_share
        Hide whole image tokens (``"tokens"``) or single numbers of them (``"elements"``), and which share.
    shared_fusion
        Both fusion blocks share their weights, as in the released code.
    released_fusion
        Attention and dropout of the fusion blocks as in the released code: cross-attention with eight heads, whose
        values are made of activated queries and keys.
    rebuilt
        Spots of a batch whose image tokens are rebuilt; None takes all. It is the most expensive part of a step.
    reconstruction
        Weight of the reconstruction loss; 0 leaves it out.
    """

    NAME: ClassVar[str] = "CMRCNet"

    heads: int | None = None
    normalise: bool = True
    detach_targets: bool = True
    log_each: bool = False
    mask: str = "tokens"
    mask_share: float = 0.5
    shared_fusion: bool = False
    released_fusion: bool = False
    rebuilt: int | None = 32
    reconstruction: float = 1.0

    POSITIVE: ClassVar[tuple[str, ...]] = (*aligned.AlignedOptions.POSITIVE, "heads", "rebuilt")
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = (*aligned.AlignedOptions.NOT_NEGATIVE, "reconstruction")
    SHARES: ClassVar[tuple[str, ...]] = (*aligned.AlignedOptions.SHARES, "mask_share")

    def check(self) -> None:
        """Refuse values that make no sense."""
        super().check()
        one_of(self.mask, ("tokens", "elements"), "mask")
        if self.pretrained and self.heads is not None:
            msg = f"Published weights are of a network with its own heads; pass heads=None with pretrained=True, not {self.heads}."
            raise ValueError(msg)


PUBLISHED = Options(
    image_encoder="vit_base_patch32_224",
    depth=8,
    heads=8,
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
    log_each=True,
    mask="elements",
    shared_fusion=True,
    released_fusion=True,
    rebuilt=None,
    decoder=0.0,
    neighbours=50,
    weighted=False,
    members=1,
)
PRESETS = {"default": Options(), "published": PUBLISHED}
