"""Whether a prediction has the contrast, and its uncertainty the width, that it should have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._evaluation import metrics
from stpredict._evaluation.stated import share_inside, stated_r
from stpredict._evaluation.target import one_target
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._categories import COLOURS, Palette, chosen_colours
from stpredict.pl._scores import LABELS
from stpredict.pl._values import both_of, expression_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data

NOMINAL = np.array([0.5, 0.8, 0.9, 0.95])
"""Central intervals that are held against what they cover."""

LEGEND = {"fontsize": 8, "framealpha": 0.8, "edgecolor": "none"}


@with_shared_texts
def calibration(
    data: Data | pd.DataFrame,
    *,
    predicted: str = keys.PREDICTED,
    genes: Iterable[str] | None = None,
    min_counts: int = 50,
    palette: Palette = None,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> Axes | list[Axes] | Figure | None:
    """Draw whether contrast, intervals and stated correlations of a prediction are right.

    Left, each gene's standard deviation over spots, as predicted over as measured, against its Pearson correlation r.
    The squared error is least where the two are equal: above that line a prediction has too much contrast for its
    correlation, below it too little. At 1 it has as much contrast as the measurement, noise included.

    Next, if the prediction has a standard deviation (``std=True`` in `tl.predict_expression`), which share of spots
    lies in the central intervals of a normal distribution, against the share that should; the band has the middle
    half of the genes. Above the diagonal, intervals are too wide, below it too narrow.

    Last, if the prediction says what to expect of its genes (``var["predicted_reliability"]``), the Pearson correlation
    that it reached against the stated one; below the diagonal the stated correlation was too high. The second line of
    the title says how many spots the intervals of ``interval=`` hold, where there are any.

    Parameters
    ----------
    data
        A section with raw counts and a prediction; or the table of `tl.evaluate`, of which each section and gene is a
        dot. Of a table there is no panel of coverage, and one of stated correlations where it has ``"stated_pcc"``.
    %(predicted)s
    genes
        Genes to draw; by default all that were predicted. Aliases and Ensembl ids are resolved for a section.
    %(min_counts)s
    %(palette_of_methods)s
        A section has one, ``"prediction"``.
    %(library_id)s
    %(sections)s
    ax
        Axes to draw on, as many as there are panels; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes (a list, with several panels) if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If a layer, a gene, the section or a column of the table is not there.
    ValueError
        If the table lacks ``"pcc"`` or ``"sd_ratio"`` or holds scores against two targets, counts are not raw counts,
        no gene can be drawn, there are several sections and none is chosen, `palette` does not suffice, or `ax` has another
        number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, genes=["ERBB2", "COL1A1"], method="ridge")
    >>> st.tl.predict_expression(new, model, std=True)
    >>> axes = st.pl.calibration(new, show=False)
    >>> [ax.get_xlabel() for ax in axes]
    ['Pearson r', 'probability of the interval', 'stated Pearson r']
    """
    observed, intervals = None, ""
    if isinstance(data, pd.DataFrame):
        scale = _scale_of_table(data, genes)
    else:
        section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key))
        before, after = both_of(section, genes, predicted, min_counts)
        scale = _scale(before, after)
        adata = section.adata
        if keys.reliability(predicted) in adata.var:
            said = pd.Series(adata.var[keys.reliability(predicted)].to_numpy(float), index=section.genes)
            scale["stated_pcc"] = said.reindex(scale["gene"]).to_numpy()
        ends = [keys.lower(predicted), keys.upper(predicted)]
        if all(end in adata.layers for end in ends):
            low, high = (expression_of(section, after.columns, end).loc[after.index].to_numpy() for end in ends)
            held = np.nanmean(share_inside(before.to_numpy(), low, high))
            level = adata.uns.get(predicted, {}).get("parameters", {}).get("interval")
            of_level = "" if level is None else f" of {100 * level:.0f} %"
            intervals = f"\nintervals{of_level} hold {100 * held:.0f} % of spots"
        if keys.std(predicted) in section.adata.layers:
            spread = expression_of(section, after.columns, keys.std(predicted)).loc[after.index]
            values = (frame.to_numpy() for frame in (before, after, spread))
            observed = _coverage(*values)
    if scale.empty:
        msg = "No gene varies over spots both as measured and as predicted, so there is nothing to draw."
        raise ValueError(msg)

    methods = list(dict.fromkeys(scale["method"]))
    alone = palette is None and len(methods) == 1
    colours = {methods[0]: COLOURS[1]} if alone else chosen_colours(methods, palette)
    says = "stated_pcc" in scale and scale["stated_pcc"].notna().any()
    n = 1 + (observed is not None) + says
    panels = _canvas.Panels.make(n, columns=n, size=(4.2, 4.0), ax=ax, title=title)
    _draw_scale(panels.axes[0], scale, colours)
    if observed is not None:
        _draw_coverage(panels.axes[1], observed)
    if says:
        _draw_stated(panels.axes[-1], scale.dropna(subset="stated_pcc"), intervals, colours)
    for panel in panels.axes:
        panel.grid(color="#eeeeee")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _scale(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Correlation and sd ratio of every gene for which both are defined."""
    measured, predicted = before.to_numpy(), after.to_numpy()
    defined = np.isfinite(metrics.unit_columns(measured) + metrics.unit_columns(predicted)).all(axis=0)
    pcc, ratio = metrics.pearson(measured, predicted)[0], metrics.sd_ratio(measured, predicted)
    frame = pd.DataFrame({"gene": before.columns, "method": "prediction", "pcc": pcc, "sd_ratio": ratio})
    return frame[defined]


