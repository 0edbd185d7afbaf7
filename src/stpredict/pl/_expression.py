"""Expression of genes on the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.renamed import SCANPY_NAMES, also_called
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._limits import Limits, OneOrEach
from stpredict.pl._values import DO_NOT_BELIEVE, expression_of, measured_beside, outside, units_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data


@also_called(**SCANPY_NAMES)
@with_shared_texts
def expression(
    data: Data,
    genes: str | Iterable[str],
    *,
    layer: str | None = keys.PREDICTED,
    cmap: str | Colormap = "viridis",
    vmin: OneOrEach = None,
    vmax: OneOrEach = None,
    vcenter: OneOrEach = None,
    size: float = 1.0,
    alpha_img: float = 0.4,
    ncols: int = 4,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> Axes | list[Axes] | Figure | None:
    """Draw genes over the H&E image, one panel each.

    A prediction has the colours of `pl.compare`: where the gene was measured too, they run from the lowest 1st to the
    highest 99th percentile of measurement and prediction, so that a prediction with little contrast also shows little
    contrast. Pass ``vmin="p1", vmax="p99"`` to use all colours for what is drawn. A prediction for a section that
    lies outside of what the model was trained on says so below each panel.

    Parameters
    ----------
    data
        A section with expression in `layer`.
    genes
        One or more genes, of ``var`` or of those predicted beside it (``obsm["predicted_genes"]``). Aliases and
        Ensembl ids are resolved. As in scanpy, ``color=`` is understood too.
    %(layer)s
    cmap
        Colour map.
    %(limits)s
        By default each gene's 1st and 99th percentile, of a prediction as said above.
    %(size)s
    %(alpha_img)s
    %(ncols)s
    %(one_section)s
    ax
        Axes to draw on, one per gene; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes (a list, for several genes) if ``show=False`` or `ax` is given, the figure if `return_fig`, else None. Spots
    without a value are grey.

    Raises
    ------
    KeyError
        If the layer, a gene or the section is not there.
    TypeError, ValueError
        If no gene is given, there are several sections and none is chosen, limits do not ascend, or `ax` has another
        number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> axes = st.pl.expression(adata, ["ERBB2", "COL1A1"], layer="truth", show=False)
    >>> [ax.get_title() for ax in axes]
    ['ERBB2', 'COL1A1']
    """
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    values = expression_of(section, genes, layer)
    measured = measured_beside(section, values.columns, layer)
    columns = {gene: values[gene].to_numpy() for gene in values}
    limits = Limits.of_each(len(columns), vmin, vmax, vcenter)
    norms = [
        ends.norm(column, _canvas.shared_limits(column, measured.get(gene, np.array([]))))
        for ends, (gene, column) in zip(limits, columns.items(), strict=True)
    ]
    slide = _canvas.overview_of(section) if alpha_img > 0 else None
    panels = _canvas.Panels.make(len(columns), columns=ncols, size=_canvas.map_size(section), ax=ax, title=title)
    units = [
        units_of(section, layer)
        + ("\nmeasured and predicted" if gene in measured and np.isfinite(column).any() else "")
        for gene, column in columns.items()
    ]
    for i, (panel, (gene, column), norm) in enumerate(zip(panels.axes, columns.items(), norms, strict=True)):
        _canvas.draw_slide(panel, section, slide, alpha=alpha_img)
        spots = _canvas.draw_spots(panel, section, column, size=size, cmap=cmap, norm=norm)
        known = np.isfinite(column).any()
        panel.set_title(gene if known else f"{gene} (no values)", size=11)
        named_beside = panels.own and (i + 1) % ncols and units[i] == dict(enumerate(units)).get(i + 1)
        _canvas.draw_colour_bar(panel, spots, "" if named_beside else units[i])
        if outside(section, layer):
            _canvas.tell(panel, DO_NOT_BELIEVE)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)
