"""Training mean: what is known without an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict.models._data.table import mean_over_sections
from stpredict.models.baselines.base import Baseline

if TYPE_CHECKING:
    from stpredict._sections.section import Section
    from stpredict.models._data.table import Table


class Mean(Baseline):
    """Every spot gets each gene's mean over the training sections, every section counting the same.

    It needs no features. Its correlation with anything is 0 by construction; its error is the one to beat.
    """

    method: ClassVar[str] = "mean"
    shapes: ClassVar = {"mean": ("g",)}
    uses_features: ClassVar[bool] = False

    def learn(self, table: Table, value: float) -> dict[str, np.ndarray]:
        """Mean over sections of the means over their spots."""
        return {"mean": mean_over_sections(table.section_means(table.expression))}

    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, None]:
        """Repeat the mean."""
        return np.tile(arrays["mean"], (len(queries), 1)), None

    def _images(self, section: Section) -> np.ndarray:
        """float32 (n_spots, 0): all spots are the same to this model."""
        return np.zeros((len(section), 0), dtype=np.float32)