def _scale_of_table(table: pd.DataFrame, genes: Iterable[str] | None) -> pd.DataFrame:
    """The same from a tidy table of scores, with its methods; a gene in several panels is taken once."""
    missing = [name for name in ("gene", "metric", "value") if name not in table]
    if missing:
        msg = f"The table lacks the column(s) {', '.join(missing)}; it has {', '.join(map(str, table.columns))}."
        raise KeyError(msg)
    one_target(table)
    lost = [name for name in ("pcc", "sd_ratio") if name not in set(table["metric"])]
    if lost:
        msg = f"The table has no metric {', '.join(lost)}; call stpredict.tl.evaluate with metrics=['pcc', 'sd_ratio']."
        raise ValueError(msg)
    table = table[table["metric"].isin(["pcc", "sd_ratio", "stated_pcc"])]
    if genes is not None:
        wanted = [genes] if isinstance(genes, str) else list(genes)
        if unknown := [gene for gene in wanted if gene not in set(table["gene"])]:
            msg = f"The table has no gene {', '.join(unknown[:5])}."
            raise KeyError(msg)
        table = table[table["gene"].isin(wanted)]
    if "method" not in table:
        table = table.assign(method="prediction")
    units = [name for name in ("method", "fold", "section", "gene") if name in table]
    wide = table.drop_duplicates([*units, "metric"]).pivot(index=units, columns="metric", values="value").reset_index()
    wide["method"] = pd.Categorical(wide["method"], table["method"].unique())
    return wide[wide["sd_ratio"] > 0].dropna(subset=["pcc", "sd_ratio"]).sort_values("method", kind="stable")


def _coverage(measured: np.ndarray, predicted: np.ndarray, std: np.ndarray) -> np.ndarray | None:
    """(nominal, genes) coverage of the genes that have any; None where none has."""
    observed = metrics.coverage(measured, predicted, std, NOMINAL)
    observed = observed[:, np.isfinite(observed).all(axis=0)]
    return observed if observed.shape[1] else None


