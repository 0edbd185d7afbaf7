"""Whether the tissue of a section looks half or twice as large as that of training, as at a wrong scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stpredict.models._trust.stored import StoredArrays
from stpredict.pp._encoders.morphology import SCALES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

BANDS = ("hematoxylin_band", "eosin_band", "density_band")
STAINS = ("hematoxylin", "eosin", "density")
NAMES = (*(f"{band}{octave}" for band in BANDS for octave in range(SCALES)), *STAINS)
"""Features of the default encoder that are looked at: log energies of texture, octave by octave, and how dark the stains are."""

FINEST = 0.33
"""How much more log energy the finest octave has than it would have if the image were blurred before, as it is for the others.

Measured on slides of her2st B4 and A1 and of olfactory bulbs, each against its copy at half the size.
"""

RIDGE = 0.01
"""Added to the correlations of these features, which are nearly collinear."""

OCTAVES = 0.4
"""Octaves by which the texture must be moved. See `SHARE`."""

SHARE = 0.4
"""Share of the squared difference from training that the move must explain, and more of it than `FOCUS` does.

Both were chosen on strips and pairs of sections of her2st B4 and A1, a mouse colon and olfactory bulbs: of 64 copies at half or
double size they tell 57, of 36 at the right size none.
"""

FOCUS = 4.0 ** -np.arange(SCALES)
"""How much log energy of each octave a Gaussian blur takes, or sharpening gives: it grows with the square of the frequency."""


@dataclass(frozen=True)
class Texture(StoredArrays):
    """Mean texture of training spots, and how spots vary around it.

    Cells have much the same size everywhere, so the texture of a tissue that was read at half its size is the one
    it has at its own size, moved by one octave.

    Attributes
    ----------
    columns
        int64 (18,), which of the features that the model sees are `NAMES`.
    means
        float32 (m, 18), means of these over training spots, and over the spots of each section that was measured later.
    covariance
        float32 (18, 18), of training spots.
    """

    columns: np.ndarray
    means: np.ndarray
    covariance: np.ndarray

    PREFIX: ClassVar[str] = "domain_texture_"
    SHAPES: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "domain_texture_columns": (len(NAMES),),
        "domain_texture_means": ("textures", len(NAMES)),
        "domain_texture_covariance": (len(NAMES), len(NAMES)),
    }

    @classmethod
    def learn(cls, features: np.ndarray, names: Sequence[str]) -> Self | None:
        """Learn from `features` (spots, d) with these `names`, ``<key>:<feature>``; None where no key has the texture."""
        place = {name: column for column, name in enumerate(names)}
        for key in dict.fromkeys(name.rpartition(":")[0] for name in names):
            wanted = [f"{key}:{name}" for name in NAMES]
            if place.keys() >= set(wanted):
                columns = np.array([place[name] for name in wanted])
                own = features[:, columns].astype(np.float64)
                covariance = np.atleast_2d(np.cov(own, rowvar=False))
                return cls(columns, own.mean(axis=0, keepdims=True).astype(np.float32), covariance.astype(np.float32))
        return None

    def joined_by(self, features: np.ndarray) -> Texture:
        """The same with the mean of `features` (spots, d) of a further section as another one to be like."""
        own = features[:, self.columns].mean(axis=0, keepdims=True)
        return replace(self, means=np.concatenate([self.means, own]).astype(np.float32))

    def size(self, mean: np.ndarray) -> float:
        """How large tissue looks beside that of training: 0.5, 2, or 1 where its scale is not in doubt.

        `mean` (d,) is that of the section's features. It is compared with the most similar of the `means`.
        """
        seen, means = mean[self.columns], self.means.astype(np.float64)
        away, precision = seen - means, self._precision(np.arange(len(NAMES)))
        return self._size(seen, means[np.sum(away @ precision * away, axis=1).argmin()])

    def _size(self, seen: np.ndarray, known: np.ndarray) -> float:
        octaves, stains = np.arange(len(BANDS) * SCALES).reshape(len(BANDS), SCALES), np.arange(-len(STAINS), 0)
        profile = known[octaves] - FINEST * (np.arange(SCALES) == 0)
        but_last, but_first = slice(SCALES - 1), slice(1, SCALES)
        for size, here, there, blur in ((0.5, but_last, but_first, FOCUS), (2.0, but_first, but_last, -FOCUS)):
            own = np.concatenate([octaves[:, here].ravel(), stains])
            away, precision = seen[own] - known[own], self._precision(own)
            whole = float(away @ precision @ away)
            by, share = _explained(away, precision, profile[:, there] - profile[:, here])
            focus = np.tile(blur[here], (len(BANDS), 1))
            if by > OCTAVES and share > max(SHARE * whole, _explained(away, precision, focus)[1]):
                return size
        return 1.0

    def _precision(self, own: np.ndarray) -> np.ndarray:
        """Inverse of the covariance of some of the features, made sure that there is one."""
        covariance = self.covariance[np.ix_(own, own)].astype(np.float64)
        spread = np.sqrt(np.maximum(np.diag(covariance), 0))
        unit = np.where(spread > 0, spread, np.inf)
        units = np.outer(unit, unit)
        inverse: np.ndarray = np.linalg.inv(covariance / units + RIDGE * np.eye(len(own))) / units
        return inverse


def _explained(away: np.ndarray, precision: np.ndarray, bands: np.ndarray) -> tuple[float, float]:
    """How many times a change of the `bands` (bands, octaves) lies in `away`, and how much of its square that explains.

    Nothing, if the change is the other way round.
    """
    change = np.concatenate([bands.ravel(), np.zeros(len(STAINS))])
    square = max(float(change @ precision @ change), 1e-12)
    times = max(float(away @ precision @ change) / square, 0.0)
    return times, times**2 * square
