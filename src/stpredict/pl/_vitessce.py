"""A folder in which Vitessce shows a section: a SpatialData store, and the view config that says what is drawn of it."""

from __future__ import annotations

from json import dumps
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.files import expanded, recovered, replacing
from stpredict._core.renamed import SCANPY_NAMES, also_called
from stpredict._sections.open import Where
from stpredict.io._to_spatialdata import circles_of, image_of
from stpredict.pl import _canvas
from stpredict.pl._browse import names_of, sides_of
from stpredict.pl._browse_columns import Map, chosen_columns, own_columns
from stpredict.tl._prediction.zarr_store import whichever_format

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pandas as pd
    from spatialdata import SpatialData

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

STORE, CONFIG = "section.zarr", "vitessce.json"
SPOTS, SLIDE, MICRONS = "spots", "slide", "microns"
"""Names of the circles, of the image, and of the coordinate system that both are in."""

LINK = {"region_key": "region_of_spot", "instance_key": "name_of_spot"}
"""Columns of the table that link its rows to the circles."""

TABLE = "tables/predicted"
MATRIX = {"measured": "layers/measured", "predicted": "X"}
"""Where a side of the table is."""

IN_ITS_COLOURS = {
    "imageLayer": {"slide": "__dummy__"},
    "photometricInterpretation": {"slide": "RGB"},
    "metaCoordinationScopes": {"slide": {"imageLayer": ["slide"]}},
    "metaCoordinationScopesBy": {"slide": {"imageLayer": {"photometricInterpretation": {"slide": "slide"}}}},
}
"""Without this each of the slide's three channels would have a colour of Vitessce's choice."""

DROPPED = ".DS_Store"
"""What macOS leaves in a folder that was looked at."""

VERSION = "1.0.18"
"""Of Vitessce's view configs."""


@also_called(**SCANPY_NAMES)
@with_shared_texts
def vitessce(
    data: Data,
    path: str | Path,
    *,
    genes: str | Iterable[str] | None = None,
    columns: str | Iterable[str] | None = None,
    predicted: str = keys.PREDICTED,
    measured: str | None = None,
    url: str = "http://localhost:8000",
    library_id: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
) -> None:
    """Write a section into a folder that `Vitessce <https://vitessce.io>`_ shows in a browser, with the whole slide.

    The folder has a SpatialData, ``section.zarr``, with the slide in full resolution, the spots and the expression, and
    ``vitessce.json``, the view config that Vitessce's website and packages open. A gene that is chosen from a list is
    drawn as measured and as predicted, side by side with linked zoom, each from its own lowest to its own highest
    value; or the spots have the colours of `columns`.

    Parameters
    ----------
    data
        A section after `tl.predict_expression`.
    path
        Folder to write. One that an earlier call wrote is replaced.
    genes
        Genes to choose from. They must have been predicted; those that were not measured are shown as predicted only.
        Aliases and Ensembl ids are resolved. None takes the 500 predicted genes that can be expected to be most
        reliable. As in scanpy, ``color=`` is understood too.
    columns
        Columns of ``obs`` with categories. None takes the domains, the called tumour and the labels that either was
        compared with, as far as they are there.
    %(predicted)s
    measured
        Layer to compare it with, in the same units; None normalises the measured counts. A section without counts is
        shown as predicted only.
    url
        Address under which the folder will be served. The view config names the store by it.
    %(one_section)s

    Returns
    -------
    None; the folder is written whole or not at all. ``section.zarr`` has ``images["slide"]``, ``shapes["spots"]``
    and ``tables["predicted"]``, with the prediction in ``X`` and what was measured in ``layers["measured"]``, all in µm.

    Raises
    ------
    FileExistsError
        If something else than such a folder is at `path`.
    KeyError
        If the prediction, a gene, a column or the section is not there.
    ValueError
        If no gene is given, a column holds numbers or too many categories, the scale is unknown, names of spots are not
        unique, or there are several sections and none is chosen.
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pl.vitessce(adata, "section", genes=["ERBB2", "COL1A1"], columns="region", predicted="truth")
    """
    folder = recovered(expanded(path))
    _check_place(folder)
    section = _canvas.section_to_draw(data, library_id, Where(library_key, table_key, image_key))
    if not section.obs_names.is_unique:
        msg = f"Names of spots of section {section.name!r} are not unique; run adata.obs_names_make_unique() first."
        raise ValueError(msg)
    sides = sides_of(section, names_of(section, genes, predicted), measured, predicted)
    own = [*own_columns(section, predicted), *({keys.TUMOR} & set(section.adata.obs))]
    drawn, _ = chosen_columns(section, own if columns is None else columns, predicted, "viridis")
    if columns is None:
        drawn = [one for one in drawn if one.colours]
    elif numbers := [one.column for one in drawn if not one.colours]:
        msg = f"obs[{numbers[0]!r}] holds numbers, and Vitessce colours spots by categories; leave it out of columns=."
        raise ValueError(msg)
    sdata = _store(section, sides, drawn)
    with replacing(folder) as new, whichever_format():
        new.mkdir()
        sdata.write(new / STORE)
        (new / CONFIG).write_text(dumps(_config(section, sdata, sides, drawn, url.rstrip("/")), indent=1))


