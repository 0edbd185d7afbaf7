"""Two dimensions of an embedding, coloured by what is known of the spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.checks import one_of
from stpredict._core.docs import with_shared_texts
from stpredict._core.neighbors import neighbor_graph
from stpredict._core.settings import settings
from stpredict._sections.open import Opened, Where
from stpredict.models._base.contract import UNITS
from stpredict.pl import _canvas
from stpredict.pl._categories import COLOURS, NO_LABEL, Palette, categories_of, colours_of, draw_legend
from stpredict.pl._limits import Limits, OneOrEach
from stpredict.pl._values import expression_of
from stpredict.tl._domains import points_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data

Layout = Literal["umap", "pca"]
LEAST_FOR_UMAP = 15


@with_shared_texts
def embedding(
    data: Data,
    basis: str = keys.ST_ALIGN,
    *,
    color: str | Iterable[str] | None = None,
    layout: Layout = "umap",
    layer: str | None = None,
    cmap: str | Colormap = "viridis",
    palette: Palette = None,
    vmin: OneOrEach = None,
    vmax: OneOrEach = None,
    vcenter: OneOrEach = None,
    size: float | None = None,
    ncols: int = 3,
    seed: int | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> Axes | list[Axes] | Figure | None:
    """Draw an embedding of all spots in two dimensions, one panel per colouring.

    Nothing is written to `data`: to draw the same UMAP many times, keep it with scanpy (``sc.pp.neighbors``,
    ``sc.tl.umap``) and pass ``basis="X_umap"``. The first UMAP after an installation takes half a minute, on a busy
    machine longer, whatever the number of spots: umap and pynndescent are compiled, once.

    Parameters
    ----------
    data
        One or more sections.
    basis
        Key of ``obsm`` to draw. One of two columns is drawn as it is.
    color
        Columns of ``obs``, or genes; None draws all spots alike.
    layout
        ``"umap"``: scanpy's, on 15 neighbours. ``"pca"``: the first two principal components, with the share of
        variance that they hold.
    %(layer)s
    cmap
        Colour map of numbers.
    %(palette)s
    %(limits)s
        By default the 1st and the 99th percentile. A list has one for each of `color`.
    size
        Area of the points, in square points; by default the more spots, the smaller.
    %(ncols)s
    seed
        Seed of UMAP and of the order in which spots are drawn; None takes ``stpredict.settings.seed``.
    %(library_key)s
        Only genes need it.
    %(table_key)s
    ax
        Axes to draw on, one per colouring; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes (a list, for several colourings) if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.
    Spots without a value are grey.

    Raises
    ------
    KeyError
        If there is no such embedding, column, gene or layer.
    TypeError, ValueError
        If the embedding has NaN or too few spots, `layout` is unknown, limits do not ascend, `palette` does not suffice,
        or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> axes = st.pl.embedding(adata, "X_morphology", color=["region", "ERBB2"], layout="pca", show=False)
    >>> [ax.get_title() for ax in axes]
    ['region', 'ERBB2']
    """
    opened = Opened(data, Where(library_key, table_key))
    adata = opened.table
    one_of(layout, ("umap", "pca"), "layout")
    seed = settings.seed if seed is None else seed
    points = points_of(adata, basis)
    wanted = [None] if color is None else [color] if isinstance(color, str) else list(dict.fromkeys(color))
    if not wanted:
        msg = "No colouring to draw: pass columns of obs, genes, or color=None."
        raise ValueError(msg)
    genes = [name for name in wanted if name is not None and name not in adata.obs]
    expression = _expression(opened, genes, layer)
    flat, axis_names = _flat(points, basis, layout, seed)

    limits = Limits.of_each(len(wanted), vmin, vmax, vcenter)
    colourings = [_colouring(adata, name, expression, ends, palette) for name, ends in zip(wanted, limits, strict=True)]
    panels = _canvas.Panels.make(len(wanted), columns=ncols, size=(4.0, 3.2), ax=ax, title=title)
    order = np.random.default_rng(seed).permutation(len(flat))  # so that no section hides another
    area = min(30.0, 20_000 / len(flat)) if size is None else size
    dots: dict[str, Any] = {"s": area, "linewidths": 0, "rasterized": len(flat) > 5000}
    for panel, name, (values, colours) in zip(panels.axes, wanted, colourings, strict=True):
        if values is None:
            panel.scatter(*flat.T, color=COLOURS[1], **dots)
        elif isinstance(colours, dict):
            _draw_groups(panel, flat, order, values, colours, dots)
        else:
            _draw_numbers(
                panel,
                flat,
                order,
                values,
                colours,
                (UNITS if layer is None else layer) if name in genes else "",
                cmap,
                dots,
            )
        panel.set(xlabel=axis_names[0], ylabel=axis_names[1], xticks=[], yticks=[])
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(basis if name is None else name, size=11)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _expression(opened: Opened, genes: list[str], layer: str | None) -> pd.DataFrame:
    """(spots, genes) in the order of the table."""
    adata = opened.table
    if not genes:
        return pd.DataFrame(index=adata.obs_names)
    values = np.full((adata.n_obs, len(genes)), np.nan)
    for section in opened.sections:
        try:
            values[section.rows] = expression_of(section, genes, layer)
        except KeyError as error:
            msg = f"Not a column of obs ({', '.join(adata.obs) or 'it has none'}), and as a gene: {error.args[0]}"
            raise KeyError(msg) from error
    return pd.DataFrame(values, index=adata.obs_names, columns=genes)


def _flat(points: np.ndarray, basis: str, layout: Layout, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    """(spots, 2), and what its axes are."""
    if points.shape[1] == 2:
        return points, (f"{basis} 1", f"{basis} 2")
    if layout == "pca":
        from sklearn.decomposition import PCA

        if min(points.shape) < 2:
            msg = f"obsm[{basis!r}] has shape {points.shape}; two components need two spots and two columns."
            raise ValueError(msg)
        pca = PCA(2, random_state=seed)
        flat = pca.fit_transform(points)
        first, second = (f"PC{i + 1} ({share:.0%})" for i, share in enumerate(pca.explained_variance_ratio_))
        return flat, (first, second)
    if len(points) < LEAST_FOR_UMAP:
        msg = f"There are {len(points)} spots; UMAP needs at least {LEAST_FOR_UMAP}. Pass layout='pca'."
        raise ValueError(msg)
    import scanpy as sc

    apart = neighbor_graph(points, seed)
    sc.tl.umap(apart, random_state=seed)
    return apart.obsm["X_umap"], ("UMAP1", "UMAP2")


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _colouring(
    adata: AnnData, name: str | None, expression: pd.DataFrame, ends: Limits, palette: Palette
) -> tuple[np.ndarray | None, Any]:
    """Values of the spots, and how they become colours: numbers by a norm, categories by the colour of each."""
    if name is None:
        return None, None
    if name in expression or _is_number(adata.obs[name]):
        values = (expression[name] if name in expression else adata.obs[name]).to_numpy(float)
        return values, ends.norm(values, _canvas.robust_limits(values))
    categories = categories_of(adata, name)
    names = categories.astype(object).where(categories.notna(), NO_LABEL).to_numpy()
    return names, {**colours_of(adata, name, palette), NO_LABEL: _canvas.UNKNOWN}


def _draw_numbers(
    ax: Axes,
    flat: np.ndarray,
    order: np.ndarray,
    values: np.ndarray,
    norm: Normalize,
    unit: str,
    cmap: str | Colormap,
    dots: dict,
) -> None:
    known = np.isfinite(values)
    ax.scatter(flat[~known, 0], flat[~known, 1], color=_canvas.UNKNOWN, **dots)
    order = order[known[order]]
    drawn = ax.scatter(flat[order, 0], flat[order, 1], c=values[order], cmap=cmap, norm=norm, **dots)
    _canvas.draw_colour_bar(ax, drawn, unit)


def _draw_groups(
    ax: Axes, flat: np.ndarray, order: np.ndarray, names: np.ndarray, colour: dict[str, str], dots: dict
) -> None:
    ax.scatter(*flat[order].T, color=[colour[name] for name in names[order]], **dots)
    draw_legend(ax, names, colour)
