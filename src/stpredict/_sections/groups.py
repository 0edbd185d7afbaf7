"""The patient that every section is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.checks import check_column_name
from stpredict._core.warning import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section


def section_groups(sections: Sequence[Section], group_key: str | None) -> list[str]:
    """Group (patient) of every section, from the ``obs`` column `group_key`; None makes every section its own group.

    None has to be chosen knowingly: sections of one patient are sisters, and holding out one of them says nothing about
    new patients. Raises KeyError if a section lacks the column; TypeError if `group_key` is no name; ValueError if a section has no value there, or spots of
    several groups.
    """
    if group_key is None:
        return [section.name for section in sections]
    check_column_name(group_key, "group_key")
    groups = [_group(section, group_key) for section in sections]
    alike: dict[str, set[str]] = {}
    for group in groups:
        alike.setdefault(group.lower(), set()).add(group)
    if several := [sorted(names) for names in alike.values() if len(names) > 1]:
        told = "; ".join(" and ".join(names) for names in several)
        msg = (
            f"obs[{group_key!r}] has groups that differ in upper and lower case only ({told}); they count as different."
        )
        warn(msg)
    return groups


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
    return group_name(values[0])


def group_name(value: object) -> str:
    """Name of a group: 1, 1.0 and "1 " are one."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).strip()