def _draw_scale(ax: Axes, scale: pd.DataFrame, colours: Mapping[str, str]) -> None:
    for method in dict.fromkeys(scale["method"]):
        dots = scale[scale["method"] == method]
        middle = dots[["pcc", "sd_ratio"]].median()
        ax.scatter(
            dots["pcc"],
            dots["sd_ratio"],
            s=float(np.clip(3000 / len(scale), 5, 40)),
            alpha=0.5,
            linewidths=0,
            color=colours[method],
            label=f"{method}: median r {middle['pcc']:.2f}, sd ratio {middle['sd_ratio']:.2f}",
        )
    top = max(1.1, 1.05 * float(np.percentile(scale["sd_ratio"], 99.5)))
    low = min(0.0, float(scale["pcc"].min())) - 0.03
    ax.plot([0, top], [0, top], color=_canvas.INK, linewidth=1.2, label="least squared error")
    ax.axhline(1, color=_canvas.INK, linewidth=1.2, linestyle="--", label="contrast of the measurement")
    ax.set(xlim=(low, 1.0), ylim=(0, top), xlabel=LABELS["pcc"], ylabel=LABELS["sd_ratio"])
    ax.set_title(f"scale of {scale['gene'].nunique()} genes", size=9, loc="left")
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.98 / top), markerscale=2, **LEGEND)


def _draw_stated(ax: Axes, scale: pd.DataFrame, intervals: str, colours: Mapping[str, str]) -> None:
    """Reached against stated correlation of every gene; how many spots `intervals` hold is told in the title."""
    stated, reached = scale["stated_pcc"].to_numpy(float), scale["pcc"].to_numpy(float)
    for method in dict.fromkeys(scale["method"]):
        own = (scale["method"] == method).to_numpy()
        told = f"mean {stated[own].mean():.2f} stated, {reached[own].mean():.2f} reached"
        ax.scatter(
            stated[own],
            reached[own],
            s=float(np.clip(3000 / len(scale), 5, 40)),
            alpha=0.5,
            linewidths=0,
            color=colours[method],
            label=f"{method}: {told}",
        )
    low, high = min(0.0, float(reached.min())) - 0.03, 1.03 * max(float(stated.max()), float(reached.max()), 0.1)
    ax.plot([0, high], [0, high], color=_canvas.INK, linewidth=1.2, label="as stated")
    ax.set(xlim=(-0.03, high), ylim=(low, high + 0.25 * (high - low)))
    ax.set(xlabel=LABELS["stated_pcc"], ylabel="reached Pearson r")
    agreement = stated_r(stated, reached)
    told = "" if np.isnan(agreement) else f", correlation {agreement:.2f}"
    ax.set_title(f"stated and reached r{told}{intervals}", size=9, loc="left")
    ax.legend(loc="upper left", markerscale=2, **LEGEND)


def _draw_coverage(ax: Axes, observed: np.ndarray) -> None:
    mean = observed.mean(axis=1)
    low, high = np.percentile(observed, [25, 75], axis=1)
    ax.plot([0, 1], [0, 1], color=_canvas.INK, linewidth=1.2, label="calibrated")
    ax.fill_between(NOMINAL, low, high, color=COLOURS[1], alpha=0.2, linewidth=0, label="middle half of genes")
    ax.plot(NOMINAL, mean, color=COLOURS[1], marker="o", label="mean of genes")
    for nominal, value in zip(NOMINAL, mean, strict=True):
        ax.annotate(f"{100 * value:.0f} %", (nominal, value), (4, -11), textcoords="offset points", size=8)
    ticks = [f"{100 * value:.0f} %" for value in NOMINAL]
    ax.set_xticks(NOMINAL, ticks, rotation=45)
    ax.set_yticks(NOMINAL, ticks)
    bottom = min(0.4, float(low.min()) - 0.05)
    ax.set(xlim=(0.4, 1.0), ylim=(bottom, 1.0), xlabel="probability of the interval", ylabel="spots inside")
    ax.set_title(f"90 % intervals hold {100 * mean[NOMINAL == 0.9][0]:.0f} % of spots", size=9, loc="left")
    ax.legend(loc="upper left", **LEGEND)
