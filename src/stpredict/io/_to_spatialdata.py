"""An AnnData of sections as a SpatialData, with its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import check_section_names
from stpredict._sections.open import Where, open_sections

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from stpredict._images import SlideImage
    from stpredict._sections.section import Section

CHUNK = 1024
SMALLEST_LEVEL = 512
"""Levels are halved until their longer side is at most this."""


def to_spatialdata(adata: AnnData, *, library_key: str | None = None, table_name: str = "table") -> SpatialData:
    """Turn sections into a SpatialData: images, spots as circles, and a table that annotates them.

    Elements and coordinate systems are named as by spatialdata-io's Visium reader. Images stay on disk: they are
    read chunk by chunk when something asks for their pixels, for instance ``sdata.write``.

    Parameters
    ----------
    adata
        One or several sections; it is copied.
    library_key
        Column of ``obs`` that names each spot's section, where there are several.
    table_name
        Name of the table.

    Returns
    -------
    ``images``: ``<library>_full_image`` (all pyramid levels, lazy), or ``<library>_hires_image`` where there is only that;
    none for a section without image. ``shapes[library]``: circles in full-resolution pixels. The table has
    ``obs["library_id"]`` and ``obs["spot_id"]``, which link it to the circles, and keeps the scale of ``uns["spatial"]``.

    Raises
    ------
    ValueError
        If a section has no spots or a name that holds other characters than letters, digits, ``_``, ``.`` and ``-``, spots lie outside of their image, or the image cannot be read.
    KeyError
        If there are several sections and `library_key` is not a column of ``obs``.
    FileNotFoundError
        If an image file is gone.

    Examples
    --------
    >>> import stpredict as st
    >>> sdata = st.io.to_spatialdata(st.datasets.simulate())
    >>> list(sdata.images), list(sdata.shapes)
    (['sim_1_full_image'], ['sim_1'])
    """
    from spatialdata import SpatialData

    sections = open_sections(adata, Where(library_key))
    check_section_names((section.name for section in sections), as_elements=True)
    images: dict[str, Any] = {}
    for section in sections:
        if section.has_image:
            key, image = image_of(section)
            images[key] = image
    shapes = {section.name: circles_of(section) for section in sections}
    return SpatialData(images=images, shapes=shapes, tables={table_name: _table(adata, sections)})


def image_of(section: Section) -> tuple[str, Any]:
    """A section's image as an element of a SpatialData, and the element's name; its pixels stay on disk."""
    from dask import array as da
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, Scale

    scale = section.image_scale
    height, width = section.image.shape
    halvings = max(0, int(np.ceil(np.log2(max(height, width) / SMALLEST_LEVEL))))
    if scale == 1.0:
        key, transformations = f"{section.name}_full_image", {section.name: Identity()}
    else:
        key = f"{section.name}_hires_image"
        transformations = {
            section.name: Scale([1 / scale, 1 / scale], axes=("x", "y")),
            f"{section.name}_downscaled_hires": Identity(),
        }
    pixels = da.from_array(_ChannelsFirst(section.image), chunks=(3, CHUNK, CHUNK), asarray=False)
    image = Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * halvings or None,
        transformations=transformations,
    )
    return key, image


class _ChannelsFirst:
    """A slide as an array indexed ``[channel, y, x]``, for Dask."""

    def __init__(self, image: SlideImage) -> None:
        self._image = image
        self.shape, self.ndim, self.dtype = (3, *image.shape), 3, np.dtype(np.uint8)

    def __getitem__(self, window: tuple[slice, slice, slice]) -> np.ndarray:
        channels, rows, columns = window
        pixels = self._image.read(columns.start, rows.start, columns.stop, rows.stop)
        return np.moveaxis(pixels, -1, 0)[channels]


def circles_of(section: Section) -> Any:
    """A section's spots as circles in full-resolution pixels."""
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale

    scale = section.image_scale
    transformations = {section.name: Identity()}
    if scale != 1.0:
        transformations[f"{section.name}_downscaled_hires"] = Scale([scale, scale], axes=("x", "y"))
    return ShapesModel.parse(
        section.centres / scale,
        geometry=0,
        radius=_radius(section),
        index=section.obs_names,
        transformations=transformations,
    )


def _radius(section: Section) -> float:
    """Spot radius in full-resolution pixels; a quarter of the pitch where the diameter is not recorded."""
    library = section.adata.uns.get(keys.SPATIAL, {}).get(section.name, {})
    if diameter := library.get("scalefactors", {}).get("spot_diameter_fullres"):
        return float(diameter) / 2
    return section.lattice.pitch_px / section.image_scale / 4 if section.lattice else 1.0


def _table(adata: AnnData, sections: list[Section]) -> AnnData:
    import pandas as pd
    from spatialdata.models import TableModel

    table = adata.copy()
    library = np.empty(table.n_obs, dtype=object)
    for section in sections:
        library[section.rows] = section.name
    table.obs["library_id"] = pd.Categorical(library)
    table.obs["spot_id"] = table.obs_names.to_numpy(dtype=object)
    if keys.SPATIAL in table.uns:
        # Images are elements now; the scale stays with the table.
        table.uns[keys.SPATIAL] = {
            name: {key: value for key, value in entry.items() if key != "images"}
            for name, entry in table.uns[keys.SPATIAL].items()
        }
    return TableModel.parse(
        table, region=[section.name for section in sections], region_key="library_id", instance_key="spot_id"
    )
