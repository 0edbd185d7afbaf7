"""Folds that hold out patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Fold(NamedTuple):
    """Which sections to train and to test on, by position, and the group held out."""

    group: str
    train: list[int]
    test: list[int]


def leave_one_group_out(groups: Sequence[str], test: Sequence[str] | None = None) -> Iterator[Fold]:
    """Hold out every group in turn, in order of first appearance, or those in `test` only.

    Raises ValueError if there is only one group, or a group in `test` does not exist.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        msg = (
            f"Holding out a group needs at least two of them; all sections are of {', '.join(names) or 'none'}. Add "
            "sections of another patient, or pass group_key=None to hold out one section after the other, which says "
            "nothing about new patients."
        )
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
