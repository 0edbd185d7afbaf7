"""Aligned models behind the contract: trained networks, a reference bank, prediction by retrieval, and storage."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict._core.checks import one_of
from stpredict._core.hub import weights_of
from stpredict.models._aligned.expression import GeneScale, measured_expression, moved_to, usable_spots
from stpredict.models._aligned.inputs import Inputs, drawn
from stpredict.models._base.network import NetworkModel
from stpredict.models._base.spotwise import SpotwiseModel
from stpredict.models._data.rows import row_store
from stpredict.models._retrieval.bank import Banked, bank_record
from stpredict.models._retrieval.search import normalise, retrieve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stpredict._sections.section import Section
    from stpredict.models._aligned.embedding import AlignedNetwork
    from stpredict.models._aligned.inputs import Tensors
    from stpredict.models._base.history import History
    from stpredict.models._data.folds import HeldOut
    from stpredict.models._data.rows import Rows, RowStore
    from stpredict.models._data.table import Table

TILE_PX = 224
"""Side of the tiles of a trained image encoder, in pixels."""


class Aligned(Banked, NetworkModel, SpotwiseModel):
    """Images and expression in one space; a spot gets the expression of the reference spots nearest to its image.

    A method says what its networks see (`tensors`, `design`, `expression`) and how they are built (`build_network`).

    Parameters
    ----------
    features, min_counts, preset, seed, checkpoint, show_progress, **options
        See `stpredict.models._base.network.NetworkModel`.

    Attributes
    ----------
    decoded
        After `fit`, what decoders predicted for held-out training spots, if there are any; not stored.
    """

    decoded: HeldOut | None = None
    streams: ClassVar[bool] = True
    spaces: ClassVar[tuple[str, ...]] = ("image", "expression")
    """What `embed` can bring into the joint space."""
    shapes: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "bank": ("m", "w"),
        "expression": ("m", "g"),
        "between": ("g",),
        "gene_level": ("g",),
        "gene_sd": ("g",),
    }

    @property
    def looks_at_tiles(self) -> bool:  # type: ignore[override]
        """Whether an image encoder is trained along."""
        return self.options.image_encoder is not None

    # ------------------------------------------------------------------ what a method says

    @abstractmethod
    def tensors(self, table: Table, sections: Sequence[Section], scale: GeneScale, store: RowStore) -> Tensors:
        """What networks learn from, of the spots in the `table`, whose section means are aligned where the options want it; what is large is kept in the `store`."""

    def design(self, section: Section) -> tuple[Rows, ...]:
        """Arguments of the network's ``image`` for every spot of `section`."""
        return self.designer(section)(slice(None))

    def designer(self, section: Section) -> Callable[[slice], tuple[Rows, ...]]:
        """What gives any rows of `design`: here frozen features (rows, d)."""
        features = super().designer(section)
        return lambda rows: (features(rows),)

    @abstractmethod
    def expression(self, section: Section) -> tuple[np.ndarray, ...]:
        """Arguments of the network's ``gene`` for every spot of `section`, scaled as in training."""

    # ------------------------------------------------------------------ training

    def fit(self, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]) -> History:
        """Learn from `sections`; `groups` names the patient (or other unit) of each, for inner validation.

        The number of epochs is chosen on held-out spots, then networks are trained on all spots for as many.

        Raises
        ------
        ValueError
            If features or counts are missing or unusable, too few spots are left, the loss becomes NaN, or published
            weights of the image encoder cannot be had.
        """
        from stpredict.models._aligned import training

        if self.options.image_encoder and self.options.pretrained:
            with weights_of(self.options.image_encoder):  # before any work
                pass
        with row_store(sections) as store:
            table = self._table(sections, genes, groups, store)
            self.config["bank"] = bank_record(table.take(self.reference(table)), sections)
            inputs = self._inputs(table, sections, store)
            self.genes = list(genes)
            if self.options.image_encoder is not None:
                self.config["encoder"] = f"{self.options.image_encoder}, trained along"
            ensemble = self._ensemble(len(genes))
            chosen = training.choose_epochs(ensemble, inputs, self.not_measured)
            networks = ensemble.train_members(training.SpotMaterial(inputs, self.options), chosen.epochs)
            arrays = training.arrays_of(networks, inputs.take(self.reference(inputs.table))) | chosen.arrays
            arrays |= self._learn_trust(sections, table, chosen.held, arrays)
            self.decoded = chosen.decoded
            if self.decoded is not None:
                arrays |= self._learn_without_bank(table, self.decoded, chosen.scores)
        return self._finish(genes, arrays, chosen.history)

    def reference(self, table: Table) -> np.ndarray:
        """Row numbers of the training spots that the bank is made of."""
        return drawn(table.section, self.options.bank_spots, self.seed)

    def _inputs(self, table: Table, sections: Sequence[Section], store: RowStore) -> Inputs:
        """Level and scale expression as the options say."""
        between = table.between_sections()
        table = table.aligned(store) if self.options.level_sections else table
        scale = GeneScale.of(table.expression, self.options)
        tensors = self.tensors(table, sections, scale, store)
        return Inputs(table, tensors, between, scale.arrays() | tensors.arrays)

    # ------------------------------------------------------------------ prediction

    def apply(self, arrays: dict[str, np.ndarray], queries: tuple[Rows, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """Mean over the retrieved reference spots, and standard deviation over them and between sections.

        Without reference spots, the mean over members of what their decoders read off the image.
        """
        from stpredict.models._aligned.embedding import decoded, image_embeddings

        if "bank" not in arrays:
            each = [decoded(network, queries) for network in self._networks(arrays)]
            return self._scale.unscaled(np.mean(each, axis=0)), None
        embedded = normalise(self._over_members(arrays, lambda network: image_embeddings(network, queries)))
        mean, spread = retrieve(embedded, arrays["bank"], arrays["expression"], **self.options.read_out)
        return mean, np.hypot(spread, np.sqrt(arrays["between"]))

    def embed(self, section: Section, *, use: str = "image") -> np.ndarray:
        """float32 (n_spots, members · width): the joint space, rows of length 1.

        Parameters
        ----------
        section
            What to embed.
        use
            ``"image"``, what spots look like, or ``"expression"``, what they express.

        Raises
        ------
        ValueError
            If the section's features were made differently from those in training, or it has no expression.
        """
        from stpredict.models._aligned import embedding

        one_of(use, self.spaces, "use")
        if use == "image":
            images = self.design(section)
            return normalise(
                self._over_members(self.arrays, lambda network: embedding.image_embeddings(network, images))
            )
        genes = self.expression(section)
        return normalise(self._over_members(self.arrays, lambda network: embedding.gene_embeddings(network, genes)))

    def _at_level(self, section: Section) -> tuple[np.ndarray, np.ndarray]:
        """Expression (n_spots, genes) of a new section at the level of those in training, and which spots are measured."""
        level = self.arrays["gene_level"]
        expression = measured_expression(section, self.genes, level)
        usable = usable_spots(section, self.config["min_counts"])
        return moved_to(level, expression, usable) if self.options.level_sections else expression, usable

    @property
    def _scale(self) -> GeneScale:
        return GeneScale(self.arrays["gene_level"], self.arrays["gene_sd"], self.options)

    def _over_members(self, arrays: dict[str, np.ndarray], embed: Callable[[AlignedNetwork], np.ndarray]) -> np.ndarray:
        """Embeddings of all members side by side."""
        return np.concatenate([embed(network) for network in self._networks(arrays)], axis=1)
