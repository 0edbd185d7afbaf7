"""Sections of an AnnData: spots, their centres, the image, and hints of the scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.labels import as_text, column_of
from stpredict._images import SlideImage, open_image
from stpredict._sections.cells import refuse_microns
from stpredict._sections.picture import check_same_picture
from stpredict._sections.scale import LAID, ScaleHints, check_full_resolution
from stpredict._sections.section import Section

X_NAMES = frozenset({"x", "pxl_col_in_fullres", "pixel_x", "imagecol", "array_x", "col"})
Y_NAMES = frozenset({"y", "pxl_row_in_fullres", "pixel_y", "imagerow", "array_y", "row"})
"""Names of columns with x and y."""

LIBRARY_ID = "library_id"
"""Column of ``obs`` that names every spot's section, where the caller names no other."""

ARRAY = ("array_row", "array_col")
"""Columns of ``obs`` with the place of a spot on its lattice."""

KEEP_APART = (
    "Give every section a library of its own name before joining: "
    "adata.uns['spatial'] = {'name': next(iter(adata.uns['spatial'].values()))} for each, then anndata.concat({'name': adata, "
    "…}, label='library_id', uns_merge='unique', index_unique='-'); or pass the sections as a list."
)

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
    libraries = list(libraries_of(adata)) or [keys.DEFAULT_LIBRARY]
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
    else:
        _refuse_joined(adata, library_key, name)
    _refuse_repeated_places(adata, rows, name)
    centres = spot_centres(adata, rows, name)
    library = libraries_of(adata).get(name, {})
    factors = numbers(part_of(library, "scalefactors", name), name)
    metadata = part_of(library, "metadata", name)
    hires = part_of(library, "images", name).get("hires")
    hires = hires if hires is None else np.asarray(hires)  # (it may be lazy)
    path = metadata.get("source_image_path")
    if path or hires is not None:
        refuse_microns(adata, centres, rows, name)
    image_scale = 1.0
    if path:

        def opener() -> SlideImage:
            image = _source_image(path, name, has_hires=hires is not None)
            check_full_resolution(image, library.get("images", {}), factors, name)
            if hires is not None:
                check_same_picture(image, hires, name, "hires")
            return image

    elif hires is not None:
        image_scale = factors.get("tissue_hires_scalef", 1.0)

        def opener() -> SlideImage:
            return SlideImage([hires], source=f"uns['spatial'][{name!r}]['images']['hires']")

    else:

        def opener() -> SlideImage:
            msg = (
                f"Section {name!r} has no H&E image. Read it with its image, or name the full-resolution one: "
                f"{_slot(adata, name)} = 'slide.tif' "
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


def _slot(adata: AnnData, name: str) -> str:
    """Code that names the image path of a section, whatever of its slots is there already."""
    entry = libraries_of(adata).get(name)
    if entry is not None and "metadata" in entry:
        return f"adata.uns['spatial'][{name!r}]['metadata']['source_image_path']"
    section = (
        f"adata.uns['spatial'][{name!r}]"
        if entry is not None
        else (f"adata.uns.setdefault('spatial', {{}}).setdefault({name!r}, {{}})")
    )
    return f"{section}.setdefault('metadata', {{}})['source_image_path']"


def libraries_of(adata: AnnData) -> dict[str, Any]:
    """Sections of ``uns["spatial"]`` by name, without flags that stand beside them (``is_single`` of CELLxGENE).

    Of several entries of which one alone has images or scale factors, in a table that names no sections, that one is
    the section: the others are names without content, as spatialdata-io leaves them.
    """
    entries = {str(name): entry for name, entry in adata.uns.get(keys.SPATIAL, {}).items() if hasattr(entry, "get")}
    filled = {
        name: entry
        for name, entry in entries.items()
        if any(hasattr(entry.get(part), "get") and len(entry[part]) for part in ("images", "scalefactors"))
    }
    return filled if len(filled) == 1 and LIBRARY_ID not in adata.obs else entries


def _source_image(path: str, name: str, *, has_hires: bool) -> SlideImage:
    try:
        return open_image(str(path))
    except FileNotFoundError as error:
        slot = f"adata.uns['spatial'][{name!r}]['metadata']['source_image_path']"
        coarse = f" Or use the coarse hires image knowingly: del {slot}." if has_hires else ""
        msg = f"There is no image at {path}, where section {name!r} had it. Was it moved? Set {slot} to where it is.{coarse}"
        raise FileNotFoundError(msg) from error


def _refuse_joined(adata: AnnData, library_key: str | None, name: str) -> None:
    """Refuse several sections that were joined into one library, or lost theirs when they were joined.

    Raises ValueError if ``obs["library_id"]`` names several sections.
    """
    if LIBRARY_ID not in adata.obs:
        return
    named = column_of(adata, LIBRARY_ID).dropna().astype(str).unique()
    if len(named) > 1:
        has = f"only {name!r}" if libraries_of(adata) else "none of them"
        msg = (
            f"obs['library_id'] names {len(named)} sections ({', '.join(named[:5])}) but uns['spatial'] has {has}, so they "
            f"would be taken for one. {KEEP_APART}"
        )
        raise ValueError(msg)


def _refuse_repeated_places(adata: AnnData, rows: np.ndarray, name: str) -> None:
    """Refuse several sections under one name, by places of the lattice that come again.

    Raises ValueError if there are such, in a table that tells places at all.
    """
    if not set(ARRAY) <= set(adata.obs):
        return
    places = pd.DataFrame({key: column_of(adata, key).to_numpy()[rows] for key in ARRAY}).dropna()
    if places.nunique().min() < 2:  # (filled in by a tool that knew none)
        return
    if again := int(places.duplicated().sum()):
        msg = (
            f"Section {name!r} has {again} of {len(rows)} spots at places of the array (obs['array_row'], obs['array_col']) where "
            f"another one is: several sections seem to be joined under one name, and would be cut out of one image. {KEEP_APART}"
        )
        raise ValueError(msg)


def library_column(adata: AnnData, library_key: str | None, libraries: list[str]) -> np.ndarray:
    """Name of the section of every spot, where an AnnData holds several `libraries`.

    Raises KeyError if no column tells, or it names sections that there are not.
    """
    remembered = (tiles["library_key"] for tiles in adata.uns.get(keys.TILES, {}).values() if "library_key" in tiles)
    key = library_key or next(remembered, LIBRARY_ID)
    if key not in adata.obs:
        msg = (
            f"This AnnData holds {len(libraries)} sections; pass library_key=, the obs column that names each spot's "
            f"section (one of {', '.join(libraries)}). obs has {', '.join(adata.obs.columns) or 'no columns'}."
        )
        raise KeyError(msg)
    column: np.ndarray = as_text(column_of(adata, key)).fillna("").to_numpy()
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

    Raises KeyError or ValueError if there are none, or they are no finite coordinates in two columns.
    """
    if keys.SPATIAL not in adata.obsm:
        msg = "obsm['spatial'] is missing: spot centres (x, y) in full-resolution pixels are needed."
        raise KeyError(msg)
    centres: np.ndarray = _xy(adata.obsm[keys.SPATIAL])[rows]
    if centres.ndim != 2 or centres.shape[1] != 2:
        msg = f"obsm['spatial'] must have two columns (x, y), got shape {centres.shape}."
        raise ValueError(msg)
    if not np.isfinite(centres).all():
        msg = f"Section {name!r}: obsm['spatial'] holds NaN or infinite coordinates; drop those spots first."
        raise ValueError(msg)
    return centres


def _xy(coordinates: Any) -> np.ndarray:
    """Coordinates as (x, y); columns of a DataFrame are taken by their names, where these tell."""
    if hasattr(coordinates, "columns"):
        names = [str(name).lower() for name in coordinates.columns]
        x, y = ([i for i, name in enumerate(names) if name in known] for known in (X_NAMES, Y_NAMES))
        if len(x) == len(y) == 1:
            values: np.ndarray = coordinates.to_numpy(dtype=np.float64)
            return values[:, [x[0], y[0]]]
    return np.asarray(coordinates, dtype=np.float64)


def _exchanged(coordinates: Any) -> str:
    """Code of the same coordinates with x and y exchanged."""
    if not hasattr(coordinates, "columns"):
        return "adata.obsm['spatial'][:, ::-1]"
    values = np.asarray(coordinates, dtype=np.float64)
    taken_by_name = not np.array_equal(_xy(coordinates), values)  # columns that are called y and x, in this order
    return f"adata.obsm['spatial'].to_numpy(){'' if taken_by_name else '[:, ::-1]'}"


def scale_hints(adata: AnnData, name: str, mpp: float | None) -> ScaleHints:
    """What the table knows of the scale of section `name`, in pixels of its spots' own coordinates."""
    library = libraries_of(adata).get(name, {})
    factors = numbers(part_of(library, "scalefactors", name), name)
    metadata = part_of(library, "metadata", name)
    pitch_um = metadata.get("spot_pitch_um")
    try:
        tiles = adata.uns.get(keys.TILES, {}).get(name, {})
        return ScaleHints(
            argument=mpp,
            metadata=factors.get("microns_per_pixel"),
            pitch_um=float(pitch_um) if pitch_um else None,
            is_laid=metadata.get("technology") == LAID,
            spot_diameter_px=_spot_diameter(factors),
            remembered=(float(tiles["mpp"]), str(tiles["mpp_source"])) if tiles else None,
            scalefactors=factors,
            exchange=f"adata.obsm['spatial'] = {_exchanged(adata.obsm.get(keys.SPATIAL))}",
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        msg = (
            f"The scale of section {name!r} is damaged ({error}): uns['tiles'][{name!r}] and metadata['spot_pitch_um'] in "
            f"uns['spatial'][{name!r}] are not what stpredict writes. Delete them and pass mpp=."
        )
        raise ValueError(msg) from error


def part_of(library: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """What an entry of ``uns["spatial"]`` holds under `key`, empty where there is nothing.

    Raises ValueError if it is no mapping.
    """
    part: Mapping[str, Any] = library.get(key, {})
    if not hasattr(part, "get"):
        msg = f"uns['spatial'][{name!r}][{key!r}] is damaged: a {type(part).__name__}, not a dictionary. Read it again."
        raise ValueError(msg)
    return part


def _spot_diameter(factors: Mapping[str, float]) -> float | None:
    """The recorded diameter, px; None where it is a scale factor instead, as in files that Seurat wrote."""
    diameter = factors.get("spot_diameter_fullres")
    is_factor = any(diameter == factors.get(f"tissue_{image}_scalef") for image in ("hires", "lowres"))
    return None if diameter is None or is_factor or diameter < 1 else diameter


NEEDED = ("microns_per_pixel", "tissue_hires_scalef")
"""Scale factors that change what is seen of a slide."""


def numbers(factors: Mapping[str, Any], name: str) -> dict[str, float]:
    """Those of `factors` that are single numbers; R writes them as arrays of length one.

    Raises ValueError if one of those `NEEDED` is there and is none: to go on without it would take the wrong scale.
    """
    single = {key: np.asarray(value) for key, value in factors.items() if value is not None}
    known = {k: float(value.item()) for k, value in single.items() if value.size == 1 and value.dtype.kind in "fiu"}
    if wrong := [key for key in NEEDED if key in single and key not in known]:
        msg = (
            f"uns['spatial'][{name!r}]['scalefactors'][{wrong[0]!r}] is no number: {factors[wrong[0]]!r}. Set it to the "
            "number, or delete it where it is unknown."
        )
        raise ValueError(msg)
    return known