def _check_place(folder: Path) -> None:
    """Refuse to replace what an earlier call did not write; an empty folder may be there."""
    if not folder.exists():
        return
    found = {file.name for file in folder.iterdir()} - {DROPPED} if folder.is_dir() else None
    if found not in (set(), {STORE, CONFIG}):
        msg = f"{folder} exists and holds something else than what stpredict.pl.vitessce writes; choose another path, or remove it."
        raise FileExistsError(msg)


def _store(section: Section, sides: dict[str, pd.DataFrame], drawn: list[Map]) -> SpatialData:
    """Slide, spots, and a table of the prediction, with what was measured as a layer.

    The first columns of its ``obs`` are those that are `drawn`, under names that a SpatialData can have.
    """
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData, sanitize_table
    from spatialdata.models import TableModel
    from spatialdata.transformations import Scale, set_transformation

    values = {side: table.to_numpy(np.float32) for side, table in sides.items()}
    obs = pd.DataFrame({one.column: pd.Categorical(one.values) for one in drawn}, index=section.obs_names)
    obs[LINK["region_key"]] = pd.Categorical([SPOTS] * len(obs))
    obs[LINK["instance_key"]] = section.obs_names.to_numpy(object)
    table = AnnData(values["predicted"], obs=obs, var=pd.DataFrame(index=sides["predicted"].columns))
    table.layers.update({side: matrix for side, matrix in values.items() if side != "predicted"})
    sanitize_table(table)
    sdata = SpatialData(
        images={SLIDE: image_of(section)[1]} if section.has_image else {},
        shapes={SPOTS: circles_of(section)},
        tables={"predicted": TableModel.parse(table, region=SPOTS, **LINK)},
    )
    for elements, mpp in ((sdata.images, section.mpp), (sdata.shapes, section.mpp_of_coordinates)):
        for element in elements.values():  # in µm, so that Vitessce's scale bar is right
            set_transformation(element, {MICRONS: Scale([mpp, mpp], ("x", "y"))}, set_all=True)
    return sdata


def _config(
    section: Section, sdata: SpatialData, sides: dict[str, pd.DataFrame], drawn: list[Map], url: str
) -> dict[str, Any]:
    """The view config: a map for each of the `sides`, linked, beside the lists of genes, categories and layers."""
    from matplotlib.colors import to_rgb

    place = {"region": SPOTS, "tablePath": TABLE}
    options: dict[str, Any] = {"obsSpots": {"path": f"shapes/{SPOTS}", "coordinateSystem": MICRONS, **place}}
    if section.has_image:
        options["image"] = {"path": f"images/{SLIDE}", "coordinateSystem": MICRONS}
    if drawn:
        written = sdata.tables["predicted"].obs.columns
        columns = [
            {"name": one.column, "path": f"{TABLE}/obs/{name}"} for one, name in zip(drawn, written, strict=False)
        ]
        options["obsSets"] = {"obsSets": columns, **place}
    datasets_of = list(zip("AB", sides, strict=False))  # named as Vitessce's Python package names them
    datasets = [
        {
            "uid": uid,
            "name": side,
            "files": [
                {
                    "fileType": "spatialdata.zarr",
                    "url": f"{url}/{STORE}",
                    "coordinationValues": {"obsType": "spot"},
                    "options": {
                        **options,
                        "obsFeatureMatrix": {"path": f"{TABLE}/{MATRIX[side]}", "region": SPOTS},
                    },
                }
            ],
        }
        for uid, side in datasets_of
    ]
    colours = [
        {"path": [one.column, kind], "color": [round(255 * part) for part in to_rgb(shade)]}
        for one in drawn
        for kind, shade in (one.colours or {}).items()
    ]
    shared = {
        "obsType": "spot",
        "featureSelection": [sides["predicted"].columns[0]],
        "obsColorEncoding": "geneSelection",
        "obsSetColor": colours,
        "spatialZoom": None,
        "spatialTargetX": None,
        "spatialTargetY": None,
    }
    scopes = dict.fromkeys(shared, "A")
    meta = {"metaCoordinationScopes": ["slide"], "metaCoordinationScopesBy": ["slide"]} if section.has_image else {}
    width, right = (4, 8) if len(sides) > 1 else (9, 9)
    layout = [
        _view("spatialBeta", uid, {**scopes, **meta}, x=width * i, y=0, w=width, h=12, title=side)
        for i, (uid, side) in enumerate(datasets_of)
    ]
    last = datasets_of[-1][0]
    layout += [
        _view("featureList", last, scopes, x=right, y=0, w=12 - right, h=5),
        _view("layerControllerBeta", last, {**scopes, **meta}, x=right, y=8, w=12 - right, h=4),
    ]
    if drawn:
        layout.append(_view("obsSets", last, scopes, x=right, y=5, w=12 - right, h=3))
    return {
        "version": VERSION,
        "name": section.name,
        "description": "",
        "initStrategy": "auto",
        "datasets": datasets,
        "coordinationSpace": {
            "dataset": {uid: uid for uid, _ in datasets_of},
            **{kind: {"A": value} for kind, value in shared.items()},
            **(IN_ITS_COLOURS if section.has_image else {}),
        },
        "layout": layout,
    }


def _view(
    component: str, dataset: str, scopes: dict[str, Any], *, title: str | None = None, **place: int
) -> dict[str, Any]:
    props = {"props": {"title": title}} if title else {}
    return {"component": component, "coordinationScopes": {"dataset": dataset, **scopes}, **place, **props}
