"""One HTML file in which a section is looked at in a browser, without Python and without a network."""

from __future__ import annotations

from gzip import compress
from io import BytesIO
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.files import check_regular, write_text
from stpredict._core.names import gene_names
from stpredict._core.renamed import SCANPY_NAMES, also_called
from stpredict._genes import symbols
from stpredict._sections.open import Where
from stpredict.pl import _canvas
from stpredict.pl._browse_columns import chosen_columns
from stpredict.pl._browse_page import ShownGenes, SlidePicture, check_bokeh, html_of
from stpredict.pl._compare import correlation_text
from stpredict.pl._values import expression_of
from stpredict.tl._prediction.believed import ENDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from matplotlib.colors import Colormap

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

MOST = 500
"""Genes that are taken by default, at most."""

QUALITY = 80
"""Of the slide as JPEG."""

PAGE, PER_GENE = 1_750_000, 800
"""Bytes of the page: of Bokeh and all that is there once, and of a gene beside its values."""

AS_TEXT = 4 / 3
"""Characters that a byte takes in the page."""


@also_called(**SCANPY_NAMES)
@with_shared_texts
def browse(
    data: Data,
    path: str | Path,
    *,
    genes: str | Iterable[str] | None = None,
    columns: str | Iterable[str] | None = None,
    predicted: str = keys.PREDICTED,
    measured: str | None = None,
    cmap: str | Colormap = "viridis",
    size: float = 1.0,
    alpha_img: float = 0.4,
    image_size: int = 3000,
    max_mb: float = 15.0,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
) -> None:
    """Write a section into one HTML file that opens in any browser, without Python and without internet.

    The page has the slide, the measured and the predicted expression of a gene that is chosen from a list, and one map
    for each of `columns`: by default the tumour score, the domains, the labels that they were compared with, and how far
    each spot is from the training data. All maps move and zoom together. Spots show their values under the mouse, and
    sliders fade the spots and the slide. Above the maps stand the verdict on the prediction and the warnings.

    Measured and predicted expression share one colour scale, as in `pl.compare`. The slide is drawn smaller than it is,
    see `image_size`: a pathologist finds structures in it, but no details of nuclei.

    Parameters
    ----------
    data
        A section after `tl.predict_expression`.
    path
        File to write, with the ending ``.html``. One that is there is replaced.
    genes
        Genes to choose from, in the order of the list. They must have been predicted; those that were not measured
        are shown as predicted only. Aliases and Ensembl ids are resolved. None takes the predicted genes, those that can be
        expected to be most reliable first: 500, or fewer where the file would be too large. As in scanpy, ``color=`` is understood too.
    columns
        Columns of ``obs`` to draw, numbers or categories. None takes those named above that are there.
    %(predicted)s
    measured
        Layer to compare it with, in the same units; None normalises the measured counts. A section without counts is
        shown as predicted only.
    cmap
        Colour map of expression and of other numbers.
    %(size)s
    %(alpha_img)s
    image_size
        Longer side of the slide in the page, in pixels.
    max_mb
        Largest size of the file, in units of 1,000,000 bytes.
    %(one_section)s

    Returns
    -------
    None; the file is written whole or not at all.

    Raises
    ------
    ImportError
        If Bokeh is not installed.
    KeyError
        If the prediction, a gene, a column or the section is not there.
    ValueError
        If `path` does not end in ``.html``, no gene is given, a column has too many categories, the file would be larger
        than `max_mb`, or there are several sections and none is chosen.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM"], layer=None, threshold=0.5)
    >>> st.pl.browse(adata, "section.html", genes=["ERBB2", "COL1A1"], predicted="truth")
    """
    file = Path(path)
    _check(file, image_size=image_size, max_mb=max_mb)
    check_bokeh()
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    names = names_of(section, genes, predicted)
    sides = sides_of(section, names, measured, predicted)
    drawn, notes = chosen_columns(section, columns, predicted, cmap)

    slide = _slide(section, image_size)
    once = [_bytes(values) for values in (*section.centres.T, section.obs_names, *(one.values for one in drawn))]
    left = 1e6 * max_mb - PAGE - sum(once) - AS_TEXT * len(slide.jpeg if slide else b"")
    each = [PER_GENE + sum(_bytes(table[gene].to_numpy(np.float32)) for table in sides.values()) for gene in names]
    fit = int((np.cumsum(each) <= left).sum())
    if fit < (1 if genes is None else len(names)):
        first = f"Take the first {fit} genes" if fit else "Take fewer spots"
        msg = (
            f"{len(names)} gene(s) of {len(section):,} spots make the file larger than max_mb={max_mb:g}. {first}, a "
            f"larger max_mb, or an image_size below {image_size:,}."
        )
        raise ValueError(msg)
    shown = ShownGenes(names[:fit], {side: values.iloc[:, :fit] for side, values in sides.items()})
    expected = _expected(section, shown.names, predicted)
    for gene in shown.names:
        values = [table[gene].to_numpy() for table in sides.values()]
        shown.limits.append(_canvas.shared_limits(*values))
        both = len(sides) > 1 and np.isfinite(values[0]).any()
        shown.correlations.append(correlation_text(*values) if both else "")
        shown.expected.append(expected.get(gene, ""))
    write_text(file, html_of(section, slide, shown, drawn, notes, predicted, cmap=cmap, size=size, alpha_img=alpha_img))


