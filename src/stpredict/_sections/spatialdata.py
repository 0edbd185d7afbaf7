"""Sections of a SpatialData: spots, images, and how the ones lie on the others."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.labels import as_text
from stpredict._core.warning import warn
from stpredict._images import SlideImage, open_image
from stpredict._sections.anndata import scale_hints
from stpredict._sections.cells import bin_um, mpp_of_bins, mpp_of_microns
from stpredict._sections.image_choice import Candidate, checked_colours, choose, in_colour, levels_of
from stpredict._sections.labelled import centres_of_labels
from stpredict._sections.scale import DISAGREEMENT, TOLD
from stpredict._sections.section import Section
from stpredict._sections.wsidata import whole_slide_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from spatialdata import SpatialData

IMAGE = re.compile(r"images\['(.+)'\]")
"""How tiles name the image that they were laid on."""


class Placement(NamedTuple):
    """Spots of one region on the image that belongs to it."""

    region: str
    rows: np.ndarray
    """Rows of the table."""
    centres: np.ndarray
    """(n, 2) float64, (x, y) in pixels of the image's finest level; without an image, in units of the region."""
    image_key: str | None
    scale: float
    """Pixels of the image per unit of the region's own coordinates."""


def section_from_spatialdata(
    sdata: SpatialData,
    *,
    table_key: str | None = None,
    region: str | None = None,
    image_key: str | None = None,
    mpp: float | None = None,
    kind: type[Section] = Section,
) -> Section:
    """View one region (shapes element) of a SpatialData with the image that shares its coordinate system.

    `mpp` is the scale of that image at its finest level.
    """
    adata = table_in(sdata, table_key)
    region, rows, centres, image_key, scale = region_centres(sdata, adata, region=region, image_key=image_key)
    if not np.isfinite(centres).all():
        msg = f"Region {region!r} has spots whose centres are not finite; drop them first."
        raise ValueError(msg)
    hints = scale_hints(adata, region, mpp * scale if mpp is not None else None)
    slide = whole_slide_of(sdata) if image_key is None else None
    if slide is not None:
        hints = replace(hints, metadata=hints.metadata or slide.mpp)
    hints = replace(hints, cells=_mpp_of_cells(sdata, adata, region, rows, centres / scale))
    return kind(
        name=region,
        adata=adata,
        rows=rows,
        centres=centres / scale,
        open_image=lambda: open_image(slide.path) if slide else region_image(sdata, region, image_key),
        hints=replace(hints, pitch_um=hints.pitch_um or bin_um(region), **_words_of(sdata, region)),
        image_scale=scale,
        has_image=image_key is not None or slide is not None,
    )


def _mpp_of_cells(
    sdata: SpatialData, adata: AnnData, region: str, rows: np.ndarray, centres: np.ndarray
) -> tuple[float, str] | None:
    """Microns per unit of the `centres` of cells, and what tells it."""
    if mpp := mpp_of_microns(adata, rows, centres):
        return mpp, "obsm['spatial'] in µm"
    if region in sdata.shapes and (mpp := mpp_of_bins(sdata, region)):
        return mpp, "size of the bins"
    return None


def _words_of(sdata: SpatialData, region: str) -> dict[str, Any]:
    """Where the centres of a region are kept, and code that exchanges their x and y."""
    if region not in sdata.shapes:
        return {"coordinates": f"labels[{region!r}]", "exchange": f"the transposed labels to labels[{region!r}]"}
    shapes = f"sdata.shapes[{region!r}]"
    exchange = f"{shapes}['geometry'] = {shapes}.geometry.affine_transform([0, 1, 1, 0, 0, 0])"
    return {"coordinates": f"shapes[{region!r}]", "exchange": exchange}


def table_in(sdata: SpatialData, table_key: str | None) -> AnnData:
    """Return the table `table_key` of `sdata`, or its only one.

    Raises KeyError if there is no such table; ValueError if there is none at all, or several and no `table_key`.
    """
    names = list(sdata.tables)
    if table_key is None:
        if len(names) != 1:
            msg = f"This SpatialData has {_listed(names, 'table')}; pass table_key= to choose one."
            if not names:
                msg = "This SpatialData has no table; the spots must be annotated by one."
            raise ValueError(msg)
        return sdata.tables[names[0]]
    if table_key not in names:
        msg = f"There is no table {table_key!r} in this SpatialData; it has {_listed(names, 'table')}."
        raise KeyError(msg)
    return sdata.tables[table_key]


