"""Ridge regression from the design to all genes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict._sections.niches import spot_key
from stpredict.models._data.linalg import cross, principal_axes
from stpredict.models.baselines.base import Baseline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stpredict.models._data.table import Table


class Ridge(Baseline):
    """Linear regression of every gene on the design, with one squared penalty for all genes.

    With the centred design ``X = U S Vᵀ`` the weights are ``V (S² + λ)⁻¹ Vᵀ Xᵀ Y``, so one decomposition serves the
    whole grid of penalties. ``λ = alpha · ‖X‖²``: alpha says how much penalty there is beside all of the design's
    variance, whatever the number of spots and features.

    Every encoder has a regression of its own, on its spot and niche features, and the prediction is their mean, which is
    linear again: so a network's 1,280 features do not drown 77 others, and encoders that err differently correct each
    other. Uncertainty is each gene's error on inner held-out spots.
    """

    method: ClassVar[str] = "ridge"
    hyperparameter: ClassVar[str] = "alpha"
    candidates: ClassVar = tuple(float(10**e) for e in np.arange(1, -5.5, -0.5))
    shapes: ClassVar = {"weights": ("d", "g"), "intercept": ("g",)}

    def learn(self, table: Table, value: float) -> dict[str, np.ndarray]:
        """Weights and intercept with alpha = `value`."""
        table = table.aligned()
        weights = np.zeros((table.design.shape[1], table.expression.shape[1]))
        level = table.expression.mean(axis=0, dtype=np.float64)
        parts = self._encoders(table)
        for columns in parts:
            fit = _Decomposed(table, columns)
            weights[columns] = fit.axes @ fit.shrunken(value) / len(parts)
        centre = table.design.mean(axis=0, dtype=np.float64)
        return {"weights": weights.astype(np.float32), "intercept": (level - centre @ weights).astype(np.float32)}

    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, None]:
        """Weighted sums of the design."""
        return queries @ arrays["weights"] + arrays["intercept"], None

    def try_candidates(self, table: Table, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Predictions with every alpha, from one decomposition per encoder."""
        table = table.aligned()
        level = table.expression.mean(axis=0, dtype=np.float64)
        fits = [_Decomposed(table, columns) for columns in self._encoders(table)]
        scores = [(queries[:, fit.columns] - fit.centre) @ fit.axes for fit in fits]
        for value in self.candidates:
            parts = [score @ fit.shrunken(value) for score, fit in zip(scores, fits, strict=True)]
            yield (np.mean(parts, axis=0) + level).astype(np.float32)

    def _encoders(self, table: Table) -> list[np.ndarray]:
        """Column numbers of every encoder's features, spot and niche together."""
        if not self.columns:
            return [np.arange(table.design.shape[1])]
        slots = [name.rsplit(":", 1)[0] for name in self.columns]
        encoders = [spot_key(key) for key in slots]
        return [np.flatnonzero([name == encoder for name in encoders]) for encoder in dict.fromkeys(encoders)]


class _Decomposed:
    """Some columns of a training table's design in their principal axes, and what expression does along these."""

    def __init__(self, table: Table, columns: np.ndarray) -> None:
        design = table.design[:, columns]
        self.columns = columns
        self.centre = design.mean(axis=0, dtype=np.float64)
        centred = (design - self.centre).astype(np.float32)
        self.squares, self.axes = principal_axes(centred)
        level = table.expression.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._along = self.axes.T @ cross(centred, table.expression - level)

    def shrunken(self, alpha: float) -> np.ndarray:
        """Weights (axes, genes) with penalty `alpha`."""
        return self._along / (self.squares + alpha * self.squares.sum())[:, None]
