"""Spatial domains on the tissue and, beside them, labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from scipy.optimize import linear_sum_assignment

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.labels import as_text
from stpredict._evaluation.agreement import agreement
from stpredict._evaluation.labels import read_labels
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._categories import Palette, categories_of, colours_of, distinct, draw_categories, stored_colours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data


@with_shared_texts
def domains(
    data: Data,
    key: str = keys.DOMAINS,
    *,
    label_key: str | None = None,
    palette: Palette = None,
    size: float = 1.0,
    alpha_img: float = 0.4,
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
    """Draw spatial domains on the tissue, and labels beside them.

    Every label has the colour of the domain that
    it shares most spots with, each colour once, so that where the panels look alike domains and labels agree; labels
    left over have colours of their own. ``uns["<label_key>_colors"]``, where there is one, comes first.

    Parameters
    ----------
    data
        A section after `tl.domains`.
    key
        Column of ``obs`` with the domains; any categorical column will do.
    label_key
        Column of ``obs`` with labels; None takes the one that `tl.domains` was given, if any. The adjusted Rand index
        in the title is that of the section drawn.
    %(palette)s
        Those of labels are as said above.
    %(map)s
    ax
        Axes to draw on, one, or two with labels; by default a new figure is made.
    %(figure)s

    Returns
    -------
    Axes (a list, with labels) if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If there are no such domains or labels, or no such section.
    ValueError
        If there are several sections and none is chosen, `palette` does not suffice, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> st.tl.domains(adata, use_rep="X_morphology", n_domains=4)
    >>> st.pl.domains(adata, show=False).get_title()
    '4 domains'
    """
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    adata = section.adata
    if key not in adata.obs:
        msg = f"There is no obs[{key!r}]; call stpredict.tl.domains first."
        raise KeyError(msg)
    record = adata.uns.get(key)
    label_key = label_key or (record.get("label_key") if hasattr(record, "get") else None)
    if label_key is not None and label_key not in adata.obs:
        msg = f"There is no obs[{label_key!r}]; obs has {', '.join(adata.obs.columns)}."
        raise KeyError(msg)
    values, colour = categories_of(adata, key), colours_of(adata, key, palette)
    drawn = values.iloc[section.rows]
    told = f"{drawn.nunique()} domains"

    slide = _canvas.overview_of(section) if alpha_img > 0 else None
    n = 1 if label_key is None else 2
    panels = _canvas.Panels.make(n, columns=n, size=_canvas.map_size(section, width=4.6), ax=ax, title=title)
    for panel in panels.axes:
        _canvas.draw_slide(panel, section, slide, alpha=alpha_img)
    draw_categories(panels.axes[0], section, drawn, colour, size=size)
    if label_key is not None:
        labels = categories_of(adata, label_key)
        their_colours = label_colours(adata, label_key, values, labels, colour)
        draw_categories(panels.axes[1], section, labels.iloc[section.rows], their_colours, size=size)
        panels.axes[1].set_title(label_key, size=11)
        told += _measured(drawn, labels.iloc[section.rows])
    panels.axes[0].set_title(told, size=11)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _measured(domains: pd.Series, labels: pd.Series) -> str:
    named = pd.Series(read_labels(labels), index=labels.index)
    counted = (named.notna() & domains.notna()).to_numpy()
    if named[counted].nunique() < 2:
        return ""
    both = (as_text(values[counted]).to_numpy() for values in (domains, named))
    return f" (ARI = {agreement(*both)['ari']:.2f})"


def label_colours(
    adata: AnnData, label_key: str, domains: pd.Series, labels: pd.Series, colour: dict[str, str]
) -> dict[str, str]:
    """Label → colour: of ``uns``, else of the domain with which it overlaps most, one label for each."""
    names = list(labels.cat.categories)
    if stored := stored_colours(adata, label_key):
        return dict(zip(names, stored, strict=False))
    shared = pd.crosstab(labels, domains, dropna=False).reindex(index=names, columns=list(colour), fill_value=0)
    alike = {
        names[i]: colour[shared.columns[j]]
        for i, j in zip(*linear_sum_assignment(-shared.to_numpy()), strict=True)
        if shared.iloc[i, j] > 0
    }
    free = (c for c in distinct(len(names) + len(colour)) if c not in colour.values())
    return {name: alike[name] if name in alike else next(free) for name in names}
