"""Ridge regression from the design to all genes at once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict.models._baseline import Baseline
from stpredict.models._linear import cross, principal_axes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stpredict.models._inner_cv import Table


class Ridge(Baseline):
    """Linear regression of every gene on the design, with one squared penalty for all genes.

    With the centred design ``X = U S Vᵀ`` the weights are ``V (S² + λ)⁻¹ Vᵀ Xᵀ Y``, so one decomposition serves the
    whole grid of penalties. ``λ = alpha · ‖X‖²``: alpha says how much penalty there is beside all of the design's
    variance, whatever the number of spots and features. Every feature vector (``obsm`` key) gets the same share of that
    variance: a long one does not drown a short one. Uncertainty is each gene's error on inner held-out spots.
    """

    method: ClassVar[str] = "ridge"
    hyperparameter: ClassVar[str] = "alpha"
    candidates: ClassVar = tuple(float(10**e) for e in np.arange(1, -5.5, -0.5))
    shapes: ClassVar = {"weights": ("d", "g"), "intercept": ("g",)}

    def learn(self, table: Table, value: float) -> dict[str, np.ndarray]:
        """Weights and intercept with alpha = `value`."""
        fit = _Decomposed(table, self.columns)
        weights = fit.axes @ fit.shrunken(value)
        return {
            "weights": weights.astype(np.float32),
            "intercept": (fit.level - fit.centre @ weights).astype(np.float32),
        }

    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, None]:
        """Weighted sums of the design."""
        return queries @ arrays["weights"] + arrays["intercept"], None

    def try_candidates(self, table: Table, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Predictions with every alpha, from one decomposition."""
        fit = _Decomposed(table, self.columns)
        scores = (queries - fit.centre) @ fit.axes
        for value in self.candidates:
            yield (scores @ fit.shrunken(value) + fit.level).astype(np.float32)


class _Decomposed:
    """A training table, levelled between sections, in the principal axes of its balanced design."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        table = table.levelled()
        self.centre = table.design.mean(axis=0, dtype=np.float64)
        self.level = table.expression.mean(axis=0, dtype=np.float64)
        balance = _balance(columns, table.design.shape[1])
        centred = ((table.design - self.centre) * balance).astype(np.float32)
        self.squares, axes = principal_axes(centred)
        self._along = axes.T @ cross(centred, table.expression - self.level.astype(np.float32))
        self.axes = balance[:, None] * axes

    def shrunken(self, alpha: float) -> np.ndarray:
        """Weights (axes, genes) with penalty `alpha`."""
        return self._along / (self.squares + alpha * self.squares.sum())[:, None]


def _balance(columns: Sequence[str], n: int) -> np.ndarray:
    """(n,): 1 / √(length of the feature vector that a column belongs to), relative to their mean."""
    if not columns:
        return np.ones(n)
    keys = [name.rsplit(":", 1)[0] for name in columns]
    lengths = Counter(keys)
    return np.sqrt(n / len(lengths) / np.array([lengths[key] for key in keys]))
