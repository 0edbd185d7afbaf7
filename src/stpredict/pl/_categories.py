"""Categories in figures: their colours, the spots that have them and the legend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from stpredict._core import keys
from stpredict.pl import _canvas

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict._sections.section import Section

NO_LABEL = "no label"


def categories_of(adata: AnnData, key: str) -> pd.Series:
    """``obs[key]`` as categories that are strings, in the column's own order."""
    column = adata.obs[key]
    column = column if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category")
    return column.cat.rename_categories(column.cat.categories.astype(str))


def colours_of(adata: AnnData, key: str) -> dict[str, str]:
    """Category → colour: of ``uns["<key>_colors"]`` where there are enough, else as scanpy would choose."""
    names = list(categories_of(adata, key).cat.categories)
    own = stored_colours(adata, key)
    return dict(zip(names, own if own else palette(len(names)), strict=False))


def stored_colours(adata: AnnData, key: str) -> list[str]:
    """Colours in ``uns["<key>_colors"]``; none unless they suffice."""
    stored = adata.uns.get(keys.colours(key))
    if stored is None or len(stored) < len(categories_of(adata, key).cat.categories):
        return []
    return [str(colour) for colour in stored]


def palette(n: int) -> list[str]:
    """Return `n` colours of scanpy's palettes; all grey where there are more categories than colours."""
    from scanpy.plotting import palettes

    fits = (p for p in (palettes.default_20, palettes.default_28, palettes.default_102) if n <= len(p))
    return list(next(fits, [_canvas.UNKNOWN] * n))[:n]


def draw_categories(
    ax: Axes, section: Section, values: pd.Series, colour: Mapping[str, str], *, size: float = 1.0
) -> None:
    """Draw the section's spots in the colours of their categories, with a legend that counts them."""
    names = values.astype(object).where(values.notna(), NO_LABEL).to_numpy()
    colour = {**colour, NO_LABEL: _canvas.UNKNOWN}
    _canvas.draw_spots(ax, section, None, size=size, facecolors=[colour[name] for name in names])
    draw_legend(ax, names, colour)


def draw_legend(ax: Axes, names: np.ndarray, colour: Mapping[str, str]) -> None:
    """List the categories that occur in `names`, in the order of `colour`, right of the panel."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=6, color=shade, label=f"{kind} ({count})")
        for kind, shade in colour.items()
        if (count := int((names == kind).sum()))
    ]
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        ncols=1 if len(handles) <= 20 else 2,
    )
