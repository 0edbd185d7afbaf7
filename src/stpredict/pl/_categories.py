"""Categories in figures: their colours, the spots that have them and the legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict.pl import _canvas

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict._sections.section import Section

NO_LABEL = "no label"

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""Colours of Okabe and Ito, which all kinds of colour vision tell apart."""

MORE_COLOURS = (
    *("#8800FF", "#663311", "#112288", "#AAFF88", "#554455", "#BB55FF"),
    *("#330044", "#DD1144", "#77FFBB", "#CCAA66", "#8811CC", "#003322"),
)
"""Each is as far as can be, in CIE Lab as any kind of colour vision sees it, from those before it, from white and grey."""

QUALITATIVE = 256
"""Colour maps with fewer colours than this are lists of colours."""

Palette = str | Sequence[str] | Mapping[str, str] | None


def categories_of(adata: AnnData, key: str) -> pd.Series:
    """``obs[key]`` as categories that are strings, in the column's own order."""
    column = adata.obs[key]
    column = column if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category")
    return column.cat.rename_categories(column.cat.categories.astype(str))


def colours_of(adata: AnnData, key: str, palette: Palette = None) -> dict[str, str]:
    """Category → colour: of the `palette`, of ``uns["<key>_colors"]`` where there are enough, else as `distinct` chooses."""
    names = list(categories_of(adata, key).cat.categories)
    if palette is not None:
        return chosen_colours(names, palette)
    return dict(zip(names, stored_colours(adata, key) or distinct(len(names)), strict=False))


def chosen_colours(names: Sequence[str], palette: Palette) -> dict[str, str]:
    """Name → colour of a `palette` as users give it; of `distinct` where it is None.

    Raises ValueError if the palette is no colour map, has fewer colours than there are names, or one that is no colour.
    """
    from matplotlib import colormaps
    from matplotlib.colors import is_color_like, to_hex

    if palette is None:
        return dict(zip(names, distinct(len(names)), strict=True))
    if isinstance(palette, str):
        if palette not in colormaps:
            msg = f"palette={palette!r} is no colour map of matplotlib, such as 'tab10'. Or pass a list of colours, or a dict."
            raise ValueError(msg)
        cmap, n = colormaps[palette], len(names)
        listed = cmap.N < QUALITATIVE and n <= cmap.N
        return dict(zip(names, map(to_hex, cmap(range(n) if listed else np.linspace(0, 1, n))), strict=True))
    if not isinstance(palette, Mapping):
        palette = dict(zip(names, palette, strict=False))
    if lost := [name for name in names if name not in palette]:
        msg = f"palette= has no colour for {len(lost)} of the {len(names)} categories: {', '.join(map(str, lost[:5]))}."
        raise ValueError(msg)
    if bad := [colour for colour in palette.values() if not is_color_like(colour)]:
        msg = f"palette= holds what is no colour: {', '.join(map(repr, bad[:5]))}."
        raise ValueError(msg)
    return {name: to_hex(palette[name]) for name in names}


def stored_colours(adata: AnnData, key: str) -> list[str]:
    """Colours in ``uns["<key>_colors"]``; none unless they suffice."""
    stored = adata.uns.get(keys.colours(key))
    if stored is None or len(stored) < len(categories_of(adata, key).cat.categories):
        return []
    return [str(colour) for colour in stored]


def distinct(n: int) -> list[str]:
    """Return `n` colours that, up to 20, all kinds of colour vision tell apart; of more, scanpy's, and grey beyond those."""
    from scanpy.plotting import palettes

    known = (COLOURS + MORE_COLOURS, palettes.default_28, palettes.default_102)
    return list(next((colours for colours in known if n <= len(colours)), [_canvas.UNKNOWN] * n))[:n]


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
