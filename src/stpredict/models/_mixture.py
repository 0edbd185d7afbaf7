"""Half ridge, half nearest neighbours: the two err differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict.models._baseline import Baseline
from stpredict.models._inner_cv import Choice, Table, choose
from stpredict.models._knn import Knn
from stpredict.models._ridge import Ridge

if TYPE_CHECKING:
    from collections.abc import Iterable

PARTS: tuple[type[Baseline], ...] = (Ridge, Knn)


class Mixture(Baseline):
    """The mean of `Ridge` and `Knn`, each gene of each standardised over the section first.

    A linear model reaches beyond what it has seen and neighbours follow what is not linear; where they disagree, their
    mean has less contrast than either. Mean and standard deviation of a gene are the means of both. Each has its own
    hyper-parameter, chosen as if it stood alone. Uncertainty is each gene's error on inner held-out spots.
    """

    method: ClassVar[str] = "mixture"
    shapes: ClassVar = {f"{part.method}_{name}": dims for part in PARTS for name, dims in part.shapes.items()}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._parts = {part.method: part(**options) for part in PARTS}

    def learn(self, table: Table, value: float) -> dict[str, np.ndarray]:
        """Arrays of both, with the hyper-parameters in ``config``."""
        learned = {name: part.learn(table, self.config[part.hyperparameter]) for name, part in self._parts.items()}
        return {f"{name}_{array}": values for name, arrays in learned.items() for array, values in arrays.items()}

    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, None]:
        """Predictions of both, mixed."""
        return mix([part.apply(_own(arrays, name), queries)[0] for name, part in self._parts.items()]), None

    def _choose(self, table: Table) -> Choice:
        """Each part's hyper-parameter by itself, then the error of both together."""
        for part in self._parts.values():
            part.columns = self.columns
            choice = choose(table, part.candidates, self.structured(part.try_candidates))
            self.config[part.hyperparameter] = choice.value
        return super()._choose(table)


def mix(predictions: Iterable[np.ndarray]) -> np.ndarray:
    """float32 (spots, genes): mean of standardised predictions, at the mean of their levels and standard deviations."""
    several = [np.asarray(one, dtype=np.float32) for one in predictions]
    pattern = level = size = 0
    for one in several:
        mean, sd = one.mean(axis=0), one.std(axis=0)
        constant = sd <= 1e-6 * np.abs(mean) + 1e-9
        pattern = pattern + (one - mean) * np.where(constant, 0, 1 / np.where(constant, 1, sd))
        level, size = level + mean, size + sd
    n = len(several)
    return (level / n + (size / n) * (pattern / n)).astype(np.float32)


def _own(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}_"): values for key, values in arrays.items() if key.startswith(f"{name}_")}
