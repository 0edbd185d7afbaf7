"""Scores against the number of training sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.docs import with_shared_texts
from stpredict._evaluation.units import student_interval, unit_of, unit_values
from stpredict.pl import _canvas
from stpredict.pl._scores import LABELS, chosen_rows, method_styles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stpredict.pl._categories import Palette


@with_shared_texts
def learning_curve(
    table: pd.DataFrame,
    *,
    metric: str | None = None,
    methods: Sequence[str] | None = None,
    panels: Sequence[str] | None = None,
    palette: Palette = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> Axes | list[Axes] | Figure | None:
    """Draw scores against the number of training sections, one panel of genes after the other.

    Lines join the means over folds (or over sections, where there is one fold); bars are Student's 95 % intervals of
    them, draws and seeds averaged. The grey line is the mean noise ceiling.

    Parameters
    ----------
    table
        What `tl.learning_curve` returned.
    %(metric)s
    %(methods_and_panels)s
    %(palette_of_methods)s
    ax
        Axes to draw on, one per panel; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes, one or a list of them, if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the table is empty or lacks the metric, a method or a panel, or `palette` does not suffice.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as st
    >>> table = pd.DataFrame({"n_train": [1, 2, 3] * 2, "fold": ["A"] * 3 + ["B"] * 3, "value": [0.1, 0.2, 0.25] * 2})
    >>> table = table.assign(method="ridge", panel="HEG", gene="ERBB2", metric="pcc", repeat=0)
    >>> ax = st.pl.learning_curve(table, show=False)
    >>> [round(float(y), 2) for y in ax.lines[0].get_ydata()]
    [0.1, 0.2, 0.25]
    """
    if "n_train" not in table:
        msg = "The table lacks the column n_train; pass what stpredict.tl.learning_curve returned."
        raise KeyError(msg)
    rows, metric = chosen_rows(table, metric, methods, panels, None)
    methods, panels = (list(rows[name].cat.categories) for name in ("method", "panel"))
    unit, styles = unit_of(rows), method_styles(methods, palette)
    canvas = _canvas.Panels.make(len(panels), columns=4, size=(3.0, 3.0), ax=ax, title=title)
    for axes, panel in zip(canvas.axes, panels, strict=True):
        for method in methods:
            own = rows[(rows["panel"] == panel) & (rows["method"] == method)]
            sizes, mean, reach = _curve(own, unit)
            axes.errorbar(sizes, mean, reach, capsize=3, linewidth=1.4, markersize=6, **styles[method])
        if metric == "pcc" and (ceiling := table[(table["metric"] == "ceiling") & (table["panel"] == panel)]).size:
            axes.axhline(ceiling["value"].mean(), color="#888888", linewidth=1.5, zorder=1, label="noise ceiling")
        axes.set(title=panel, xlabel="training sections", xticks=sorted(rows["n_train"].unique()))
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.axes[0].set_ylabel(LABELS.get(metric, metric))
    canvas.axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    return canvas.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _curve(table: pd.DataFrame, unit: str | None) -> tuple[list[int], list[float], list[float]]:
    """Sizes, means over units, and half widths of their intervals (0 where there is one unit)."""
    sizes, means, reaches = [], [], []
    for size, part in table.groupby("n_train"):
        values = [part["value"].mean()] if unit is None else unit_values(part, unit).groupby(unit, observed=True).mean()
        mean, _, high = student_interval(np.asarray(values))
        sizes.append(int(size))
        means.append(mean)
        reaches.append(high - mean if np.isfinite(high) else 0.0)
    return sizes, means, reaches