def regions_of(adata: AnnData) -> list[str]:
    """Names of the elements that a table annotates. Raises ValueError if the table annotates none."""
    regions = _attrs(adata)["region"]
    return [regions] if isinstance(regions, str) else list(regions)


def region_centres(
    sdata: SpatialData, adata: AnnData, region: str | None = None, image_key: str | None = None
) -> Placement:
    """Spot centres of a region (circles, polygons or labels) in pixels of an image that shares a coordinate system with it.

    Without `image_key`, the image is the one that the tiles of the region were laid on, else the only one in colour
    below the spots; of Space Ranger's copies (full, hires, lowres) the finest is taken, and of a ``WSIData`` the slide
    itself, which is none of its images. Without any image the centres stay in units of the region. Raises KeyError if
    there is no such region or image; ValueError if it is not clear which region or image is meant, the image has no
    colours, table and region do not fit, or image and region share no coordinate system.
    """
    from spatialdata.transformations import get_transformation

    regions = regions_of(adata)
    if region is None:
        if len(regions) > 1:
            msg = f"This table annotates {_listed(regions, 'region')}; pass library_id= to choose one."
            raise ValueError(msg)
        region = regions[0]
    if region not in regions:
        msg = f"The table does not annotate {region!r}; it annotates {_listed(regions, 'region')}."
        raise KeyError(msg)
    if region in sdata.shapes:
        shapes = sdata.shapes[region]
        points = shapes.geometry.centroid
        centres = pd.DataFrame({"x": points.x, "y": points.y}, index=shapes.index)
    elif region in sdata.labels:
        shapes = sdata.labels[region]
        centres = centres_of_labels(shapes, region)
    else:
        msg = (
            f"There are no shapes {region!r} in this SpatialData; it has {_listed(sdata.shapes, 'shapes element')} and "
            f"{_listed(sdata.labels, 'labels element')}."
        )
        raise KeyError(msg)
    rows, own = _matched(adata, centres, region)
    if image_key is None and whole_slide_of(sdata):
        return Placement(region, rows, own, None, 1.0)
    systems = get_transformation(shapes, get_all=True)
    chosen, affine = _choose_image(sdata, region, systems, image_key or _tiled_image(sdata, adata, region), own)
    centres = own @ affine[:2, :2].T + affine[:2, 2]
    return Placement(region, rows, centres, chosen, float(np.sqrt(abs(np.linalg.det(affine[:2, :2])))))


def _check_square(affine: np.ndarray, image_key: str) -> None:
    """Refuse an image whose transformation into the common coordinates stretches it along one direction; a little is told.

    Raises ValueError if a window would be more than a quarter wider than it is high.
    """
    long, short = np.linalg.svd(affine[:2, :2], compute_uv=False)
    if long <= TOLD * short:
        return
    msg = (
        f"Image {image_key!r} has pixels that are not square, by its transformation: {long:.4g} units long in one direction and "
        f"{short:.4g} in the other. Windows are square in pixels. Resample it to square pixels, or mend its transformation."
    )
    if long > DISAGREEMENT * short:
        raise ValueError(msg)
    warn(msg)


def region_image(sdata: SpatialData, region: str, image_key: str | None) -> SlideImage:
    """Image `image_key` as a pyramid that is read lazily, chunk by chunk. Raises ValueError if there is no image."""
    if image_key is None:
        msg = (
            f"Section {region!r} has no H&E image: none in colour shares a coordinate system with it. This SpatialData has "
            f"{_listed(sdata.images, 'image')}; add the H&E image, or set its transformation."
        )
        raise ValueError(msg)
    return slide_image(sdata, image_key)


def slide_image(sdata: SpatialData, image_key: str) -> SlideImage:
    """Image `image_key` as a pyramid that is read lazily, whether or not spots lie on it."""
    levels, colours = levels_of(sdata.images[image_key]), checked_colours(sdata, image_key)
    source = f"images[{image_key!r}]"
    return SlideImage([level.data for level in levels], source=source, channels_first=True, colours=colours)


