"""Which values a model's predictions have, gene by gene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict.models._trust.stored import StoredArrays

if TYPE_CHECKING:
    from typing import Self

ENDS = (0.01, 0.99)
"""Quantiles of the predictions for held-out training spots between which the values of a gene are said to lie."""


@dataclass(frozen=True)
class Span(StoredArrays):
    """Between which values predictions for held-out training spots lie.

    Attributes
    ----------
    ends
        float32 (2, genes), quantiles `ENDS` of the predictions; NaN for genes that were not predicted for all spots.
    """

    ends: np.ndarray

    PREFIX: ClassVar[str] = "held_out_span_"
    SHAPES: ClassVar[dict[str, tuple[str | int, ...]]] = {"held_out_span_ends": (2, "g")}

    @classmethod
    def learn(cls, predicted: np.ndarray) -> Self:
        """Learn from predictions (spots, genes) for held-out spots."""
        return cls(np.quantile(predicted, ENDS, axis=0).astype(np.float32))

    def joined(self, base: Span, columns: np.ndarray) -> Span:
        """Between the ends of both, where a `base` model has the genes in these columns; -1 for others."""
        known = np.where(columns >= 0, base.ends[:, columns], np.nan)
        low, high = np.fmin(self.ends[0], known[0]), np.fmax(self.ends[1], known[1])
        return Span(np.stack([low, high]).astype(np.float32))
