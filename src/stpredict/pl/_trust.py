"""How far a prediction can be believed: where on the slide, and for which genes."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._sections.open import Where
from stpredict.models._trust.trust import EDGE, INSIDE, OUTSIDE, UNKNOWN
from stpredict.pl import _canvas
from stpredict.tl._prediction.believed import ENDS, judgement_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data

FARTHEST = 3.0
"""Distance from which spots have the last colour."""

LOWEST = 3.2
"""Height of a panel in inches, at least."""

WHERE = {
    INSIDE: "inside of the training data",
    EDGE: "at the edge of the training data",
    OUTSIDE: "outside of the training data",
    UNKNOWN: "distance from training data unknown",
}

NO_GENES = (
    "no gene of var was predicted, so there is no correlation to expect; as_anndata=True writes a var that has it"
)

NAMED = 5
"""Genes named at either end."""


@with_shared_texts
def trust(
    data: Data,
    *,
    predicted: str = keys.PREDICTED,
    cmap: str | Colormap = "cividis_r",
    size: float = 1.0,
    alpha_img: float = 0.4,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> list[Axes] | Figure | None:
    """Draw how far the prediction of a section can be believed.

    Left, the slide and the verdict of `tl.predict_expression`. Middle, how far the image of every spot lies from those of
    training spots, 1 = as far as held-out training spots did. Right, the Pearson correlation to expect of every predicted
    gene, the most reliable first, with its 90 percent interval. It is stored for genes in ``var`` only: on a slide
    without genes this panel is left out, and the figure says so. Predict with ``as_anndata=True`` to get it.

    Parameters
    ----------
    data
        A section after `tl.predict_expression`.
    %(predicted)s
    cmap
        Colour map of the distance.
    %(map)s
    ax
        Three axes to draw on, or two where no gene of ``var`` was predicted; by default a new figure is made.
    %(figure)s

    Returns
    -------
    The list of axes if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If there is no such prediction, or the section is not there.
    ValueError
        If there are several sections and none is chosen, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, genes=["ERBB2", "COL1A1"], method="ridge")
    >>> st.tl.predict_expression(new, model)
    >>> axes = st.pl.trust(new, show=False)
    >>> axes[2].get_ylabel()
    'Pearson r to expect'
    """
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    adata = section.adata
    if keys.distance(predicted) not in adata.obs or predicted not in adata.uns:
        msg = f"There is no obs[{keys.distance(predicted)!r}]; call stpredict.tl.predict_expression first."
        raise KeyError(msg)
    verdict, why = judgement_of(adata.uns[predicted], section.name)
    away = adata.obs[keys.distance(predicted)].to_numpy(float)[section.rows]
    columns = [f"{keys.reliability(predicted)}{end}" for end in ENDS]
    genes = adata.var.loc[adata.var[columns[0]].notna(), columns].sort_values(
        columns[0], ascending=False, kind="stable"
    )

    slide = _canvas.overview_of(section)
    width, height = _canvas.map_size(section, width=4.2)
    n = 3 if len(genes) else 2
    panels = _canvas.Panels.make(n, columns=n, size=(width, max(height, LOWEST)), ax=ax, title=title)
    first, second = panels.axes[:2]
    for panel, alpha in ((first, 1.0), (second, alpha_img)):
        _canvas.draw_slide(panel, section, slide, alpha=alpha)
    first.set_title(WHERE[verdict], size=11)
    _canvas.tell(first, why)
    spots = _canvas.draw_spots(second, section, away, size=size, cmap=cmap)
    spots.set_clim(0, FARTHEST)
    _canvas.draw_colour_bar(second, spots, "distance from training spots")
    second.set_title("distance of every spot", size=11)
    if len(genes):
        _draw_genes(panels.axes[2], genes.set_axis(["expected", "low", "high"], axis=1))
    else:
        _canvas.tell(second, NO_GENES)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _draw_genes(ax: Axes, genes: pd.DataFrame) -> None:
    """Correlation to expect of every gene with its interval, those at either end by name."""
    rank = np.arange(1, len(genes) + 1)
    ax.fill_between(rank, genes["low"], genes["high"], color="#56B4E9", alpha=0.35, linewidth=0, label="90 % interval")
    ax.plot(rank, genes["expected"], color="#0072B2", marker="o" if len(genes) < 20 else None, label="expected")
    mean = genes["expected"].mean()
    ax.set(ylim=(0, 1), xlabel="predicted genes, most reliable first", ylabel="Pearson r to expect")
    ax.set_title(f"{len(genes):,} genes, mean r {mean:.2f}", size=11)
    best, worst = (", ".join(map(str, part)) for part in (genes.index[:NAMED], genes.index[-NAMED:]))
    if len(genes) > 2 * NAMED:
        ax.text(
            0.02, 0.02, fill(f"first: {best}; last: {worst}", 46), transform=ax.transAxes, size=7, color=_canvas.INK
        )
    ax.legend(loc="upper right", fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