def _check(file: Path, *, image_size: int, max_mb: float) -> None:
    if file.suffix.lower() not in (".html", ".htm"):
        msg = f"browse writes one HTML file, but path is {str(file)!r}: pass a name that ends in .html."
        raise ValueError(msg)
    check_regular(file)
    if image_size < 1 or max_mb <= 0:
        msg = f"image_size and max_mb must be positive, got {image_size!r} and {max_mb!r}."
        raise ValueError(msg)


def names_of(section: Section, genes: str | Iterable[str] | None, predicted: str) -> list[str]:
    """Genes as they were asked for; by default those that were predicted, the most reliable first."""
    adata = section.adata
    beside = adata.obsm.get(keys.extra_genes(predicted))
    if predicted not in adata.layers and beside is None:
        msg = (
            f"There is no layers[{predicted!r}]; call stpredict.tl.predict_expression first, or name the layer of the "
            "prediction: predicted=."
        )
        raise KeyError(msg)
    if genes is not None:
        return list(dict.fromkeys(gene_names(genes)))
    names = [] if beside is None else list(map(str, beside.columns))
    if predicted in adata.layers:
        values = adata.layers[predicted][section.rows]
        known = np.ones(adata.n_vars, bool) if sparse.issparse(values) else np.isfinite(values).any(axis=0)
        names = [*_most_reliable_first(adata.var[known], predicted), *names]
    if not names:
        msg = f"layers[{predicted!r}] has no values in section {section.name!r}: nothing was predicted there."
        raise ValueError(msg)
    return list(dict.fromkeys(names))[:MOST]


def _most_reliable_first(var: pd.DataFrame, predicted: str) -> list[str]:
    column = keys.reliability(predicted)
    if column in var:
        var = var.sort_values(column, ascending=False, kind="stable")
    return list(map(str, var.index))


def sides_of(section: Section, names: list[str], measured: str | None, predicted: str) -> dict[str, pd.DataFrame]:
    """(spots, genes) of every side there is, ``"measured"`` and ``"predicted"``; NaN for genes that were not measured."""
    after = expression_of(section, names, predicted)
    if measured is None and not _has_counts(section, predicted):
        return {"predicted": after}
    there = list(symbols.match(names, section.genes))
    before = expression_of(section, there, measured).reindex(columns=names) if there else after * np.nan
    return {"measured": before, "predicted": after}


def _bytes(values: np.ndarray | pd.Index) -> float:
    """Size of a column of numbers or names in the page; Bokeh compresses numbers."""
    if values.dtype.kind == "f":
        return AS_TEXT * len(compress(values.tobytes())) + 200
    return len(dumps([str(value) for value in values]))


def _has_counts(section: Section, predicted: str) -> bool:
    """Whether anything was measured: the table of a prediction by itself has it in ``X`` too."""
    adata = section.adata
    if keys.COUNTS in adata.layers:
        return True
    if adata.X is None or adata.n_vars == 0:
        return False
    layer = adata.layers.get(predicted)
    both_dense = isinstance(adata.X, np.ndarray) and isinstance(layer, np.ndarray)
    return not (both_dense and np.array_equal(adata.X, layer, equal_nan=True))


def _expected(section: Section, genes: list[str], predicted: str) -> dict[str, str]:
    """How far genes can be believed, in words, of those of which it is known."""
    var = section.adata.var
    columns = [f"{keys.reliability(predicted)}{end}" for end in ENDS]
    if not set(columns) <= set(var):
        return {}
    told = {}
    for gene, name in symbols.match(genes, section.genes).items():
        r, low, high = var.loc[name, columns]
        if np.isfinite(r):
            told[gene] = (
                f"{gene} is expected to reach r = {r:.2f} over the spots of this slide "
                f"(90 % interval {low:.2f} to {high:.2f})."
            )
    return told


def _slide(section: Section, pixels: int) -> SlidePicture | None:
    """The part of the slide that has spots, its longer side `pixels` long."""
    from PIL import Image

    overview = _canvas.overview_of(section, pixels)
    if overview is None:
        return None
    height, width = section.image.shape
    shrunk = len(overview) / height
    left, right, bottom, top = _canvas.view_of(section)
    x0, x1 = (int(np.clip(round(x * shrunk), 0, overview.shape[1])) for x in (left, right))
    y0, y1 = (int(np.clip(round(y * shrunk), 0, overview.shape[0])) for y in (top, bottom))
    out = BytesIO()
    Image.fromarray(overview[y0:y1, x0:x1]).save(out, format="JPEG", quality=QUALITY, optimize=True)
    across, down = width / overview.shape[1], height / overview.shape[0]
    return SlidePicture(out.getvalue(), left=x0 * across, right=x1 * across, top=y0 * down, bottom=y1 * down)
