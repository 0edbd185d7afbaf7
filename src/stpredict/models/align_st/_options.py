"""Options of ALIGN-ST, and the paper's values of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stpredict.models._base.options import NetworkOptions


@dataclass(frozen=True)
class Options(NetworkOptions):
    """Options of ALIGN-ST; the defaults are ours, `PUBLISHED` the paper's where it tells them.

    The paper leaves unsaid: text encoder, width, length of prompts, α, the number of gene neighbours, optimiser, rate and
    epochs. Where it is silent, `PUBLISHED` follows its predecessor SGN or common use.

    Attributes
    ----------
    width
        Length of embeddings of tiles and genes.
    epochs, patience
        Most epochs to train, and epochs without improvement on held-out spots and genes after which training stops.
    learning_rate, weight_decay
        Of AdamW; the rate falls along a cosine over `epochs`.
    genes_per_step
        Seen genes drawn for a step, which is one whole section; None takes all.
    feature_dropout, dropout
        Share of image features, and of hidden units, that are hidden from a step.
    nuclei
        Ask the nuclei of each tile, which `stpredict.pp.nuclei` found.
    refinement
        GraphSAGE layers over neighbours in space and in feature space.
    feature_neighbours
        Neighbours in feature space.
    coordinates
        Describe a gene by its coordinates among the programmes of co-expression, known from a reference or predicted from its
        text.
    text_layers
        Layers of the prompted Transformer over the facts about a gene; 0 leaves it out.
    prompts
        Learnable text prompts, and as many visual prompts from the tissue.
    interaction
        Let visual prompts into the text prompts at every layer.
    alpha
        Share of the visual prompts there.
    gene_neighbours
        Most similar genes that a gene listens to (the gene interaction graph); 0 leaves it out.
    axes
        Programmes of co-expression that are kept.
    as_unseen
        Weight of the loss in which text alone describes the seen genes, as if they were unseen.
    members
        Networks, trained with different seeds, whose predictions are averaged.
    """

    width: int = 128
    epochs: int = 15
    patience: int = 15
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    genes_per_step: int | None = None
    feature_dropout: float = 0.2
    dropout: float = 0.3
    nuclei: bool = False
    refinement: int = 1
    feature_neighbours: int = 5
    coordinates: bool = True
    text_layers: int = 0
    prompts: int = 4
    interaction: bool = True
    alpha: float = 0.5
    gene_neighbours: int = 0
    axes: int = 50
    as_unseen: float = 0.5
    members: int = 3

    batch_size: ClassVar[int] = 1
    warm_up: ClassVar[int] = 1
    final_rate: ClassVar[float] = 0.1
    final_weight_decay: ClassVar[float | None] = None
    POSITIVE: ClassVar[tuple[str, ...]] = (
        "width",
        "epochs",
        "patience",
        "learning_rate",
        "genes_per_step",
        "prompts",
        "axes",
        "members",
    )
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = (
        "weight_decay",
        "refinement",
        "feature_neighbours",
        "text_layers",
        "gene_neighbours",
    )
    SHARES: ClassVar[tuple[str, ...]] = ("feature_dropout", "dropout")

    def check(self) -> None:
        """Refuse values that make no sense, alone or together.

        Raises
        ------
        ValueError
            If there are some.
        """
        super().check()
        for name in ("alpha", "as_unseen"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"{name} must lie in [0, 1], got {getattr(self, name)!r}."
                raise ValueError(msg)
        if not (self.coordinates or self.text_layers):
            msg = "coordinates=False and text_layers=0 leave nothing that describes a gene; keep one of them."
            raise ValueError(msg)


PUBLISHED = Options(
    width=256,
    epochs=300,
    patience=300,
    learning_rate=5e-4,
    weight_decay=1e-4,
    genes_per_step=64,
    feature_dropout=0.0,
    dropout=0.1,
    nuclei=True,
    refinement=4,
    coordinates=False,
    text_layers=4,
    prompts=4,
    gene_neighbours=8,
    members=1,
)
PRESETS = {"default": Options(), "published": PUBLISHED}
