"""What all figures share: panels, the slide as a backdrop, spots at their true size, and how a figure ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.files import replacing
from stpredict._sections.open import one_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection

    from stpredict._core.typing import Data
    from stpredict._sections.open import Where
    from stpredict._sections.section import Section

PIXELS = 1200
"""Longer side of the part of a slide that is drawn."""

UNKNOWN = "#b3b3b3"
"""Colour of spots without a value."""

INK = "#222222"

DPI = 100
"""Dots per inch of saved figures."""

MU = r"$\mathregular{\mu}$"
"""How scale bars write µ unless told otherwise, in another font than the rest."""


def section_to_draw(data: Data, library_id: str | None, where: Where) -> Section:
    """The section `library_id`, or the only one; it has spots.

    Raises KeyError if there is no section `library_id`; ValueError if there are several and none is chosen, or the
    chosen one has no spots.
    """
    section = one_section(data, library_id, where)
    if len(section) == 0:
        msg = f"Section {section.name!r} has no spots to draw."
        raise ValueError(msg)
    return section


@dataclass
class Panels:
    """The axes of one figure, and what becomes of it when it is drawn."""

    axes: list[Axes]
    own: bool
    """Whether the figure was made here rather than by the caller."""
    title: str | list[str] | None = None
    """Titles that take the place of the figure's own."""

    @classmethod
    def make(
        cls,
        n: int,
        *,
        columns: int,
        size: tuple[float, float],
        ax: Axes | Sequence[Axes] | np.ndarray | None,
        title: str | Sequence[str] | None = None,
    ) -> Panels:
        """Take the `n` axes in `ax`, or make as many, each `size` inches wide and high.

        Raises ValueError if `ax` holds another number of axes, or `title` of titles.
        """
        if title is not None and not isinstance(title, str):
            title = list(title)
            if len(title) != n:
                msg = (
                    f"This figure has {n} panel(s), but title has {len(title)}; pass one title, or one for each panel."
                )
                raise ValueError(msg)
        if ax is not None:
            axes = list(np.ravel(np.array(ax, dtype=object)))
            if len(axes) != n:
                msg = f"This figure has {n} panel(s), but ax has {len(axes)} axes."
                raise ValueError(msg)
            return cls(axes, own=False, title=title)
        import matplotlib.pyplot as plt

        columns = min(n, columns)
        rows = -(-n // columns)
        figure = plt.figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for spare in grid[n:]:
            spare.remove()
        return cls(list(grid[:n]), own=True, title=title)

    @property
    def figure(self) -> Any:
        """The figure that the axes are in."""
        return self.axes[0].figure

    def finish(self, *, show: bool | None, save: str | Path | None, dpi: float | None, return_fig: bool | None) -> Any:
        """Put the title, and save, show or hand back the figure, as scanpy does.

        Unless told otherwise a figure is shown when it was made here and is neither saved nor handed back.
        """
        import matplotlib.pyplot as plt

        self._put_title()
        if dpi is not None and self.own:
            self.figure.set_dpi(dpi)
        if save is not None:
            kind = Path(save).suffix[1:] or plt.rcParams["savefig.format"]
            with replacing(Path(save) if Path(save).suffix else Path(f"{save}.{kind}")) as new:
                self.figure.savefig(new, dpi=dpi or DPI, bbox_inches="tight", format=kind)
        if return_fig:
            return self.figure
        on_screen = plt.get_backend().lower() != "agg"
        wanted = self.own and save is None if show is None else show
        if wanted and on_screen:
            plt.show()
        elif self.own and show is not False:
            plt.close(self.figure)
        if wanted or (self.own and show is None):
            return None
        return self.axes[0] if len(self.axes) == 1 else self.axes

    def _put_title(self) -> None:
        if isinstance(self.title, str) and len(self.axes) > 1:
            self.figure.suptitle(self.title)
        elif self.title is not None:
            titles = [self.title] if isinstance(self.title, str) else self.title
            for panel, text in zip(self.axes, titles, strict=True):
                where: Any = next((where for where in ("left", "right") if panel.get_title(loc=where)), "center")
                panel.set_title(text, size=panel.title.get_fontsize() if where == "center" else 10, loc=where)


def map_size(section: Section, *, width: float = 3.8) -> tuple[float, float]:
    """Width and height (inches) of a panel for the section, with its title and colour bar."""
    left, right, bottom, top = view_of(section)
    return width, 0.8 * width * float(np.clip((bottom - top) / (right - left), 0.4, 2.0)) + 0.35


def view_of(section: Section) -> tuple[float, float, float, float]:
    """Left, right, bottom and top (pixels) of the spots with a margin; y points down."""
    margin = 1.2 * (section.lattice.pitch_px if section.lattice else 2 * section.spot_diameter)
    left, top = section.centres.min(axis=0) - margin
    right, bottom = section.centres.max(axis=0) + margin
    return left, right, bottom, top


def overview_of(section: Section, pixels: int = PIXELS) -> np.ndarray | None:
    """The slide, small enough to draw: the part that has spots is `pixels` long; None where the section has no image."""
    if not section.has_image:
        return None
    left, right, bottom, top = view_of(section)
    height, width = section.image.shape
    zoom = max(1.0, max(height, width) / max(right - left, bottom - top))
    return section.image.thumbnail(round(min(pixels * zoom, max(pixels, 4 * PIXELS))))


def draw_slide(ax: Axes, section: Section, slide: np.ndarray | None, *, alpha: float = 1.0) -> None:
    """Show the part of the slide that has spots, faded to `alpha` on white, with a scale bar and without ticks."""
    if slide is not None and alpha > 0:
        faded = np.uint8(255 - alpha * (255.0 - slide))
        height, width = section.image.shape
        ax.imshow(faded, extent=(0, width, height, 0), interpolation="antialiased", rasterized=True)
    left, right, bottom, top = view_of(section)
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal", facecolor="white")
    ax.spines[:].set_visible(False)
    draw_scale_bar(ax, section)


def draw_spots(
    ax: Axes, section: Section, values: np.ndarray | None, *, size: float = 1.0, **style: Any
) -> EllipseCollection:
    """Draw spots as circles of `size` times their true diameter, bins as circles around them; grey without a value."""
    from matplotlib import colormaps
    from matplotlib.collections import EllipseCollection

    if "cmap" in style:
        style["cmap"] = colormaps[style["cmap"]] if isinstance(style["cmap"], str) else style["cmap"]
        style["cmap"] = style["cmap"].with_extremes(bad=UNKNOWN)
    bins = spots_touch(section)
    diameter = np.full(len(section), size * (np.sqrt(2) if bins else 1.0) * section.spot_diameter)
    spots = EllipseCollection(
        diameter,
        diameter,
        np.zeros(len(section)),
        units="xy",
        offsets=section.centres,
        offset_transform=ax.transData,
        rasterized=len(section) > 5000,
        antialiased=not bins,  # smooth edges of bins about as large as a pixel would draw a pattern of their own
        **{"linewidths": 0, **style},
    )
    if values is not None:
        spots.set_array(np.ma.masked_invalid(values))
    ax.add_collection(spots, autolim=False)
    return spots


def spots_touch(section: Section) -> bool:
    """Whether spots are bins, which leave no room between them."""
    lattice = section.lattice
    return lattice is not None and lattice.kind == "square" and section.spot_diameter > 0.95 * lattice.pitch_px


def draw_scale_bar(ax: Axes, section: Section) -> None:
    """Draw a bar of a round number of microns into the lower left corner; none where the scale is unknown."""
    from matplotlib_scalebar.scalebar import ScaleBar

    try:
        mpp = section.mpp
    except ValueError:  # a map needs no scale; what works in µm reports it
        return
    place = {"location": "lower left", "length_fraction": 0.3, "width_fraction": 0.012, "border_pad": 0.2, "sep": 3}
    look = {"color": INK, "box_alpha": 0.75, "font_properties": {"size": 8}, "scale_formatter": _length}
    ax.add_artist(ScaleBar(mpp, "um", **place, **look))


def _length(value: float, unit: str) -> str:
    return f"{value} {unit.replace(MU, 'µ')}"


def draw_colour_bar(ax: Axes, mappable: Any, label: str) -> Axes:
    """Draw a slim colour bar right of the panel, as high as most of it."""
    from matplotlib.ticker import MaxNLocator

    inset = ax.inset_axes((1.03, 0.1, 0.04, 0.8))
    bar = ax.figure.colorbar(mappable, cax=inset)
    bar.set_label(label, size=9)
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return bar.ax


def tell(ax: Axes, text: str) -> None:
    """Stand below a map what there is to say of it."""
    ax.set_xlabel(fill(text, 60), size=8, color=INK)


def robust_limits(*values: np.ndarray) -> tuple[float, float]:
    """First and last percentile of all finite `values`; (0, 1) where there are none."""
    finite = np.concatenate([v[np.isfinite(v)] for v in map(np.ravel, values)])
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [1, 99])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def shared_limits(*values: np.ndarray) -> tuple[float, float]:
    """The lowest of the first and the highest of the last percentiles of `values`, each of which may hold none."""
    ends = [robust_limits(one) for one in values if np.isfinite(one).any()]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else robust_limits(*values)
