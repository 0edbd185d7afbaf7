"""The way in: sections, tables and copies of everything that a user passes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from stpredict._core import keys
from stpredict._core.checks import check_column_name
from stpredict._sections import spatialdata
from stpredict._sections.anndata import libraries_of, section_from_anndata
from stpredict._sections.section import Section
from stpredict._sections.spread import is_kept, only
from stpredict._sections.wsidata import of_same_slide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from stpredict._core.typing import Data


@dataclass(frozen=True)
class Where:
    """Where to look in what a user passes, made once per public call.

    Attributes
    ----------
    library_key
        Column of ``obs`` that names each spot's section, where an AnnData holds several.
    table_key, image_key
        Which table and image of a SpatialData to use.
    """

    library_key: str | None = None
    table_key: str | None = None
    image_key: str | None = None

    def __post_init__(self) -> None:
        if self.library_key is not None:
            check_column_name(self.library_key, "library_key")


class Opened:
    """What one public call works on: the data, their table and sections, and what its results are written to.

    Everything is read from the data as they were passed. With `copy`, a copy is made when something is first written.

    Parameters
    ----------
    data
        What the user passed.
    where
        Where to look in it.
    mpp
        Microns per pixel, where the user knows it.
    copy
        Write to a copy.
    """

    def __init__(self, data: Data, where: Where, *, mpp: float | None = None, copy: bool = False) -> None:
        self.data, self.where = data, where
        self.table = table_of(data, where.table_key)
        self._mpp, self._copy = mpp, copy

    @cached_property
    def sections(self) -> list[Section]:
        """Every section of the data."""
        return open_sections(self.data, self.where, mpp=self._mpp)

    @cached_property
    def written(self) -> Data:
        """What results are written to: the data, or their copy."""
        return copy_of(self.data) if self._copy else self.data

    @property
    def target(self) -> AnnData:
        """The table that results are written to."""
        return table_of(self.written, self.where.table_key)

    @property
    def result(self) -> Data | None:
        """What the public function returns: the copy, or None."""
        return self.written if self._copy else None


def open_sections(
    data: Data, where: Where | None = None, *, mpp: float | None = None, kind: type[Section] = Section
) -> list[Section]:
    """Every section, of the given `kind`, of an AnnData or SpatialData; results go to each section's ``adata``.

    Sections whose spots were all filtered away are left out, unless there are no spots at all. Raises TypeError if
    `data` is neither.
    """
    where = where or Where()
    adata = table_of(data, where.table_key)
    if adata is not data:
        sections = [
            spatialdata.section_from_spatialdata(
                data, table_key=where.table_key, region=region, image_key=where.image_key, mpp=mpp, kind=kind
            )
            for region in spatialdata.regions_of(adata)
        ]
    else:
        libraries = list(libraries_of(adata)) or [keys.DEFAULT_LIBRARY]
        sections = [
            section_from_anndata(adata, library_id=lib, library_key=where.library_key, mpp=mpp, kind=kind)
            for lib in libraries
        ]
    return [section for section in sections if len(section)] or sections


def one_section(data: Data, library_id: str | None, where: Where) -> Section:
    """The section `library_id`, or the only one.

    Raises KeyError if there is no section `library_id`, ValueError if there are several and none is chosen.
    """
    sections = {section.name: section for section in open_sections(data, where)}
    names = ", ".join(sections)
    if library_id is None and len(sections) > 1:
        msg = f"There are {len(sections)} sections ({names}); pass library_id= to choose one."
        raise ValueError(msg)
    if library_id is not None and library_id not in sections:
        msg = f"There is no section {library_id!r}; there is {names}."
        raise KeyError(msg)
    return next(iter(sections.values())) if library_id is None else sections[library_id]


def table_of(data: Data, table_key: str | None = None) -> AnnData:
    """Return the AnnData inside `data`: itself, or the SpatialData's table."""
    if hasattr(data, "tables") and hasattr(data, "shapes"):
        return spatialdata.table_in(data, table_key)
    if not (hasattr(data, "obsm") and hasattr(data, "uns")):
        msg = (
            f"Expected an AnnData or a SpatialData, got {type(data).__name__}. "
            "Read files with stpredict.read_visium or stpredict.read_st."
        )
        raise TypeError(msg)
    return data


def copy_of(data: Data) -> Data:
    """Copy what we write to: an AnnData, or the tables of a SpatialData, whose elements the copy shares.

    Raises TypeError if `data` is neither.
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


def listed(data: Data | Sequence[Data]) -> list[Data]:
    """One object or several, as a list."""
    return list(data) if isinstance(data, list | tuple) else [data]


def open_all(data: Data | Sequence[Data], where: Where, *, least_spots: int = 2) -> list[Section]:
    """Every section of every object in `data`.

    Raises ValueError if there is no section, or one has fewer than `least_spots` spots.
    """
    sections = [section for one in listed(data) for section in open_sections(one, where)]
    if not sections:
        msg = "No sections given; pass an AnnData, a SpatialData or a list of them."
        raise ValueError(msg)
    check_sizes(sections, least_spots)
    return sections


def check_sizes(sections: Sequence[Section], least_spots: int = 2) -> None:
    """Refuse sections of fewer than `least_spots` spots."""
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


def separate(data: Data | Sequence[Data], where: Where) -> list[Data]:
    """One object per section, in the order of `open_all`: the caller's own where it holds a single one, else a copy."""
    parts: list[Data] = []
    for one in listed(data):
        opened = Opened(one, where)
        alone = len(opened.sections) == 1 and len(opened.sections[0]) == opened.table.n_obs
        parts += [one] if alone else [_part(one, section, where.table_key) for section in opened.sections]
    return parts


def _part(data: Data, section: Section, table_key: str | None) -> Data:
    """Copy of what `data` holds of one section; a SpatialData shares its elements."""
    table = section.adata[section.rows].copy()
    if table_of(data, table_key) is data:
        for key in (keys.SPATIAL, keys.TILES):
            if key in table.uns:
                table.uns[key] = {name: value for name, value in table.uns[key].items() if name == section.name}
        for key in [key for key, record in table.uns.items() if is_kept(record)]:
            table.uns[key] = only(table.uns[key], section.name)
        return table
    part = copy_of(data)
    name = table_key or next(iter(part.tables))
    if "region" in (attrs := table.uns.get(keys.ANNOTATES, {})):
        attrs["region"] = section.name
    part.tables[name] = table
    return part
