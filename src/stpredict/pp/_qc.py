"""Which spots hold tissue and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import raw_counts
from stpredict._core.docs import with_shared_texts
from stpredict._core.warning import warn
from stpredict._images.mask import check_tissue, find_tissue, tissue_fraction, window_means
from stpredict._images.quality import TINY, folded, sharpness
from stpredict._sections.on_tissue import check_on_tissue
from stpredict._sections.open import Opened, Where, one_section
from stpredict._sections.totals import known_totals, row_sums
from stpredict.pp._tiles import SPOT_UM

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict._core.typing import Data
    from stpredict._images.outlines import Tissue
    from stpredict._sections.section import Section


@with_shared_texts
def tissue_mask(
    data: Data,
    *,
    mpp: float = 8.0,
    tissue: Tissue | None = None,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
) -> tuple[np.ndarray, float]:
    """Find the tissue on a slide.

    The stain is measured on a coarse view of the image by how far the optical densities of the colours lie apart,
    split by Otsu's threshold [1]_ and cleaned: gaps below 80 µm and holes below 0.01 mm² are closed, pieces below
    0.1 mm² dropped. Glass, shadows, blackened background and marks of a pen are no tissue; a picture pasted into a
    corner is. Pen is told by hue and saturation [2]_: yellow, green and cyan (40–200°), which H&E never is, and blue
    (200–245°) or red (350–15°) far more saturated than nuclei and blood are; black pen is grey.

    Parameters
    ----------
    data
        A section with an H&E image; spots are not needed.
    mpp
        Microns per pixel of the mask; never finer than the image.
    %(tissue)s
    %(one_section)s

    Returns
    -------
    mask
        Boolean (height, width): the whole image at `mpp`; True is tissue.
    mpp
        Microns per pixel that the mask has exactly.

    Raises
    ------
    TypeError, ValueError
        If there is no image, the scale is unknown, there are several sections and no `library_id`, or `tissue` does not
        fit the slide.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> mask, mpp = st.pp.tissue_mask(adata)
    >>> mask.dtype.name, bool(mask.any())
    ('bool', True)

    References
    ----------
    .. [1] Otsu, A threshold selection method from gray-level histograms. IEEE Transactions on Systems, Man, and
       Cybernetics 9, 62–66 (1979).
    .. [2] Smith, Color gamut transform pairs. Computer Graphics (SIGGRAPH) 12, 12–19 (1978), for hue, saturation and
       value. The bounds were read off the hues of six H&E sections.
    """
    if not mpp > 0:
        msg = f"mpp must be positive, got {mpp!r}."
        raise ValueError(msg)
    check_tissue(tissue)
    section = one_section(data, library_id, Where(library_key, table_key, image_key))
    scale = section.image_scale
    return find_tissue(section.slide, image_mpp=section.mpp, mpp=mpp, tissue=tissue, outline_scale=scale)


@with_shared_texts
def qc(
    data: Data,
    *,
    min_counts: int = 50,
    min_tissue: float = 0.1,
    tissue: Tissue | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    copy: bool = False,
) -> Data | None:
    """Measure the counts and the tissue under every spot, and flag the spots that have enough of both.

    Nothing is filtered: subset with ``adata[adata.obs["qc_pass"]]``. Blur and folds are measured but do not count for
    ``qc_pass``.

    Parameters
    ----------
    data
        One or more sections with raw counts, with an H&E image, or with both.
    min_counts
        Fewest counts of a spot that passes.
    min_tissue
        Smallest share of a passing spot's window that is tissue; the window is the one of `pp.tiles`, or 112 µm wide.
    %(tissue)s
    %(sections_and_image)s
    %(copy)s

    Returns
    -------
    None, or the copy. Written into ``obs``:

    - ``total_counts`` and ``n_genes_by_counts``, by `scanpy.pp.calculate_qc_metrics`, where there are counts; totals
      that are there already stay where the counts sum to less, since genes were dropped
    - ``tissue_fraction`` (0–1; NaN for spots of a section without an image), where there is an image
    - ``blur``, where there is an image: by how many octaves the window is less sharp than the median one of its section
      (2: a quarter of it; NaN without tissue). Sharpness is the variance of the Laplacian of the optical density at 2 µm
      per pixel [1]_ as a share of that at 8 µm, so that smooth tissue is not taken for blurred. A section that is
      blurred as a whole is not recognised
    - ``fold``, where there is an image: share of the window (0–1) that is as dark and saturated [2]_ as folded
      tissue, with 1.8 times the optical density of the section's upper quartile
    - ``qc_pass`` (bool): whether the spot passes those of the two limits that could be checked

    Raises
    ------
    ValueError
        If there are neither counts nor an image, the counts are not raw, the image cannot be read, genes were dropped
        and nothing tells the totals any more, or `tissue` does not fit the slide,
        or is a mask or outlines where there are several sections.

    Warns
    -----
    StpredictWarning
        If totals stay as they are, since genes were dropped; or if so few spots lie on tissue that the image is likely
        another one, turned or mirrored.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.qc(adata)
    >>> bool(adata.obs["qc_pass"].mean() > 0.5)
    True

    References
    ----------
    .. [1] Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy. ICPR 3, 314–317 (2000).
    .. [2] Bautista and Yagi, Improving the visualization and detection of tissue folds in whole slide images through
       color enhancement. Journal of Pathology Informatics 1, 25 (2010).
    """
    _check_limits(min_counts, min_tissue)
    check_tissue(tissue)
    opened = Opened(data, Where(library_key, table_key, image_key), copy=copy)
    adata, sections = opened.table, opened.sections
    has_counts = adata.n_vars > 0 and (adata.X is not None or keys.COUNTS in adata.layers)
    has_image = any(section.has_image for section in sections)
    if not has_counts and not has_image:
        msg = "There is nothing to check: the section has neither counts nor an H&E image."
        raise ValueError(msg)
    if tissue is not None and not isinstance(tissue, int | float | np.number):
        if len(sections) > 1:
            msg = f"A mask or outlines as tissue= are of one slide, and there are {len(sections)} sections; check them one by one."
            raise ValueError(msg)
        if not has_image:
            msg = "tissue= is of a slide, and this section has no image; name it, or leave tissue= out."
            raise ValueError(msg)

    columns: dict[str, Any] = {}
    passes = np.ones(adata.n_obs, dtype=bool)
    if has_counts:
        columns |= _count_metrics(adata)
        passes &= columns["total_counts"] >= min_counts
    if has_image:
        of_image = {name: np.full(adata.n_obs, np.nan) for name in ("tissue_fraction", "blur", "fold")}
        for section in sections:
            if section.has_image:
                for name, values in _image_metrics(section, tissue).items():
                    of_image[name][section.rows] = values
        columns |= of_image
        passes &= ~(of_image["tissue_fraction"] < min_tissue)
    for name, values in columns.items():
        opened.target.obs[name] = values
    opened.target.obs["qc_pass"] = passes
    return opened.result


def _check_limits(min_counts: float, min_tissue: float) -> None:
    if not min_counts >= 0:
        msg = f"min_counts must not be negative, got {min_counts!r}."
        raise ValueError(msg)
    if not 0 <= min_tissue <= 1:
        msg = f"min_tissue is a share between 0 and 1, got {min_tissue!r}."
        raise ValueError(msg)


def _count_metrics(adata: AnnData) -> dict[str, np.ndarray]:
    import scanpy as sc

    own = row_sums(raw_counts(adata))
    known = known_totals(adata, slice(None), own, "this object")
    layer = keys.COUNTS if keys.COUNTS in adata.layers else None
    metrics, _ = sc.pp.calculate_qc_metrics(adata, layer=layer, percent_top=None, log1p=False, inplace=False)
    columns = {name: metrics[name].to_numpy() for name in (keys.TOTAL_COUNTS, "n_genes_by_counts")}
    if known is not None and (known > own).any():
        msg = (
            f"Counts sum to less than obs[{keys.TOTAL_COUNTS!r}], which is kept: the total over all genes, of which some "
            f"were dropped since. Where counts themselves were changed, del adata.obs[{keys.TOTAL_COUNTS!r}] first."
        )
        warn(msg)
        columns[keys.TOTAL_COUNTS] = known
    return columns


def _image_metrics(section: Section, given: Tissue | None) -> dict[str, np.ndarray]:
    """Tissue, blur and folds in the window of every spot."""
    window = float(section.adata.uns.get(keys.TILES, {}).get(section.name, {}).get("spot_um", SPOT_UM))
    image, where = section.image, section.centres * section.mpp
    mask, mpp = find_tissue(image, image_mpp=section.mpp, mpp=8.0, tissue=given, outline_scale=section.image_scale)
    tissue = tissue_fraction(mask, where / mpp, window / mpp)
    flags = section.adata.obs.get("in_tissue")
    on = None if flags is None else flags.iloc[section.rows].astype(str).isin(["1", "1.0", "True"]).to_numpy()
    check_on_tissue(mask, where / mpp, window / mpp, section.name, on)
    folds = folded(image.thumbnail(max(mask.shape)), mask)
    fine, coarse, cell = sharpness(image, section.mpp, where, window)
    contrasts = (window_means(contrast, where / cell, window / cell) for contrast in (fine, coarse))
    sharp = np.subtract(*(np.log2(contrast + TINY) for contrast in contrasts))
    sharp[tissue == 0] = np.nan
    blur = np.nanmedian(sharp) - sharp if (tissue > 0).any() else sharp
    return {"tissue_fraction": tissue, "blur": blur, "fold": tissue_fraction(folds, where / mpp, window / mpp)}
