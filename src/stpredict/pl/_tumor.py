"""The tumour map: image, score, call and, where there are any, a pathologist's labels."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.labels import as_text
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._categories import draw_categories

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""Colours of Okabe and Ito, which all kinds of colour vision tell apart."""


@with_shared_texts
def tumor(
    data: Data,
    *,
    key: str = keys.TUMOR,
    label_key: str | None = None,
    cmap: str | Colormap = "viridis",
    size: float = 1.0,
    alpha_img: float = 0.4,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool | None = None,
) -> list[Axes] | Figure | None:
    """Draw the image, the tumour score of `tl.localize_tumor` and, with labels, what a pathologist says.

    A section that lies outside of what the model was trained on is drawn in grey, with the reason. What
    `tl.localize_tumor` warned of stands under the map. The black line surrounds the spots that are called tumour; the threshold is the line in the colour bar.

    Parameters
    ----------
    data
        A section after `tl.localize_tumor`.
    key
        Name of the results, its ``key_added``.
    label_key
        Column of ``obs`` with labels; None takes the one that `tl.localize_tumor` was given, if any. The score's AUROC
        is in the title if it was measured against this column.
    cmap
        Colour map of the score.
    %(size)s
    %(alpha_img)s
    %(library_id)s
    %(library_key)s
    %(table_and_image_key)s
    ax
        Axes to draw on, two, or three with labels; by default a new figure is made.
    %(figure)s

    Returns
    -------
    The list of axes if ``show=False`` or `ax` is given, the figure if `return_fig`, else None.

    Raises
    ------
    KeyError
        If `tl.localize_tumor` has not been called, or the label column or the section is not there.
    ValueError
        If there are several sections and none is chosen, or `ax` has another number of axes.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM"], layer=None, threshold=0.5)
    >>> axes = st.pl.tumor(adata, show=False)
    >>> axes[1].get_title().split(";")[0]
    'tumor score (2 markers'
    """
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    obs = section.adata.obs
    record = section.adata.uns.get(key)
    if record is None or key not in obs or f"{key}_score" not in obs:
        msg = f"There is no tumour map obs[{key!r}]; call stpredict.tl.localize_tumor first."
        raise KeyError(msg)
    label_key = label_key or record.get("label_key")
    if label_key is not None and label_key not in obs:
        msg = f"There is no obs[{label_key!r}]; obs has {', '.join(obs.columns)}."
        raise KeyError(msg)
    rows = obs.iloc[section.rows]
    score, call = rows[f"{key}_score"].to_numpy(float), rows[key].fillna(False).to_numpy(bool)
    withheld = record.get("withheld", {}).get(section.name)

    slide = _canvas.overview_of(section)
    n = 2 if label_key is None else 3
    panels = _canvas.Panels.make(n, columns=n, size=_canvas.map_size(section, width=4.2), ax=ax)
    for i, panel in enumerate(panels.axes):
        _canvas.draw_slide(panel, section, slide, alpha=alpha_img if i else 1.0)
    _canvas.draw_scale_bar(panels.axes[0], section)
    if withheld is None:
        _draw_score(panels.axes[1], section, score, record, size=size, cmap=cmap)
        _tell_caveats(panels.axes[1], section, record)
    else:
        _canvas.draw_spots(panels.axes[1], section, np.full(len(score), np.nan), size=size, cmap=cmap)
        panels.axes[1].set_title("no tumor map: outside of what\nthe model was trained on", size=11)
        panels.axes[1].set_xlabel(fill(str(withheld), 60), size=8)
    if label_key is not None:
        _draw_labels(panels.axes[2], section, rows[label_key], size=size)
        auroc = record.get("auroc", {}).get(section.name) if label_key == record.get("label_key") else None
        measured = f" (score: AUROC = {auroc:.2f})" if auroc is not None and np.isfinite(auroc) else ""
        panels.axes[2].set_title(f"{label_key}{measured}", size=11)
    for panel in panels.axes:
        _draw_outline(panel, section, call)
    told = "tumor not called" if withheld is not None else f"called tumor: {call.sum()} of {len(call)} spots"
    panels.axes[0].set_title(told, size=11)
    return panels.finish(show=show, save=save, return_fig=return_fig)


def _draw_score(
    ax: Axes, section: Section, score: np.ndarray, record: Mapping[str, Any], *, size: float, cmap: str | Colormap
) -> None:
    spots = _canvas.draw_spots(ax, section, score, size=size, cmap=cmap)
    threshold = record.get("threshold", {}).get(section.name, np.nan)
    low, high = _canvas.robust_limits(score)
    if np.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    spots.set_clim(low, high)
    bar = _canvas.draw_colour_bar(ax, spots, "mean z-score")
    bar.axhline(threshold, color=_canvas.INK, linewidth=2)
    n = len(record.get("markers", ()))
    line = f"; line {threshold:.2f}" if np.isfinite(threshold) else ""
    ax.set_title(f"tumor score ({n} marker{'s' if n != 1 else ''}{line})", size=11)


def _tell_caveats(ax: Axes, section: Section, record: Mapping[str, Any]) -> None:
    """Write under the map what `tl.localize_tumor` warned of."""
    if told := caveats_of(record, section.name):
        ax.set_xlabel("; ".join(told), size=8)


def caveats_of(record: Mapping[str, Any], name: str) -> list[str]:
    """What `tl.localize_tumor` warned of, of the section `name`."""
    missing, used = len(record.get("markers_missing", ())), len(record.get("markers", ()))
    told = []
    if missing > used:
        told.append(f"{missing} of {missing + used} markers are missing")
    if not record.get("two_groups", {}).get(name, True):
        told.append("scores form one group: the call cuts a continuum")
    return told


def _draw_labels(ax: Axes, section: Section, labels: pd.Series, *, size: float) -> None:
    names = as_text(labels)
    kinds = names.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable").index
    draw_categories(ax, section, names, {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(kinds)}, size=size)


def _draw_outline(ax: Axes, section: Section, call: np.ndarray) -> None:
    """Surround the called spots: the border of the ground that is nearest to them and less than a pitch away."""
    from matplotlib.patheffects import withStroke
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    if not call.any() or section.lattice is None:
        return
    left, right, bottom, top = _canvas.view_of(section)
    step = section.lattice.pitch_px / 8
    x, y = np.arange(left, right, step), np.arange(top, bottom, step)
    distance, nearest = cKDTree(section.centres).query(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    ground = call[nearest] & (distance < 0.72 * section.lattice.pitch_px)
    smooth = gaussian_filter(ground.reshape(len(y), len(x)).astype(float), 3)
    lines = ax.contour(x, y, smooth, levels=[0.5], colors="black", linewidths=1.4)
    lines.set_path_effects([withStroke(linewidth=3, foreground="white")])
