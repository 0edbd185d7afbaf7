"""What readers of cells say of the scale: Xenium's centroids in µm, and bins of Visium HD beside its cells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

XENIUM = {"transcript_counts", "cell_area"}
"""Columns of ``obs`` that Xenium's table of cells has in every version; centroids beside them are in µm."""

CENTROIDS = ["x_centroid", "y_centroid"]
"""Columns of the centroids, where a reader left them there."""

SEGMENTED = re.compile(r"(.*)_(?:cell|nucleus)_segmentations")
"""Outlines of Visium HD as spatialdata-io names them, ``<sample>_cell_segmentations``."""

BINS = re.compile(r"square_(\d{3})um$")
SAME_FACTOR = 0.01
"""By how much the ratio of µm to pixels may differ between cells, beside the labels' own rounding."""

APART = (0.3, 3.0)
"""Bounds of the median distance to the next cell over the width of a cell; in pixels of Xenium it would be near 4."""

LOOKED_AT = 1000
"""Cells whose distance to the next one is looked at."""


def refuse_microns(adata: AnnData, centres: np.ndarray, rows: np.ndarray, name: str) -> None:
    """Refuse centres of cells (n, 2) that are Xenium's centroids in µm, where pixels of the image are needed."""
    if not {*XENIUM, *CENTROIDS} <= set(adata.obs.columns):
        return
    if np.allclose(adata.obs[CENTROIDS].to_numpy(np.float64)[rows], centres, rtol=1e-6):
        msg = (
            f"Section {name!r}: obsm['spatial'] holds the centroids that Xenium writes, in µm of its own image, where pixels "
            "(x, y) of the H&E image are needed. Read the run by spatialdata_io.xenium, and the H&E image by "
            "spatialdata_io.xenium_aligned_image, which knows how it lies; or bring obsm['spatial'] to its pixels."
        )
        raise ValueError(msg)


def mpp_of_microns(adata: AnnData, rows: np.ndarray, centres: np.ndarray) -> float | None:
    """µm per unit of `centres` (n, 2), by centroids of the same cells in µm, in whatever position; None where none are known."""
    if not set(adata.obs.columns) >= XENIUM or keys.SPATIAL not in adata.obsm or len(rows) < 3:
        return None
    microns = np.asarray(adata.obsm[keys.SPATIAL], dtype=np.float64)[rows]
    if microns.shape != centres.shape or not np.isfinite(microns).all() or not _are_microns(microns, adata, rows):
        return None
    apart, apart_um = (np.linalg.norm(points - points.mean(axis=0), axis=1) for points in (centres, microns))
    far = apart >= np.median(apart)  # (near the middle, rounding counts)
    if not apart[far].min() > 0:
        return None
    ratio = apart_um[far] / apart[far]
    mpp = float(np.median(ratio))
    return mpp if np.median(np.abs(ratio - mpp)) <= SAME_FACTOR * mpp else None


def _are_microns(places: np.ndarray, adata: AnnData, rows: np.ndarray) -> bool:
    """Whether the places of cells (n, 2) are in the unit of their areas, and not in pixels that somebody put there."""
    from scipy.spatial import cKDTree

    width = np.sqrt(np.nanmedian(adata.obs["cell_area"].to_numpy(np.float64)[rows]))
    some = places[:: -(-len(places) // LOOKED_AT)]
    apart = np.median(cKDTree(places).query(some, k=2)[0][:, 1])
    return bool(APART[0] * width <= apart <= APART[1] * width)


def bin_um(region: str) -> float | None:
    """Bin size of a Visium HD region, which readers put into its name (``…_square_008um``)."""
    found = BINS.search(region)
    return float(found[1]) if found else None


def mpp_of_bins(sdata: SpatialData, region: str) -> float | None:
    """µm per unit of the outlines of Visium HD's cells, by the bins of the same sample; None where there are none."""
    from spatialdata.transformations import get_transformation

    if not (sample := SEGMENTED.fullmatch(region)):
        return None
    systems = get_transformation(sdata.shapes[region], get_all=True)
    for name in sorted(sdata.shapes, reverse=True):  # (the largest bins first: they are the fewest)
        um = bin_um(name)
        if um is None or not name.startswith(f"{sample[1]}_square_"):
            continue
        of_bins = get_transformation(sdata.shapes[name], get_all=True)
        shared = next((system for system in systems if system in of_bins), None)
        if shared is None:
            continue
        one = sdata.shapes[name].iloc[0]
        width = 2 * one["radius"] if "radius" in one else np.sqrt(one["geometry"].area)
        return float(um / width) * _scale(systems[shared]) / _scale(of_bins[shared])
    return None


def _scale(transformation: Any) -> float:
    """Factor by which a transformation enlarges."""
    matrix = transformation.to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
