"""What happened in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.docs import with_shared_texts
from stpredict.models._base.history import History
from stpredict.pl import _canvas
from stpredict.pl._categories import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stpredict.models import ExpressionModel

SCORE = "inner_pcc"
BEST = "best_epoch"
FAMILIES = {
    **dict.fromkeys(("total", "loss", "reconstruction", "decoder"), "loss"),
    "contrastive": "contrastive loss",
    "recall": "recall",
    "pcc": "Pearson r",
}
"""Word in the name of a series → the panel it is drawn in; a series without any gets a panel of its own."""

MAX_TICKS = 6
"""Up to as many values of a hyper-parameter are named one by one on its axis."""

STYLES: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 1.2, "alpha": 0.55},
    "val": {"linewidth": 1.8},
    "chance": {"linewidth": 1.2, "linestyle": "--"},
}
"""How lines are drawn, by the first word of their names."""


@with_shared_texts
def history(
    model: ExpressionModel | History,
    *,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> Axes | list[Axes] | Figure | None:
    """Draw how a model was trained: what its hyper-parameter scored, or what its losses and scores did over epochs.

    ``history.values`` decides what there is to draw:

    - ``"inner_pcc"`` is drawn against the hyper-parameter, the other series of the same length; a star marks the best
      value, which was taken.
    - Everything else runs over epochs, counted from 1: losses (``total``, ``loss``, ``reconstruction`` or ``decoder``
      in the name), the contrastive loss, recall and Pearson correlation have a panel each, any other series one of its
      own. Training is drawn pale (``train_…``), validation bold (``val_…``), and chance (``chance_…``)
      dashed: a contrastive loss or a recall that stays there has learned nothing. A vertical line marks the epoch that
      was best (``"best_epoch"``).

    Parameters
    ----------
    model
        What `stpredict.tl.train` returned or `stpredict.models.load` read, or its ``history``.
    ax
        Axes to draw on, one per panel; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes (a list, for several panels) if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    TypeError
        If `model` has no history.
    ValueError
        If the history is empty, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(adata, method="knn", genes=["ERBB2", "COL1A1"])
    >>> ax = st.pl.history(model, show=False)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('k', 'Pearson r on inner folds')
    """
    told = model if isinstance(model, History) else getattr(model, "history", None)
    if not isinstance(told, History):
        msg = f"{type(model).__name__} has no history; pass a model that stpredict.tl.train returned, or its history."
        raise TypeError(msg)
    series = {name: np.asarray(values, dtype=float) for name, values in told.values.items() if len(values)}
    best = series.pop(BEST, None)
    searched = _hyperparameters(series)
    curves = _families({name: values for name, values in series.items() if name not in (*searched, SCORE)})
    searched = searched or ([""] if SCORE in series else [])
    if not searched and not curves:
        msg = "The history is empty: was the model trained?"
        raise ValueError(msg)

    panels = _canvas.Panels.make(len(searched) + len(curves), columns=4, size=(3.6, 2.8), ax=ax, title=title)
    for panel, name in zip(panels.axes, searched, strict=False):
        _draw_search(panel, name, series.get(name), series[SCORE])
    if searched and told.notes:
        first = panels.axes[0]
        first.set_title(f"{told.notes[0]}\n{first.get_title(loc='left')}".strip(), size=9, loc="left")
    for panel, (label, lines) in zip(panels.axes[len(searched) :], curves.items(), strict=True):
        _draw_curves(panel, label, lines, None if best is None else best[0])
    for panel in panels.axes:
        panel.grid(color="#eeeeee")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _hyperparameters(series: dict[str, np.ndarray]) -> list[str]:
    """Names of the series that `SCORE` is a score of: as many values, and no curve of training."""
    if SCORE not in series:
        return []
    n = len(series[SCORE])
    return [
        name
        for name, values in series.items()
        if name != SCORE and len(values) == n and name.partition("_")[0] not in STYLES and _family(name) == name
    ]


def _family(name: str) -> str:
    """The panel that a series belongs to."""
    return next((FAMILIES[word] for word in reversed(name.split("_")) if word in FAMILIES), name)


def _families(series: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Panel → the series in it; losses, recall and correlation come first."""
    found: dict[str, dict[str, np.ndarray]] = {panel: {} for panel in FAMILIES.values()}
    for name, values in series.items():
        found.setdefault(_family(name), {})[name] = values
    return {panel: lines for panel, lines in found.items() if lines}


def _draw_search(ax: Axes, name: str, tried: np.ndarray | None, scores: np.ndarray) -> None:
    """Score of every value of a hyper-parameter, the best one starred."""
    tried = np.arange(len(scores)) if tried is None else tried
    order, best = np.argsort(tried, kind="stable"), int(np.nanargmax(scores))
    ax.plot(tried[order], scores[order], color=COLOURS[1], marker="o", markersize=5)
    ax.plot(tried[best], scores[best], color=COLOURS[0], marker="*", markersize=15, linestyle="", zorder=3)
    ax.set_ylabel("Pearson r on inner folds")
    ax.set_xlabel(name or "no hyper-parameter")
    if not name:
        ax.set_xticks([])
        return
    if tried.min() > 0 and tried.max() >= 20 * tried.min():
        ax.set_xscale("log")
    if len(tried) <= MAX_TICKS:
        ax.set_xticks(tried, [f"{value:g}" for value in tried])
        ax.minorticks_off()
    ax.set_title(f"{name} = {tried[best]:.3g}, r = {scores[best]:.3f}", size=9, loc="left")


def _draw_curves(ax: Axes, label: str, lines: dict[str, np.ndarray], best: float | None) -> None:
    """Series over epochs; those of one quantity share a colour."""
    quantities = list(dict.fromkeys(name.partition("_")[2] or name for name in lines))
    for name, values in lines.items():
        kind, _, quantity = name.partition("_")
        style = STYLES.get(kind, STYLES["val"]) | {"color": COLOURS[1:][quantities.index(quantity or name) % 7]}
        if len(values) == 1:
            ax.axhline(values[0], label=name.replace("_", " "), **style)
        else:
            ax.plot(np.arange(1, len(values) + 1), values, label=name.replace("_", " "), **style)
    if best is not None:
        ax.axvline(best, color=COLOURS[0], linewidth=1, zorder=1)
        ax.set_title(f"epoch {best:g} was best", size=9, loc="left", color=COLOURS[0])
    ax.set(xlabel="epoch", ylabel=label.replace("_", " "))
    ax.locator_params(axis="x", integer=True)
    if len(lines) > 1 or label in FAMILIES.values():
        ax.legend(fontsize=8, framealpha=0.8, edgecolor="none")
