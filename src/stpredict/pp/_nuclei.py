"""Nuclei of the H&E image: how many, how large and of what shape, under every spot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import slot_name
from stpredict._core.docs import with_shared_texts
from stpredict._core.progress import progress_bar
from stpredict._core.settings import settings
from stpredict._core.warning import warn
from stpredict._sections.open import Opened, Where
from stpredict._sections.scale import SPOT_UM
from stpredict._sections.spatialdata import region_centres
from stpredict.pp._nuclei_detection.backends import segmenter
from stpredict.pp._nuclei_detection.blocks import COLUMNS, MPP, WorkingSlide, find_nuclei
from stpredict.pp._nuclei_detection.maps import CHANNELS, check_nuclei, nuclei_maps, pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

__all__ = ["CHANNELS", "COLUMNS", "check_nuclei", "nuclei", "nuclei_maps"]

COARSEST = 2.0
"""µm per pixel: a lymphocyte's nucleus would be three pixels wide."""

COARSE = 1.25
"""µm per pixel beyond which neighbours run together."""


@with_shared_texts
def nuclei(
    data: Data,
    *,
    method: Literal["watershed", "instanseg", "stardist", "cellpose"]
    | Callable[[np.ndarray, float], np.ndarray] = "watershed",
    key_added: str = keys.NUCLEI,
    mpp: float | None = None,
    polygons: bool = False,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    show_progress: bool | None = None,
    copy: bool = False,
) -> Data | None:
    """Find the nuclei around the spots, and describe those of every spot.

    By default classical image analysis is used, which needs no download: haematoxylin by colour deconvolution [1]_, a
    local threshold midway between nuclei and their surroundings, and a watershed on distance and darkness, after
    which pieces that together fill an ellipse are joined. Networks can be used instead. The slide is read block by
    block, and nuclei on the border of two blocks are counted once.

    Parameters
    ----------
    data
        Sections with an H&E image of at most 2 µm per pixel.
    method
        ``"watershed"``; ``"instanseg"``, ``"stardist"`` or ``"cellpose"``, each by its own network for H&E and its own
        package; or a function that maps an RGB block, uint8 (height, width, 3), and its µm per pixel to an integer
        label image, 0 outside of nuclei.
    key_added
        Prefix of the columns of ``obs``, and key of ``uns``.
    mpp
        Microns per pixel at which nuclei are looked for, by default 0.5. The nearest level of the image is averaged to
        it; coarser images keep their own.
    polygons
        Add the outlines to a SpatialData, as shapes ``<key_added>_<region>``.
    library_key
        Column of ``obs`` that names each spot's section; by default what `stpredict.pp.tiles` was given.
    %(table_and_image_key)s
    %(show_progress)s
    %(copy)s

    Returns
    -------
    None, or the copy. Writes into ``obs``

    - ``nuclei_count``: nuclei whose centre lies in the spot itself (a disc)

    and of the nuclei in the spot window (of `stpredict.pp.tiles`, else 112 µm wide)

    - ``nuclei_density``: per mm²
    - ``nuclei_area``: their mean, µm²
    - ``nuclei_eccentricity``: mean; 0 is a circle, towards 1 a line
    - ``nuclei_hematoxylin``: mean optical density of haematoxylin

    Without nuclei, count and density are 0 and means are NaN. ``uns["nuclei"][library]`` holds all nuclei near spots as
    ``table``, float32 (nuclei, columns), the names of its ``columns`` (``x`` and ``y`` in full-resolution pixels,
    ``area`` in µm², ``eccentricity``, ``orientation`` of the long axis in radians from x towards y, ``hematoxylin``),
    ``mpp`` (of x and y), ``working_mpp``, ``spot_um``, ``spot_diameter_um`` and ``method``.

    Raises
    ------
    ValueError
        If there is no image, its scale is unknown or coarser than 2 µm per pixel, `method` is unknown or returns no
        label image, or `polygons` are wanted of an AnnData.
    ImportError
        If the package of `method` is not installed.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.nuclei(adata, show_progress=False)
    >>> truth = len(adata.uns["truth"]["nuclei"])
    >>> bool(0.85 < len(adata.uns["nuclei"]["sim_1"]["table"]) / truth < 1.15)
    True

    References
    ----------
    .. [1] Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution. Analytical and
       Quantitative Cytology and Histology 23, 291–299 (2001).
    """
    slot_name(key_added)
    if mpp is not None and not 0.1 <= mpp <= COARSEST:
        msg = f"mpp={mpp:g} µm per pixel is not a scale at which nuclei can be told apart; give 0.1–{COARSEST:g}."
        raise ValueError(msg)
    if polygons and not hasattr(data, "shapes"):
        msg = (
            "polygons=True adds a shapes element, which an AnnData cannot hold. Use st.io.to_spatialdata(adata) first, "
            f"or the ellipses of uns[{key_added!r}]."
        )
        raise ValueError(msg)
    label = segmenter(method)
    opened = Opened(data, Where(library_key, table_key, image_key), copy=copy)
    sections = opened.sections
    slides = [_slide(section, mpp) for section in sections]
    name = method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)

    found = _find(slides, label, name, polygons, show_progress)
    shapes = {}
    if polygons:
        for section, (table, outlines) in zip(sections, found, strict=True):
            key = f"{key_added}_{section.name}"
            shapes[key] = _shapes(data, opened.table, section.name, image_key, table, outlines)
    _write(opened.target, slides, [table for table, _ in found], name, key_added)
    for key, element in shapes.items():
        opened.written.shapes[key] = element
    return opened.result


