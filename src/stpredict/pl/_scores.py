"""Scores of methods side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.docs import with_shared_texts
from stpredict._evaluation.target import RESIDUALS, one_target
from stpredict._evaluation.units import student_interval, unit_of, unit_values
from stpredict.pl import _canvas
from stpredict.pl._categories import Palette, chosen_colours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"

LABELS = {
    "pcc": "Pearson r",
    "pcc_given_depth": "Pearson r given depth",
    "spearman": "Spearman ρ",
    "mse": "mean squared error",
    "sd_ratio": "sd, predicted / measured",
    "ceiling": "noise ceiling of Pearson r",
    "ceiling_sd": "standard deviation of the mean noise ceiling",
    "pcc_of_ceiling": "Pearson r / noise ceiling",
    "gene_structure": "agreement of gene–gene structure",
    "spatial_structure": "agreement of spatial structure",
    "coverage": "spots inside their 90 % interval",
    "interval_width": "width of the 90 % interval",
    "stated_pcc": "stated Pearson r",
    "stated_r": "correlation of stated and reached r",
    "stated_excess": "stated minus reached Pearson r",
    "interval_coverage": "spots inside their interval",
    "interval_level": "share that intervals are to hold",
    "distance": "distance from training spots",
}
"""Metrics of `tl.evaluate`, in words."""


@with_shared_texts
def scores(
    table: pd.DataFrame,
    *,
    metric: str | None = None,
    methods: Sequence[str] | None = None,
    panels: Sequence[str] | None = None,
    against: str | None = None,
    palette: Palette = None,
    ax: Axes | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Draw the scores of methods side by side, panel by panel: mean and 95 % interval.

    Each fold (group held out), or each section where there is one fold, gives one number: the mean over genes, then
    over its sections, then over seeds. It is drawn as a small dot; the large mark is their mean and the bar Student's
    interval of it. With a single section the dots are left out and the interval is over genes, which says nothing about
    other sections. Where ``"pcc"`` is drawn and the table has its noise ceiling, a grey line is the mean ceiling of a
    panel and a band its range over the same units.

    Intervals of two methods may overlap although one is better everywhere, since units differ more than methods do;
    `against` draws the paired differences instead.

    Parameters
    ----------
    table
        Tidy table as `tl.cross_validate` or `tl.evaluate` returns it: columns ``panel``, ``gene``, ``metric``, ``value`` and, where there are
        several, ``method``, ``section`` or ``fold``.
    %(metric)s
    %(methods_and_panels)s
    against
        Draw every other method minus this one, unit by unit.
    %(palette_of_methods)s
    ax
        Axes to draw on; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the table is empty, lacks the metric, a method or a panel, holds scores against two targets, or `palette` does
        not suffice.

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
    whole = table
    table, metric = chosen_rows(table, metric, methods, panels, against)
    panels = list(table["panel"].cat.categories)
    values, unit = _per_unit(table)
    if against is not None:
        values = {key: sample - values[against, key[1]] for key, sample in values.items() if key[0] != against}
    everything = list(table["method"].cat.categories)
    methods = [method for method in everything if method != against]
    styles = method_styles(everything if palette is None else methods, palette)
    samples = {key: sample.dropna().to_numpy() for key, sample in values.items()}

    width = max(3.2, 0.9 + 0.26 * len(panels) * (len(methods) + 1.5)) + 1.3
    canvas = _canvas.Panels.make(1, columns=1, size=(width, 3.4), ax=ax, title=title)
    (axes,) = canvas.axes
    step = 0.8 / len(methods)
    drawn = []
    if metric == "pcc" and against is None:
        drawn += _draw_ceilings(axes, whole, panels, unit)
    for i, method in enumerate(methods):
        at = np.arange(len(panels)) + (i - (len(methods) - 1) / 2) * step
        of_panels = [samples.get((method, panel), np.array([])) for panel in panels]
        drawn += _draw_method(
            axes, at, of_panels, dots_at=None if unit == "gene" else at + 0.28 * step, style=styles[method]
        )
    axes.set_ylim(*_limits(drawn))
    axes.axhline(0, color=_canvas.INK, linewidth=0.8)
    for edge in np.arange(len(panels) - 1) + 0.5:
        axes.axvline(edge, color="#dddddd", linewidth=0.8)
    axes.set(xlim=(-0.5, len(panels) - 0.5), xticks=range(len(panels)), xticklabels=panels)
    of_residuals = "\nwith Pearson residuals" if one_target(table) == RESIDUALS else ""
    axes.set_ylabel(
        LABELS.get(metric, metric) + of_residuals + ("" if against is None else f"\nminus that of {against}")
    )
    axes.set_title(_title(samples, unit, paired=against is not None), size=9, loc="left")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    return canvas.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def method_styles(methods: Sequence[str], palette: Palette) -> dict[str, dict[str, Any]]:
    """Colour, marker and label of every method."""
    colours = chosen_colours(methods, palette)
    marker = {method: MARKERS[number % len(MARKERS)] for number, method in enumerate(methods)}
    return {method: {"color": colours[method], "marker": marker[method], "label": method} for method in methods}


def _draw_method(
    ax: Axes, at: np.ndarray, samples: list[np.ndarray], *, dots_at: np.ndarray | None, style: dict[str, Any]
) -> list[tuple[float, float, float, float]]:
    """Draw one method; lowest and highest value, and both ends of the interval, of every panel."""
    mean, low, high = np.array([student_interval(sample) for sample in samples]).T
    ax.errorbar(at, mean, high - mean, linestyle="", markersize=7, capsize=3, elinewidth=1.6, zorder=3, **style)
    if dots_at is not None:
        for x, sample in zip(dots_at, samples, strict=True):
            ax.scatter(np.full(len(sample), x), sample, s=9, alpha=0.6, linewidths=0, zorder=3, color=style["color"])
    values = [sample if dots_at is not None else [middle] for sample, middle in zip(samples, mean, strict=True)]
    return [(min(v), max(v), *ends) for v, *ends in zip(values, low, high, strict=True) if len(v)]


def _draw_ceilings(
    ax: Axes, table: pd.DataFrame, panels: list[str], unit: str
) -> list[tuple[float, float, float, float]]:
    """Mean noise ceiling of every panel as a line, its range over units as a band."""
    table = table[(table["metric"] == "ceiling") & table["panel"].isin(panels)]
    table = table if "method" in table else table.assign(method="")
    found: list[tuple[float, float, float, float]] = []
    for number, panel in enumerate(panels):
        of_panel = table[table["panel"] == panel]
        if of_panel.empty:
            continue
        alone = unit == "gene"
        values = of_panel["value"].mean() if alone else unit_values(of_panel, unit).groupby(unit, observed=True).mean()
        values = np.atleast_1d(values)
        edges = number + np.array([-0.5, 0.5])
        ax.fill_between(edges, values.min(), values.max(), color="#e8e8e8", linewidth=0, zorder=0)
        label = None if found else "noise ceiling"
        ax.plot(edges, [values.mean()] * 2, color="#888888", linewidth=1.5, zorder=1, label=label)
        found.append((values.min(), values.max(), np.nan, np.nan))
    return found


def _limits(drawn: list[tuple[float, float, float, float]]) -> tuple[float | None, float | None]:
    """Room for all values, and for intervals as far as they are not much wider: those of two units are endless."""
    if not drawn:
        return None, None
    low, high, start, end = np.array(drawn, dtype=float).T
    bottom, top = min(np.nanmin(low), 0), max(np.nanmax(high), 0)
    reach = max(top - bottom, 0.02)
    start, end = np.nanmin([*start, bottom]), np.nanmax([*end, top])
    return max(start, bottom - reach / 2) - 0.05 * reach, min(end, top + reach / 2) + 0.05 * reach


def _title(samples: dict[tuple[str, str], np.ndarray], unit: str, *, paired: bool) -> str:
    sizes = sorted({len(sample) for sample in samples.values()})
    n = "–".join(map(str, dict.fromkeys([sizes[0], sizes[-1]]))) if sizes else "0"
    of = "mean of paired differences" if paired else "mean"
    return f"{of} and 95 % interval over {n} {unit}{'s' if n != '1' else ''}"


def chosen_rows(
    table: pd.DataFrame,
    metric: str | None,
    methods: Sequence[str] | None,
    panels: Sequence[str] | None,
    against: str | None,
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
    one_target(table)
    if "method" not in table:
        table = table.assign(method="prediction")
    known = list(table["metric"].unique())
    metric = metric or ("pcc" if "pcc" in known else known[0])
    _all_known([metric], known, "metric")
    table = table[table["metric"] == metric].copy()
    if against is not None:
        _all_known([against], list(table["method"].unique()), "method")
        methods = None if methods is None else list(dict.fromkeys([*methods, against]))
    for name, wanted in (("method", methods), ("panel", panels)):
        known = list(table[name].unique())
        wanted = known if wanted is None else list(wanted)
        _all_known(wanted, known, name)
        table[name] = pd.Categorical(table[name].where(table[name].isin(wanted)), wanted)
    return table.dropna(subset=["method", "panel"]), metric


def _all_known(wanted: list[str], known: list[str], name: str) -> None:
    if unknown := [value for value in wanted if value not in known]:
        msg = f"The table has no {name} {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, known))}."
        raise ValueError(msg)


def _per_unit(table: pd.DataFrame) -> tuple[dict[tuple[str, str], pd.Series], str]:
    """(method, panel) → one value per fold, section or gene; and which of these."""
    unit = unit_of(table) or "gene"
    if unit == "gene":
        means = table.groupby(["method", "panel", unit], observed=True)["value"].mean()
    else:
        means = unit_values(table, unit).groupby(["method", "panel", unit], observed=True).mean()
    return {
        key: group.droplevel([0, 1]) for key, group in means.groupby(level=["method", "panel"], observed=True)
    }, unit
