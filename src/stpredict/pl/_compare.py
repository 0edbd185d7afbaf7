"""Measured beside predicted expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.renamed import SCANPY_NAMES, also_called
from stpredict._evaluation import metrics
from stpredict._sections.open import Where
from stpredict.models._base.contract import UNITS
from stpredict.pl import _canvas
from stpredict.pl._values import expression_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

DIFFERENCE = "RdBu_r"


@also_called(**SCANPY_NAMES)
@with_shared_texts
def compare(
    data: Data,
    genes: str | Iterable[str],
    *,
    predicted: str = keys.PREDICTED,
    measured: str | None = None,
    cmap: str | Colormap = "viridis",
    size: float = 1.0,
    alpha_img: float = 0.4,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool | None = None,
) -> list[Axes] | Figure | None:
    """Draw genes as measured, as predicted, and the difference of both; a row for each gene.

    Measured and predicted share one colour scale, from the lowest 1st to the highest 99th percentile of the two, so a
    prediction without contrast looks like it. Colours of the difference are symmetric about 0.

    Parameters
    ----------
    data
        A section with counts and a prediction.
    genes
        One or more genes that were measured and predicted. Aliases and Ensembl ids are resolved. As in scanpy,
        ``color=`` is understood too.
    %(predicted)s
    measured
        Layer to hold it against, in the same units; None normalises the measured counts.
    cmap
        Colour map of measured and predicted expression.
    %(size)s
    %(alpha_img)s
    %(library_id)s
    %(library_key)s
    %(table_and_image_key)s
    ax
        Axes to draw on, three per gene, row by row; by default a new figure is made.
    %(figure)s

    Returns
    -------
    The list of axes, row by row, if ``show=False`` or `ax` is given, the figure if `return_fig`, else None. The title
    of each prediction has the Pearson correlation over the spots that have both values, and their number.

    Raises
    ------
    KeyError
        If a layer, a gene or the section is not there.
    ValueError
        If no gene is given, there are several sections and none is chosen, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> axes = st.pl.compare(adata, "ERBB2", predicted="truth", show=False)
    >>> axes[1].get_title()  # doctest: +ELLIPSIS
    'predicted, r = 0.7... (n = 413)'
    """
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    before = expression_of(section, genes, measured)
    after = expression_of(section, genes, predicted)
    slide = _canvas.overview_of(section) if alpha_img > 0 else None
    panels = _canvas.Panels.make(3 * before.shape[1], columns=3, size=_canvas.map_size(section), ax=ax)
    for row, gene in zip(np.reshape(np.array(panels.axes, dtype=object), (-1, 3)), before, strict=True):
        for panel in row:
            _canvas.draw_slide(panel, section, slide, alpha=alpha_img)
        _draw_row(row, section, before[gene].to_numpy(), after[gene].to_numpy(), size=size, cmap=cmap)
        row[0].set_title(f"{gene}: measured", size=11)
    _canvas.draw_scale_bar(panels.axes[0], section)
    return panels.finish(show=show, save=save, return_fig=return_fig)


def _draw_row(
    row: np.ndarray, section: Section, before: np.ndarray, after: np.ndarray, *, size: float, cmap: str | Colormap
) -> None:
    limits = _canvas.shared_limits(before, after)
    for panel, values in zip(row, (before, after), strict=False):
        spots = _canvas.draw_spots(panel, section, values, size=size, cmap=cmap)
        spots.set_clim(*limits)
    _canvas.draw_colour_bar(row[1], spots, UNITS)
    row[1].set_title(f"predicted, {correlation_text(before, after)}", size=11)

    difference = after - before
    reach = max(map(abs, _canvas.robust_limits(difference)))
    spots = _canvas.draw_spots(
        row[2], section, difference, size=size, cmap=DIFFERENCE, linewidths=0.3, edgecolors="#777777"
    )
    spots.set_clim(-reach, reach)
    _canvas.draw_colour_bar(row[2], spots, f"Δ {UNITS}")
    row[2].set_title("predicted − measured", size=11)


def correlation_text(before: np.ndarray, after: np.ndarray) -> str:
    """Pearson correlation over the spots that have both values, and their number."""
    both = np.isfinite(before) & np.isfinite(after)
    if both.sum() < 2:
        return f"no r (n = {both.sum()})"
    (r,), undefined = metrics.pearson(before[both, None], after[both, None])
    return f"no r (constant, n = {both.sum()})" if undefined else f"r = {r:.2f} (n = {both.sum()})"
