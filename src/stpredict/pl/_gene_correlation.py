"""Which genes go together, as measured and as predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._evaluation import metrics
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._values import both_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data

MAX_NAMES = 50
"""Up to as many genes are named along the axes."""


@with_shared_texts
def gene_correlation(
    data: Data,
    *,
    predicted: str = keys.PREDICTED,
    genes: Iterable[str] | None = None,
    min_counts: int = 50,
    cmap: str | Colormap = "RdBu_r",
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> list[Axes] | Figure | None:
    """Draw the gene–gene correlation over spots, as measured and as predicted.

    Both have the same colours and the same order of genes: that of a hierarchical clustering (average linkage) of the
    measured correlations. The title has the correlation between the two, over pairs of genes, which is
    ``"gene_structure"`` of `tl.evaluate`. Measured correlations are weakened by the noise of counting and predicted
    ones are not, so expect the same pattern, not the same strength.

    Parameters
    ----------
    data
        A section with raw counts and a prediction.
    %(predicted)s
    genes
        Genes to draw, at least three; by default all that were predicted. Aliases and Ensembl ids are resolved. Genes
        that are constant on either side, or were not predicted for all spots, are left out.
    %(min_counts)s
    cmap
        Colour map of the correlations.
    %(library_id)s
    %(sections)s
    ax
        Two axes to draw on; by default a new figure is made.
    %(figure)s

    Returns
    -------
    The two axes if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If the layer, a gene or the section is not there.
    ValueError
        If counts are not raw counts, fewer than three genes or spots are left, there are several sections and none is
        chosen, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> axes = st.pl.gene_correlation(adata, predicted="truth", show=False)
    >>> [ax.get_title().split(",")[0] for ax in axes]
    ['measured', 'predicted']
    """
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key))
    before, after = both_of(section, genes, predicted, min_counts)
    left, right = (metrics.unit_columns(values.to_numpy()) for values in (before, after))
    defined = np.isfinite(left).all(axis=0) & np.isfinite(right).all(axis=0)
    if defined.sum() < 3:
        msg = f"Only {defined.sum()} genes vary over spots both as measured and as predicted; 3 are needed."
        raise ValueError(msg)
    score = metrics.gene_structure(before.to_numpy(), after.to_numpy())
    correlations = [values[:, defined].T @ values[:, defined] for values in (left, right)]
    order = _order(correlations[0])
    names = before.columns[defined][order]

    panels = _canvas.Panels.make(2, columns=2, size=(4.6, 4.4), ax=ax, title=title)
    limit = _limit(correlations)
    for panel, values in zip(panels.axes, correlations, strict=True):
        image = panel.imshow(values[np.ix_(order, order)], cmap=cmap, vmin=-limit, vmax=limit, interpolation="none")
        _name_genes(panel, list(names))
    panels.axes[0].set_title(f"measured, {len(names)} genes, {len(before)} spots", size=10)
    panels.axes[1].set_title(f"predicted, agreement of structure r = {score:.2f}", size=10)
    _canvas.draw_colour_bar(panels.axes[1], image, "Pearson r over spots")
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _order(correlation: np.ndarray) -> np.ndarray:
    """Genes in the order of the leaves of their clustering."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    apart = np.maximum(1 - correlation, 0)
    np.fill_diagonal(apart, 0)
    return leaves_list(linkage(squareform(apart, checks=False), "average"))


def _limit(correlations: list[np.ndarray]) -> float:
    """Nearly the strongest correlation of two different genes."""
    pairs = [np.abs(values[np.triu_indices_from(values, 1)]) for values in correlations]
    return max(float(np.percentile(np.concatenate(pairs), 99)), 0.05)


def _name_genes(ax: Axes, names: list[str]) -> None:
    ax.set(xticks=[], yticks=[])
    if len(names) <= MAX_NAMES:
        size = float(np.clip(220 / len(names), 4, 9))
        ax.set_xticks(range(len(names)), names, rotation=90, size=size)
        ax.set_yticks(range(len(names)), names, size=size)
        ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
