"""Where a few spots lay when their image was described, by which coordinates that were changed since are noticed.

`stpredict.pp.encode` keeps the places in the record of the features; a part of a section still has some of those spots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.warning import warn
from stpredict._sections.spread import SECTIONS, is_kept

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stpredict._sections.section import Section

SPOTS, PLACES = "spots", "places_um"
"""Entries of what is kept of a section: names of some spots, and their places in µm."""

KEPT = 64
"""Spots of a section whose places are kept."""

MOVED = 0.5
"""A spot counts as moved from this share of the width of its tile on."""


def places_record(section: Section) -> dict[str, Any]:
    """Names and places, (spots, 2) float64 in µm, of spots evenly spread over the rows of `section`."""
    rows = np.unique(np.linspace(0, len(section) - 1, min(KEPT, len(section))).astype(int))
    return {SPOTS: section.obs_names[rows].to_numpy(str), PLACES: section.centres[rows] * section.mpp}


def warn_if_moved(section: Section, keys: Sequence[str]) -> None:
    """Tell that spots lie elsewhere than when the features under `keys` were made."""
    for key in keys:
        record = section.record(key)
        kept = record[SECTIONS].get(section.name, {}) if is_kept(record) else {}
        if SPOTS not in kept or PLACES not in kept:
            continue
        away = _distances(section, kept, key)
        if moved := int((away > MOVED * record["spot_um"]).sum()):
            msg = (
                f"Section {section.name!r}: of {len(away)} spots that were looked at, {moved} lie elsewhere than when "
                f"obsm[{key!r}] was made, up to {away.max():.0f} µm away. If coordinates or the scale were corrected since, run "
                "stpredict.pp.tiles and stpredict.pp.encode again: the features still show the old places. If spots and "
                "image were moved together, as by cropping, nothing is wrong."
            )
            warn(msg)
            return


def _distances(section: Section, kept: Mapping[str, Any], key: str) -> np.ndarray:
    """float64 (spots,): how far, µm, the spots that are kept and still here lie from where they lay."""
    try:
        places = np.asarray(kept[PLACES], dtype=np.float64).reshape(-1, 2)
        then = dict(zip(map(str, kept[SPOTS]), places, strict=True))
    except (TypeError, ValueError) as error:
        msg = f"uns[{key!r}][{SECTIONS!r}][{section.name!r}] is damaged ({error}); run stpredict.pp.encode again."
        raise ValueError(msg) from error
    here = np.flatnonzero(section.obs_names.isin(list(then)))
    names = section.obs_names[here]
    if not len(here) or names.has_duplicates:
        return np.zeros(0)
    away = section.centres[here] * section.mpp - np.array([then[name] for name in names])
    return np.asarray(np.hypot(*away.T))
