"""Pseudo-spots on slides where nothing was measured."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import one_of, slot_name
from stpredict._core.device import release
from stpredict._core.docs import with_shared_texts
from stpredict._images import open_image
from stpredict._images.mask import check_tissue, find_tissue, stained, tissue_fraction
from stpredict._sections.anndata import section_from_anndata
from stpredict._sections.open import copy_of
from stpredict._sections.scale import LAID, PITCH_PER_DIAMETER
from stpredict._sections.spatialdata import (
    only_image,
    region_centres,
    section_from_spatialdata,
    slide_image,
    table_in,
)
from stpredict._sections.wsidata import TILE_SPEC, tile_spec, tiles_at, whole_slide_of
from stpredict.io._library import check_mpp

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

    from stpredict._core.typing import Data
    from stpredict._images import SlideImage
    from stpredict._images.outlines import Tissue

SPOT_PER_PITCH = 0.55
"""As on Visium."""

MASK_MPP = 8.0


@with_shared_texts
def grid(
    data: Data,
    *,
    pitch_um: float = 100.0,
    spot_um: float | None = None,
    layout: Literal["hexagonal", "square"] = "hexagonal",
    min_tissue: float = 0.5,
    tissue: Tissue | None = None,
    key_added: str = "grid",
    mpp: float | None = None,
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
) -> Data:
    """Lay pseudo-spots over the tissue of a slide, so that all functions for spots work on it.

    The tissue is that of `stpredict.pp.tissue_mask`. Spots that `data` already has are ignored. By default the
    lattice is that of Visium. A finer pitch gives more spots but no more detail, because windows stay as wide as in
    training (`stpredict.pp.tiles`).

    Parameters
    ----------
    data
        One slide, from `stpredict.read_wsi` or any other reader; a SpatialData with an H&E image, with or without a
        table; or LazySlide's ``WSIData``, the slide of which is read from its file.
    pitch_um
        Distance between neighbouring spots, centre to centre, µm.
    spot_um
        Diameter of a spot, µm, for maps and for counting nuclei. By default 0.55 of the pitch.
    layout
        ``"hexagonal"``, six neighbours, as on Visium; or ``"square"``, as on legacy ST and Visium HD.
    min_tissue
        Smallest share of tissue in the square of `pitch_um` around a spot.
    %(tissue)s
    key_added
        Of a SpatialData: name of the new shapes; the table that annotates them is called ``<key_added>_table``.
    mpp
        Microns per pixel at full resolution; by default what the reader or the image file says. The images of a
        SpatialData do not say it: pass it, unless a table's spots tell. A ``WSIData`` knows it.
    library_id
        Which slide, where an AnnData holds several, or which region of a SpatialData.
    %(sections_and_image)s

    Returns
    -------
    A new AnnData (spots × 0 genes), or for a SpatialData a new one that shares the elements of `data` and has circles
    ``shapes["grid"]`` and ``tables["grid_table"]`` beside them; in a ``WSIData`` the shapes are tiles 112 µm wide, as
    LazySlide keeps them. ``obs``: ``array_row`` and ``array_col`` (in a hexagonal layout
    every other column, as Space Ranger counts them) and ``tissue_fraction``. ``obsm["spatial"]``: centres (x, y) in
    full-resolution pixels. ``uns["spatial"]``: image, scale, ``spot_pitch_um`` and ``spot_diameter_um``.

    Raises
    ------
    TypeError, ValueError
        If there is no image, its scale is unknown, no tissue is found, `tissue` does not fit the slide, or a size is not
        possible.
    KeyError
        If there is no such slide or image.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.io.grid(st.datasets.simulate(), pitch_um=50)
    >>> adata.n_vars, adata.uns["spatial"]["sim_1"]["metadata"]["spot_pitch_um"]
    (0, 50.0)
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    """
    spot_um = SPOT_PER_PITCH * pitch_um if spot_um is None else spot_um
    check_grid(pitch_um, spot_um, layout, min_tissue)
    check_tissue(tissue)
    lay = partial(_lay, pitch_um=pitch_um, layout=layout, min_tissue=min_tissue, tissue=tissue)
    if hasattr(data, "images") and hasattr(data, "shapes"):
        which = {"image_key": image_key, "table_key": table_key, "library_id": library_id, "mpp": mpp}
        return _on_spatialdata(data, key_added, lay, (pitch_um, spot_um), **which)
    section = section_from_anndata(data, library_id=library_id, library_key=library_key, mpp=mpp)
    centres, obs = lay(section.slide, section.mpp, section.name, outline_scale=section.image_scale)
    adata = _pseudo_spots(centres / section.image_scale, obs, section.name)
    entry = deepcopy(data.uns[keys.SPATIAL][section.name])
    entry["scalefactors"] = {**entry.get("scalefactors", {}), **_factors(section.mpp_of_coordinates, spot_um)}
    entry["metadata"] = {**entry.get("metadata", {}), **_metadata(pitch_um, spot_um)}
    adata.uns[keys.SPATIAL] = {section.name: entry}
    return adata


def check_grid(pitch_um: float, spot_um: float, layout: str, min_tissue: float) -> None:
    one_of(layout, ("hexagonal", "square"), "layout")
    if not (np.isfinite(pitch_um) and pitch_um > 0):
        msg = f"pitch_um must be positive, got {pitch_um!r}."
        raise ValueError(msg)
    low, high = PITCH_PER_DIAMETER
    if not (spot_um > 0 and low <= pitch_um / spot_um <= high):
        msg = f"spot_um must lie between {pitch_um / high:.3g} and {pitch_um / low:.3g} µm for this pitch; got {spot_um:g}."
        raise ValueError(msg)
    if not 0 <= min_tissue <= 1:
        msg = f"min_tissue is a share between 0 and 1, got {min_tissue!r}."
        raise ValueError(msg)


def _lay(
    image: SlideImage,
    mpp: float,
    name: str,
    *,
    pitch_um: float,
    layout: str,
    min_tissue: float,
    tissue: Tissue | None,
    outline_scale: float = 1.0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Centres (n, 2) in pixels of `image` of the spots with enough tissue, and their ``obs``."""
    import pandas as pd

    pitch = pitch_um / mpp
    if pitch < 1:
        msg = f"pitch_um={pitch_um:g} is finer than the pixels of slide {name!r} ({mpp:g} µm)."
        raise ValueError(msg)
    mask, mask_mpp = find_tissue(image, image_mpp=mpp, mpp=MASK_MPP, tissue=tissue, outline_scale=outline_scale)
    if not mask.any():
        small = image.thumbnail(max(mask.shape))
        threshold = float(tissue) if isinstance(tissue, int | float) else None
        raise ValueError(_no_tissue(name, mpp, pieces=bool(stained(small, mask_mpp, threshold).any())))
    rows, columns, centres = _lattice(image.shape, pitch, layout)
    share = tissue_fraction(mask, centres * mpp / mask_mpp, pitch_um / mask_mpp)
    release()
    keep = (share >= min_tissue) & (share > 0)
    if not keep.any():
        msg = f"No spot of slide {name!r} has {min_tissue:g} of tissue around it; lower min_tissue or pitch_um."
        raise ValueError(msg)
    rows, columns = rows[keep], columns[keep]
    names = [f"{name}_{row}x{column}" for row, column in zip(rows, columns, strict=True)]
    obs = pd.DataFrame({"array_row": rows, "array_col": columns, "tissue_fraction": share[keep]}, index=names)
    return centres[keep], obs


