"""Folds that hold out patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stpredict._section import Section


class Fold(NamedTuple):
    """Which sections to train and to test on, by position, and the group held out."""

    group: str
    train: list[int]
    test: list[int]


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


def leave_one_group_out(groups: Sequence[str], test: Sequence[str] | None = None) -> Iterator[Fold]:
    """Hold out every group in turn, in order of first appearance, or those in `test` only.

    Raises
    ------
    ValueError
        If there is only one group, or a group in `test` does not exist.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        msg = f"Holding out a group needs at least two of them; all sections are of {', '.join(names) or 'none'}."
        raise ValueError(msg)
    wanted = names if test is None else [test] if isinstance(test, str) else list(dict.fromkeys(test))
    if unknown := [str(name) for name in wanted if name not in names]:
        msg = f"There is no group {', '.join(map(repr, unknown))} to hold out; there are {', '.join(names)}."
        raise ValueError(msg)
    if not wanted:
        msg = f"test is empty; name groups to hold out ({', '.join(names)}), or leave it out for all."
        raise ValueError(msg)
    for name in wanted:
        held = [i for i, group in enumerate(groups) if group == name]
        yield Fold(name, [i for i in range(len(groups)) if i not in held], held)
