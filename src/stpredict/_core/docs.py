"""Texts of parameters that many public functions have in common, written once."""

from __future__ import annotations

import re
from textwrap import indent
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")

PLACEHOLDER = re.compile(r"^( *)%\((\w+)\)s$", re.MULTILINE)
"""A line of a docstring in the place of which a text is put."""

TEXTS = {
    "encoded_data": """\
data
    One or more sections, after `stpredict.pp.tiles` and `stpredict.pp.encode` as in training.""",
    "model": """\
model
    A trained model, from `stpredict.tl.train`, or the path of a saved one.""",
    "library_id": """\
library_id
    Name of the section to use, where `data` holds several.""",
    "library_key": """\
library_key
    Column of ``obs`` that names each spot's section, where an AnnData holds several.""",
    "table_key": """\
table_key
    Name of the table to use, where a SpatialData has several.""",
    "table_and_image_key": """\
table_key, image_key
    Names of the table and of the image to use, where a SpatialData has several.""",
    "tissue": """\
tissue
    Where the tissue is found wrongly, as on pale or grey stains: a lower (or higher) threshold of the stain, 0.08–0.25
    by default; the tissue itself as a boolean mask of the whole slide, at any resolution; or its outlines, as a list of
    shapely polygons or (n, 2) arrays of x and y, or a GeoDataFrame, in full-resolution pixels.""",
    "key_added": """\
key_added
    Name under which the results are written.""",
    "copy": """\
copy
    Return a changed copy and leave `data` as it is. By default `data` itself is changed.""",
    "show_progress": """\
show_progress
    Show a progress bar. By default ``stpredict.settings.progress``.""",
    "min_counts": """\
min_counts
    Spots with fewer counts are left out.""",
    "predicted": """\
predicted
    Layer of the prediction, in log1p of counts per 10,000.""",
    "std": """\
std
    Write the standard deviation of the prediction too.""",
    "seed": """\
seed
    Seed of what is drawn at random. By default ``stpredict.settings.seed``.""",
    "layer": """\
layer
    Layer of the expression to draw. None takes the measured counts, as log1p of counts per 10,000.""",
    "metric": """\
metric
    Metric to draw. None takes ``"pcc"`` or, where the table lacks it, the first one.""",
    "methods_and_panels": """\
methods, panels
    Which to draw, and in what order. None takes all, in the order of the table.""",
    "spots": """\
spots
    Names of the spots to draw. By default `n` spots drawn at random, the same that `stpredict.pl.tiles` draws.""",
    "n_and_seed": """\
n, seed
    Number of spots, and the seed of the random choice. By default ``stpredict.settings.seed``.""",
    "limits": """\
vmin, vmax, vcenter
    Values at the ends and in the middle of the colours, as in scanpy: numbers, percentiles of what is drawn
    (``"p99"``), or a list with one for each gene, in which None stands for the default. With `vcenter` alone, both ends
    are equally far from it.""",
    "palette": """\
palette
    Colours of the categories: a list, a dict from category to colour, or the name of a colour map of matplotlib. By
    default those of ``uns["<column>_colors"]``, where they are, else, up to 20, colours that people with any kind of
    colour vision can tell apart.""",
    "palette_of_methods": """\
palette
    Colours of the methods: a list, a dict from method to colour, or the name of a colour map of matplotlib.""",
    "size": """\
size
    Diameter of the drawn spots, as a multiple of their true diameter.""",
    "alpha_img": """\
alpha_img
    Opacity of the image, from 0 (not visible) to 1.""",
    "ncols": """\
ncols
    Panels per row.""",
    "figure": """\
title
    Title of the panel; of several panels, a list with one for each, or one title above them all.
show
    Show the figure. By default it is shown, unless `ax`, `save` or `return_fig` is given.
save
    File to save the figure to; its ending says the format. A map on tissue takes 100 to 230 kB a panel as ``.png`` and
    15 to 35 kB as ``.jpg``, which is the better one for grids of more than four genes.
dpi
    Dots per inch of the figure; by default 100 in a file, and what matplotlib is set to on the screen. Print needs about 300.
return_fig
    Return the figure.""",
}
TOGETHER = {
    "sections": ("library_key", "table_key"),
    "sections_and_image": ("library_key", "table_and_image_key"),
    "one_section": ("library_id", "library_key", "table_and_image_key"),
    "map": ("size", "alpha_img", "library_id", "library_key", "table_and_image_key"),
}
"""Texts that stand one below the other in many functions, under one name."""

TEXTS |= {name: "\n".join(TEXTS[part] for part in parts) for name, parts in TOGETHER.items()}


def with_shared_texts(function: Function) -> Function:
    """Put the shared texts into a function's docstring, each in the place of its line ``%(name)s``."""
    if function.__doc__:  # (there is none with python -OO)
        function.__doc__ = PLACEHOLDER.sub(lambda found: indent(TEXTS[found[2]], found[1]), function.__doc__)
    return function
