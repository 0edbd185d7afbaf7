"""From a table of scores to one number per method, panel and unit: what intervals are taken over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

LOWER_IS_BETTER = ("mse",)


def unit_of(table: pd.DataFrame) -> str | None:
    """Column of the units that are independent: ``"fold"`` (groups) where there are two, else ``"section"``, else None."""
    return next((name for name in ("fold", "section") if name in table and table[name].nunique() > 1), None)


def unit_values(table: pd.DataFrame, unit: str) -> pd.Series:
    """Value by method, panel, unit and seed: mean over the genes of each section, then over the unit's sections."""
    table = table.assign(seed=0) if "seed" not in table else table
    table = table.assign(section="") if "section" not in table else table
    keys = ["method", "panel", unit, "seed"]
    fine = list(dict.fromkeys([*keys, "section", *(name for name in ("n_train", "repeat") if name in table)]))
    return table.groupby(fine, observed=True)["value"].mean().groupby(keys, observed=True).mean()


def student_interval(sample: np.ndarray) -> tuple[float, float, float]:
    """Mean, and both ends of its 95 % interval by Student's t; NaN where there are too few values."""
    from scipy.stats import t

    sample = np.asarray(sample, dtype=float)
    if len(sample) == 0:
        return np.nan, np.nan, np.nan
    mean = float(sample.mean())
    if len(sample) == 1:
        return mean, np.nan, np.nan
    reach = float(t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return mean, mean - reach, mean + reach
