"""Sections of everything a user passes: one object or a list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict._section import open_sections

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
    for section in sections:
        if len(section) < least_spots:
            what = "no spots" if len(section) == 0 else f"only {len(section)} spot(s)"
            msg = (
                f"Section {section.name!r} has {what}; at least {least_spots} are needed, since image features are "
                "standardised within a section. Were spots filtered too hard? Drop this section otherwise."
            )
            raise ValueError(msg)
    return sections


def unique_names(sections: Sequence[Section]) -> list[str]:
    """Section names, those that come again with ``-1``, ``-2``, … appended."""
    seen: dict[str, int] = {}
    out = []
    for section in sections:
        number = seen.get(section.name, 0)
        seen[section.name] = number + 1
        out.append(f"{section.name}-{number}" if number else section.name)
    return out
