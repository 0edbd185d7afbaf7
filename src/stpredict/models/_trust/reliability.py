"""What predictions reached on held-out spots, gene by gene: correlation and errors."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict._evaluation.metrics import pearson

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

LEVELS = np.array([0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5])
LEVELS = np.concatenate([LEVELS, 1 - LEVELS[-2::-1]])
"""Quantiles of the errors that are kept."""

NORMAL_QUANTILES = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
"""The same quantiles of a standard normal distribution."""

MIN_SPOTS = 10
"""Held-out spots of a section that a correlation needs."""

MIN_GENES = 20
"""Genes that are needed to tell how the correlation follows other properties of a gene."""

ONE_UNIT_SD = 0.08
"""Standard deviation of a section's mean correlation around that of others, where one was held out only."""

BASE_SPOTS = 50
"""Measured spots as many as the errors of a base model count for."""

SPREAD_90 = 1.6448536
"""Half the width of the central 90 % interval of a normal distribution."""


@dataclass(frozen=True)
class Reliability:
    """What predictions for held-out spots of the training sections reached.

    Attributes
    ----------
    pcc
        float32 (genes,), Pearson correlation within a section to expect, drawn to that of genes that are alike in mean
        expression and in contrast of the prediction, the more the less is known of the gene.
    pcc_sd
        float32 (genes,), standard deviation of what another section reaches around it.
    errors
        float32 (levels, genes), quantiles `LEVELS` of measured minus predicted expression.
    spread
        float32 (genes,), root mean square of the method's own spread over training spots; 0 where it has none.
    """

    pcc: np.ndarray
    pcc_sd: np.ndarray
    errors: np.ndarray
    spread: np.ndarray

    PREFIX: ClassVar[str] = "held_out_"
    SHAPES: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "held_out_pcc": ("g",),
        "held_out_pcc_sd": ("g",),
        "held_out_errors": (len(LEVELS), "g"),
        "held_out_spread": ("g",),
    }

    @classmethod
    def learn(cls, measured: np.ndarray, predicted: np.ndarray, section: np.ndarray) -> Self:
        """Learn from expression (spots, genes) of held-out spots, and the number of the `section` of each.

        Genes that were not predicted are NaN; they get what genes alike got.
        """
        errors = measured - predicted
        known = np.isfinite(predicted).all(axis=0)
        units = [section == i for i in np.unique(section) if np.count_nonzero(section == i) >= MIN_SPOTS]
        units = units or [np.ones(len(section), dtype=bool)]
        reached = np.stack([pearson(measured[rows], predicted[rows])[0] for rows in units])
        sizes = np.array([np.count_nonzero(rows) for rows in units])
        pcc, sd = _expected(reached, sizes, _properties(measured, predicted, units), known)
        quantiles = np.zeros((len(LEVELS), len(known)), dtype=np.float32)
        quantiles[:, known] = np.quantile(errors[:, known], LEVELS, axis=0)
        if not known.all():
            size = np.maximum(measured.std(axis=0), 1e-6)
            usual = np.median(quantiles[:, known] / size[known], axis=1) if known.any() else np.zeros(len(LEVELS))
            quantiles[:, ~known] = usual[:, None] * size[~known]
        nothing = np.zeros(len(known), dtype=np.float32)
        return cls(pcc.astype(np.float32), sd.astype(np.float32), quantiles, nothing)

    def drawn_to(self, base: Reliability, columns: np.ndarray, n_spots: int) -> Reliability:
        """Join with what a `base` model says of its genes in these columns, -1 for others; from `n_spots` was learned here.

        The fewer the spots, the more the base model says.
        """
        known = columns >= 0
        own = np.square(1 - np.square(self.pcc)) / max(n_spots - 1, 1)
        before = np.square(base.pcc_sd[columns])
        weight = np.where(known, before / np.maximum(before + own, 1e-12), 1)
        pcc = weight * self.pcc + (1 - weight) * np.where(known, base.pcc[columns], 0)
        sd = np.where(known, np.sqrt(before * own / np.maximum(before + own, 1e-12) + ONE_UNIT_SD**2), self.pcc_sd)
        share = n_spots / (n_spots + BASE_SPOTS)
        errors = np.where(known, share * self.errors + (1 - share) * base.errors[:, columns], self.errors)
        return Reliability(pcc.astype(np.float32), sd.astype(np.float32), errors.astype(np.float32), self.spread)

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """(genes,) each: from the prediction to the ends of the central interval that holds a share `level` of spots."""
        return central(self.errors, level)

    def width(self) -> np.ndarray:
        """(genes,): standard deviation of the normal distribution whose 90 % interval is as wide as that of the errors."""
        low, high = self.interval(0.9)
        return (high - low) / (2 * SPREAD_90)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model stores of it."""
        return {f"{self.PREFIX}{name}": values for name, values in vars(self).items()}

    @classmethod
    def stored_in(cls, arrays: Mapping[str, np.ndarray]) -> Self | None:
        """What `arrays` returned, among the arrays of a model; None where there is none."""
        if not cls.SHAPES.keys() <= arrays.keys():
            return None
        return cls(**{name.removeprefix(cls.PREFIX): arrays[name] for name in cls.SHAPES})


def central(errors: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """(genes,) each: ends of the central interval that holds a share `level` of errors with quantiles (levels, genes)."""
    return _at(errors, (1 - level) / 2), _at(errors, (1 + level) / 2)


def _at(errors: np.ndarray, level: float) -> np.ndarray:
    """Quantile `level` of every gene's errors, between those that are kept."""
    above = int(np.clip(np.searchsorted(LEVELS, level), 1, len(LEVELS) - 1))
    low, high = LEVELS[above - 1 : above + 1]
    share = np.clip((level - low) / (high - low), 0, 1)
    return (1 - share) * errors[above - 1] + share * errors[above]


