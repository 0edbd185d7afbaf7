"""Scores of methods side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.pl import _canvas
from stpredict.pl._tumor import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNITS = ("section", "fold")
"""Columns over which an interval is taken, whichever distinguishes more; otherwise genes."""

MARKERS = "osD^vPX*"

LABELS = {
    "pcc": "Pearson r",
    "spearman": "Spearman ρ",
    "mse": "mean squared error",
    "sd_ratio": "sd, predicted / measured",
    "ceiling": "noise ceiling of Pearson r",
    "pcc_of_ceiling": "Pearson r / noise ceiling",
    "gene_structure": "agreement of gene–gene structure",
    "spatial_structure": "agreement of spatial structure",
}
"""Metrics of `tl.evaluate`, in words."""


def scores(
    table: pd.DataFrame,
    *,
    metric: str | None = None,
    methods: Sequence[str] | None = None,
    panels: Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Draw the scores of methods side by side, panel by panel: mean and 95 % interval.

    Each section (or fold) gives one number, the mean over its genes, drawn as a small dot; the large mark is their mean
    and the bar Student's interval of it. With a single section the dots are left out and the interval is over genes,
    which says nothing about other sections.

    Parameters
    ----------
    table
        Tidy table as `tl.evaluate` returns it: columns ``panel``, ``gene``, ``metric``, ``value`` and, where there are
        several, ``method``, ``section`` or ``fold``.
    metric
        Metric to draw; None takes ``"pcc"``, or the first one if that is missing.
    methods, panels
        Which to draw and in what order; None takes all, in the order of the table.
    ax
        Axes to draw on; by default a new figure is made.
    show
        Show the figure. By default it is, unless `ax`, `save` or `return_fig` is given.
    save
        File to save the figure to.
    return_fig
        Return the figure.

    Returns
    -------
    Axes if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the table is empty or lacks the metric, a method or a panel.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as st
    >>> table = pd.DataFrame({"method": ["ridge", "knn"] * 2, "panel": "HEG", "gene": ["ERBB2"] * 2 + ["FASN"] * 2})
    >>> table = table.assign(metric="pcc", value=[0.5, 0.4, 0.3, 0.4])
    >>> ax = st.pl.scores(table, show=False)
    >>> ax.get_ylabel(), ax.get_title(loc="left")
    ('Pearson r', 'mean and 95 % interval over 2 genes')
    """
    table, metric = _chosen(table, metric, methods, panels)
    methods = list(table["method"].cat.categories)
    panels = list(table["panel"].cat.categories)
    values, unit, n = _per_unit(table)

    width = max(3.2, 0.9 + 0.26 * len(panels) * (len(methods) + 1.5)) + 1.3
    canvas = _canvas.Panels.make(1, columns=1, size=(width, 3.4), ax=ax)
    (axes,) = canvas.axes
    step = 0.8 / len(methods)
    for i, method in enumerate(methods):
        at = np.arange(len(panels)) + (i - (len(methods) - 1) / 2) * step
        samples = [values.get((method, panel), np.array([])) for panel in panels]
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "label": method}
        _draw_method(axes, at, samples, dots_at=None if unit == "gene" else at + 0.28 * step, style=style)
    axes.axhline(0, color=_canvas.INK, linewidth=0.8)
    for edge in np.arange(len(panels) - 1) + 0.5:
        axes.axvline(edge, color="#dddddd", linewidth=0.8)
    axes.set(xlim=(-0.5, len(panels) - 0.5), xticks=range(len(panels)), xticklabels=panels)
    axes.set_ylabel(LABELS.get(metric, metric))
    axes.set_title(f"mean and 95 % interval over {n} {unit}{'s' if n != '1' else ''}", size=9, loc="left")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(methods) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    return canvas.finish(show=show, save=save, return_fig=return_fig)


def _draw_method(
    ax: Axes, at: np.ndarray, samples: list[np.ndarray], *, dots_at: np.ndarray | None, style: dict[str, str]
) -> None:
    mean, reach = np.array([_mean_interval(sample) for sample in samples]).T
    ax.errorbar(at, mean, reach, linestyle="", markersize=7, capsize=3, elinewidth=1.6, zorder=3, **style)
    if dots_at is not None:
        for x, sample in zip(dots_at, samples, strict=True):
            ax.scatter(np.full(len(sample), x), sample, s=9, alpha=0.6, linewidths=0, zorder=3, color=style["color"])


def _chosen(
    table: pd.DataFrame, metric: str | None, methods: Sequence[str] | None, panels: Sequence[str] | None
) -> tuple[pd.DataFrame, str]:
    """Rows to draw, with ``method`` and ``panel`` as categories in the order to draw them, and the metric."""
    import pandas as pd

    missing = [name for name in ("panel", "gene", "metric", "value") if name not in table]
    if missing:
        msg = f"The table lacks the column(s) {', '.join(missing)}; it has {', '.join(map(str, table.columns))}."
        raise KeyError(msg)
    if table.empty:
        msg = "The table has no rows."
        raise ValueError(msg)
    if "method" not in table:
        table = table.assign(method="prediction")
    known = list(table["metric"].unique())
    metric = metric or ("pcc" if "pcc" in known else known[0])
    _all_known([metric], known, "metric")
    table = table[table["metric"] == metric].copy()
    for name, wanted in (("method", methods), ("panel", panels)):
        known = list(table[name].unique())
        wanted = known if wanted is None else list(wanted)
        _all_known(wanted, known, name)
        table[name] = pd.Categorical(table[name], wanted)
    return table.dropna(subset=["method", "panel"]), metric


def _all_known(wanted: list[str], known: list[str], name: str) -> None:
    if unknown := [value for value in wanted if value not in known]:
        msg = f"The table has no {name} {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, known))}."
        raise ValueError(msg)


def _per_unit(table: pd.DataFrame) -> tuple[dict[tuple[str, str], np.ndarray], str, str]:
    """(method, panel) → one value per section, fold or gene; which of these, and how many there are."""
    counts = {name: table[name].nunique() for name in UNITS if name in table}
    unit = max(counts, key=counts.get) if counts and max(counts.values()) > 1 else "gene"
    means = table.groupby(["method", "panel", unit], observed=True)["value"].mean().dropna()
    values = {key: group.to_numpy() for key, group in means.groupby(level=["method", "panel"], observed=True)}
    sizes = sorted({len(sample) for sample in values.values()})
    return values, unit, "–".join(map(str, dict.fromkeys([sizes[0], sizes[-1]]))) if sizes else "0"


def _mean_interval(sample: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; NaN where there are too few values."""
    from scipy.stats import t

    if len(sample) == 0:
        return np.nan, np.nan
    if len(sample) == 1:
        return float(sample[0]), np.nan
    return float(sample.mean()), float(t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
