"""What gene embeddings think a gene is like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.docs import with_shared_texts
from stpredict._core.renamed import renamed
from stpredict._genes import symbols
from stpredict.pl import _canvas
from stpredict.pp._gene_embeddings import check_embeddings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR = "#c6dbef"
FAINT = "#555555"

LETTERS = 46
"""A gene's name is cut to as many."""


@renamed(n="n_neighbors")
@with_shared_texts
def gene_neighbors(
    embeddings: pd.DataFrame,
    genes: str | Iterable[str],
    *,
    n_neighbors: int = 10,
    among: Iterable[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    title: str | Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    dpi: float | None = None,
    return_fig: bool | None = None,
) -> Axes | list[Axes] | Figure | None:
    """Draw the genes whose embeddings are most similar to that of a gene.

    Use it to check whether an embedding agrees with what you know. Each bar is the cosine of the angle between two
    genes' vectors, and approved names stand in grey.

    Parameters
    ----------
    embeddings
        One row per gene, from `pp.gene_embeddings` or your own.
    genes
        The gene, or several, with a panel each; aliases and Ensembl ids are resolved.
    n_neighbors
        How many neighbours to draw.
    among
        Genes that neighbours are taken from, for example those of a panel; None takes all in `embeddings`.
    ax
        Axes to draw on, one per gene; by default a new figure is made.
    %(figure)s

    Returns
    -------
    The axes, or the list of them, if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If a gene has no row in `embeddings`.
    TypeError, ValueError
        If `embeddings` is no table of vectors, `genes` is empty, `n_neighbors` is less than 1, none of `among` is in
        `embeddings`, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> embeddings = st.pp.gene_embeddings(["KRT8", "KRT18", "CD3D", "CD3E", "COL1A1", "COL1A2"])
    >>> ax = st.pl.gene_neighbors(embeddings, "COL1A1", n_neighbors=3, show=False)
    >>> ax.get_yticklabels()[0].get_text()
    'COL1A2'
    """
    embeddings = check_embeddings(embeddings)
    if not n_neighbors >= 1:
        msg = f"n_neighbors must be at least 1, got {n_neighbors!r}."
        raise ValueError(msg)
    rows = _rows(embeddings.index, symbols.asked(genes), "genes")
    chosen = np.arange(len(embeddings))
    if among is not None:
        chosen = np.unique(_rows(embeddings.index, symbols.asked(among), "among", every=False))
    vectors = embeddings.to_numpy()
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    panels = _canvas.Panels.make(len(rows), columns=3, size=(4.4, 0.9 + 0.28 * n_neighbors), ax=ax, title=title)
    for panel, row in zip(panels.axes, rows, strict=True):
        likeness = vectors[chosen] @ vectors[row]
        order = np.argsort(-likeness, kind="stable")
        order = order[chosen[order] != row][:n_neighbors]
        names = [str(name) for name in embeddings.index[chosen[order]]]
        _draw(panel, str(embeddings.index[row]), names, likeness[order])
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _rows(index: pd.Index, genes: list[str], what: str, *, every: bool = True) -> list[int]:
    """Rows of `genes`, or, unless it must be `every` one, of those that have one."""
    found = symbols.match(genes, index)
    missing = [gene for gene in genes if gene not in found]
    if (missing and every) or not found:
        msg = f"Not in embeddings ({what}): {symbols.describe_missing(missing)}."
        raise (KeyError if every else ValueError)(msg)
    return [int(index.get_loc(name)) for name in dict.fromkeys(found.values())]


def _draw(ax: Axes, gene: str, names: list[str], likeness: np.ndarray) -> None:
    full = _names_of([gene, *names])
    places = np.arange(len(names))
    ax.barh(places, likeness, color=BAR, height=0.78)
    right = max(float(likeness.max(initial=0)), 1e-3)
    left = min(float(likeness.min(initial=0)), 0.0)
    for place, name in enumerate(names):
        ax.text(left + 0.02 * (right - left), place, _cut(full[name]), size=7, color=FAINT, va="center")
    ax.set_yticks(places, names, size=9)
    ax.set(ylim=(max(len(names), 1) - 0.4, -0.6), xlim=(left, 1.02 * right))
    ax.set_title(gene, size=11, weight="bold", pad=16)
    ax.text(0.5, 1.01, _cut(full[gene]), size=8, color=FAINT, ha="center", va="bottom", transform=ax.transAxes)
    ax.set_xlabel("cosine similarity", size=9)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _names_of(genes: list[str]) -> dict[str, str]:
    """Approved names; empty for genes that are not known."""
    approved = symbols.resolve(genes)
    table = symbols.table()["name"]
    return {gene: table.iloc[symbols.rows_of([approved[gene]])[0]] if gene in approved else "" for gene in genes}


def _cut(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
