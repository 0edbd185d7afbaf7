"""Measured beside predicted expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.renamed import SCANPY_NAMES, also_called
from stpredict._evaluation import metrics
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._limits import Limits, OneOrEach
from stpredict.pl._values import DO_NOT_BELIEVE, expression_of, outside, units_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
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
    vmin: OneOrEach = None,
    vmax: OneOrEach = None,
    vcenter: OneOrEach = None,
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
    """Draw genes as measured, as predicted, and the difference of both; a row for each gene.

    Measured and predicted share one colour scale, from the lowest 1st to the highest 99th percentile of the two, so
    that a prediction with little contrast also shows little contrast. Colours of the difference are symmetric about
    0. A prediction for a section that lies outside of what the model was trained on says so below it.

    Parameters
    ----------
    data
        A section with counts and a prediction.
    genes
        One or more genes that were measured and predicted. Aliases and Ensembl ids are resolved. As in scanpy,
        ``color=`` is understood too.
    %(predicted)s
    measured
        Layer to compare it with, in the same units; None normalises the measured counts.
    cmap
        Colour map of measured and predicted expression.
    %(limits)s
        They are those of measured and predicted expression.
    %(map)s
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
    TypeError, ValueError
        If no gene is given, there are several sections and none is chosen, limits do not ascend, or `ax` has another
        number of axes.

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
    limits = Limits.of_each(before.shape[1], vmin, vmax, vcenter)
    pairs = {gene: (before[gene].to_numpy(), after[gene].to_numpy()) for gene in before}
    norms = [
        ends.norm(np.concatenate(pair), _canvas.shared_limits(*pair))
        for ends, pair in zip(limits, pairs.values(), strict=True)
    ]
    units, away = units_of(section, predicted), outside(section, predicted)
    slide = _canvas.overview_of(section) if alpha_img > 0 else None
    panels = _canvas.Panels.make(3 * len(pairs), columns=3, size=_canvas.map_size(section), ax=ax, title=title)
    rows = np.reshape(np.array(panels.axes, dtype=object), (-1, 3))
    for row, (gene, pair), norm in zip(rows, pairs.items(), norms, strict=True):
        for panel in row:
            _canvas.draw_slide(panel, section, slide, alpha=alpha_img)
        _draw_row(row, section, *pair, units, size=size, cmap=cmap, norm=norm)
        row[0].set_title(f"{gene}: measured", size=11)
        if away:
            _canvas.tell(row[1], DO_NOT_BELIEVE)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _draw_row(
    row: np.ndarray,
    section: Section,
    before: np.ndarray,
    after: np.ndarray,
    units: str,
    *,
    size: float,
    cmap: str | Colormap,
    norm: Normalize,
) -> None:
    for panel, values in zip(row, (before, after), strict=False):
        spots = _canvas.draw_spots(panel, section, values, size=size, cmap=cmap, norm=norm)
    _canvas.draw_colour_bar(row[1], spots, units)
    row[1].set_title(f"predicted, {correlation_text(before, after)}", size=11)

    difference = after - before
    reach = max(map(abs, _canvas.robust_limits(difference)))
    spots = _canvas.draw_spots(
        row[2], section, difference, size=size, cmap=DIFFERENCE, linewidths=0.3, edgecolors="#777777"
    )
    spots.set_clim(-reach, reach)
    _canvas.draw_colour_bar(row[2], spots, f"difference, {units}")
    row[2].set_title("predicted − measured", size=11)


def correlation_text(before: np.ndarray, after: np.ndarray) -> str:
    """Pearson correlation over the spots that have both values, and their number."""
    both = np.isfinite(before) & np.isfinite(after)
    if both.sum() < 2:
        return f"no r (n = {both.sum()})"
    (r,), undefined = metrics.pearson(before[both, None], after[both, None])
    return f"no r (constant, n = {both.sum()})" if undefined else f"r = {r:.2f} (n = {both.sum()})"