def _no_tissue(name: str, mpp: float, *, pieces: bool) -> str:
    """Why there is no tissue: what is stained is too small, as on a wrong scale, or nothing is stained enough."""
    if pieces:
        return (
            f"No tissue was found on slide {name!r}: what is stained is pen, or in pieces below 0.1 mm² at {mpp:g} µm per "
            "pixel. If that scale is wrong, pass mpp=; if not, pass tissue=, a mask of the tissue or its outlines."
        )
    return (
        f"No tissue was found on slide {name!r}: nothing on it is stained as strongly as H&E is. If the stain is pale or grey, "
        "pass tissue=, a lower threshold (0.08 is the lowest by itself), a mask of the tissue or its outlines; see "
        "stpredict.pp.tissue_mask."
    )


def _lattice(shape: tuple[int, int], pitch: float, layout: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Array rows, array columns and centres (n, 2) of a lattice that covers an image of `shape`, row by row."""
    height, width = shape
    hexagonal = layout == "hexagonal"
    step = pitch * np.sqrt(0.75) if hexagonal else pitch
    rows, columns = np.mgrid[: int(np.ceil(height / step)), : int(np.ceil(width / pitch))].reshape(2, -1)
    shift = 0.5 * (rows % 2) if hexagonal else 0.0
    centres = np.column_stack([(columns + 0.25 + shift) * pitch, (rows + 0.5) * step])
    inside = (centres < [width, height]).all(axis=1)
    array_columns = 2 * columns + rows % 2 if hexagonal else columns
    return rows[inside], array_columns[inside], centres[inside]


def _pseudo_spots(centres: np.ndarray, obs: pd.DataFrame, name: str) -> AnnData:
    import pandas as pd
    from anndata import AnnData

    obs["library_id"] = pd.Categorical([name] * len(obs))
    return AnnData(obs=obs, obsm={keys.SPATIAL: centres})


def _factors(mpp: float, spot_um: float) -> dict[str, float]:
    return {"microns_per_pixel": float(mpp), "spot_diameter_fullres": float(spot_um / mpp)}


def _metadata(pitch_um: float, spot_um: float) -> dict[str, Any]:
    return {"technology": LAID, "spot_pitch_um": float(pitch_um), "spot_diameter_um": float(spot_um)}


def _on_spatialdata(
    sdata: SpatialData,
    key: str,
    lay: Callable[..., tuple[np.ndarray, pd.DataFrame]],
    sizes: tuple[float, float],
    **which: Any,
) -> SpatialData:
    """A SpatialData with the elements of `sdata`, and circles and a table for the pseudo-spots."""
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import get_transformation

    slot_name(key)
    table = f"{key}_table"
    if taken := [name for name in (key, table) if name in sdata]:
        msg = f"This SpatialData already has an element {taken[0]!r}; pass another key_added=."
        raise ValueError(msg)
    image_key, image, mpp = _slide_of(sdata, **which)
    centres, obs = lay(image, mpp, key)
    adata = _pseudo_spots(centres, obs, key)
    adata.uns[keys.SPATIAL] = {key: {"scalefactors": _factors(mpp, sizes[1]), "metadata": _metadata(*sizes)}}
    out = copy_of(sdata)
    if image_key is None:  # LazySlide's WSIData
        adata.X = np.empty(adata.shape, dtype=np.float32)  # wsidata takes rows of X
        instance, names = "tile_id", np.arange(adata.n_obs)
        out.shapes[key] = ShapesModel.parse(tiles_at(centres, mpp))
        out.attrs[TILE_SPEC] = {**out.attrs.get(TILE_SPEC, {}), key: tile_spec(mpp, sizes[0])}
    else:
        instance, names = "spot_id", adata.obs_names.to_numpy(dtype=object)
        transformations = get_transformation(sdata.images[image_key], get_all=True)
        radius = sizes[1] / mpp / 2
        out.shapes[key] = ShapesModel.parse(
            centres, geometry=0, radius=radius, index=adata.obs_names, transformations=transformations
        )
    adata.obs[instance] = names
    out.tables[table] = TableModel.parse(adata, region=key, region_key="library_id", instance_key=instance)
    return out


def _slide_of(
    sdata: SpatialData, *, image_key: str | None, table_key: str | None, library_id: str | None, mpp: float | None
) -> tuple[str | None, SlideImage, float]:
    """Image of a SpatialData (None for the slide of a WSIData), and its scale as passed or known to file or table."""
    check_mpp(mpp)
    slide = whole_slide_of(sdata) if image_key is None else None
    if slide is not None and (scale := mpp or slide.mpp):
        check_mpp(slide.mpp)
        return None, open_image(slide.path), float(scale)
    if slide is None and sdata.tables and (mpp is None or table_key or library_id):
        section = section_from_spatialdata(sdata, table_key=table_key, region=library_id, image_key=image_key, mpp=mpp)
        if section.has_image:
            place = region_centres(sdata, table_in(sdata, table_key), region=section.name, image_key=image_key)
            return place.image_key, section.slide, section.mpp
    image_key = only_image(sdata, image_key) if slide is None else slide.path
    if mpp is None:
        msg = f"The scale of image {image_key!r} is unknown. Pass mpp=, its microns per pixel at the finest level."
        raise ValueError(msg)
    return image_key, slide_image(sdata, image_key), float(mpp)
