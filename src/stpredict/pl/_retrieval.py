"""Spots beside the reference spots that a model retrieved for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import one_of
from stpredict._core.docs import with_shared_texts
from stpredict._sections.open import Where, listed, open_sections
from stpredict.pl import _canvas
from stpredict.pl._tiles import read_tile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

ROWS = 4
"""Spots drawn by default."""


@with_shared_texts
def retrieval(
    data: Data,
    reference: Data | Sequence[Data],
    *,
    spots: str | int | Sequence[str | int] | None = None,
    n_neighbors: int = 5,
    key: str = keys.RETRIEVED,
    window: Literal["spot", "niche"] = "niche",
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
    """Draw spots and, to the right of each, the tiles of the reference spots that `tl.retrieve` found for it.

    Use it to check that the spots found look alike. Each tile is titled with its section and spot, and its similarity
    stands below.

    Parameters
    ----------
    data
        A section with its H&E image, after `tl.retrieve`.
    reference
        The sections that the model was trained on, with their images: one object or a list. Sections and spots are
        found by name, so spots may have been filtered since training.
    spots
        Names of the spots to draw, or their numbers in the section; None takes four, from the one with the most similar
        best neighbour to the one with the least, at even steps of rank.
    n_neighbors
        Reference spots to draw for each, at most the ``n_neighbors`` of `tl.retrieve`.
    key
        Name of the results, the ``key_added`` of `tl.retrieve`.
    window
        Which window to draw, see `pl.tiles`.
    %(one_section)s
    ax
        Axes to draw on, ``1 + n_neighbors`` for each spot, row by row; by default a new figure is made.
    %(figure)s

    Returns
    -------
    The list of axes, row by row, if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If `tl.retrieve` was not called, or a spot, a reference section or a reference spot is not there.
    ValueError, FileNotFoundError
        If `n_neighbors` is not between 1 and the number retrieved, an image is missing, several sections have the name
        of the one that is needed, there are several sections to draw and none is chosen, or `ax` has another number of
        axes.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, method="knn", genes=["ERBB2", "COL1A1"])
    >>> st.tl.retrieve(new, model)
    >>> axes = st.pl.retrieval(new, train, n_neighbors=3, show=False)
    >>> len(axes), axes[0].get_xlabel(), axes[1].get_xlabel()  # doctest: +ELLIPSIS
    (16, 'query', 'similarity 0.9...')
    """
    one_of(window, ("spot", "niche"), "window")
    where = Where(library_key, table_key, image_key)
    section = _canvas.section_to_draw(data, library_id, where)
    rows, similarity, found = _retrieved(section, key, n_neighbors)
    chosen = _evenly(similarity[:, 0]) if spots is None else _numbers(section, spots)
    bank = _Bank(found, [section for one in listed(reference) for section in open_sections(one, where)])
    pictures = []
    for spot in chosen:
        pictures.append(
            (section, read_tile(section, spot, window), _title(section.name, section.obs_names[spot]), "query")
        )
        for row, likeness in zip(rows[spot], similarity[spot], strict=True):
            home, name, place = bank.find(row)
            label = f"similarity {likeness:.2f}"
            pictures.append((home, read_tile(home, place, window), _title(home.name, name), label))

    panels = _canvas.Panels.make(len(pictures), columns=1 + n_neighbors, size=(1.9, 2.3), ax=ax, title=title)
    for panel, (home, picture, name, label) in zip(panels.axes, pictures, strict=True):
        picture.draw(panel)
        _canvas.draw_scale_bar(panel, home)
        panel.set_title(name, size=8)
        panel.set_xlabel(label, size=8)
    for panel in panels.axes[:: 1 + n_neighbors]:
        panel.spines[:].set(linewidth=2.5)
        panel.title.set_fontweight("bold")
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _title(section: str, spot: str) -> str:
    return spot if spot.startswith(section) else f"{section}\n{spot}"


class _Bank:
    """Finds the section and the place of a bank's row among the sections that the user passed."""

    def __init__(self, found: Mapping[str, Any], sections: list[Section]) -> None:
        self._names = [str(name) for name in found["sections"]]
        self._section, self._spot = found["bank_section"], found["bank_spot"]
        self._sections = sections

    def find(self, row: int) -> tuple[Section, str, int]:
        """Return the section, the name of the spot, and its number in the section."""
        name, spot = self._names[self._section[row]], str(self._spot[row])
        known = [section for section in self._sections if section.name == name]
        if not known:
            there = ", ".join(section.name for section in self._sections)
            msg = (
                f"Spots of section {name!r} were retrieved, but reference holds only {there}. "
                f"Pass the sections that the model was trained on: {', '.join(self._names)}."
            )
            raise KeyError(msg)
        if len(known) > 1 or self._names.count(name) > 1:
            msg = (
                f"Several training or reference sections are named {name!r}, so it is open which one a spot came from. "
                "Pass each section once, and train on sections with names of their own, the keys of uns['spatial']."
            )
            raise ValueError(msg)
        place = known[0].obs_names.get_indexer([spot])[0]
        if place < 0:
            msg = f"Spot {spot!r} was retrieved from section {name!r}, but the one in reference has no such spot."
            raise KeyError(msg)
        return known[0], spot, int(place)


def _retrieved(section: Section, key: str, n: int) -> tuple[np.ndarray, np.ndarray, Mapping[str, Any]]:
    """First `n` rows and similarities of the section's spots, and the record of the bank."""
    adata = section.adata
    if key not in adata.obsm or "bank_spot" not in adata.uns.get(key, {}):
        msg = f"There are no retrieved spots under obsm[{key!r}]; call stpredict.tl.retrieve first, or pass key=."
        raise KeyError(msg)
    rows, similarity = (np.asarray(adata.obsm[name])[section.rows] for name in (key, keys.similarity(key)))
    if not 1 <= n <= rows.shape[1]:
        msg = f"n_neighbors must lie between 1 and the {rows.shape[1]} that were retrieved (n_neighbors of tl.retrieve), got {n!r}."
        raise ValueError(msg)
    return rows[:, :n], similarity[:, :n], adata.uns[key]


def _evenly(similarity: np.ndarray) -> np.ndarray:
    """Numbers of a few spots, from the most to the least similar, at even steps of rank."""
    order = np.argsort(-similarity, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(ROWS, len(order))).round().astype(int)]


def _numbers(section: Section, spots: str | int | Sequence[str | int]) -> list[int]:
    """Numbers in the section of spots given by name or number."""
    numbers = []
    for spot in [spots] if isinstance(spots, (str, int, np.integer)) else spots:
        number = section.obs_names.get_indexer([spot])[0] if isinstance(spot, str) else spot
        if not 0 <= number < len(section):
            msg = f"Section {section.name!r} has no spot {spot!r}; give names in obs_names, or 0 to {len(section) - 1}."
            raise KeyError(msg)
        numbers.append(int(number))
    if not numbers:
        msg = "spots is empty; name the spots to draw, or leave it out."
        raise ValueError(msg)
    return numbers
