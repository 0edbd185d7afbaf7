"""Where a model looks among the nuclei of a tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.docs import with_shared_texts
from stpredict._core.settings import settings
from stpredict._sections.open import Where
from stpredict.models.align_st import AlignSt
from stpredict.pl import _canvas
from stpredict.pl._nuclei import chosen_spots, draw_ellipses
from stpredict.pl._tiles import OUTLINE, Tile, read_area
from stpredict.pp._nuclei_detection.maps import check_nuclei
from stpredict.tl._given import given_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section
    from stpredict.models import ExpressionModel

TILE_UM = 112.0
"""Side of the window whose nuclei a model looks at."""

LEAST_TOP = 2.0
"""Colours reach at least so far, so that attention that is nearly even looks even."""


@with_shared_texts
def attention(
    data: Data,
    model: ExpressionModel | str | Path,
    spots: str | Sequence[str] | None = None,
    *,
    n: int = 4,
    seed: int | None = None,
    cmap: str = "turbo",
    alpha: float = 0.7,
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
    """Draw the attention of ALIGN-ST to the nuclei of a few tiles.

    Above, the tile with its nuclei outlined; below, the same tile under the model's attention: what each of 4 × 4 places
    gets, as a multiple of what it would get if the model looked everywhere alike, with smooth transitions. A model of
    several members shows their mean. Places are 28 µm wide, but each sees what lies up to 70 µm away, so the figure tells
    about where the model looks, not at which nucleus. Look at many tiles: where the same place is lit in all of them, the
    model has learned a place and not what to look for.

    Parameters
    ----------
    data
        A section with its H&E image, encoded as in training, after `stpredict.pp.nuclei`.
    model
        A model trained by ``stpredict.tl.train(method="align_st", nuclei=True)``, or the path of a saved one.
    %(spots)s
    %(n_and_seed)s
    cmap, alpha
        Colours of attention, and how much they hide of the tile.
    %(one_section)s
    ax
        Axes to draw on, first those of the tiles, then those of attention, one each per spot; by default a new figure is
        made.
    %(figure)s

    Returns
    -------
    The list of axes if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If there is no such spot.
    TypeError
        If the model is not of method ``"align_st"``.
    ValueError, FileNotFoundError
        If the model does not look at nuclei, nuclei were not looked for, features are missing or were not made as in
        training, `n` is not positive, there is no image, there are several sections and none is chosen, or `ax` has
        another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> st.pp.nuclei(adata, show_progress=False)
    >>> how = {"method": "align_st", "nuclei": True, "epochs": 1, "members": 1, "show_progress": False}
    >>> model = st.tl.train(adata, genes=adata.var_names[:30], **how)
    >>> axes = st.pl.attention(adata, model, n=2, show=False)
    >>> len(axes)
    4
    """
    model = given_model(model)
    if not isinstance(model, AlignSt):
        msg = f"A model of method {model.method!r} does not look at nuclei; train 'align_st' with nuclei=True."
        raise TypeError(msg)
    if n < 1:
        msg = f"n must be at least 1, got {n!r}."
        raise ValueError(msg)
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    chosen = chosen_spots(section, spots, n, settings.seed if seed is None else seed)
    looks = model.nuclei_attention(section, chosen)
    looks = looks * looks[0].size
    record = check_nuclei(section)
    pictures = [_tile(section, spot) for spot in chosen]
    table, mpp = np.asarray(record["table"]), float(record["mpp"]) / section.image_scale
    top = max(LEAST_TOP, float(looks.max()))

    panels = _canvas.Panels.make(2 * len(chosen), columns=len(chosen), size=(2.2, 2.3), ax=ax, title=title)
    above, below = panels.axes[: len(chosen)], panels.axes[len(chosen) :]
    for tile, overlay, spot, picture, look in zip(above, below, chosen, pictures, looks, strict=True):
        picture.draw(tile)
        draw_ellipses(tile, section, table, mpp, OUTLINE)
        tile.set_title(section.obs_names[spot], size=8)
        picture.draw(overlay)
        drawn = _draw_look(overlay, look, top, cmap, alpha)
        for panel in (tile, overlay):
            _canvas.draw_scale_bar(panel, section)
    _canvas.draw_colour_bar(below[-1], drawn, "attention (1: even)")
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _tile(section: Section, spot: int) -> Tile:
    """The window around a spot that the model sees."""
    side, centre = TILE_UM / section.mpp, section.centres[spot]
    pixels, extent = read_area(section, centre - side / 2, centre + side / 2)
    return Tile(pixels, extent, centre, centre, side, section.spot_diameter, None)


def _draw_look(ax: Axes, look: np.ndarray, top: float, cmap: str, alpha: float) -> AxesImage:
    """Lay attention over the tile, smooth between the places, and the clearer the more there is."""
    xlim, ylim = ax.get_xlim(), ax.get_ylim()
    shown = ax.imshow(
        look,
        extent=(*xlim, *ylim),
        alpha=alpha * look / top,
        vmin=0,
        vmax=top,
        cmap=cmap,
        interpolation="hermite",
        interpolation_stage="data",
    )
    ax.set(xlim=xlim, ylim=ylim)
    return shown
