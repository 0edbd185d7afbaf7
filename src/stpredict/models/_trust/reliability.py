"""What predictions reached on held-out spots, gene by gene: correlation and errors."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict._evaluation.metrics import pearson
from stpredict.models._trust.stored import StoredArrays

if TYPE_CHECKING:
    from collections.abc import Callable
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
class Reliability(StoredArrays):
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
    def learn(
        cls, measured: np.ndarray, predicted: np.ndarray, section: np.ndarray, between: np.ndarray | None = None
    ) -> Self:
        """Learn from expression (spots, genes) of held-out spots, and the number of the `section` of each.

        Genes that were not predicted, or not measured in a section, are NaN there; those that are nowhere both get what
        genes alike got. Where spots of one section only were held out, `between` (genes,) says how much the mean of
        a new section varies.
        """
        errors = measured - predicted
        if between is not None and len(np.unique(section)) == 1:
            errors = _with_level(errors, between)
        known = np.isfinite(errors).any(axis=0)
        units = [section == i for i in np.unique(section) if np.count_nonzero(section == i) >= MIN_SPOTS]
        units = units or [np.ones(len(section), dtype=bool)]
        reached = np.stack([pearson(measured[rows], predicted[rows])[0] for rows in units])
        reached[np.stack([np.isnan(errors[rows]).any(axis=0) for rows in units])] = np.nan  # not measured there
        sizes = np.array([np.count_nonzero(rows) for rows in units])
        pcc, sd = _expected(reached, sizes, _properties(measured, predicted, units), known)
        quantiles = np.zeros((len(LEVELS), len(known)), dtype=np.float32)
        whole = np.isfinite(errors).all(axis=0)
        quantiles[:, whole] = np.quantile(errors[:, whole], LEVELS, axis=0)
        quantiles[:, known & ~whole] = np.nanquantile(errors[:, known & ~whole], LEVELS, axis=0)
        if not known.all():
            size = np.maximum(np.nan_to_num(_over(measured, np.nanstd)), 1e-6)
            usual = np.median(quantiles[:, known] / size[known], axis=1) if known.any() else np.zeros(len(LEVELS))
            quantiles[:, ~known] = usual[:, None] * size[~known]
        nothing = np.zeros(len(known), dtype=np.float32)
        return cls(pcc.astype(np.float32), sd.astype(np.float32), quantiles, nothing)

    def drawn_to(self, base: Reliability, columns: np.ndarray, n_spots: int) -> Reliability:
        """Join with what a `base` model says of its genes in these columns, -1 for others; from `n_spots` was learned here.

        The fewer the spots, the more the base model says. Few spots may correlate perfectly by chance, so the error of their
        correlation is never taken for less than that of as many spots with the correlation of the base model.
        """
        known = columns >= 0
        least = np.minimum(np.square(self.pcc), np.square(base.pcc[columns]))
        own = np.square(1 - least) / max(n_spots - 1, 1)
        before = np.square(base.pcc_sd[columns])
        weight = np.where(known, before / np.maximum(before + own, 1e-12), 1)
        pcc = weight * self.pcc + (1 - weight) * base.pcc[columns]
        sd = np.where(known, np.sqrt(before * own / np.maximum(before + own, 1e-12) + ONE_UNIT_SD**2), self.pcc_sd)
        share = n_spots / (n_spots + BASE_SPOTS)
        errors = np.where(known, share * self.errors + (1 - share) * base.errors[:, columns], self.errors)
        return Reliability(pcc.astype(np.float32), sd.astype(np.float32), errors.astype(np.float32), self.spread)


def central(errors: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """(genes,) each: ends of the central interval that holds a share `level` of errors with quantiles (levels, genes)."""
    return _at(errors, (1 - level) / 2), _at(errors, (1 + level) / 2)


def width(errors: np.ndarray) -> np.ndarray:
    """(genes,): standard deviation of the normal distribution whose 90 % interval is as wide as that of the `errors`."""
    low, high = central(errors, 0.9)
    return (high - low) / np.float32(2 * SPREAD_90)


def with_shift(errors: np.ndarray, sd: float) -> np.ndarray:
    """Quantiles (levels, genes) of errors to which a normal one with standard deviation `sd` comes, which all spots share."""
    middle, normal = errors[len(LEVELS) // 2], NORMAL_QUANTILES[:, None]
    wider: np.ndarray = middle + np.sign(normal) * np.hypot(errors - middle, sd * normal)
    return wider.astype(np.float32)


def _at(errors: np.ndarray, level: float) -> np.ndarray:
    """Quantile `level` of every gene's errors, between those that are kept."""
    above = int(np.clip(np.searchsorted(LEVELS, level), 1, len(LEVELS) - 1))
    low, high = LEVELS[above - 1 : above + 1]
    share = np.clip((level - low) / (high - low), 0, 1)
    return (1 - share) * errors[above - 1] + share * errors[above]


