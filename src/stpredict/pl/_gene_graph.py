"""Which genes a model lets a gene listen to."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.docs import with_shared_texts
from stpredict._core.renamed import renamed
from stpredict._core.warning import warn
from stpredict._sections.open import Where
from stpredict.models import ExpressionModel
from stpredict.models.align_st import AlignSt
from stpredict.pl import _canvas
from stpredict.pl._categories import Palette, chosen_colours
from stpredict.tl._given import given_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data

PALE, FAINT = "#ececec", "#555555"
THIN, WIDEST = 0.5, 6.0
"""Width of a line without attention, and of that with most, points."""

LETTER, HEIGHT, GAP = 0.088, 0.26, 0.1
"""Inches: width of a letter of a label, height of a label, least distance between labels."""

APART = 1.8
"""Distance between genes asked for, in lengths of a line."""

STEPS = 600


@renamed(n="n_neighbors")
@with_shared_texts
def gene_graph(
    data: Data,
    model: ExpressionModel | str | Path,
    genes: str | Sequence[str],
    *,
    n_neighbors: int = 8,
    palette: Palette = None,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    ax: Axes | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Draw the training genes that a few genes are linked to in the gene graph of ALIGN-ST.

    Each gene asked for has a colour, and lines of that colour to its neighbours in the model's gene interaction graph; the
    wider, the more attention the neighbour gets.

    Parameters
    ----------
    data
        A section, encoded as in training: where the text of a gene is combined with the image, the graph depends on
        the section.
    model
        A model trained by ``stpredict.tl.train(method="align_st", gene_neighbours=8)``, or the path of a saved one.
    genes
        The genes, seen in training or not; aliases and Ensembl ids are resolved. Up to four are easily read.
    n_neighbors
        Neighbours to draw of every gene, the strongest; those of a model of several members may be more.
    palette
        Colours of the genes asked for: a list, a dict from gene to colour, or the name of a colour map of matplotlib.
    %(library_id)s
    %(sections)s
    ax
        Axes to draw on; by default a new figure is made.
    %(figure)s

    Returns
    -------
    The axes if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If the model does not know a gene.
    TypeError
        If the model is not of method ``"align_st"``.
    ValueError
        If the model has no gene graph, `genes` is empty, `n_neighbors` is less than 1, features are missing or were not made as in
        training, there are several sections and none is chosen, or `palette` does not suffice.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> how = {"method": "align_st", "gene_neighbours": 8, "epochs": 1, "members": 1, "show_progress": False}
    >>> model = st.tl.train(adata, genes=adata.var_names[:30], **how)
    >>> ax = st.pl.gene_graph(adata, model, ["ERBB2", "KRT8"], n_neighbors=3, show=False)
    >>> {"ERBB2", "KRT8"} <= {text.get_text() for text in ax.texts}
    True
    """
    if isinstance(data, ExpressionModel):
        warn(
            "The order is stpredict.pl.gene_graph(data, model, genes) now; the old one ends with the next release.",
            FutureWarning,
        )
        old: Any = genes, data, model
        data, model, genes = old
    model = given_model(model)
    if not isinstance(model, AlignSt):
        msg = f"A model of method {model.method!r} has no gene graph; train 'align_st' with gene_neighbours=8."
        raise TypeError(msg)
    if not n_neighbors >= 1:
        msg = f"n_neighbors must be at least 1, got {n_neighbors!r}."
        raise ValueError(msg)
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key))
    edges = model.gene_graph(section, genes).groupby("gene", sort=False).head(n_neighbors)
    asked = list(dict.fromkeys(edges["gene"]))
    names = list(dict.fromkeys([*asked, *edges["neighbour"]]))
    colour = chosen_colours(asked, palette)
    side = max(4.2, 1.05 * len(names) ** 0.5)
    panels = _canvas.Panels.make(1, columns=1, size=(1.25 * side, side), ax=ax, title=title)
    (panel,) = panels.axes
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    _draw_legend(panel, edges["weight"].max())
    panels.figure.draw_without_rendering()  # settles how large the panel is
    box: Any = panel.get_window_extent().size / panels.figure.dpi
    panel.set(xlim=(0, box[0]), ylim=(0, box[1]))
    _draw(panel, edges, colour, _places(edges, names, box))
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _places(edges: pd.DataFrame, names: Sequence[str], box: np.ndarray) -> dict[str, np.ndarray]:
    """Where the labels stand (inches): near what they are tied to, filling the `box`, and beside each other."""
    import igraph

    number = {name: i for i, name in enumerate(names)}
    ties = {tuple(sorted((number[a], number[b]))) for a, b in zip(edges["gene"], edges["neighbour"], strict=True)}
    asked = [number[name] for name in edges["gene"].unique()]
    apart = set(combinations(sorted(asked), 2)) - ties
    graph = igraph.Graph(len(names), [*sorted(ties), *sorted(apart)])
    lengths = [1.0] * len(ties) + [APART] * len(apart)
    places = np.array(graph.layout_kamada_kawai(weights=lengths).coords)
    size = np.array([[_width(name) + GAP, HEIGHT + GAP] for name in names])
    low, high = size / 2, box - size / 2
    places = (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-9)
    places = low + places * np.maximum(high - low, 0)
    return dict(zip(names, _apart(places, size, np.array(sorted(ties)), low, high), strict=True))


