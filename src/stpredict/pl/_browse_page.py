"""The page that `pl.browse` writes, laid out with Bokeh: maps that zoom together, and a list of genes."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.version import __version__
from stpredict.pl import _canvas
from stpredict.pl._values import units_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from bokeh.models import ColumnDataSource, LinearColorMapper, Model
    from bokeh.plotting import figure
    from matplotlib.colors import Colormap

    from stpredict._sections.section import Section
    from stpredict.pl._browse_columns import Map

PANEL = 400
"""Longer side of a map in pixels of the screen."""

COLUMNS = 3
"""Maps side by side."""

SHOW_GENE = """
const at = facts.data.gene.indexOf(list.value)
const shown = {...spots.data}
for (const side of sides) {
  shown[side] = values[side].data[list.value]
  maps[side].title.text = facts.data["title of " + side][at]
}
colours.low = facts.data.low[at]
colours.high = facts.data.high[at]
told.text = facts.data.told[at]
spots.data = shown
"""
"""What the browser does when another gene is chosen."""


@dataclass
class SlidePicture:
    """The part of the slide that is shown, as JPEG, and where its sides lie, in pixels of the slide."""

    jpeg: bytes
    left: float
    right: float
    top: float
    bottom: float


@dataclass
class ShownGenes:
    """The genes to choose from."""

    names: list[str]
    sides: dict[str, pd.DataFrame]
    """``"measured"``, where there is that, and ``"predicted"``: (spots, genes)."""
    limits: list[tuple[float, float]] = field(default_factory=list)
    """Of each gene: values at the ends of the colours."""
    correlations: list[str] = field(default_factory=list)
    """Of each gene: how well measured and predicted agree; empty where they cannot be compared."""
    expected: list[str] = field(default_factory=list)
    """Of each gene: how far it can be believed; empty where nothing is known of it."""


def check_bokeh() -> None:
    """Refuse to go on without Bokeh. Raises ImportError if it is not installed."""
    if find_spec("bokeh") is None:
        msg = "stpredict.pl.browse needs Bokeh: pip install 'stpredict[browse]'."
        raise ImportError(msg)


def html_of(
    section: Section,
    slide: SlidePicture | None,
    genes: ShownGenes,
    columns: Sequence[Map],
    notes: Sequence[str],
    predicted: str,
    *,
    cmap: str | Colormap,
    size: float,
    alpha_img: float,
) -> str:
    """Text of the page, with everything that it needs in it."""
    from bokeh.embed import file_html
    from bokeh.layouts import column, gridplot, row
    from bokeh.models import Div
    from bokeh.resources import INLINE

    maps = Maps(section, slide, genes, columns, size=size, alpha_img=alpha_img)
    units = units_of(section, predicted)
    colours = maps.scale(cmap, genes.limits[0])
    plain = [] if slide is None else [maps.empty("slide")]
    sides = {side: maps.of_numbers(side, _titles(genes, side)[0], colours, units) for side in genes.sides}
    others = [maps.of_column(one) for one in columns]
    chooser, told = _chooser(genes, sides, maps.spots, colours)
    head = Div(text=_head(section, notes, predicted), width=COLUMNS * PANEL)
    grid = gridplot([*plain, *sides.values(), *others], ncols=COLUMNS, toolbar_options={"logo": None})
    controls = row(chooser, *maps.faders(), spacing=20)
    return str(file_html(column(head, controls, told, grid), INLINE, title=f"{section.name}: stpredict"))


class Maps:
    """Maps of one section, which share their spots, the slide and the part that is in view."""

    def __init__(
        self,
        section: Section,
        slide: SlidePicture | None,
        genes: ShownGenes,
        columns: Sequence[Map],
        *,
        size: float,
        alpha_img: float,
    ) -> None:
        from bokeh.models import ColumnDataSource, Range1d

        try:
            self.mpp: float | None = section.mpp
        except ValueError:  # a map needs no scale; what works in µm reports it
            self.mpp = None
        self.unit = self.mpp or 1.0
        left, right, bottom, top = (self.unit * end for end in _canvas.view_of(section))
        wide, high = right - left, bottom - top
        self.frame = {
            "frame_width": round(PANEL * min(1, wide / high)),
            "frame_height": round(PANEL * min(1, high / wide)),
        }
        self.ranges = {"x_range": Range1d(left, right), "y_range": Range1d(bottom, top)}  # y points down
        self.bins = _canvas.spots_touch(section)
        self.diameter = size * section.spot_diameter * self.unit
        x, y = (section.centres * self.unit).T
        shown = {side: table[genes.names[0]].to_numpy(np.float32) for side, table in genes.sides.items()}
        drawn = {one.column: _compact(one.values) for one in columns}
        self.spots: ColumnDataSource = ColumnDataSource(
            {
                **{f"obs {name}": values for name, values in drawn.items()},
                **shown,
                "x": x,
                "y": y,
                "spot": [str(name) for name in section.obs_names],
            }
        )
        self.alpha_img = alpha_img
        self.slide = None if slide is None else self._picture(slide)
        self.slides: list[Any] = []
        self.glyphs: list[Any] = []

    def _picture(self, slide: SlidePicture) -> ColumnDataSource:
        from bokeh.models import ColumnDataSource

        sides = {"x": slide.left, "y": slide.top, "w": slide.right - slide.left, "h": slide.bottom - slide.top}
        address = f"data:image/jpeg;base64,{b64encode(slide.jpeg).decode()}"
        return ColumnDataSource({"url": [address], **{name: [self.unit * value] for name, value in sides.items()}})

    def empty(self, title: str, *, alpha: float = 1.0) -> figure:
        """A map of the slide alone."""
        from bokeh.models import BoxZoomTool, Metric, PanTool, ResetTool, SaveTool, ScaleBar, WheelZoomTool
        from bokeh.plotting import figure

        pan, zoom = PanTool(), WheelZoomTool()
        tools = [pan, zoom, BoxZoomTool(match_aspect=True), ResetTool(), SaveTool()]
        made = figure(
            title=title, tools=tools, active_drag=pan, active_scroll=zoom, min_border=5, **self.frame, **self.ranges
        )
        made.axis.visible = False
        made.grid.visible = False
        if self.slide is not None:
            picture = made.image_url(
                url="url", x="x", y="y", w="w", h="h", source=self.slide, anchor="top_left", global_alpha=alpha
            )
            if alpha < 1:
                self.slides.append(picture.glyph)
        if self.mpp is not None:
            bar = ScaleBar(
                range=self.ranges["x_range"],
                unit="µm",
                dimensional=Metric(base_unit="m"),
                location="bottom_left",
                background_fill_alpha=0.75,
                border_line_color=None,
                margin=4,
                padding=4,
            )
            made.add_layout(bar)
        return made

    def scale(self, cmap: str | Colormap, limits: tuple[float, float]) -> LinearColorMapper:
        """Colours of numbers between `limits`."""
        from bokeh.models import LinearColorMapper
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        colours = colormaps[cmap] if isinstance(cmap, str) else cmap
        low, high = limits
        palette = [to_hex(colour) for colour in colours(np.linspace(0, 1, 256))]
        return LinearColorMapper(palette, low=low, high=high, nan_color=_canvas.UNKNOWN)

    def of_numbers(self, name: str, title: str, colours: LinearColorMapper, label: str) -> figure:
        """A map of numbers, with a colour bar under it."""
        from bokeh.models import ColorBar

        made = self.empty(title, alpha=self.alpha_img)
        self._draw(made, name, {"field": name, "transform": colours})
        made.add_layout(ColorBar(color_mapper=colours, title=label, height=10, padding=4), "below")
        return made

    def of_column(self, one: Map) -> figure:
        """A map of a column."""
        from bokeh.models import CategoricalColorMapper

        name = f"obs {one.column}"
        if one.colours is None:
            made = self.of_numbers(name, one.title, self.scale(one.cmap, one.limits), one.column)
        else:
            made = self.empty(one.title, alpha=self.alpha_img)
            colours = CategoricalColorMapper(factors=list(one.colours), palette=list(one.colours.values()))
            self._draw(made, name, {"field": name, "transform": colours})
            self._name_categories(made, one)
        if one.outlined is not None and one.outlined.any():
            called = {axis: self.spots.data[axis][one.outlined] for axis in ("x", "y")}
            self._shape(made, called, fill_color=None, line_color="black", line_width=1.2)
        return made

    def _draw(self, made: figure, name: str, colour: Mapping[str, Any]) -> None:
        from bokeh.models import HoverTool

        spots = self._shape(made, self.spots, fill_color=colour, line_color=None)
        self.glyphs.append(spots.glyph)
        value = "@{" + name + "}" + ("{0.00}" if isinstance(self.spots.data[name], np.ndarray) else "")
        made.add_tools(HoverTool(renderers=[spots], tooltips=[("spot", "@spot"), (name.removeprefix("obs "), value)]))

    def _shape(self, made: figure, source: Any, **style: Any) -> Any:
        """Spots as circles of their true diameter, bins as squares."""
        from bokeh.models import ColumnDataSource

        source = source if isinstance(source, ColumnDataSource) else ColumnDataSource(source)
        if self.bins:
            return made.rect("x", "y", width=self.diameter, height=self.diameter, source=source, **style)
        return made.circle("x", "y", radius=self.diameter / 2, source=source, **style)

    def _name_categories(self, made: figure, one: Map) -> None:
        """Legend under a map, with the number of spots of each category."""
        from bokeh.models import Legend, LegendItem

        spots = made.renderers[-1]
        items = []
        for name in one.colours or ():
            rows = np.flatnonzero(one.values == name)
            items.append(LegendItem(label=f"{name} ({len(rows)})", renderers=[spots], index=int(rows[0])))
        made.add_layout(Legend(items=items, ncols=3, border_line_color=None, label_text_font_size="9pt"), "below")

    def faders(self) -> list[Model]:
        """Sliders for how much of the spots, and of the slide under them, is seen."""
        from bokeh.models import Slider

        sliders = []
        for title, glyphs, start, name in (
            ("spots", self.glyphs, 1.0, "fill_alpha"),
            ("slide under the spots", self.slides, self.alpha_img, "global_alpha"),
        ):
            if glyphs:
                slider = Slider(start=0, end=1, step=0.05, value=start, title=title, width=200)
                for glyph in glyphs:
                    slider.js_link("value", glyph, name)
                sliders.append(slider)
        return sliders


def _compact(values: np.ndarray) -> Any:
    return values.astype(np.float32) if values.dtype.kind == "f" else [str(value) for value in values]


def _titles(genes: ShownGenes, side: str) -> list[str]:
    """Of each gene: what stands over the map of one side."""
    titles = []
    for gene, told in zip(genes.names, genes.correlations, strict=True):
        if genes.sides[side][gene].isna().all():
            titles.append(f"{gene}: not {side}")
        else:
            titles.append(f"{gene}: {side}" + (f", {told}" if told and side == "predicted" else ""))
    return titles


def _chooser(
    genes: ShownGenes, maps: Mapping[str, figure], spots: ColumnDataSource, colours: LinearColorMapper
) -> tuple[Model, Model]:
    """List of the genes, and under it how far the chosen one can be believed."""
    from bokeh.models import ColumnDataSource, CustomJS, Div, Select

    low, high = np.transpose(genes.limits)
    facts = {"gene": genes.names, "told": [escape(text) for text in genes.expected], "low": low, "high": high}
    facts |= {f"title of {side}": _titles(genes, side) for side in maps}
    values = {
        side: ColumnDataSource({gene: table[gene].to_numpy(np.float32) for gene in genes.names})
        for side, table in genes.sides.items()
    }
    told = Div(text=facts["told"][0], height=20)
    chooser = Select(title="gene", value=genes.names[0], options=genes.names, width=200)
    shared = {"facts": ColumnDataSource(facts), "values": values, "spots": spots, "colours": colours, "told": told}
    chooser.js_on_change(
        "value", CustomJS(args={**shared, "list": chooser, "sides": list(maps), "maps": dict(maps)}, code=SHOW_GENE)
    )
    return chooser, told


def _head(section: Section, notes: Sequence[str], predicted: str) -> str:
    """What the page is of, and what is to be known before it is believed, as HTML."""
    record = section.adata.uns.get(predicted)
    told = [f"{len(section):,} spots", f"shown by stpredict {__version__}"]
    if hasattr(record, "get") and "method" in record:
        made = f"predicted by method {record['method']} from {record.get('encoder', 'unknown')} features"
        told.insert(1, f"{made} on {str(record.get('date', 'an unknown day'))[:10]}")
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    title, line = escape(section.name), escape("; ".join(told))
    return f"<h2 style='margin: 0'>{title}</h2><div>{line}</div>" + (f"<ul>{listed}</ul>" if listed else "")