def _slide(section: Section, mpp: float | None) -> WorkingSlide:
    """Check that nuclei can be seen on a section. Raises ValueError if its pixels are too coarse."""
    section.image  # noqa: B018 (opening checks the image and that all spots lie on it)
    if section.mpp > COARSEST:
        msg = (
            f"Section {section.name!r}: the image has {section.mpp:.3g} µm per pixel, and nuclei are 5 to 15 µm wide; they "
            f"cannot be told apart beyond {COARSEST:g}. Give the full-resolution image."
        )
        raise ValueError(msg)
    tiles = section.adata.uns.get(keys.TILES, {}).get(section.name, {})
    slide = WorkingSlide(section, float(tiles.get("spot_um", SPOT_UM)), mpp or MPP)
    if slide.mpp > COARSE:
        msg = (
            f"Section {section.name!r}: nuclei are looked for at {slide.mpp:.3g} µm per pixel, where those that touch run "
            "together; counts will be too low."
        )
        warn(msg)
    return slide


def _find(
    slides: list[WorkingSlide], label: Any, name: str, outlines: bool, show_progress: bool | None
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    show = settings.progress if show_progress is None else show_progress
    total = sum(len(slide.blocks()) for slide in slides)
    with progress_bar(total=total, desc=f"nuclei ({name})", unit="block", disable=not show) as bar:
        return [find_nuclei(slide, label, name, outlines=outlines, progress=bar.update) for slide in slides]


def _write(adata: AnnData, slides: list[WorkingSlide], tables: list[np.ndarray], name: str, key: str) -> None:
    columns = {f"{key}_count": np.zeros(adata.n_obs, np.int64), f"{key}_density": np.zeros(adata.n_obs, np.float32)}
    means = ("area", "eccentricity", "hematoxylin")
    columns |= {f"{key}_{mean}": np.full(adata.n_obs, np.nan, np.float32) for mean in means}
    records = {}
    for slide, table in zip(slides, tables, strict=True):
        section = slide.section
        diameter = _spot_diameter_um(section)
        for column, values in _describe(slide, table, diameter, means).items():
            columns[f"{key}_{column}"][section.rows] = values
        stored = table.copy()
        stored[:, :2] /= section.image_scale
        records[section.name] = {
            "table": stored,
            "columns": np.array(COLUMNS),
            "mpp": float(section.mpp_of_coordinates),
            "working_mpp": float(slide.mpp),
            "spot_um": slide.spot_um,
            "spot_diameter_um": diameter,
            "method": name,
        }
    for column, values in columns.items():
        adata.obs[column] = values
    adata.uns[key] = records


def _spot_diameter_um(section: Section) -> float:
    """As the reader recorded it, else as it is drawn."""
    library = section.adata.uns.get(keys.SPATIAL, {}).get(section.name, {})
    stated = library.get("metadata", {}).get("spot_diameter_um")
    return float(stated) if stated else section.spot_diameter * section.mpp


def _describe(slide: WorkingSlide, table: np.ndarray, diameter: float, means: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What ``obs`` tells of the nuclei of each spot of a section."""
    mpp, n = slide.section.mpp, len(slide.section)
    centres, points = slide.section.centres * mpp, table[:, :2] * np.float64(mpp)
    count, within, sums = np.zeros(n, np.int64), np.zeros(n), np.zeros((len(means), n))
    for start, spot, _ in pairs(centres, points, diameter / 2, p=2):
        count += np.bincount(start + spot, minlength=n)
    values = table[:, [COLUMNS.index(mean) for mean in means]].T
    for start, spot, nucleus in pairs(centres, points, slide.spot_um / 2):
        within += np.bincount(start + spot, minlength=n)
        sums += [np.bincount(start + spot, value[nucleus], minlength=n) for value in values]
    averages = np.where(within > 0, sums / np.maximum(within, 1), np.nan)
    described = {"count": count, "density": within / (slide.spot_um / 1000) ** 2}
    return described | dict(zip(means, averages, strict=True))


def _shapes(
    sdata: Any, adata: AnnData, region: str, image_key: str | None, table: np.ndarray, outlines: list[np.ndarray]
) -> Any:
    """Outlines in pixels of the image, placed as the image is."""
    from geopandas import GeoDataFrame
    from shapely import Polygon
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    image = region_centres(sdata, adata, region=region, image_key=image_key).image_key
    frame = GeoDataFrame(dict(zip(COLUMNS[2:], table[:, 2:].T, strict=True)), geometry=[Polygon(o) for o in outlines])
    return ShapesModel.parse(frame, transformations=get_transformation(sdata.images[image], get_all=True))
