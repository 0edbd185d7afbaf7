"""What an AnnData says of a section: its spots, their centres, and hints of the scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict import _keys, _scale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData


def library_column(adata: AnnData, library_key: str | None, libraries: list[str]) -> np.ndarray:
    """Name of the section of every spot, where an AnnData holds several `libraries`.

    Raises
    ------
    KeyError
        If no column tells, or it names sections that there are not.
    """
    remembered = (tiles["library_key"] for tiles in adata.uns.get(_keys.TILES, {}).values() if "library_key" in tiles)
    key = library_key or next(remembered, "library_id")
    if key not in adata.obs:
        msg = (
            f"This AnnData holds {len(libraries)} sections; pass library_key=, the obs column that names each spot's "
            f"section (one of {', '.join(libraries)}). obs has {', '.join(adata.obs.columns) or 'no columns'}."
        )
        raise KeyError(msg)
    column = adata.obs[key].astype(str).to_numpy()
    unknown = sorted(set(column) - set(libraries))
    if unknown:
        msg = f"obs[{key!r}] names sections that uns['spatial'] lacks: {', '.join(unknown[:5])}."
        raise KeyError(msg)
    return column


def spot_centres(adata: AnnData, rows: np.ndarray, name: str) -> np.ndarray:
    """(n, 2) float64: centres (x, y) of the spots in `rows`, which are those of section `name`.

    Raises
    ------
    KeyError, ValueError
        If there are none, or they are no finite coordinates in two columns.
    """
    if _keys.SPATIAL not in adata.obsm:
        msg = "obsm['spatial'] is missing: spot centres (x, y) in full-resolution pixels are needed."
        raise KeyError(msg)
    centres = np.asarray(adata.obsm[_keys.SPATIAL], dtype=np.float64)[rows]
    if centres.ndim != 2 or centres.shape[1] != 2:
        msg = f"obsm['spatial'] must have two columns (x, y), got shape {centres.shape}."
        raise ValueError(msg)
    if not np.isfinite(centres).all():
        msg = f"Section {name!r}: obsm['spatial'] holds NaN or infinite coordinates; drop those spots first."
        raise ValueError(msg)
    return centres


def scale_hints(adata: AnnData, name: str, mpp: float | None) -> _scale.ScaleHints:
    """What the table knows of the scale of section `name`, in pixels of its spots' own coordinates."""
    library = adata.uns.get(_keys.SPATIAL, {}).get(name, {})
    factors = numbers(library.get("scalefactors", {}))
    pitch_um = library.get("metadata", {}).get("spot_pitch_um")
    tiles = adata.uns.get(_keys.TILES, {}).get(name, {})
    return _scale.ScaleHints(
        argument=mpp,
        metadata=factors.get("microns_per_pixel"),
        pitch_um=float(pitch_um) if pitch_um else None,
        spot_diameter_px=factors.get("spot_diameter_fullres"),
        remembered=(float(tiles["mpp"]), str(tiles["mpp_source"])) if tiles else None,
        scalefactors=factors,
    )


def numbers(factors: Mapping[str, Any]) -> dict[str, float]:
    """Those of `factors` that are single numbers."""
    return {key: float(value) for key, value in factors.items() if np.isscalar(value)}
