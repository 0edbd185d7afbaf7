"""Density map: how far one gets by knowing where the cells are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict.models._data.linalg import principal_axes
from stpredict.models.baselines.base import Baseline

if TYPE_CHECKING:
    from stpredict._sections.section import Section
    from stpredict.models._data.table import Table

DENSITY_FEATURES = ("nucleus_count", "nucleus_area", "hematoxylin")
"""Features that tell how many nuclei there are, best first."""


class Density(Baseline):
    """One number per spot predicts the total count, and the predicted total predicts every gene.

    The number is the density of nuclei (or of haematoxylin) where the encoder names such a feature, else the first
    principal component of the features. Total counts follow it linearly, and each gene follows the predicted log
    total linearly. A rival that any model of single genes must beat: much of what looks like gene expression is
    cell density.
    """

    method: ClassVar[str] = "density"
    shapes: ClassVar = {"direction": ("d",), "total": ("t",), "slope": ("g",), "level": ("g",)}

    def learn(self, table: Table, value: float) -> dict[str, np.ndarray]:
        """Regress log total on density, then genes on the predicted log total."""
        table = table.aligned()
        direction = self._direction(table)
        density = table.design @ direction
        rise, level = _line(density, table.log_total[:, None])
        slope, genes_level = _line(rise * density + level, table.expression)
        return {
            "direction": direction,
            "total": np.array([rise[0], level[0]], dtype=np.float32),
            "slope": slope.astype(np.float32),
            "level": genes_level.astype(np.float32),
        }

    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, None]:
        """Density, to log total, to genes."""
        rise, level = arrays["total"]
        total = rise * (queries @ arrays["direction"]) + level
        return total[:, None] * arrays["slope"] + arrays["level"], None

    def _images(self, section: Section) -> np.ndarray:
        """float32 (n_spots, 1): the density."""
        return (self.design(section) @ self.arrays["direction"])[:, None]

    def _direction(self, table: Table) -> np.ndarray:
        """Weights (d,) that make the density out of a spot's design."""
        direction = np.zeros(table.design.shape[1], dtype=np.float32)
        for name in DENSITY_FEATURES:
            for column, known in enumerate(self.columns):
                if known.endswith(f":{name}"):
                    direction[column] = 1
                    return direction
        _, axes = principal_axes(table.design - table.design.mean(axis=0))
        if axes.shape[1]:
            direction[:] = axes[:, 0]
        return direction


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares slope and level of every column of `y` on `x`; a constant `x` has slope 0."""
    centred = x - x.mean(dtype=np.float64)
    power = centred @ centred
    mean = y.mean(axis=0, dtype=np.float64)
    slope = centred @ (y - mean) / power if power > 1e-12 * len(x) else np.zeros(y.shape[1])
    return slope, mean - slope * x.mean(dtype=np.float64)
