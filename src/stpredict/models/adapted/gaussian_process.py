"""A Gaussian process over spots: near in space, or alike to the model, they err alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

LENGTHS = (1.0, 2.0, 4.0, 8.0)
"""Ranges of the spatial parts, in spot pitches."""

IMAGE_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
AMPLITUDES = tuple(float(10**e) for e in np.arange(-3, 2.1, 0.5))
REST = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Variances to choose from for what genes do each on their own, in units of the noise."""

LEVEL, IMAGE = 0, 1
"""First two weights of a kernel: what all spots share, and likeness to the model; then one for every length."""

ROWS = 4096
TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class Points:
    """Spots as the process sees them.

    Attributes
    ----------
    places
        float64 (n, 2), in pitches of the section's lattice.
    section
        int64 (n,), number of the section; -1 for one without measured spots, which has no neighbours among these.
    scores
        float64 (n, axes), the base model's prediction along the gene axes, over its scale.
    embedded
        float32 (n, d), the base model's embedding, over its scale.
    """

    places: np.ndarray
    section: np.ndarray
    scores: np.ndarray
    embedded: np.ndarray

    def __len__(self) -> int:
        return len(self.section)

    def take(self, rows: np.ndarray | slice) -> Points:
        """Only `rows`."""
        return Points(self.places[rows], self.section[rows], self.scores[rows], self.embedded[rows])


def parts(a: Points, b: Points) -> list[np.ndarray]:
    """Covariances (a, b) that a kernel sums: level, image, and one for every length."""
    alike = (np.exp(-_squares(a.scores, b.scores)) + np.exp(-_squares(a.embedded, b.embedded))) / 2
    together = a.section[:, None] == b.section
    away = np.sqrt(_squares(a.places, b.places))
    return [np.ones_like(alike), alike, *(np.where(together, np.exp(-away / length), 0.0) for length in LENGTHS)]


def kernel(weights: np.ndarray, a: Points, b: Points) -> np.ndarray:
    """Covariance (a, b) in units of the noise."""
    return sum(weight * part for weight, part in zip(weights, parts(a, b), strict=True))


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cross = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.maximum(cross, 0).astype(np.float64)


def choose_weights(points: Points, values: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Weights of the kernel's parts, by how likely they make `values` (n, axes), whose axes have these `variances`.

    Every combination of a length, a share of the image and an amplitude is weighted by its marginal likelihood, so that
    few spots, which cannot tell them apart, get something of all and many spots the best.
    """
    each, n = parts(points, points), values.size
    likelihood, weights = [], []
    for weight in _candidates():
        root, axes = _decomposed(sum(w * part for w, part in zip(weight, each, strict=True)))
        turned = np.square(axes.T @ values)
        for amplitude in AMPLITUDES:
            spread = amplitude * root[:, None] * variances + 1
            likelihood.append(-0.5 * (n * np.log(np.maximum((turned / spread).mean(), TINY)) + np.log(spread).sum()))
            weights.append(amplitude * weight)
    share = np.exp(np.array(likelihood) - max(likelihood))
    return share @ np.array(weights) / share.sum()


def _candidates() -> list[np.ndarray]:
    """Weights of level, image and lengths that sum to two, half of it the level."""
    out = []
    for share in IMAGE_SHARES:
        for number in range(len(LENGTHS) if share < 1 else 1):
            weight = np.zeros(2 + len(LENGTHS))
            weight[[LEVEL, IMAGE]] = 1.0, share
            weight[2 + number] = 1 - share
            out.append(weight)
    return out


def _decomposed(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    roots, axes = np.linalg.eigh(covariance)
    return np.maximum(roots, 0), axes


@dataclass(frozen=True)
class Process:
    """The process with a kernel, conditioned on values at `points`.

    Every column of the values is a process of its own, with its `variance` times the kernel and noise of variance 1.
    """

    points: Points
    weights: np.ndarray

    @cached_property
    def _roots(self) -> tuple[np.ndarray, np.ndarray]:
        return _decomposed(kernel(self.weights, self.points, self.points))

    def coefficients(self, values: np.ndarray, variance: np.ndarray | float) -> np.ndarray:
        """What `kernel` to the points is multiplied with: (n, columns)."""
        roots, axes = self._roots
        turned = axes.T @ values
        return axes @ (turned * variance / (roots[:, None] * variance + 1))

    def left_out(self, values: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Errors (n, columns) at every point predicted from the others, and the variance (n, columns) that is told."""
        roots, axes = self._roots
        variance = np.broadcast_to(variance, values.shape[1])
        turned = axes.T @ values
        errors, told = np.empty(values.shape), np.empty(values.shape)
        for one in np.unique(variance):
            columns = variance == one
            shrunk = 1 / (roots * one + 1)
            precision = np.square(axes) @ shrunk
            errors[:, columns] = (axes @ (shrunk[:, None] * turned[:, columns])) / precision[:, None]
            told[:, columns] = (1 / precision - 1)[:, None]
        return errors, told

    def spread(self, new: Points, variances: np.ndarray) -> np.ndarray:
        """Variance (new, columns) of the process at `new`, without noise."""
        roots, axes = self._roots
        known = np.square(kernel(self.weights, new, self.points) @ axes)
        gained = known @ (np.square(variances) / (roots[:, None] * variances + 1))
        return np.maximum(self.weights.sum() * variances - gained, 0)


def choose_rest(process: Process, values: np.ndarray) -> float:
    """The variance of `REST` with which left-out spots are predicted best."""
    errors = [np.square(process.left_out(values, np.array([one]))[0]).sum() for one in REST]
    return REST[int(np.argmin(errors))]
