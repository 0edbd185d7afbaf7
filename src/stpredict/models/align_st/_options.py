"""Options of ALIGN-ST, and the paper's values of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
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
        Describe a gene by its coordinates among the programmes of co-expression, known from a reference or told by its
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

    def check(self) -> None:
        """Refuse values that make no sense, alone or together.

        Raises
        ------
        ValueError
            If there are some.
        """
        for name in ("width", "epochs", "patience", "learning_rate", "genes_per_step", "prompts", "axes", "members"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                msg = f"{name} must be positive, got {getattr(self, name)!r}."
                raise ValueError(msg)
        for name in ("weight_decay", "refinement", "feature_neighbours", "text_layers", "gene_neighbours"):
            if not getattr(self, name) >= 0:
                msg = f"{name} must not be negative, got {getattr(self, name)!r}."
                raise ValueError(msg)
        for name in ("feature_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name} must lie in [0, 1), got {getattr(self, name)!r}."
                raise ValueError(msg)
        for name in ("alpha", "as_unseen"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"{name} must lie in [0, 1], got {getattr(self, name)!r}."
                raise ValueError(msg)
        if self.width % 8:
            msg = f"width must be a multiple of 8 (attention heads), got {self.width}."
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
