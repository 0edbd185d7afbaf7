"""What a prediction says of itself, held against what it reached."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OF_STATED_PCC = ("stated_pcc", "stated_r", "stated_excess")
OF_STATED_ENDS = ("interval_coverage", "interval_level")
OF_STATED = (*OF_STATED_PCC, *OF_STATED_ENDS, "distance")
"""Metrics of what `tl.predict_expression` says of its own prediction."""

MIN_GENES = 3
"""Genes that a correlation over genes needs."""


@dataclass(frozen=True)
class Stated:
    """What a prediction of one section says of itself; None or NaN where it says nothing.

    Attributes
    ----------
    pcc
        (genes,), Pearson correlation over spots to expect.
    ends
        (spots, genes) each, lower and upper ends of intervals.
    level
        Share of spots that these intervals are to hold.
    distance
        Median over spots of the distance from training spots.
    """

    pcc: np.ndarray | None = None
    ends: tuple[np.ndarray, np.ndarray] | None = None
    level: float = np.nan
    distance: float = np.nan

    def metrics(self) -> list[str]:
        """Those of `OF_STATED` that can be computed."""
        known = {
            "distance": np.isfinite(self.distance),
            "interval_coverage": self.ends is not None,
            "interval_level": self.ends is not None and np.isfinite(self.level),
        }
        says_pcc = self.pcc is not None and bool(np.isfinite(self.pcc).any())
        return [metric for metric in OF_STATED if known.get(metric, says_pcc)]

    def taken(self, rows: np.ndarray, columns: np.ndarray) -> Stated:
        """The same of some spots and genes; NaN for columns of −1."""
        ends = None
        if self.ends is not None:
            low, high = (np.where(columns < 0, np.nan, end[rows][:, columns]) for end in self.ends)
            ends = low, high
        pcc = None if self.pcc is None else np.where(columns < 0, np.nan, self.pcc[columns])
        return Stated(pcc, ends, self.level, self.distance)


def stated_r(stated: np.ndarray, reached: np.ndarray) -> float:
    """Correlation over genes of the stated with the reached correlation; NaN where either does not vary."""
    known = np.isfinite(stated) & np.isfinite(reached)
    if known.sum() < MIN_GENES or min(np.ptp(stated[known]), np.ptp(reached[known])) < 1e-6:
        return np.nan
    return float(np.corrcoef(stated[known], reached[known])[0, 1])


def stated_excess(stated: np.ndarray, reached: np.ndarray) -> float:
    """Mean over genes of the stated minus the reached correlation: above 0 where too much was promised."""
    known = np.isfinite(stated) & np.isfinite(reached)
    return float((stated - reached)[known].mean()) if known.any() else np.nan


def share_inside(measured: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Share of spots whose measured value lies between the ends of its interval, (genes,); NaN where there is none."""
    known = np.isfinite(low) & np.isfinite(high) & np.isfinite(measured)
    inside = known & (low <= measured) & (measured <= high)
    with np.errstate(invalid="ignore"):  # (0 / 0)
        return inside.sum(axis=0) / known.sum(axis=0)
