"""Sections of everything a user passes: one object or a list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict import _keys
from stpredict._copy import copy_of
from stpredict._section import open_sections, table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._section import Section
    from stpredict._typing import Data


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
        for key in (_keys.SPATIAL, _keys.TILES):
            if key in table.uns:
                table.uns[key] = {name: value for name, value in table.uns[key].items() if name == section.name}
        return table
    part = copy_of(data)
    name = table_key or next(iter(part.tables))
    if "region" in (attrs := table.uns.get(_keys.ANNOTATES, {})):
        attrs["region"] = section.name
    part.tables[name] = table
    return part
