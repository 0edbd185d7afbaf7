"""Where the colours of a map begin, end and have their middle, as scanpy takes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import Normalize

Limit = float | str
"""A number, or a percentile of what is drawn, as ``"p99"``."""

OneOrEach = Limit | Sequence[Limit | None] | None
"""One limit for all panels, or one for each."""

PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Limits:
    """What was asked of the colours of one map; None stands for the default."""

    vmin: Limit | None = None
    vmax: Limit | None = None
    vcenter: Limit | None = None

    @classmethod
    def of_each(cls, n: int, vmin: OneOrEach, vmax: OneOrEach, vcenter: OneOrEach) -> list[Limits]:
        """Limits of `n` maps. Raises ValueError if there are more or fewer of a limit than maps."""
        asked = {"vmin": vmin, "vmax": vmax, "vcenter": vcenter}
        return [cls(*ends) for ends in zip(*(_each(value, n, name) for name, value in asked.items()), strict=True)]

    def norm(self, values: np.ndarray, default: tuple[float, float]) -> Normalize:
        """What maps `values` to colours, from end to end of `default` where nothing else was asked.

        Raises TypeError or ValueError if a limit is no number and no percentile, or they are not in ascending order.
        """
        from matplotlib.colors import Normalize, TwoSlopeNorm

        low, high = _number(self.vmin, values, "vmin"), _number(self.vmax, values, "vmax")
        middle = _number(self.vcenter, values, "vcenter")
        if middle is not None and low is None and high is None:
            reach = max(abs(end - middle) for end in default)
            return Normalize(middle - reach, middle + reach)
        low, high = (end if own is None else own for own, end in zip((low, high), default, strict=True))
        if not low < high and isinstance(self.vmin, str) | isinstance(self.vmax, str):
            # percentiles of a gene that is 0 in most spots are equal
            low, high = (
                end if isinstance(limit, str) else own
                for limit, own, end in zip((self.vmin, self.vmax), (low, high), default, strict=True)
            )
        order = [low, high] if middle is None else [low, middle, high]
        if not (np.diff(order) > 0).all():
            told = ", ".join(f"{value:.4g}" for value in order)
            names = "vmin and vmax" if middle is None else "vmin, vcenter and vmax"
            msg = f"{names} must ascend, but the colours would run over {told}; pass {names}."
            raise ValueError(msg)
        return Normalize(low, high) if middle is None else TwoSlopeNorm(middle, low, high)


def _each(value: Any, n: int, name: str) -> list[Limit | None]:
    if value is None or isinstance(value, str) or np.ndim(value) == 0:
        return [value] * n
    values = list(value)
    if len(values) != n:
        msg = f"{name}= has {len(values)} values for {n} gene{'s' if n > 1 else ''}; pass one, or one for each."
        raise ValueError(msg)
    return values


def _number(limit: Limit | None, values: np.ndarray, name: str) -> float | None:
    """A limit as a number; None where it is the default, or a percentile of nothing."""
    if limit is None:
        return None
    if isinstance(limit, str):
        found = PERCENTILE.fullmatch(limit)
        if found is None or float(found[1]) > 100:
            msg = f"{name}={limit!r} is neither a number nor a percentile, such as 'p99'."
            raise ValueError(msg)
        finite = values[np.isfinite(values)]
        return float(np.percentile(finite, float(found[1]))) if finite.size else None
    if not isinstance(limit, int | float | np.number) or not np.isfinite(limit):
        msg = f"{name} must be a finite number or a percentile, such as 'p99', got {limit!r}."
        raise TypeError(msg)
    return float(limit)