def _properties(measured: np.ndarray, predicted: np.ndarray, units: list[np.ndarray]) -> np.ndarray:
    """(genes, 4): constant, mean expression and its square, and contrast of the prediction over that of the measurement."""
    level = measured.mean(axis=0, dtype=np.float64)
    spread = np.mean([measured[rows].std(axis=0) for rows in units], axis=0)
    contrast = np.mean([predicted[rows].std(axis=0) for rows in units], axis=0) / np.maximum(spread, 1e-6)
    return np.column_stack([np.ones_like(level), level, np.square(level), np.minimum(contrast, 1)])


def _expected(
    reached: np.ndarray, sizes: np.ndarray, properties: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation to expect (genes,) and its standard deviation in another section.

    `reached` (units, genes) is read as the gene's own correlation plus what differs by section; the former as what its
    properties tell plus what is the gene's alone.
    """
    n = len(reached)
    mean = reached.mean(axis=0)
    chance = np.mean(np.square(1 - np.square(mean[None])) / np.maximum(sizes - 1, 1)[:, None], axis=0)
    if n > 1:
        deviations = reached - reached.mean(axis=1, keepdims=True)
        by_section = max(float(deviations[:, known].var(axis=0, ddof=1).mean()), float(chance.mean()))
        whole = float(reached[:, known].mean(axis=1).std(ddof=1)) * np.sqrt(1 + 1 / n)
    else:
        by_section, whole = float(chance.mean()), ONE_UNIT_SD
    noise = by_section / n
    fit = known & np.isfinite(properties).all(axis=1)
    if fit.sum() >= MIN_GENES:
        weights, *_ = np.linalg.lstsq(properties[fit], mean[fit], rcond=None)
        contrast = float(np.median(properties[fit, 3]))
        alike = np.where(np.isfinite(properties), properties, contrast) @ weights
    else:
        alike = np.full(len(mean), mean[fit].mean() if fit.any() else 0.0)
    own = max(float(np.square(mean - alike)[fit].mean()) - noise, 0.0) if fit.sum() >= MIN_GENES else noise
    weight = np.where(known, own / max(own + noise, 1e-12), 0.0)
    left = own * (1 - weight)
    return alike + weight * (mean - alike), np.sqrt(left + by_section + whole**2)
