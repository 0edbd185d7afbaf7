"""The niche of a spot: which spots belong to it, which part of the slide, and what averaging over niches does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.docs import with_shared_texts
from stpredict._sections.niches import boxes_of, niche_matrix, niche_windows
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._limits import Limit, Limits
from stpredict.pl._tiles import OUTLINE, read_area
from stpredict.pl._values import expression_of, units_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

MARGIN = 0.25
"""What is shown around the niche, as a share of its longer side."""


@with_shared_texts
def niches(
    data: Data,
    spot: str | None = None,
    *,
    gene: str | None = None,
    layer: str | None = None,
    cmap: str | Colormap = "viridis",
    vmin: Limit | None = None,
    vmax: Limit | None = None,
    vcenter: Limit | None = None,
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
    """Draw the niche of one spot on the slide and, for a gene, what averaging over niches does to its map.

    The spot is filled, the members of its niche have a thick outline and other spots a thin one. The rectangle is the
    niche image; where it is no square, the dashed square is what encoders read.

    Parameters
    ----------
    data
        A section. Niches are those of `stpredict.pp.niches`, else the spots within the niche window.
    spot
        Name of the spot; by default one in the middle of the section.
    gene
        Gene whose map is drawn beside it, by spot and as the mean of every niche, with the same colours. Aliases and
        Ensembl ids are resolved.
    %(layer)s
    cmap
        Colour map.
    vmin, vmax, vcenter
        Values at the ends and in the middle of the colours, as in scanpy: numbers, or percentiles (``"p99"``). By default
        the 1st and the 99th percentile.
    %(one_section)s
    ax
        Axes to draw on: one, or three with a gene; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes (a list, with a gene) if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If the spot, the gene, the layer or the section is not there.
    TypeError, ValueError
        If there are several sections and none is chosen, the scale is unknown, niches do not fit the spots, limits do not
        ascend, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.niches(adata, members="ring", rings=1)
    >>> axes = st.pl.niches(adata, gene="ERBB2", show=False)
    >>> [ax.get_title() for ax in axes[1:]]
    ['ERBB2, spots', 'ERBB2, niche means']
    """
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    row = _row_of(section, spot)
    members = niche_matrix(section)
    boxes = boxes_of(section)
    values: Any = None if gene is None else expression_of(section, gene, layer).to_numpy()[:, 0]
    norm = None if gene is None else Limits(vmin, vmax, vcenter).norm(values, _canvas.robust_limits(values))
    slide = None if gene is None else _canvas.overview_of(section)

    panels = _canvas.Panels.make(
        1 if gene is None else 3, columns=3, size=_canvas.map_size(section), ax=ax, title=title
    )
    _draw_niche(panels.axes[0], section, row, members[[row]].indices, boxes[row])
    if values is not None:
        means = members @ values
        for panel, column, what in zip(panels.axes[1:], (values, means), ("spots", "niche means"), strict=True):
            _canvas.draw_slide(panel, section, slide, alpha=0.4)
            spots = _canvas.draw_spots(panel, section, column, cmap=cmap, norm=norm)
            panel.set_title(f"{gene}, {what}", size=11)
            _draw_box(panel, boxes[row], color=_canvas.INK, linewidth=1)
        _canvas.draw_colour_bar(panels.axes[2], spots, units_of(section, layer))
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _row_of(section: Section, spot: str | None) -> int:
    """Row of `spot`, or of the spot nearest to the middle of the section."""
    if spot is None:
        middle = np.median(section.centres, axis=0)
        return int(np.square(section.centres - middle).sum(axis=1).argmin())
    if spot not in section.obs_names:
        some = ", ".join(map(str, section.obs_names[:3]))
        msg = f"Section {section.name!r} has no spot {spot!r}; obs_names has {some}, …"
        raise KeyError(msg)
    return int(section.obs_names.get_loc(spot))


def _draw_niche(ax: Axes, section: Section, row: int, members: np.ndarray, box: np.ndarray) -> None:
    """Show the surroundings of a spot with its niche."""
    sides, centres = niche_windows(section)
    half = np.broadcast_to(sides, len(section))[row] / section.mpp / 2
    square = np.concatenate([centres[row] - half, centres[row] + half])
    low = np.minimum(square[:2], section.centres[members].min(axis=0) - section.spot_diameter)
    high = np.maximum(square[2:], section.centres[members].max(axis=0) + section.spot_diameter)
    centre, reach = (low + high) / 2, (0.5 + MARGIN) * (high - low).max()
    left, top, right, bottom = np.concatenate([centre - reach, centre + reach])
    if section.has_image:
        pixels, extent = read_area(section, centre - reach, centre + reach)
        ax.imshow(pixels, extent=extent, interpolation="antialiased")
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    width = np.full(len(section), 0.5)
    width[members] = 1.8
    face = np.zeros((len(section), 4))
    face[row] = (*_rgb(OUTLINE), 0.35)
    _canvas.draw_spots(ax, section, None, facecolors=face, edgecolors=OUTLINE, linewidths=width)
    _draw_box(ax, box, color=_canvas.INK, linewidth=1.8)
    if not np.allclose(box, square):
        _draw_box(ax, square, color=_canvas.INK, linewidth=1, linestyle="--")
    n = len(members)
    ax.set_title(f"{section.obs_names[row]}: {n} spot{'s' if n > 1 else ''}", size=8)
    _canvas.draw_scale_bar(ax, section)


def _draw_box(ax: Axes, box: np.ndarray, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **style))


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
