"""The way in: sections, tables and copies of everything that a user passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict._core import keys
from stpredict._sections import spatialdata
from stpredict._sections.anndata import libraries_of, section_from_anndata
from stpredict._sections.section import Section
from stpredict._sections.wsidata import of_same_slide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from stpredict._core.typing import Data


def open_sections(
    data: Data,
    *,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    mpp: float | None = None,
    kind: type[Section] = Section,
) -> list[Section]:
    """Every section, of the given `kind`, of an AnnData or SpatialData; results go to each section's ``adata``.

    Sections whose spots were all filtered away are left out, unless there are no spots at all.

    Raises
    ------
    TypeError
        If `data` is neither.
    """
    adata = table_of(data, table_key)
    if adata is not data:
        sections = [
            spatialdata.section_from_spatialdata(
                data, table_key=table_key, region=region, image_key=image_key, mpp=mpp, kind=kind
            )
            for region in spatialdata.regions_of(adata)
        ]
    else:
        libraries = list(libraries_of(adata)) or [keys.DEFAULT_LIBRARY]
        sections = [
            section_from_anndata(adata, library_id=lib, library_key=library_key, mpp=mpp, kind=kind)
            for lib in libraries
        ]
    return [section for section in sections if len(section)] or sections


def table_of(data: Data, table_key: str | None = None) -> AnnData:
    """Return the AnnData inside `data`: itself, or the SpatialData's table."""
    if hasattr(data, "tables") and hasattr(data, "shapes"):
        return spatialdata.table_of(data, table_key)
    if not (hasattr(data, "obsm") and hasattr(data, "uns")):
        msg = (
            f"Expected an AnnData or a SpatialData, got {type(data).__name__}. "
            "Read files with stpredict.read_visium or stpredict.read_st."
        )
        raise TypeError(msg)
    return data


def copy_of(data: Data) -> Data:
    """Copy what we write to: an AnnData, or the tables of a SpatialData, whose elements the copy shares.

    Raises
    ------
    TypeError
        If `data` is neither.
    """
    if hasattr(data, "tables") and hasattr(data, "shapes"):
        from spatialdata import SpatialData

        copy = SpatialData(
            images=dict(data.images),
            labels=dict(data.labels),
            points=dict(data.points),
            shapes=dict(data.shapes),
            tables={name: table.copy() for name, table in data.tables.items()},
            attrs=dict(data.attrs),
        )
        return of_same_slide(copy, data)
    if hasattr(data, "obsm") and hasattr(data, "uns"):
        return data.copy()
    msg = f"Expected an AnnData or a SpatialData, got {type(data).__name__}."
    raise TypeError(msg)


def open_all(
    data: Data | Sequence[Data], *, library_key: str | None, table_key: str | None, least_spots: int = 2
) -> list[Section]:
    """Every section of every object in `data`.

    Raises
    ------
    ValueError
        If there is no section, or one has fewer than `least_spots` spots.
    """
    several = data if isinstance(data, (list, tuple)) else [data]
    sections = [s for one in several for s in open_sections(one, library_key=library_key, table_key=table_key)]
    if not sections:
        msg = "No sections given; pass an AnnData, a SpatialData or a list of them."
        raise ValueError(msg)
    check_sizes(sections, least_spots)
    return sections


def check_sizes(sections: Sequence[Section], least_spots: int = 2) -> None:
    """Refuse sections of fewer than `least_spots` spots.

    Raises
    ------
    ValueError
        If there is one.
    """
    for section in sections:
        if len(section) < least_spots:
            what = "no spots" if len(section) == 0 else f"only {len(section)} spot(s)"
            msg = (
                f"Section {section.name!r} has {what}; at least {least_spots} are needed, since image features are "
                "standardised within a section. Were spots filtered too hard? Drop this section otherwise."
            )
            raise ValueError(msg)


def unique_names(sections: Sequence[Section]) -> list[str]:
    """Section names, those that come again with ``-1``, ``-2``, … appended."""
    seen: dict[str, int] = {}
    out = []
    for section in sections:
        number = seen.get(section.name, 0)
        seen[section.name] = number + 1
        out.append(f"{section.name}-{number}" if number else section.name)
    return out


def separate(data: Data | Sequence[Data], *, library_key: str | None, table_key: str | None) -> list[Data]:
    """One object per section, in the order of `open_all`: the caller's own where it holds a single one, else a copy."""
    several = data if isinstance(data, (list, tuple)) else [data]
    parts: list[Data] = []
    for one in several:
        sections = open_sections(one, library_key=library_key, table_key=table_key)
        alone = len(sections) == 1 and len(sections[0]) == table_of(one, table_key).n_obs
        parts += [one] if alone else [_part(one, section, table_key) for section in sections]
    return parts


def _part(data: Data, section: Section, table_key: str | None) -> Data:
    """Copy of what `data` holds of one section; a SpatialData shares its elements."""
    table = section.adata[section.rows].copy()
    if table_of(data, table_key) is data:
        for key in (keys.SPATIAL, keys.TILES):
            if key in table.uns:
                table.uns[key] = {name: value for name, value in table.uns[key].items() if name == section.name}
        return table
    part = copy_of(data)
    name = table_key or next(iter(part.tables))
    if "region" in (attrs := table.uns.get(keys.ANNOTATES, {})):
        attrs["region"] = section.name
    part.tables[name] = table
    return part
