"""Where training sections lie in the space of image features, and how far from them a new one is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.models._data.features import raw_features
from stpredict.models._data.folds import strips

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section

MAX_DISTANCE = 1e6


def section_means_and_scale(sections: Sequence[Section], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """float32 (sections, d), their mean features under `keys`, and float32 (d,), standard deviations within sections.

    Where there is one section only, strips of it stand for several. Features that do not vary have 0.
    """
    units = [raw_features(section, keys) for section in sections]
    if len(units) == 1:
        units = [units[0][rows] for rows in strips(sections[0].centres)]
    scale = np.sqrt(np.mean([raw_features(s, keys).var(axis=0, dtype=np.float64) for s in sections], axis=0))
    places = np.stack([unit.mean(axis=0, dtype=np.float64) for unit in units])
    scale[scale <= 1e-6 * np.abs(places).max(axis=0)] = 0
    return places.astype(np.float32), scale.astype(np.float32)


def distance_to(places: np.ndarray, scale: np.ndarray, features: np.ndarray) -> float:
    """Squared distance of a section with `features` (n_spots, d) to others, over that of these to each other.

    Between means of image features, each in units of its standard deviation within sections, before anything is
    standardised away. About 1 for one more section of the same kind; 1 also where nothing is known of it.
    """
    used = scale > 0
    if len(places) < 2 or not used.any() or not len(features):
        return 1.0
    known = places[:, used] / scale[used].astype(np.float64)
    new = features[:, used].mean(axis=0, dtype=np.float64) / scale[used]
    usual = 2 * known.var(axis=0, ddof=1).mean()  # mean squared distance between two of them
    away = np.square(new - known).mean()
    return float(min(away / usual, MAX_DISTANCE)) if usual > 0 else 1.0
