"""What all figures share: panels, the slide as a backdrop, spots at their true size, and how a figure ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.files import replacing
from stpredict._sections.open import one_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data
    from stpredict._sections.open import Where
    from stpredict._sections.section import Section

PIXELS = 1200
"""Longer side of the part of a slide that is drawn."""

UNKNOWN = "#b3b3b3"
"""Colour of spots without a value."""

INK = "#222222"


def section_to_draw(data: Data, library_id: str | None, where: Where) -> Section:
    """The section `library_id`, or the only one; it has spots.

    Raises
    ------
    KeyError
        If there is no section `library_id`.
    ValueError
        If there are several and none is chosen, or the chosen one has no spots.
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

    @classmethod
    def make(
        cls, n: int, *, columns: int, size: tuple[float, float], ax: Axes | Sequence[Axes] | np.ndarray | None
    ) -> Panels:
        """Take the `n` axes in `ax`, or make as many, each `size` inches wide and high.

        Raises
        ------
        ValueError
            If `ax` holds another number of axes.
        """
        if ax is not None:
            axes = list(np.ravel(np.array(ax, dtype=object)))
            if len(axes) != n:
                msg = f"This figure has {n} panel(s), but ax has {len(axes)} axes."
                raise ValueError(msg)
            return cls(axes, own=False)
        import matplotlib.pyplot as plt

        columns = min(n, columns)
        rows = -(-n // columns)
        figure = plt.figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for spare in grid[n:]:
            spare.remove()
        return cls(list(grid[:n]), own=True)

    @property
    def figure(self) -> Figure:
        """The figure that the axes are in."""
        return self.axes[0].figure

    def finish(
        self, *, show: bool | None, save: str | Path | None, return_fig: bool | None
    ) -> Axes | list[Axes] | Figure | None:
        """Save, show or hand back the figure, as scanpy does.

        Unless told otherwise a figure is shown when it was made here and is neither saved nor handed back.
        """
        import matplotlib.pyplot as plt

        if save is not None:
            kind = Path(save).suffix[1:] or plt.rcParams["savefig.format"]
            with replacing(Path(save) if Path(save).suffix else Path(f"{save}.{kind}")) as new:
                self.figure.savefig(new, dpi=200, bbox_inches="tight", format=kind)
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
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    try:
        mpp = section.mpp
    except ValueError:  # a map needs no scale; what works in µm reports it
        return
    left, right = ax.get_xlim()
    wanted = (right - left) * mpp / 4
    lengths = np.outer(10.0 ** np.arange(5), [1, 2, 5]).ravel()
    length = lengths[np.abs(np.log(lengths / wanted)).argmin()]
    label = f"{length:g} µm" if length < 1000 else f"{length / 1000:g} mm"
    thickness = 0.008 * abs(np.subtract(*ax.get_ylim()))
    bar = AnchoredSizeBar(
        ax.transData,
        length / mpp,
        label,
        "lower left",
        borderpad=0.2,
        sep=3,
        color=INK,
        size_vertical=thickness,
        fontproperties={"size": 8},
    )
    bar.patch.set(alpha=0.75, linewidth=0)
    ax.add_artist(bar)


def draw_colour_bar(ax: Axes, mappable: Any, label: str) -> Axes:
    """Draw a slim colour bar right of the panel, as high as most of it."""
    inset = ax.inset_axes((1.03, 0.1, 0.04, 0.8))
    bar = ax.figure.colorbar(mappable, cax=inset)
    bar.set_label(label, size=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return bar.ax


def robust_limits(*values: np.ndarray) -> tuple[float, float]:
    """First and last percentile of all finite `values`; (0, 1) where there are none."""
    finite = np.concatenate([v[np.isfinite(v)] for v in map(np.ravel, values)])
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [1, 99])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def shared_limits(*values: np.ndarray) -> tuple[float, float]:
    """Limits of one colour scale for several maps: from the lowest 1st to the highest 99th percentile of any."""
    limits = [robust_limits(one) for one in values if np.isfinite(one).any()] or [(0.0, 1.0)]
    return min(low for low, _ in limits), max(high for _, high in limits)
