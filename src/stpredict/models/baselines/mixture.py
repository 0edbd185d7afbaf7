"""Half ridge, half nearest neighbours: the two err differently."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._sections.spread import moments
from stpredict.models._base.contract import needs_spots
from stpredict.models._data.chunks import Parts
from stpredict.models._data.folds import Choice, choose
from stpredict.models.baselines.base import Baseline
from stpredict.models.baselines.knn import Knn
from stpredict.models.baselines.ridge import Ridge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from stpredict.models._data.table import Table

PARTS: tuple[type[Baseline], ...] = (Ridge, Knn)


class Mixture(Baseline):
    """The mean of `Ridge` and `Knn`, each gene of each standardised over the section first.

    A linear model reaches beyond what it has seen and neighbours follow what is not linear; where they disagree, their
    mean has less contrast than either. Mean and standard deviation of a gene are the means of both. Each has its own
    hyper-parameter, chosen as if it stood alone. Uncertainty is each gene's error on inner held-out spots.
    """

    method: ClassVar[str] = "mixture"
    compares_spots = True
    shapes: ClassVar = {f"{part.method}_{name}": dims for part in PARTS for name, dims in part.shapes.items()}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._parts = {part.method: part(**options) for part in PARTS}

    def learn(self, table: Table, value: float) -> dict[str, np.ndarray]:
        """Arrays of both, with the hyper-parameters in ``config``."""
        learned = {name: part.learn(table, self.config[part.hyperparameter]) for name, part in self._parts.items()}
        return {f"{name}_{array}": values for name, arrays in learned.items() for array, values in arrays.items()}

    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, None]:
        """Predictions of both for all spots of a section, mixed."""
        return mix(self._both(arrays, queries)), None

    def apply_to(self, queries: Parts[np.ndarray]) -> Parts[tuple[np.ndarray, None]]:
        """`apply` to a section that comes in parts, which are predicted once beforehand."""
        return mixed(queries.map(partial(self._both, self.arrays))).map(lambda mean: (mean, None))

    def without_bank(self) -> Self:
        """Refuse: neighbours are half of it.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(needs_spots(self.method))

    def _both(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> list[np.ndarray]:
        return [part.apply(_own(arrays, name), queries)[0] for name, part in self._parts.items()]

    def _choose(self, table: Table) -> Choice:
        """Each part's hyper-parameter by itself, then the error of both together."""
        for part in self._parts.values():
            part.columns = self.columns
            choice = choose(table, part.candidates, self.structured(part.try_candidates))
            self.config[part.hyperparameter] = choice.value
        return super()._choose(table)


def mix(predictions: Sequence[np.ndarray]) -> np.ndarray:
    """float32 (spots, genes): mean of standardised predictions, at the mean of their levels and standard deviations."""
    (whole,) = mixed(Parts(lambda _: predictions, 1, 1))
    return whole


def mixed(predictions: Parts[Sequence[np.ndarray]]) -> Parts[np.ndarray]:
    """`mix` of predictions for one section that come in parts, of every method one."""
    level, sd = moments(predictions.map(partial(np.stack, axis=1)))
    constant = sd <= 1e-6 * np.abs(level) + 1e-9
    factor = np.where(constant, 0, 1 / np.where(constant, 1, sd)).astype(np.float32)
    level, contrast = level.astype(np.float32), (sd.mean(axis=0) / len(sd)).astype(np.float32)

    def together(several: Sequence[np.ndarray]) -> np.ndarray:
        pattern = sum((one - own) * size for one, own, size in zip(several, level, factor, strict=True))
        return (level.mean(axis=0) + contrast * pattern).astype(np.float32)

    return predictions.map(together)


def _own(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}_"): values for key, values in arrays.items() if key.startswith(f"{name}_")}
