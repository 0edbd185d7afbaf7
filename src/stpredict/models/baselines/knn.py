"""Nearest neighbours: the expression of training spots that look alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict.models._data.linalg import principal_axes
from stpredict.models._retrieval.bank import Banked, bank_record, compact
from stpredict.models._retrieval.search import average, nearest, normalise, retrieve
from stpredict.models.baselines.base import Baseline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stpredict._sections.section import Section
    from stpredict.models._data.table import Table

N_AXES = 64
"""Principal axes of the design in which spots are compared."""


class Knn(Banked, Baseline):
    """Every spot gets the mean expression of the K training spots most similar to it.

    Similarity is the cosine between designs in their first principal axes; search is exact. The model is its bank:
    every training spot with its expression, the means of sections aligned so that neighbours from a shallow section
    do not pull a spot down. Uncertainty is the spread of the neighbours' expression, and that between sections.
    """

    method: ClassVar[str] = "knn"
    hyperparameter: ClassVar[str] = "k"
    candidates: ClassVar = (200, 100, 50, 20, 10)
    shapes: ClassVar = {
        "bank": ("m", "p"),
        "expression": ("m", "g"),
        "between": ("g",),
        "axes": ("d", "p"),
        "centre": ("d",),
        "k": ("o",),
    }

    def _table(self, sections: Sequence[Section], *how: Any) -> Table:
        table = super()._table(sections, *how)
        self.config["bank"] = bank_record(table, sections)
        return table

    def learn(self, table: Table, value: float) -> dict[str, np.ndarray]:
        """Principal axes, and the bank in them."""
        centre = table.design.mean(axis=0)
        axes = principal_axes(table.design - centre)[1][:, :N_AXES].astype(np.float32)
        return {
            "centre": centre,
            "axes": axes,
            "bank": compact(normalise((table.design - centre) @ axes)),
            "expression": compact(table.aligned().expression),
            "between": table.between_sections(),
            "k": np.array([min(value, len(table))], dtype=np.int64),
        }

    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the K neighbours, and standard deviation over them and between sections."""
        queries, k = _project(arrays, queries), int(arrays["k"][0])
        mean, spread = retrieve(queries, arrays["bank"], arrays["expression"], k=k, temperature=None)
        return mean, np.hypot(spread, np.sqrt(arrays["between"]))

    def try_candidates(self, table: Table, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Predictions with every K, from one search."""
        arrays = self.learn(table, max(self.candidates))
        neighbours, _ = nearest(_project(arrays, queries), arrays["bank"], int(arrays["k"][0]))
        for k in self.candidates:
            yield average(neighbours[:, :k], arrays["expression"])

    def _images(self, section: Section) -> np.ndarray:
        """float32 (n_spots, p): principal axes of the design, scaled to length 1."""
        return _project(self.arrays, self.design(section))


def _project(arrays: dict[str, np.ndarray], queries: np.ndarray) -> np.ndarray:
    return normalise((queries - arrays["centre"]) @ arrays["axes"])
