"""Aligned models behind the contract: trained networks, a reference bank, prediction by retrieval, and storage."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._core.checks import one_of
from stpredict._core.device import resolve_device
from stpredict._core.settings import settings
from stpredict.models._aligned.expression import GeneScale, levelled, measured_expression, usable_spots
from stpredict.models._aligned.options import checked
from stpredict.models._base.spotwise import ArrayModel
from stpredict.models._data.rows import shelf_of
from stpredict.models._retrieval.bank import Banked
from stpredict.models._retrieval.search import normalise, retrieve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stpredict._sections.section import Section
    from stpredict.models._aligned.inputs import Inputs, Tensors
    from stpredict.models._aligned.options import AlignedOptions
    from stpredict.models._aligned.training import AlignedNetwork
    from stpredict.models._base.contract import History
    from stpredict.models._base.files import Stored
    from stpredict.models._data.rows import Shelf
    from stpredict.models._data.table import Table

TILE_PX = 224
"""Side of the tiles of a trained image encoder, in pixels."""


class Aligned(Banked, ArrayModel):
    """Images and expression in one space; a spot gets the expression of the reference spots nearest to its image.

    A method says what its networks see (`tensors`, `design`, `expression`) and how they are built (`build_network`).

    Parameters
    ----------
    features, min_counts
        See `stpredict.models._base.spotwise.ArrayModel`.
    preset
        ``"default"`` is what measured best, ``"published"`` the recipe of the paper as far as it is known.
    seed
        Seed of everything random; by default ``stpredict.settings.seed``.
    checkpoint
        Folder of checkpoints; an interrupted run that is found there is continued.
    show_progress
        Show a progress bar; by default ``stpredict.settings.progress``.
    **options
        Options that differ from the preset.
    """

    seeded: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, AlignedOptions]]
    spaces: ClassVar[tuple[str, ...]] = ("image", "expression")
    """What `embed` can bring into the joint space."""
    own_shapes: ClassVar[dict[str, tuple[str | int, ...]]] = {}
    """Arrays that the method keeps beside networks, bank and gene scale."""

    def __init__(
        self,
        *,
        features: str | Sequence[str] | None = None,
        min_counts: int = 50,
        preset: str | None = None,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        show_progress: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(features=features, min_counts=min_counts)
        self.options = checked(self.method, self.presets, preset or "default", options)
        self.seed = settings.seed if seed is None else seed
        if not (isinstance(self.seed, int) and self.seed >= 0):
            msg = f"seed must be a non-negative integer, got {self.seed!r}."
            raise ValueError(msg)
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._show_progress = settings.progress if show_progress is None else show_progress

    # ------------------------------------------------------------------ what a method says

    @abstractmethod
    def tensors(self, table: Table, sections: Sequence[Section], scale: GeneScale, shelf: Shelf) -> Tensors:
        """What networks learn from, of the spots in the (levelled) `table`; what is large is kept on the `shelf`."""

    def design(self, section: Section) -> tuple[np.ndarray, ...]:
        """Arguments of the network's ``image`` for every spot of `section`."""
        return self.designer(section)(slice(None))

    def designer(self, section: Section) -> Callable[[slice], tuple[np.ndarray, ...]]:
        """What gives any rows of `design`: here frozen features (rows, d)."""
        features = super().designer(section)
        return lambda rows: (features(rows),)

    @abstractmethod
    def expression(self, section: Section) -> tuple[np.ndarray, ...]:
        """Arguments of the network's ``gene`` for every spot of `section`, scaled as in training."""

    @staticmethod
    @abstractmethod
    def build_network(options: AlignedOptions, config: Mapping[str, Any], n_genes: int) -> AlignedNetwork:
        """Build an untrained network for the features in `config`."""

    # ------------------------------------------------------------------ training

    def fit(self, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]) -> History:
        """Learn from `sections`; `groups` names the patient (or other unit) of each, for inner validation.

        The number of epochs is chosen on held-out spots, then networks are trained on all spots for as many.

        Raises
        ------
        ValueError
            If features or counts are missing or unusable, too few spots are left, or the loss becomes NaN.
        """
        from stpredict.models._aligned import training

        with shelf_of(sections) as shelf:
            inputs = self._inputs(self._table(sections, genes, groups, shelf), sections, shelf)
            self.genes = list(genes)
            self.config |= {"options": asdict(self.options), "seed": self.seed}
            if self.options.image_encoder is not None:
                self.config["encoder"] = f"{self.options.image_encoder}, trained along"
            build = partial(self.build_network, self.options, self.config, len(genes))
            how = {"seed": self.seed, "checkpoint": self._checkpoint, "show_progress": self._show_progress}
            chosen = training.choose_epochs(build, inputs, self.options, **how)
            networks = training.train_members(build, inputs, self.options, epochs=chosen.epochs, **how)
            reference = inputs.take(self.reference(inputs.table))
            arrays = training.arrays_of(networks, reference) | {"residual_sd": chosen.residual_sd}
        return self._finish(genes, arrays, chosen.history)

    def reference(self, table: Table) -> np.ndarray:
        """Row numbers of the training spots that the bank is made of."""
        from stpredict.models._aligned.inputs import drawn

        return drawn(table.section, self.options.bank_spots, self.seed)

    def _inputs(self, table: Table, sections: Sequence[Section], shelf: Shelf) -> Inputs:
        """Level and scale expression as the options say."""
        from stpredict.models._aligned.inputs import Inputs

        between = table.between_sections()
        table = table.levelled(shelf) if self.options.level_sections else table
        scale = GeneScale.of(table.expression, self.options)
        tensors = self.tensors(table, sections, scale, shelf)
        return Inputs(table, tensors, between, scale.arrays() | tensors.arrays)

    # ------------------------------------------------------------------ prediction

    def apply(self, arrays: dict[str, np.ndarray], queries: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the retrieved reference spots, and standard deviation over them and between sections."""
        from stpredict.models._aligned.training import image_embeddings

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
        from stpredict.models._aligned import training

        one_of(use, self.spaces, "use")
        if use == "image":
            images = self.design(section)
            return normalise(
                self._over_members(self.arrays, lambda network: training.image_embeddings(network, images))
            )
        genes = self.expression(section)
        return normalise(self._over_members(self.arrays, lambda network: training.gene_embeddings(network, genes)))

    def _levelled(self, section: Section) -> tuple[np.ndarray, np.ndarray]:
        """Expression of a new section at the level of those in training, and which of its spots are measured."""
        level = self.arrays["gene_level"]
        expression, usable = (
            measured_expression(section, self.genes, level),
            usable_spots(section, self.config["min_counts"]),
        )
        return levelled(expression, usable, level) if self.options.level_sections else expression, usable

    @property
    def _scale(self) -> GeneScale:
        return GeneScale(self.arrays["gene_level"], self.arrays["gene_sd"], self.options)

    def _over_members(self, arrays: dict[str, np.ndarray], embed: Callable[[AlignedNetwork], np.ndarray]) -> np.ndarray:
        """Embeddings of all members side by side."""
        from stpredict.models._aligned.training import network_state

        device, embedded = resolve_device(), []
        untrained = replace(self.options, pretrained=False)
        for member in range(self.options.members):
            network = self.build_network(untrained, self.config, arrays["expression"].shape[1]).eval()
            network.load_state_dict(network_state(arrays, member))
            embedded.append(embed(network.to(device)))
        return np.concatenate(embedded, axis=1)

    # ------------------------------------------------------------------ storage

    @classmethod
    def from_stored(cls, stored: Stored, path: str | Path) -> Aligned:
        """Rebuild the model from what was read from `path`."""
        model = super().from_stored(stored, path)
        model.options, model.seed = cls._stored_options(stored), stored.config["seed"]
        return model

    @classmethod
    def _stored_options(cls, stored: Stored) -> AlignedOptions:
        return replace(cls.presets["default"], **stored.config["options"])

    @classmethod
    def shapes_of(cls, stored: Stored) -> dict[str, tuple[str | int, ...]]:
        """Arrays that a model with these options has."""
        import torch

        options = replace(cls._stored_options(stored), pretrained=False)
        with torch.device("meta"):
            state = cls.build_network(options, stored.config, len(stored.genes)).state_dict()
        networks = {
            f"network.{member}.{name}": tuple(tensor.shape)
            for member in range(options.members)
            for name, tensor in state.items()
        }
        bank = {"bank": ("m", "w"), "expression": ("m", "g"), "between": ("g",)}
        return networks | bank | {"gene_level": ("g",), "gene_sd": ("g",)} | cls.own_shapes
