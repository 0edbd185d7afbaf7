"""Where training sections lie in the space of image features, and how far from them the spots of another one lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict._sections.spread import ROWS
from stpredict.models._data.chunks import Parts
from stpredict.models._data.folds import inner_folds
from stpredict.models._data.linalg import principal_axes
from stpredict.models._trust.stored import StoredArrays

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from stpredict._sections.section import Section
    from stpredict.models._data.table import Table
    from stpredict.models._trust.sight import Sight

MAX_SPOTS = 2000
"""Training spots that axes are learned from."""

MAX_PLACES = 250
"""Training spots that others are compared with."""

N_AXES = 16


def looked_at(
    sections: Sequence[Section], sight: Sight, table: Table, rng: np.random.Generator
) -> tuple[Table, np.ndarray]:
    """`MAX_SPOTS` at most of the spots in the training `table`, and the features (spots, d) that are seen of them."""
    few = table.take(np.sort(rng.permutation(len(table))[:MAX_SPOTS]))
    seen = [sight.of_rows(sections[i], few.row[few.section == i]) for i in np.unique(few.section)]
    return few, np.concatenate(seen)


@dataclass(frozen=True)
class Domain(StoredArrays):
    """Training spots in the principal axes of what is seen of them.

    Features are not standardised within sections here: stain, scanner and composition of the tissue, which models do not
    see, are what tells another kind of slide.

    Attributes
    ----------
    level, scale
        float32 (d,), mean of the features over training spots and their standard deviation within sections; the scale
        is 0 for features that do not vary.
    axes
        float32 (d, axes), from features in these units to axes along which training spots have variance 1.
    places
        float32 (m, axes), training spots.
    place_section
        int64 (m,), number of the section of each.
    usual
        float32 (2,), what held-out training spots had, a mean over the groups that were held out: the median distance
        of a spot to the nearest of the others, and the distance between mean features.
    """

    level: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    places: np.ndarray
    place_section: np.ndarray
    usual: np.ndarray

    PREFIX: ClassVar[str] = "domain_"
    SHAPES: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "domain_level": ("seen",),
        "domain_scale": ("seen",),
        "domain_axes": ("seen", "domain axes"),
        "domain_places": ("domain places", "domain axes"),
        "domain_place_section": ("domain places",),
        "domain_usual": (2,),
    }

    @classmethod
    def learn(cls, few: Table, features: np.ndarray, rng: np.random.Generator) -> Self:
        """Learn from `few` training spots and their `features`.

        Groups are held out in turn as where hyper-parameters are chosen.
        """
        within = [features[few.section == i] for i in np.unique(few.section)]
        level = features.mean(axis=0, dtype=np.float64)
        scale = np.sqrt(np.mean([own.var(axis=0, dtype=np.float64) for own in within], axis=0))
        scale[scale <= 1e-6 * np.abs(level)] = 0
        centred = (features - level) / _units(scale)
        squares, axes = principal_axes(centred.astype(np.float32))
        axes = axes[:, :N_AXES] / np.sqrt(squares[:N_AXES] / len(features))
        places = centred @ axes
        held, _ = inner_folds(few)
        usual = [_distances(places[own], places[~own], rng) for own in held]
        kept = np.sort(rng.permutation(len(few))[:MAX_PLACES])
        return cls(
            level=level.astype(np.float32),
            scale=scale.astype(np.float32),
            axes=axes.astype(np.float32),
            places=places[kept].astype(np.float32),
            place_section=few.section[kept].astype(np.int64),
            usual=np.mean(usual, axis=0).astype(np.float32),
        )

    def joined_by(self, features: np.ndarray, number: int) -> Domain:
        """The same with the spots of section `number`, by their `features`, among those that others are compared with."""
        sections = np.concatenate([self.place_section, np.full(len(features), number)])
        return replace(self, places=np.concatenate([self.places, self._placed(features)]), place_section=sections)

    def distances(self, section: Section, sight: Sight) -> tuple[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray]:
        """How far a section is.

        Returns
        -------
        Of every spot the distance to the most similar training spot, 1 = as far as held-out training spots were, and the
        number of that one's section; the distance of the mean features, 1 likewise; how far the mean of every
        feature lies from that of training spots, in standard deviations within sections; and this mean itself.
        """
        away, of, total = [], [], np.zeros(len(self.level))
        for features in Parts(partial(sight.part, section), len(section), ROWS):
            places = self._placed(features)
            squares = _squares(places, self.places)
            nearest = squares.argmin(axis=1)
            away.append(np.sqrt(np.maximum(squares[np.arange(len(nearest)), nearest], 0)))
            of.append(self.place_section[nearest])
            total += features.sum(axis=0, dtype=np.float64)
        mean = total / len(section)
        shift = (mean - self.level) / _units(self.scale)
        means = np.stack([self.places[self.place_section == i].mean(axis=0) for i in np.unique(self.place_section)])
        between = np.sqrt(np.square(shift @ self.axes - means).mean(axis=1).min())
        spot_unit, mean_unit = np.maximum(self.usual, 1e-6)
        return np.concatenate(away) / spot_unit, np.concatenate(of), float(between / mean_unit), shift, mean

    def _placed(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.level) / _units(self.scale)) @ self.axes


def _units(scale: np.ndarray) -> np.ndarray:
    """What features are divided by; those that do not vary by infinity."""
    return np.where(scale > 0, scale, np.inf)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * (a @ b.T)


def _distances(held: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Median distance of held-out spots to the nearest of the others, of `MAX_PLACES` at most; and distance of means."""
    few = others[rng.permutation(len(others))[:MAX_PLACES]]
    nearest = np.sqrt(np.maximum(_squares(held, few).min(axis=1), 0))
    return float(np.median(nearest)), float(np.sqrt(np.square(held.mean(axis=0) - others.mean(axis=0)).mean()))
