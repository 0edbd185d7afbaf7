"""The nuclei that were found, over the tiles they were found in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.settings import settings
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._tiles import OUTLINE, read_tile
from stpredict.pp._nuclei import check_nuclei

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section


@with_shared_texts
def nuclei(
    data: Data,
    spots: str | Sequence[str] | None = None,
    *,
    n: int = 4,
    seed: int | None = None,
    key: str = keys.NUCLEI,
    ncols: int = 4,
    color: str = OUTLINE,
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
    """Draw the nuclei found in the windows of a few spots, to check that they are nuclei.

    Each nucleus is the ellipse of its area, eccentricity and direction. The spot is a dashed circle, and the number of
    nuclei in it is in the title.

    Parameters
    ----------
    data
        A section that went through `stpredict.pp.nuclei`, with its H&E image.
    %(spots)s
    %(n_and_seed)s
    key
        ``key_added`` of `stpredict.pp.nuclei`.
    %(ncols)s
    color
        Colour of the outlines.
    %(one_section)s
    ax
        Axes to draw on, one per spot; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes (a list, for several spots) if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If there is no such spot.
    ValueError, FileNotFoundError
        If nuclei were not looked for, `n` is not positive, there is no image, there are several sections and none is
        chosen, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.nuclei(adata, show_progress=False)
    >>> axes = st.pl.nuclei(adata, n=2, show=False)
    >>> len(axes)
    2
    """
    if n < 1:
        msg = f"n must be at least 1, got {n!r}."
        raise ValueError(msg)
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    record = check_nuclei(section, key)
    chosen = chosen_spots(section, spots, n, settings.seed if seed is None else seed)
    pictures = [read_tile(section, spot, "spot") for spot in chosen]
    table = np.asarray(record["table"])
    counts = section.adata.obs[f"{key}_count"].to_numpy()[section.rows]

    panels = _canvas.Panels.make(len(chosen), columns=ncols, size=(2.2, 2.45), ax=ax, title=title)
    for panel, spot, picture in zip(panels.axes, chosen, pictures, strict=True):
        picture.draw(panel)
        _canvas.draw_scale_bar(panel, section)
        draw_ellipses(panel, section, table, float(record["mpp"]) / section.image_scale, color)
        panel.set_title(f"{section.obs_names[spot]}: {counts[spot]} nuclei", size=8)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def chosen_spots(section: Section, spots: str | Sequence[str] | None, n: int, seed: int) -> np.ndarray:
    """Row numbers of the spots to draw."""
    if spots is None:
        return np.sort(np.random.default_rng(seed).choice(len(section), min(n, len(section)), replace=False))
    names = [spots] if isinstance(spots, str) else list(spots)
    rows = section.obs_names.get_indexer(names)
    if (rows < 0).any() or not names:
        lost = ", ".join(name for name, row in zip(names, rows, strict=True) if row < 0) or "none given"
        msg = f"Section {section.name!r} has no such spots: {lost}. Names are like {section.obs_names[0]!r}."
        raise KeyError(msg)
    return rows


def draw_ellipses(ax: Axes, section: Section, table: np.ndarray, mpp: float, color: str) -> None:
    """Draw the nuclei whose centre is in view; `mpp` is that of the image."""
    from matplotlib.collections import EllipseCollection

    xy = table[:, :2] * section.image_scale
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    seen = (xy >= [left, top]).all(axis=1) & (xy < [right, bottom]).all(axis=1)
    area, eccentricity, orientation = table[seen, 2:5].T
    ratio = np.sqrt(np.maximum(1 - eccentricity**2, 0.01))
    diameter = np.sqrt(4 * area / np.pi) / mpp
    ax.add_collection(
        EllipseCollection(
            diameter / np.sqrt(ratio),
            diameter * np.sqrt(ratio),
            np.degrees(orientation),
            units="xy",
            offsets=xy[seen],
            offset_transform=ax.transData,
            facecolors="none",
            edgecolors=color,
            linewidths=0.8,
        ),
        autolim=False,
    )
