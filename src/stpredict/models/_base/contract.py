"""The contract that every image-to-expression model keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stpredict.models._data.features import check_features
from stpredict.models._trust.reliability import central
from stpredict.models._trust.sight import Sight
from stpredict.models._trust.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from stpredict._sections.section import Section
    from stpredict.models._base.history import History
    from stpredict.models._trust.trust import Judgement

UNITS = "log1p CP10k"
"""Units of every prediction: log1p of counts per 10,000, by the total over all genes."""


@dataclass(frozen=True)
class Prediction:
    """Predicted expression of one section.

    Attributes
    ----------
    mean
        float32 (spots, genes), in ``units``; NaN where a gene cannot be predicted.
    std
        float32 (spots, genes), predictive standard deviation in ``units``.
    genes
        Names of the columns.
    judgement
        How far the section is from what the model was trained on.
    reached
        float64 (3, genes): Pearson correlation over spots to expect of every gene on this section, and the ends of its
        90 % interval; NaN where nothing is known.
    errors
        float32 (levels, genes): quantiles of measured minus predicted expression to expect, at 21 levels from
        0.005 to 0.995; NaN where nothing is known.
    unseen
        Of genes that the model did not learn from: their names (``genes``), and per gene the ``distance`` to the most
        similar gene that it did, and the ``reliability``, the PCC to expect. None where it cannot predict such genes.
    """

    mean: np.ndarray
    std: np.ndarray
    genes: list[str]
    units: str = UNITS
    unseen: Mapping[str, np.ndarray] | None = None
    judgement: Judgement | None = None
    reached: np.ndarray | None = None
    errors: np.ndarray | None = None

    def end(self, which: Literal["lower", "upper"], level: float) -> np.ndarray:
        """float32 (spots, genes): an end of the central intervals that are to hold a share `level` of spots.

        It is no less than 0, as log counts are; NaN where no errors are known.
        """
        if self.errors is None:
            return np.full_like(self.mean, np.nan)
        low, high = central(self.errors, level)
        ends: np.ndarray = np.maximum(self.mean + (low if which == "lower" else high), 0)
        return ends

    @classmethod
    def of_parts(cls, parts: Iterable[tuple[slice, Prediction]], n_spots: int, genes: Sequence[str]) -> Prediction:
        """Put parts of a section, slices of rows and what is predicted for them, together."""
        parts = iter(parts)
        first = next(parts)
        if len(first[1].mean) == n_spots:
            mean, std = (np.require(values, np.float32, "W") for values in (first[1].mean, first[1].std))
            return replace(first[1], mean=mean, std=std, genes=list(genes))
        mean, std = np.empty((2, n_spots, len(genes)), dtype=np.float32)
        for rows, part in chain([first], parts):
            mean[rows], std[rows] = part.mean, part.std
        return replace(part, mean=mean, std=std, genes=list(genes))


def needs_spots(method: str) -> str:
    """What is said where a model of this `method` cannot do without the expression of single spots."""
    return (
        f"This model of method {method!r} predicts from the expression of single spots and cannot do without "
        "(share_bank=False). Train one that can: 'consensus', or 'cmrcnet' or 'st_align' with a decoder (not with decoder=0 or "
        "preset='published'), anew where an earlier version trained it; 'ridge', 'mean', 'density' and 'align_st' hold none."
    )


class Contract(ABC):
    """What every image-to-expression model has and does; see `stpredict.models.ExpressionModel`."""

    method: ClassVar[str]
    seeded: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    compares_spots: bool = False
    units: str = UNITS
    known_spots: ClassVar[str] = "training"

    trust: Trust = Trust()
    genes: list[str]
    arrays: dict[str, np.ndarray]
    config: dict[str, Any]

    @property
    def vocabulary(self) -> list[str]:
        """Genes that can be predicted: those learned from first, then any others."""
        return self.genes

    @abstractmethod
    def fit(self, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]) -> History:
        """Learn from `sections`; `groups` names the patient (or other unit) of each, for inner validation."""

    @abstractmethod
    def predict(self, section: Section, genes: Sequence[str] | None = None) -> Prediction:
        """Expression of `genes` (default: all that the model knows) for every spot of `section`."""

    def predict_parts(
        self, section: Section, genes: Sequence[str] | None = None, *, size: int | None = None
    ) -> Iterable[tuple[slice, Prediction]]:
        """`predict`, a few spots at a time: slices of rows of `section`, in order, and the prediction for them.

        `size` is the number of spots in a part, by default as many as are worth doing together. Methods that need all
        spots at once give one part, as here.
        """
        yield slice(0, len(section)), self.predict(section, genes)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where a model that others trained comes from, and under which licence; empty for our own."""
        return {}

    @property
    def trained_on(self) -> list[str]:
        """Names of the sections that the model learned from."""
        names: list[str] = self.config.get("sections", [])
        return names

    def check(self, section: Section) -> None:
        """Refuse a section whose features are missing or were made differently from those in training.

        Raises
        ------
        ValueError
            If so; the message names the call that mends it.
        """
        check_features(section, self.config.get("features", {}))

    @property
    def sight(self) -> Sight:
        """What the model looks at of a spot."""
        return Sight.of(self.config)

    def judge(self, section: Section) -> Judgement:
        """How far `section` is from those that the model learned from.

        Raises
        ------
        ValueError
            If the section's features are missing or were made differently from those in training.
        """
        self.check(section)
        return self._judged(section)

    def _judged(self, section: Section) -> Judgement:
        """`judge` for a section whose features were checked, as `design` does: that reads all of them."""
        patients, group_key = self.config.get("groups", []), self.config.get("group_key")
        return self.trust.judge(section, self.sight, self.trained_on, patients, group_key, known=self.known_spots)

    @abstractmethod
    def embed(self, section: Section, *, use: str = "image") -> np.ndarray:
        """float32 (n_spots, d): the space in which the model compares spots; `use` names what to bring there."""

    def without_bank(self) -> Self:
        """The same without expression of single training spots, where the method predicts from any; else the model itself.

        Raises
        ------
        ValueError
            If it cannot predict without.
        """
        return self

    @abstractmethod
    def save(self, path: str | Path, *, share_bank: bool = True) -> None:
        """Write the model as a folder of ``model.safetensors`` and ``model.json``."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model that `save` wrote."""
