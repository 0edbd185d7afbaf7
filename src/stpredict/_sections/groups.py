"""The patient that every section is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section


def section_groups(sections: Sequence[Section], group_key: str | None) -> list[str]:
    """Group (patient) of every section, from the ``obs`` column `group_key`; None makes every section its own group.

    None has to be chosen knowingly: sections of one patient are sisters, and holding out one of them says nothing
    about new patients.

    Raises
    ------
    KeyError
        If a section lacks the column.
    ValueError
        If a section has no value there, or spots of several groups.
    """
    return [section.name if group_key is None else _group(section, group_key) for section in sections]


def _group(section: Section, group_key: str) -> str:
    if group_key not in section.adata.obs:
        columns = ", ".join(map(str, section.adata.obs.columns)) or "no columns"
        msg = (
            f"Section {section.name!r} has no obs[{group_key!r}], which names its patient (obs has {columns}). Add it, "
            "pass group_key= another column, or group_key=None to treat every section as a patient of its own."
        )
        raise KeyError(msg)
    column = section.adata.obs[group_key].iloc[section.rows]
    values = column.unique()
    if column.isna().any() or len(values) != 1:
        told = ", ".join(map(str, values[:5])) or "none"
        msg = (
            f"obs[{group_key!r}] must have one value in all of section {section.name!r}; it has {told}. "
            "A section is never split: give it one group, or pass another group_key."
        )
        raise ValueError(msg)
    return str(values[0])
