"""Sections of an AnnData: spots, their centres, the image, and hints of the scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.labels import as_text
from stpredict._images import SlideImage, open_image
from stpredict._sections.scale import ScaleHints, check_full_resolution
from stpredict._sections.section import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData


def section_from_anndata(
    adata: AnnData,
    *,
    library_id: str | None = None,
    library_key: str | None = None,
    mpp: float | None = None,
    kind: type[Section] = Section,
) -> Section:
    """View the section `library_id` of an AnnData (the only one, where there is only one)."""
    libraries = list(adata.uns.get(keys.SPATIAL, {})) or [keys.DEFAULT_LIBRARY]
    if library_id is None and len(libraries) > 1:
        msg = f"This AnnData holds {len(libraries)} sections ({', '.join(libraries)}); pass library_id=."
        raise ValueError(msg)
    name = libraries[0] if library_id is None else library_id
    if name not in libraries:
        msg = f"There is no section {name!r} in uns['spatial']; it has {', '.join(libraries)}."
        raise KeyError(msg)
    rows = np.arange(adata.n_obs)
    if len(libraries) > 1 or library_key is not None:
        rows = np.flatnonzero(library_column(adata, library_key, libraries) == name)
    centres = spot_centres(adata, rows, name)
    library = adata.uns.get(keys.SPATIAL, {}).get(name, {})
    factors = numbers(library.get("scalefactors", {}))
    metadata = library.get("metadata", {})
    hires = library.get("images", {}).get("hires")
    path = metadata.get("source_image_path")
    image_scale = 1.0
    if path:

        def opener() -> SlideImage:
            image = open_image(str(path))
            check_full_resolution(image, library, name)
            return image

    elif hires is not None:
        image_scale = factors.get("tissue_hires_scalef", 1.0)

        def opener() -> SlideImage:
            return SlideImage([np.asarray(hires)], source=f"uns['spatial'][{name!r}]['images']['hires']")

    else:

        def opener() -> SlideImage:
            msg = (
                f"Section {name!r} has no H&E image. Read it with its image, or set "
                f"adata.uns['spatial'][{name!r}]['metadata']['source_image_path'] to the file "
                "(anndata.concat keeps uns['spatial'] only with uns_merge='unique')."
            )
            raise ValueError(msg)

    return kind(
        name=name,
        adata=adata,
        rows=rows,
        centres=centres,
        open_image=opener,
        hints=scale_hints(adata, name, mpp),
        image_scale=image_scale,
        has_image=bool(path) or hires is not None,
    )


def library_column(adata: AnnData, library_key: str | None, libraries: list[str]) -> np.ndarray:
    """Name of the section of every spot, where an AnnData holds several `libraries`.

    Raises
    ------
    KeyError
        If no column tells, or it names sections that there are not.
    """
    remembered = (tiles["library_key"] for tiles in adata.uns.get(keys.TILES, {}).values() if "library_key" in tiles)
    key = library_key or next(remembered, "library_id")
    if key not in adata.obs:
        msg = (
            f"This AnnData holds {len(libraries)} sections; pass library_key=, the obs column that names each spot's "
            f"section (one of {', '.join(libraries)}). obs has {', '.join(adata.obs.columns) or 'no columns'}."
        )
        raise KeyError(msg)
    column = as_text(adata.obs[key]).fillna("").to_numpy()
    if nameless := int((column == "").sum()):
        msg = f"obs[{key!r}] names no section for {nameless} of {len(column)} spots; fill it in, or drop those spots."
        raise KeyError(msg)
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
    if keys.SPATIAL not in adata.obsm:
        msg = "obsm['spatial'] is missing: spot centres (x, y) in full-resolution pixels are needed."
        raise KeyError(msg)
    centres = np.asarray(adata.obsm[keys.SPATIAL], dtype=np.float64)[rows]
    if centres.ndim != 2 or centres.shape[1] != 2:
        msg = f"obsm['spatial'] must have two columns (x, y), got shape {centres.shape}."
        raise ValueError(msg)
    if not np.isfinite(centres).all():
        msg = f"Section {name!r}: obsm['spatial'] holds NaN or infinite coordinates; drop those spots first."
        raise ValueError(msg)
    return centres


def scale_hints(adata: AnnData, name: str, mpp: float | None) -> ScaleHints:
    """What the table knows of the scale of section `name`, in pixels of its spots' own coordinates."""
    library = adata.uns.get(keys.SPATIAL, {}).get(name, {})
    factors = numbers(library.get("scalefactors", {}))
    pitch_um = library.get("metadata", {}).get("spot_pitch_um")
    tiles = adata.uns.get(keys.TILES, {}).get(name, {})
    return ScaleHints(
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