def _apart(places: np.ndarray, size: np.ndarray, ties: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Push labels off each other and off lines that are not theirs, until all are free or there is no room.

    In the second half only labels count, so that none overlap in the end.
    """
    for step in range(STEPS):
        push = _off_labels(places, size)
        if step < STEPS / 2:
            push += _off_lines(places, size, ties)
        if not push.any():
            break
        places = np.clip(places + push, low, np.maximum(low, high))
    return places


def _off_labels(places: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Where labels that overlap should move, along the axis on which they overlap less."""
    first, second = np.triu_indices(len(places), 1)
    away = places[second] - places[first]
    overlap = (size[first] + size[second]) / 2 - np.abs(away)
    hit = np.flatnonzero((overlap > 1e-6).all(axis=1))
    axis = overlap[hit].argmin(axis=1)
    step = 0.3 * overlap[hit, axis] * np.where(away[hit, axis] >= 0, 1, -1)
    push = np.zeros_like(places)
    np.subtract.at(push, (first[hit], axis), step)
    np.add.at(push, (second[hit], axis), step)
    return push


def _off_lines(places: np.ndarray, size: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Where labels that lie on others' lines should move, straight away from the line."""
    start, along = places[ties[:, 0]], places[ties[:, 1]] - places[ties[:, 0]]
    length = np.maximum(np.linalg.norm(along, axis=1), 1e-9)
    across = np.column_stack([-along[:, 1], along[:, 0]]) / length[:, None]
    offset = places[:, None] - start
    share = (offset * along).sum(axis=2) / length**2
    distance = (offset * across).sum(axis=2)
    reach = (size[:, None] * np.abs(across)).sum(axis=2) / 2
    theirs = (ties[None] == np.arange(len(places))[:, None, None]).any(axis=2)
    depth = np.where((share > 0) & (share < 1) & ~theirs, np.maximum(reach - np.abs(distance), 0), 0)
    side = np.where(distance >= 0, 1, -1)
    return 0.3 * np.einsum("nt,td->nd", depth * side, across)


def _line(share: float) -> float:
    return THIN + (WIDEST - THIN) * share


def _width(name: str) -> float:
    return LETTER * len(name) + 0.12


def _draw(ax: Axes, edges: pd.DataFrame, colour: Mapping[str, str], places: Mapping[str, np.ndarray]) -> None:
    from matplotlib.patches import FancyArrowPatch

    most = float(edges["weight"].max())
    tied = set(zip(edges["gene"], edges["neighbour"], strict=True))
    for gene, other, weight in edges[["gene", "neighbour", "weight"]].itertuples(index=False):
        bend = 0.12 if (other, gene) in tied else 0.0
        line = FancyArrowPatch(
            tuple(places[other]),
            tuple(places[gene]),
            arrowstyle="-",
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=0,
            shrinkB=0,
            color=colour[gene],
            linewidth=_line(weight / most),
            alpha=0.65,
            zorder=1,
        )
        ax.add_patch(line)
    for name, (x, y) in places.items():
        asked = name in colour
        ax.text(
            x,
            y,
            name,
            size=9,
            weight="bold" if asked else "normal",
            color="white" if asked else _canvas.INK,
            ha="center",
            va="center",
            zorder=3 if asked else 2,
            bbox={"boxstyle": "round,pad=0.3", "facecolor": colour.get(name, PALE), "linewidth": 0},
        )


def _draw_legend(ax: Axes, most: float) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=FAINT, linewidth=_line(share), label=f"{share * most:.2f}") for share in (1.0, 0.5)]
    ax.legend(
        handles=handles,
        title="attention",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=8,
        title_fontsize=8,
    )