def _with_level(errors: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Errors on one section, its own level replaced by the variance `between` the levels of sections."""
    centred = errors - errors.mean(axis=0)
    within = np.maximum(centred.var(axis=0), 1e-12)
    return centred * np.sqrt(1 + between / within)


def _over(values: np.ndarray, statistic: Callable[..., np.ndarray]) -> np.ndarray:
    """A `statistic` of numpy's that leaves NaN out, over rows; NaN where there is nothing else, without a warning."""
    nothing = np.isnan(values).all(axis=0)
    return np.where(nothing, np.nan, statistic(np.where(nothing, 0, values), axis=0))


def _properties(measured: np.ndarray, predicted: np.ndarray, units: list[np.ndarray]) -> np.ndarray:
    """(genes, 4): constant, mean expression and its square, and contrast of the prediction over that of the measurement."""
    level = _over(measured, np.nanmean).astype(np.float64)
    spread = _over(np.stack([measured[rows].std(axis=0) for rows in units]), np.nanmean)
    contrast = _over(np.stack([predicted[rows].std(axis=0) for rows in units]), np.nanmean) / np.maximum(spread, 1e-6)
    return np.column_stack([np.ones_like(level), level, np.square(level), np.minimum(contrast, 1)])


def _expected(
    reached: np.ndarray, sizes: np.ndarray, properties: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation to expect (genes,) and its standard deviation in another section.

    `reached` (units, genes) is read as the gene's own correlation plus what differs by section; the former as what its
    properties tell plus what is the gene's alone.
    """
    n = np.maximum(np.isfinite(reached).sum(axis=0), 1)
    mean = np.nan_to_num(_over(reached, np.nanmean))
    usual = np.square(1 - np.square(mean)).mean()
    chance = float(np.mean(np.where(sizes < MIN_SPOTS, 1, usual) / (sizes - 1)))  # (few correlate perfectly by chance)
    by_section, whole = chance, ONE_UNIT_SD
    if len(reached) > 1 and known.any():
        of_unit = np.nanmean(reached[:, known], axis=1)
        away = _over(
            reached - of_unit[:, None] - (mean - mean[known].mean()), lambda x, axis: np.nanmean(x**2, axis=axis)
        )
        several = known & (n > 1)
        if several.any():
            by_section = max(float((away[several] * n[several] / (n[several] - 1)).mean()), chance)
        whole = float(of_unit.std(ddof=1)) * np.sqrt(1 + 1 / len(reached))
    noise = by_section / n
    fit = known & np.isfinite(properties).all(axis=1)
    if fit.sum() < MIN_GENES:
        return mean, np.sqrt(noise + by_section + whole**2)
    weights, *_ = np.linalg.lstsq(properties[fit], mean[fit], rcond=None)
    low, middle, high = np.quantile(properties[fit], [0, 0.5, 1], axis=0)  # beyond them a parabola leads anywhere
    alike = np.clip(np.where(np.isfinite(properties), properties, middle), low, high) @ weights
    own = max(float((np.square(mean - alike) - noise)[fit].mean()), 0.0)
    weight = np.where(known, own / np.maximum(own + noise, 1e-12), 0.0)
    return alike + weight * (mean - alike), np.sqrt(own * (1 - weight) + by_section + whole**2)
