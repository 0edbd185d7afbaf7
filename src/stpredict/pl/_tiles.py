"""A gallery of the tiles that encoders see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import one_of
from stpredict._core.docs import with_shared_texts
from stpredict._core.settings import settings
from stpredict._sections.niches import niche_windows
from stpredict._sections.open import Where
from stpredict._sections.scale import SPOT_UM
from stpredict.pl import _canvas

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

PIXELS = 300
"""A tile is drawn from at least this many pixels across, where the image has them."""

OUTLINE = "#ffd400"


@with_shared_texts
def tiles(
    data: Data,
    n: int = 8,
    *,
    seed: int | None = None,
    window: Literal["spot", "niche"] = "spot",
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
    """Draw the windows around a few spots as encoders see them, to check scale and alignment.

    The spot itself is outlined as a circle, and in a niche the spot window as a square. Axes are in pixels of the
    image.

    Parameters
    ----------
    data
        A section with its H&E image. The sides of the windows are those of `pp.tiles`, or its defaults if it has not
        been called; niches are those of `pp.niches` if it has.
    n
        Number of spots, drawn at random; all of them if there are fewer.
    %(seed)s
    window
        Which window to draw.
    %(ncols)s
    %(one_section)s
    ax
        Axes to draw on, one per tile; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes (a list, for several tiles) if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    ValueError, FileNotFoundError
        If `n` is not positive, there is no image, its scale is unknown, there are several sections and none is chosen,
        or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> axes = st.pl.tiles(adata, n=3, window="niche", show=False)
    >>> left, right = axes[0].get_xlim()
    >>> len(axes), float(right - left)
    (3, 560.0)
    """
    one_of(window, ("spot", "niche"), "window")
    if n < 1:
        msg = f"n must be at least 1, got {n!r}."
        raise ValueError(msg)
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    rng = np.random.default_rng(settings.seed if seed is None else seed)
    chosen = np.sort(rng.choice(len(section), min(n, len(section)), replace=False))
    pictures = [read_tile(section, spot, window) for spot in chosen]

    panels = _canvas.Panels.make(len(chosen), columns=ncols, size=(2.2, 2.45), ax=ax, title=title)
    for panel, spot, picture in zip(panels.axes, chosen, pictures, strict=True):
        picture.draw(panel)
        _canvas.draw_scale_bar(panel, section)
        panel.set_title(section.obs_names[spot], size=8)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


@dataclass(frozen=True)
class Tile:
    """The window around a spot, ready to be drawn; lengths and places are in pixels of the image."""

    pixels: np.ndarray
    extent: tuple[float, float, float, float]
    """Where the pixels lie: left, right, bottom, top."""
    spot: np.ndarray
    """Centre of the spot."""
    centre: np.ndarray
    side: float
    diameter: float
    """Of the spot."""
    inner: float | None
    """Side of the spot window within a niche."""

    def draw(self, ax: Axes) -> None:
        """Show the window with the spot outlined as a circle and, in a niche, the spot window as a square."""
        from matplotlib.patches import Circle, Rectangle

        (x, y), half = self.centre, self.side / 2
        ax.imshow(self.pixels, extent=self.extent, interpolation="nearest")
        ax.set(xlim=(x - half, x + half), ylim=(y + half, y - half), xticks=[], yticks=[])
        style: dict[str, Any] = {"fill": False, "edgecolor": OUTLINE, "linewidth": 1.2}
        x, y = self.spot
        ax.add_patch(Circle((x, y), self.diameter / 2, linestyle="--", **style))
        if self.inner is not None:
            ax.add_patch(Rectangle((x - self.inner / 2, y - self.inner / 2), self.inner, self.inner, **style))


def read_tile(section: Section, spot: int, window: Literal["spot", "niche"]) -> Tile:
    """Read the window around a spot as encoders do, from the level that is fine enough to draw.

    Raises ValueError or FileNotFoundError if there is no image, or its scale is unknown.
    """
    geometry = section.adata.uns.get(keys.TILES, {}).get(section.name, {})
    spot_px = float(geometry.get("spot_um", SPOT_UM)) / section.mpp
    side, centre, inner = spot_px, section.centres[spot], None
    if window == "niche":
        sides, centres = niche_windows(section)
        side, centre, inner = np.broadcast_to(sides, len(section))[spot] / section.mpp, centres[spot], spot_px
    pixels, extent = read_area(section, centre - side / 2, centre + side / 2)
    return Tile(pixels, extent, section.centres[spot], centre, side, section.spot_diameter, inner)


def read_area(
    section: Section, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Pixels from corner to corner (x, y), fine enough to draw, and where they lie: left, right, bottom, top."""
    level = section.image.best_level(max(1.0, (high - low).max() / PIXELS))
    scale = section.image.downsamples[level]
    x0, y0 = np.floor(low / scale).astype(int)
    x1, y1 = np.ceil(high / scale).astype(int)
    pixels = section.image.read(int(x0), int(y0), int(x1), int(y1), level=level)
    return pixels, (x0 * scale, x1 * scale, y1 * scale, y0 * scale)
