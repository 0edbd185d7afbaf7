"""The contract of published models: fixed weights that predict from their own encoder's features, and learn nothing."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from stpredict._core.checks import one_of
from stpredict._core.names import gene_names
from stpredict._core.warning import warn
from stpredict._genes.symbols import describe_missing, match
from stpredict.models._base import files
from stpredict.models._base.contract import UNITS, Prediction
from stpredict.models._base.described import facts_of_model
from stpredict.models._base.history import Facts, History, as_html, as_text
from stpredict.models._base.load import rebuilt
from stpredict.models._base.model import ExpressionModel
from stpredict.models._trust.trust import Judgement, Trust
from stpredict.models.published.needs import check_image, check_needs, own_key, vouched_key
from stpredict.models.published.weights import Weights, again, in_folder, on_hub, read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import torch

    from stpredict._sections.section import Section
    from stpredict.models.published.cards import Card

NO_FEATURES = "the model reads the image itself and looks at no encoded features, by which distances are known"
UNKNOWN = (
    "the model was trained by others, and nothing is known here of where its training sections lie; "
    "stpredict.tl.calibrate(data, model) learns from measured sections how far to believe it"
)


class FixedModel(ExpressionModel):
    """A model that others trained.

    It predicts from the features of its own encoder, made at its own scale; it cannot be trained, and says nothing of its
    own errors: standard deviations are NaN and the judgement is ``"unknown"``, until `stpredict.tl.calibrate` learns both
    from measured sections. `stpredict.tl.cross_validate` tells how good it is on these, and `stpredict.tl.adapt` corrects
    it by them.

    Saved, it is the names and digests of its files, not their content, so that what is saved can be passed on whatever
    the licence.

    Parameters
    ----------
    weights
        Its files.
    genes
        Genes to predict, by any name; by default all that it knows.
    features
        ``obsm`` key of its features, where it is not the one that `stpredict.pp.encode` writes: the user's word that they
        are those of its encoder.
    choices
        What the model is told beside, such as the organ.

    Attributes
    ----------
    card
        What is known of it.
    weights
        As passed.
    """

    card: ClassVar[Card]
    known_spots: ClassVar[str] = "measured"

    def __init__(
        self,
        weights: Weights,
        *,
        genes: Iterable[str] | None = None,
        features: str | None = None,
        choices: Mapping[str, str] | None = None,
    ) -> None:
        self.weights = weights
        self._kept: dict[str, torch.Tensor] | None = None
        self._all = self.gene_names()
        self._choices = self.checked(dict(choices or {}))
        self.arrays: dict[str, np.ndarray] = {}
        self.genes = self._all if genes is None else self._known(genes)
        if features is not None and not self.card.width:
            msg = f"{self.card.title} reads the image itself and takes no features=; leave it out."
            raise ValueError(msg)
        made: dict[str, Any] = {"n_features": self.card.width}
        if features is None:
            made |= {"encoder": self.card.encoder, "spot_um": self.card.spot_um, "mpp": self.card.mpp}
            made |= {"stain_norm": self.card.stain_norm} if self.card.stain_norm else {}
        self.config: dict[str, Any] = {
            "features": {features or own_key(self.card): made} if self.card.width else {},
            "encoder": self.card.encoder,
            "min_counts": 0,
            "history": {"values": {}, "notes": [f"trained by others, on {self.card.trained_on}"]},
            "sections": [],
            "choices": self._choices,
            "weights": weights.record(),
        }

    def __repr__(self) -> str:
        return as_text(*self._described())

    def _repr_html_(self) -> str:
        return as_html(*self._described())

    def _described(self) -> tuple[str, Facts]:
        """Title and facts, for people to read."""
        told = {"tissue": self.card.tissue} | facts_of_model(self, self.history)
        told.pop("image network", None)  # (its encoder, which is among the features)
        facts = {"calibrated on" if label == "trained on" else label: text for label, text in told.items()}
        if not self.card.width:
            facts["features"] = "none: the model reads the image itself"
        facts |= {"units": self.units, "licence": self.card.licence, "model id": files.identity(self)}
        return f"{self.card.title}, trained by others", facts

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}  # (another process maps the files itself)

    # ------------------------------------------------------------------ what a model defines

    @abstractmethod
    def gene_names(self) -> list[str]:
        """Names of all genes, in the order of the network's outputs."""

    @abstractmethod
    def values(self, section: Section, columns: np.ndarray, size: int | None) -> Iterable[tuple[slice, np.ndarray]]:
        """Outputs in these `columns` of the network for all spots: slices of rows, in order, and float32 (rows, columns)."""

    def checked(self, choices: dict[str, str]) -> dict[str, str]:
        """What the model is told beside features, checked; models that are told something override it.

        Raises ValueError if it is not something that the model is told.
        """
        if choices:
            msg = (
                f"{self.card.title} takes no {', '.join(choices)}: it was trained on {self.card.tissue}. Leave it out."
            )
            raise ValueError(msg)
        return choices

    @classmethod
    def names_in(cls, folder: Path) -> dict[str, str] | None:
        """Names of its files in a `folder` of the user's, where they are not those of the hub."""
        return None

    # ------------------------------------------------------------------ files

    @classmethod
    def pretrained(cls, *, path: str | Path | None, revision: str | None, **given: Any) -> Self:
        """The model with its weights from a folder, or from the hub.

        Raises
        ------
        OSError
            If they cannot be had.
        ValueError
            If they are damaged, or something given is not something that the model takes.
        """
        if path is not None and revision is not None:
            msg = "revision= is of the hub's repository; leave it out where path= names a folder."
            raise ValueError(msg)
        if path is None:
            return cls(on_hub(cls.card, revision), **given)
        return cls(in_folder(cls.card, path, cls.names_in), **given)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The network's weights by name, on the CPU, mapped from the disk.

        Raises ValueError if they are damaged, or not those of this model.
        """
        if self._kept is None:
            self._kept = read_tensors(self.weights.files["network"])
            self.check_tensors(self._kept)
        return self._kept

    @abstractmethod
    def check_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refuse tensors that are missing or of the wrong shape."""

    def refuse(self, why: str) -> NoReturn:
        """Say that the network's file is not one of this model."""
        msg = f"{self.weights.files['network']} is no network of {self.card.title}: {why}. Get it again from {self.card.source}."
        raise ValueError(msg)

    # ------------------------------------------------------------------ the contract

    @property
    def units(self) -> str:  # type: ignore[override]
        """Units of what it predicts: those of the card, or ours once it was brought to them."""
        return UNITS if "slope" in self.arrays else self.card.units

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it comes from, and under which licence."""
        card, weights = self.card, self.weights
        return {
            "model": card.name,
            "licence": card.licence,
            "commercial": card.commercial,
            "paper": card.paper,
            "source": weights.folder or f"huggingface.co/{card.files['network'].repository}",
            "revision": weights.revision,
            "sha256": dict(weights.sha256),
            "trained_on": card.trained_on,
            **self._choices,
            **({"calibrated_on": self.trained_on} if self.trained_on else {}),
        }

    @property
    def history(self) -> History:
        """What was learned here, if anything."""
        return History(**self.config["history"])

    def fit(self, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]) -> History:
        """Refuse: the weights are fixed.

        Raises
        ------
        TypeError
            Always.
        """
        msg = (
            f"{self.card.title} was trained by others and cannot be trained here. stpredict.tl.adapt(data, model) corrects "
            "it by measured spots; stpredict.tl.train trains a model of our own."
        )
        raise TypeError(msg)

    def check(self, section: Section) -> None:
        """Refuse a section without the features that the model needs, or without an image where it reads that itself.

        Raises
        ------
        ValueError
            If they are missing, or were made differently; the message names the calls that mend it.
        """
        if not self.card.width:
            check_image(section, self.card.mpp)
        for key in self.config["features"]:
            check_needs(section, key, self.card, vouched=vouched_key(self.config) is not None)

    def _judged(self, section: Section) -> Judgement:
        """How far `section` is from those that it was calibrated on; nothing is known of others."""
        if self.trust.reliability is None:
            return Judgement.unknown(len(section), UNKNOWN)
        if self.trust.domain is None:
            return Judgement.unknown(len(section), NO_FEATURES)
        return super()._judged(section)

    def predict(self, section: Section, genes: Sequence[str] | None = None) -> Prediction:
        """Expression of `genes` (default: all that the model knows) for every spot of `section`; NaN of unknown ones.

        Raises
        ------
        ValueError
            If the section lacks the features that the model needs.
        """
        asked = self.genes if genes is None else list(genes)
        return Prediction.of_parts(self.predict_parts(section, asked), len(section), asked)

    def predict_parts(
        self, section: Section, genes: Sequence[str] | None = None, *, size: int | None = None
    ) -> Iterable[tuple[slice, Prediction]]:
        """`predict`, a few spots at a time; genes may be called by any of their names."""
        judgement = self.judge(section)
        asked = self.genes if genes is None else list(genes)
        known = dict(zip(asked, asked, strict=True)) if asked == self.genes else match(asked, self.genes)
        number = {gene: i for i, gene in enumerate(self.genes)}
        taken = np.array([number[known[gene]] if gene in known else -1 for gene in asked], dtype=int)
        return self._parts(section, asked, taken, judgement, size)

    def _parts(
        self, section: Section, asked: list[str], taken: np.ndarray, judgement: Judgement, size: int | None
    ) -> Iterable[tuple[slice, Prediction]]:
        """Predictions of the genes of these numbers, -1 of those that it does not know."""
        there = taken >= 0
        place = {gene: i for i, gene in enumerate(self._all)}
        columns = np.array([place[self.genes[i]] for i in taken[there]], dtype=int)
        reached, errors = self.trust.expected(judgement, taken)
        width = self.trust.error_width(judgement, has_spread=False)
        sd = np.full(len(asked), np.nan, dtype=np.float32)
        if width is not None:
            sd[there] = width[taken[there]]
        for rows, values in self.values(section, columns, size):
            mean = self._in_units(values, taken[there])
            if not there.all():
                mean, few = np.full((len(values), len(asked)), np.nan, dtype=np.float32), mean
                mean[:, there] = few
            std = np.broadcast_to(sd, mean.shape)
            yield rows, Prediction(mean, std, asked, self.units, None, judgement, reached, errors)

    def embed(self, section: Section, *, use: str = "image") -> np.ndarray:
        """float32 (n_spots, d): the features that the model takes.

        Raises
        ------
        ValueError
            If `use` is not ``"image"``, or the section lacks them.
        """
        one_of(use, ("image",), f"use, for {self.card.title},")
        self.check(section)
        return section.features(next(iter(self.config["features"])))

    # ------------------------------------------------------------------ genes and units

    def _known(self, genes: Iterable[str]) -> list[str]:
        """The model's names of `genes`, those that it knows."""
        wanted = gene_names(genes)
        found = match(wanted, self._all)
        missing = [gene for gene in wanted if gene not in found]
        if not found:
            msg = f"{self.card.title} knows none of the genes asked for ({describe_missing(missing[:10]) or 'none'})."
            raise ValueError(msg)
        if missing:
            warn(f"{self.card.title} does not know {len(missing)} of the genes asked for: {describe_missing(missing)}.")
        return list(dict.fromkeys(found.values()))

    def brought_to(self, genes: Sequence[str], slope: float, intercept: np.ndarray) -> Self:
        """The same model of some of its `genes`, in our units: `slope` times what it predicts, plus an `intercept` for each."""
        other = self.anew(genes)
        other.arrays = {
            "slope": np.array([slope], dtype=np.float32),
            "intercept": np.asarray(intercept, dtype=np.float32),
        }
        return other

    def anew(self, genes: Sequence[str]) -> Self:
        """The model as it was made, of some of its `genes`."""
        return type(self)(self.weights, genes=genes, features=vouched_key(self.config), choices=self._choices)

    def calibrated(self, trust: Trust, learned_from: Mapping[str, Any]) -> Self:
        """The same model, which knows how far to believe it; `learned_from` is what ``config`` keeps of how it was learned."""
        other = self.anew(self.genes)
        other.arrays, other.trust = self.arrays | trust.arrays(), trust
        other.config |= {"n_design": self.card.width, **learned_from}
        return other

    def _in_units(self, values: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """`values` of the `genes` of these numbers."""
        if "slope" not in self.arrays:
            return values
        return self.arrays["slope"] * values + self.arrays["intercept"][genes]

    # ------------------------------------------------------------------ storage

    def save(self, path: str | Path, *, share_bank: bool = True) -> None:
        """Write the model as a folder of ``model.safetensors`` and ``model.json``: names and digests of its files.

        Parameters
        ----------
        path
            Folder to make; a model that is already there is replaced.
        share_bank
            Makes no difference: no expression is written.

        Raises
        ------
        FileExistsError
            If `path` holds something else than a model.
        """
        files.write(path, files.Stored(self.method, self.genes, self.config, self.arrays))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model that `save` wrote; `stpredict.models.load` finds the class by itself.

        Raises
        ------
        OSError
            If there is no model at `path`, or the files of its network cannot be had.
        ValueError
            If it is damaged, or its files are not those that it was made with.
        """
        stored = files.read(path)
        return rebuilt(stored, path, {stored.method: cls})  # type: ignore[return-value]

    @classmethod
    def from_stored(cls, stored: files.Stored, path: str | Path) -> Self:
        """Rebuild the model from what was read from `path`, and find the files of its network again.

        Raises OSError if they cannot be had; ValueError if they are not those that it was made with, or what was read
        is damaged.
        """
        shapes: dict[str, tuple[str | int, ...]] = (
            {"slope": (1,), "intercept": ("g",)} if "slope" in stored.arrays else {}
        )
        files.check_shapes(stored, shapes | Trust.shapes_in(stored.arrays), path)
        config = stored.config
        weights = again(cls.card, config["weights"], cls.names_in)
        model = cls(weights, genes=stored.genes, features=vouched_key(config), choices=config["choices"])
        if model.genes != stored.genes:
            msg = f"The model at {path} is damaged: its genes are not those of {cls.card.title}; save it again."
            raise ValueError(msg)
        model.config, model.arrays, model.trust = config, stored.arrays, Trust.stored_in(stored.arrays)
        return model
