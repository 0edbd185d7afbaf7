"""The tumour map: image, score, call and, where there are any, a pathologist's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.labels import as_text
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._categories import Palette, colours_of, draw_categories
from stpredict.pl._limits import Limit, Limits
from stpredict.pl._values import DO_NOT_BELIEVE, outside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section


@with_shared_texts
def tumor(
    data: Data,
    *,
    key: str = keys.TUMOR,
    label_key: str | None = None,
    cmap: str | Colormap = "viridis",
    palette: Palette = None,
    vmin: Limit | None = None,
    vmax: Limit | None = None,
    vcenter: Limit | None = None,
    size: float = 1.0,
    alpha_img: float = 0.4,
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
    %(palette)s
        They are those of the labels.
    vmin, vmax, vcenter
        Values at the ends and in the middle of the score's colours, as in scanpy: numbers, or percentiles (``"p99"``). By
        default the 1st and the 99th percentile, or the threshold where it lies beyond.
    %(map)s
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
    TypeError, ValueError
        If there are several sections and none is chosen, limits do not ascend, `palette` does not suffice, or `ax` has
        another number of axes.

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
    norm = Limits(vmin, vmax, vcenter).norm(score, _ends(score, _threshold(record, section)))
    colour = {} if label_key is None else colours_of(section.adata, label_key, palette)

    slide = _canvas.overview_of(section)
    n = 2 if label_key is None else 3
    panels = _canvas.Panels.make(n, columns=n, size=_canvas.map_size(section, width=4.2), ax=ax, title=title)
    for i, panel in enumerate(panels.axes):
        _canvas.draw_slide(panel, section, slide, alpha=alpha_img if i else 1.0)
    if withheld is None:
        _draw_score(panels.axes[1], section, score, record, size=size, cmap=cmap, norm=norm)
        _tell_caveats(panels.axes[1], section, record)
    else:
        _canvas.draw_spots(panels.axes[1], section, np.full(len(score), np.nan), size=size, cmap=cmap)
        panels.axes[1].set_title("no tumor map: outside of what\nthe model was trained on", size=11)
        _canvas.tell(panels.axes[1], str(withheld))
    if label_key is not None:
        _draw_labels(panels.axes[2], section, rows[label_key], colour, size=size)
        auroc = record.get("auroc", {}).get(section.name) if label_key == record.get("label_key") else None
        measured = f" (score: AUROC = {auroc:.2f})" if auroc is not None and np.isfinite(auroc) else ""
        panels.axes[2].set_title(f"{label_key}{measured}", size=11)
    for panel in panels.axes:
        _draw_outline(panel, section, call)
    told = "tumor not called" if withheld is not None else f"called tumor: {call.sum()} of {len(call)} spots"
    panels.axes[0].set_title(told, size=11)
    return panels.finish(show=show, save=save, dpi=dpi, return_fig=return_fig)


def _threshold(record: Mapping[str, Any], section: Section) -> float:
    return float(record.get("threshold", {}).get(section.name, np.nan))


def _ends(score: np.ndarray, threshold: float) -> tuple[float, float]:
    """Robust limits of the score that the threshold lies within."""
    low, high = _canvas.robust_limits(score)
    return (min(low, threshold), max(high, threshold)) if np.isfinite(threshold) else (low, high)


def _draw_score(
    ax: Axes,
    section: Section,
    score: np.ndarray,
    record: Mapping[str, Any],
    *,
    size: float,
    cmap: str | Colormap,
    norm: Normalize,
) -> None:
    spots = _canvas.draw_spots(ax, section, score, size=size, cmap=cmap, norm=norm)
    threshold = _threshold(record, section)
    bar = _canvas.draw_colour_bar(ax, spots, "mean z-score")
    bar.axhline(threshold, color=_canvas.INK, linewidth=2)
    n = len(record.get("markers", ()))
    line = f"; threshold {threshold:.2f}" if np.isfinite(threshold) else ""
    ax.set_title(f"tumor score ({n} marker{'s' if n != 1 else ''}{line})", size=11)


def _tell_caveats(ax: Axes, section: Section, record: Mapping[str, Any]) -> None:
    """Write under the map what `tl.localize_tumor` warned of."""
    told = caveats_of(record, section.name)
    if outside(section, record.get("layer")):
        told.append(DO_NOT_BELIEVE)
    if told:
        _canvas.tell(ax, "; ".join(told))


def caveats_of(record: Mapping[str, Any], name: str) -> list[str]:
    """What `tl.localize_tumor` warned of, of the section `name`."""
    missing, used = len(record.get("markers_missing", ())), len(record.get("markers", ()))
    told = []
    if missing > used:
        told.append(f"{missing} of {missing + used} markers are missing")
    if not record.get("two_groups", {}).get(name, True):
        told.append("scores form one group: the border of the tumour is arbitrary")
    return told


def _draw_labels(ax: Axes, section: Section, labels: pd.Series, colour: Mapping[str, str], *, size: float) -> None:
    names = as_text(labels)
    kinds = names.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable").index
    draw_categories(ax, section, names, {kind: colour[kind] for kind in kinds}, size=size)


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
