"""Mean and standard deviation of image features over a whole section, by which every spot is standardised.

`stpredict.pp.encode` keeps them in the record of the features, section by section, so that a part of a section is
standardised as the whole was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.warning import warn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stpredict._sections.section import Section

SECTIONS = "sections"
"""Entry of a record of features: number of spots, mean and standard deviation of every section, by its name."""

ROWS = 16_384
"""Spots whose features are looked at together."""


def moments(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """float64: mean and standard deviation over the rows of all `parts`, in one pass (Chan, Golub and LeVeque 1983)."""
    n, mean, squares = 0, np.zeros(()), np.zeros(())
    for part in parts:
        more = n + len(part)
        away = part.mean(axis=0, dtype=np.float64) - mean
        squares = squares + part.var(axis=0, dtype=np.float64) * len(part) + np.square(away) * (n * len(part) / more)
        mean = mean + away * (len(part) / more)
        n = more
    return mean, np.sqrt(squares / n)


def spread_record(features: np.ndarray) -> dict[str, Any]:
    """What is kept of the `features` (n spots, d) of a whole section."""
    mean, sd = moments(features[start : start + ROWS] for start in range(0, len(features), ROWS))
    return {"n_spots": len(features), "mean": mean, "sd": sd}


def is_kept(record: Any) -> bool:
    """Whether this is a record of features that keeps their mean and standard deviation."""
    return isinstance(record, Mapping) and "encoder_hash" in record and isinstance(record.get(SECTIONS), Mapping)


def only(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The record of features of section `name` alone, out of that of several."""
    return {**record, SECTIONS: {own: kept for own, kept in record[SECTIONS].items() if own == name}}


def kept_of_whole(section: Section, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation that are kept of the whole section; None where all of it is here, or nothing is kept."""
    record = section.record(key)
    if not is_kept(record) or section.name not in record[SECTIONS]:
        return None
    n, mean, sd = _kept(record, section.name, key)
    return None if len(section) >= n else (mean, sd)


def _kept(record: Mapping[str, Any], name: str, key: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of spots, mean and standard deviation that are kept of section `name`.

    Raises ValueError if they are no numbers.
    """
    known = record[SECTIONS][name]
    try:
        mean, sd = (np.asarray(known[part], dtype=np.float64) for part in ("mean", "sd"))
        return int(known["n_spots"]), mean, sd
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        msg = f"uns[{key!r}][{SECTIONS!r}][{name!r}] is damaged ({error}); run stpredict.pp.encode again."
        raise ValueError(msg) from error


def whole_moments(section: Section, key: str, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the features under `key` over the whole section that `section` is a part of.

    They are `mean` and `sd`, those over the spots that are here, where none is missing or nothing was kept.

    Warns
    -----
    StpredictWarning
        If something was kept, but not of this section, or of other features.
    """
    record = section.record(key)
    if not is_kept(record):
        return mean, sd
    if section.name not in record[SECTIONS]:
        _tell(key, "nothing is kept of this section, as after it was renamed, or joined with uns_merge='same'")
        return mean, sd
    if (whole := kept_of_whole(section, key)) is None:
        return mean, sd
    if not _can_be_part(len(section), mean, sd, _kept(record, section.name, key)[0], *whole):
        _tell(key, "what is kept is of other features, as after these were changed by hand")
        return mean, sd
    return whole


def _can_be_part(
    n: int, mean: np.ndarray, sd: np.ndarray, whole_n: int, whole_mean: np.ndarray, whole_sd: np.ndarray
) -> bool:
    """Whether n of so many spots can have this mean and standard deviation: squares add up to no more than those of all."""
    if whole_mean.shape != mean.shape or whole_sd.shape != sd.shape:
        return False
    squares = n * np.square(sd) + n * whole_n / (whole_n - n) * np.square(mean - whole_mean)
    room = whole_n * np.square(whole_sd) * (1 + 1e-6) + whole_n * np.square(1e-6 * whole_mean) + 1e-12
    return bool((squares <= room).all())


def _tell(key: str, why: str) -> None:
    msg = (
        f"Mean and spread of obsm[{key!r}] over the whole section are not known ({why}), so it is standardised over the "
        "spots that are here. If they are a part of a section, predictions differ from those of the whole: run "
        "stpredict.pp.encode on the whole and take the part afterwards."
    )
    warn(msg)