def only_image(sdata: SpatialData, image_key: str | None) -> str:
    """Name of the image `image_key`, or of the only one in colour.

    Raises KeyError if there is no such image; ValueError if there is none at all, or several and no `image_key`.
    """
    if image_key is not None and image_key not in sdata.images:
        msg = f"There is no image {image_key!r} in this SpatialData; it has {_listed(sdata.images, 'image')}."
        raise KeyError(msg)
    names = [image_key] if image_key else in_colour(sdata, sdata.images)
    if len(names) != 1:
        msg = f"This SpatialData has {_listed(names, 'H&E image')}; pass image_key= to choose one."
        raise ValueError(msg)
    return names[0]


def _attrs(adata: AnnData) -> dict[str, Any]:
    attrs: dict[str, Any] | None = adata.uns.get(keys.ANNOTATES)
    if not attrs or attrs.get("region") is None:
        msg = (
            "The table annotates no region. Link it to the spots with "
            "sdata.set_table_annotates_spatialelement(table_name, region=…, region_key=…, instance_key=…)."
        )
        raise ValueError(msg)
    return attrs


def _matched(adata: AnnData, centres_of: pd.DataFrame, region: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the table that belong to `region`, and the centre of each one's shape in the region's coordinates."""
    attrs = _attrs(adata)
    for key in (attrs["region_key"], attrs["instance_key"]):
        if key not in adata.obs:
            msg = f"The table's obs lacks {key!r}, which should link its rows to the shapes of {region!r}."
            raise ValueError(msg)
    rows = np.flatnonzero(as_text(adata.obs[attrs["region_key"]]).to_numpy() == region)
    instances = adata.obs[attrs["instance_key"]].iloc[rows]
    if not centres_of.index.is_unique:
        msg = f"Shapes {region!r} have duplicated names in their index; make it unique first."
        raise ValueError(msg)
    places = centres_of.index.get_indexer(instances)
    if (places < 0).any():
        lost = [str(name) for name in instances[places < 0]]
        msg = f"{len(lost)} of {len(rows)} rows of the table have no shape in {region!r}: {', '.join(lost[:3])}, …"
        raise ValueError(msg)
    return rows, centres_of[["x", "y"]].to_numpy(np.float64)[places]


def _tiled_image(sdata: SpatialData, adata: AnnData, region: str) -> str | None:
    """The image that the tiles of a region were laid on, where it is still there."""
    geometry = (adata.uns.get(keys.TILES) or {}).get(region) or {}
    found = IMAGE.fullmatch(str(geometry.get("image", "")))
    return found[1] if found and found[1] in sdata.images else None


def _choose_image(
    sdata: SpatialData, region: str, systems: dict[str, Any], image_key: str | None, own: np.ndarray
) -> tuple[str | None, np.ndarray]:
    """The wanted image, or else the H&E below the spots `own`, and the affine from the region's coordinates to its pixels."""
    from spatialdata.transformations import get_transformation

    if image_key is not None and image_key not in sdata.images:
        msg = f"There is no image {image_key!r} in this SpatialData; it has {_listed(sdata.images, 'image')}."
        raise KeyError(msg)
    candidates = []
    for key in sdata.images if image_key is None else [image_key]:
        of_image = get_transformation(sdata.images[key], get_all=True)
        shared = [name for name in systems if name in of_image]
        if shared:
            affine = np.linalg.inv(_matrix(of_image[shared[0]])) @ _matrix(systems[shared[0]])
            sizes = levels_of(sdata.images[key])[0].sizes
            candidates.append(Candidate(key, affine, (sizes["x"], sizes["y"])))
        elif image_key is not None:
            msg = (
                f"Image {key!r} (in {', '.join(of_image)}) and region {region!r} (in {', '.join(systems)}) share no "
                "coordinate system. Choose another image_key=, or set a transformation."
            )
            raise ValueError(msg)
    if image_key is None:
        coloured = in_colour(sdata, [candidate.key for candidate in candidates])
        found = choose(sdata, region, [c for c in candidates if c.key in coloured], own)
    else:
        checked_colours(sdata, image_key)
        found = candidates[0]
    if found is None:
        return None, np.eye(3)
    of_image = get_transformation(sdata.images[found.key], get_all=True)
    _check_square(_matrix(next(of_image[name] for name in systems if name in of_image)), found.key)
    return found.key, found.affine


def _matrix(transformation: Any) -> np.ndarray:
    matrix: np.ndarray = transformation.to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))
    return matrix


def _listed(names: Iterable[str], what: str) -> str:
    names = list(names)
    if not names:
        return f"no {what}"
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({', '.join(names)})"
