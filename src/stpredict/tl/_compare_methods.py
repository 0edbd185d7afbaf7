"""Which method is better, and whether the data can tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict._evaluation.target import one_target
from stpredict._evaluation.units import LOWER_IS_BETTER, student_interval, unit_of, unit_values

if TYPE_CHECKING:
    from collections.abc import Sequence

BASELINES = ("mean", "density", "ridge", "knn", "mixture")
SHARE_MOVED = 0.01
"""A share of the ceiling that moves by more than this has one digit."""

NEEDED = ("method", "panel", "gene", "metric", "value")


def compare_methods(
    scores: pd.DataFrame, *, against: str | None = None, metric: str = "pcc", panels: Sequence[str] | None = None
) -> pd.DataFrame:
    """Summarise scores, with paired differences between methods and their intervals.

    Scores are averaged over genes within each section, over the sections of each unit, and over seeds. Units are the
    groups (patients) of the folds where there are two or more, else sections; methods are compared unit by unit, never
    gene by gene, since the genes of one patient are not independent. A difference is called clear only if its 95 %
    interval (Student's t over units) excludes zero.

    Parameters
    ----------
    scores
        What `stpredict.tl.cross_validate` returned.
    against
        Method to compare with; by default, panel by panel, the best baseline: the best one whose label begins with
        ``mean``, ``density``, ``ridge``, ``knn`` or ``mixture``.
    metric
        Metric to compare. For ``"mse"`` lower is better.
    panels
        Panels to summarise, by default all.

    Returns
    -------
    One row per panel and method:

    - ``mean``, and ``seed_sd``, the standard deviation over ``n_seeds`` seeds of that mean
    - ``ceiling`` and ``of_ceiling``, mean noise ceiling and the share of it (for ``"pcc"``, where the table has it),
      the share with no more digits than the thinning allows: two, and one where another seed moves it by more than .01
    - ``given_depth``, mean of ``"pcc_given_depth"`` (for ``"pcc"``, where the table has it): the part that sequencing
      depth does not explain
    - ``against``, and the mean paired ``difference`` to it with its 95 % interval ``low`` to ``high``
    - ``wins`` in ``n`` units, and what the ``unit`` is, ``"group"`` or ``"section"``
    - ``clear``: whether the interval excludes zero

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the table has no such metric, panel or method, if it holds scores against two targets, or if it has no
        baseline and `against` is not given.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as st
    >>> values = {"ridge": [0.30, 0.20, 0.40], "ours": [0.34, 0.25, 0.43]}
    >>> rows = [(method, f"P{i}", pcc) for method, of in values.items() for i, pcc in enumerate(of)]
    >>> table = pd.DataFrame(rows, columns=["method", "fold", "value"]).assign(panel="HEG", gene="ERBB2", metric="pcc")
    >>> row = st.tl.compare_methods(table).set_index("method").loc["ours"]
    >>> (
    ...     f"{row['difference']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
    ...     f"{row['wins']} of {row['n']}",
    ...     bool(row["clear"]),
    ... )
    ('0.04 (0.02 to 0.06)', '3 of 3', True)
    """
    if missing := [name for name in NEEDED if name not in scores]:
        msg = f"The table lacks the column(s) {', '.join(missing)}; pass what stpredict.tl.cross_validate returned."
        raise KeyError(msg)
    one_target(scores)
    _known([metric], scores["metric"], "metric")
    _known(panels or [], scores["panel"], "panel")
    _known([] if against is None else [against], scores["method"], "method")
    unit = unit_of(scores) or next((name for name in ("fold", "section") if name in scores), None)
    if unit is None:
        msg = "The table has neither a column 'fold' nor 'section': there is nothing to pair by."
        raise KeyError(msg)
    by_seed = unit_values(scores[scores["metric"] == metric], unit)
    values = by_seed.groupby(["method", "panel", unit], observed=True).mean().unstack(unit)
    ceilings = _over_units(scores, ["panel"], "ceiling") if metric == "pcc" else None
    given_depth = _over_units(scores, ["panel", "method"], "pcc_given_depth") if metric == "pcc" else None
    moved = _ceilings_moved(scores)
    rows = []
    for panel in scores["panel"].unique() if panels is None else panels:
        of_panel = values.xs(panel, level="panel")
        of_panel = of_panel.loc[[name for name in scores["method"].unique() if name in of_panel.index]]
        rival = _best_baseline(of_panel, metric) if against is None else against
        for method, own in of_panel.iterrows():
            over_seeds = by_seed.xs((method, panel), level=("method", "panel")).groupby(level="seed").mean()
            row = {"panel": panel, "method": method, "mean": own.mean()}
            row |= {"seed_sd": over_seeds.std(ddof=1), "n_seeds": len(over_seeds)}
            if ceilings is not None:
                share = own.mean() / ceilings[panel]
                digits = 1 if abs(share) * moved.get(panel, 0.0) / ceilings[panel] > SHARE_MOVED else 2
                row |= {"ceiling": ceilings[panel], "of_ceiling": round(share, digits)}
            if given_depth is not None:
                row |= {"given_depth": given_depth.get((panel, method), np.nan)}
            rows.append(row | _paired(own, of_panel.loc[rival], metric) | {"against": rival})
    unit = "group" if unit == "fold" else unit
    columns = ["panel", "method", "mean", "seed_sd", "n_seeds", "ceiling", "of_ceiling", "given_depth", "against"]
    columns += ["difference", "low", "high", "wins", "n", "unit", "clear"]
    table = pd.DataFrame(rows).assign(unit=unit)
    return table[[name for name in columns if name in table]]


def _known(wanted: Sequence[str], column: pd.Series, what: str) -> None:
    known = list(column.unique())
    if unknown := [name for name in wanted if name not in known]:
        msg = f"The table has no {what} {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, known))}."
        raise ValueError(msg)


def _over_units(scores: pd.DataFrame, by: list[str], metric: str) -> pd.Series | None:
    """Mean of another metric, weighed as the scores are; None where the table does not have it."""
    table = scores[scores["metric"] == metric]
    if table.empty:
        return None
    unit = unit_of(scores) or next(name for name in ("fold", "section") if name in scores)
    by_unit = unit_values(table, unit).groupby([*by, unit], observed=True).mean()
    return by_unit.groupby(by, observed=True).mean()


def _ceilings_moved(scores: pd.DataFrame) -> dict[str, float]:
    """By how much another seed moves the mean ceiling of every panel: the mean of independent sections."""
    table = scores[scores["metric"] == "ceiling_sd"]
    table = table.assign(section=table.get("section", ""))
    variances = (
        table.groupby(["panel", "section"], observed=True)["value"].mean().pow(2).groupby("panel", observed=True)
    )
    return dict(np.sqrt(variances.sum()) / variances.size())


def _best_baseline(values: pd.DataFrame, metric: str) -> str:
    baselines = [name for name in values.index if re.split(r"[^a-z]", str(name).lower())[0] in BASELINES]
    if not baselines:
        told = ", ".join(map(repr, values.index))
        msg = f"None of the methods ({told}) is a baseline by its label; pass against=, the method to compare with."
        raise ValueError(msg)
    means = values.loc[baselines].mean(axis=1)
    best: str = means.idxmin() if metric in LOWER_IS_BETTER else means.idxmax()
    return best


def _paired(own: pd.Series, other: pd.Series, metric: str) -> dict[str, float | int | bool]:
    differences = (own - other).dropna().to_numpy()
    mean, low, high = student_interval(differences)
    won = differences < 0 if metric in LOWER_IS_BETTER else differences > 0
    clear = bool(np.isfinite(low) and (low > 0 or high < 0))
    summary = {"difference": mean, "low": low, "high": high, "wins": int(won.sum())}
    return summary | {"n": len(differences), "clear": clear}
