"""What a few measured spots say a prediction gets wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stpredict.models._data.linalg import principal_axes
from stpredict.models.adapted.gaussian_process import LENGTHS, Points, Process, choose_rest, choose_weights

N_AXES = 20

TRIED_SPOTS = 300
"""Spots on which the kernel is chosen."""

BASE_SPOTS = 10
"""The base model's own idea of a gene's error counts as much as this many measured spots."""

LEAST_NOISE = 0.1
"""A gene's error at a left-out spot is noise to this share at least."""


@dataclass(frozen=True)
class Spots:
    """Spots of the sections to adapt to, and what was measured at some of them.

    Attributes
    ----------
    places
        float64 (all, 2), in pitches of their section's lattice.
    section
        int64 (all,), number of the section.
    predicted, variance
        float64 (all, b), the base model's prediction of its genes and its square standard deviation.
    embedded
        float32 (all, d), the base model's embedding.
    rows
        int64 (n,), which of them were measured.
    expression
        float64 (n, b + x), what was measured of the base model's genes and of x others; NaN where a gene was not.
    """

    places: np.ndarray
    section: np.ndarray
    predicted: np.ndarray
    variance: np.ndarray
    embedded: np.ndarray
    rows: np.ndarray
    expression: np.ndarray


@dataclass(frozen=True)
class Correction:
    """Arrays of `stpredict.models.adapted.model.Adapted`, for all b + x genes, and left-out errors of the b + x genes."""

    arrays: dict[str, np.ndarray]
    before: np.ndarray
    after: np.ndarray
    left_out: np.ndarray

    def of(self, genes: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays with only some `genes`, by number."""
        last = {name: self.arrays[name][..., genes] for name in ("beside", "level", "rest", "gene_unit", "noise")}
        return self.arrays | last | {"loadings": self.arrays["loadings"][genes]}


def learn(spots: Spots, *, seed: int) -> Correction:
    """Learn the correction. Raises ValueError if the base model predicts the same for every spot."""
    n_base, n = spots.predicted.shape[1], len(spots.rows)
    measured = np.isfinite(spots.expression).all(axis=0)
    known = np.arange(len(measured)) < n_base
    axes, variances = gene_axes(spots.predicted, spots.section, measured[:n_base])
    centre = spots.predicted.mean(axis=0)
    scores = (spots.predicted - centre) @ axes
    scale = np.sqrt([median_square(scores, seed), median_square(spots.embedded, seed)])
    alike = scores / scale[0], spots.embedded / np.float32(scale[1])
    points = Points(spots.places, spots.section, *alike).take(spots.rows)

    level = np.where(known | ~measured, 0, spots.expression.mean(axis=0))
    residual = np.where(measured, spots.expression - level, 0)
    residual[:, :n_base] -= np.where(measured[:n_base], spots.predicted[spots.rows], 0)
    loadings = np.vstack([axes, np.zeros((len(measured) - n_base, axes.shape[1]))])
    along = residual @ loadings
    beside = residual - along @ loadings.T

    tried = np.random.default_rng(seed).permutation(n)[:TRIED_SPOTS]
    weights = choose_weights(points.take(tried), along[tried], variances)
    process = Process(points, weights)
    rest = np.zeros(len(measured))
    for kind in (known & measured, ~known & measured):
        rest[kind] = choose_rest(process, beside[:, kind])

    axis_error, axis_variance = process.left_out(along, variances)
    gene_error, gene_variance = process.left_out(beside, rest)
    axis_unit = np.mean(np.square(axis_error) / (axis_variance + 1))
    gene_unit = np.mean(np.square(gene_error) / (gene_variance + 1), axis=0)
    square = np.square(loadings)
    explained = axis_unit * axis_variance.mean(axis=0) @ square.T
    explained += gene_unit * gene_variance.mean(axis=0) * (1 - square.sum(axis=1))
    errors = axis_error @ loadings.T + gene_error
    after = np.square(errors).mean(axis=0)
    error = _shrunken(after, spots.variance.mean(axis=0), measured, n)
    arrays = {
        "places": points.places,
        "section": points.section,
        "scores": points.scores,
        "embedded": points.embedded,
        "along": along,
        "beside": beside,
        "axes": axes,
        "centre": centre,
        "variances": variances,
        "scale": scale,
        "weights": weights,
        "loadings": loadings,
        "level": level,
        "rest": rest,
        "axis_unit": np.array([axis_unit]),
        "gene_unit": gene_unit,
        "noise": np.maximum(error - explained, LEAST_NOISE * error),
    }
    return Correction(arrays, np.square(residual).mean(axis=0), after, spots.expression - errors)


def gene_axes(predicted: np.ndarray, section: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First principal axes (genes, axes) of predictions within sections, over the genes `used`, and their variances.

    Variances have mean 1. Nothing measured takes part. Raises ValueError if predictions do not vary.
    """
    centred = np.where(used, predicted, 0)
    for number in np.unique(section):
        centred[section == number] -= centred[section == number].mean(axis=0)
    squares, axes = principal_axes(centred.astype(np.float32))
    if not (squares > 1e-10 * np.square(predicted).sum()).any():
        msg = (
            "The model predicts the same for every spot, so measured spots cannot correct its pattern. Adapt a model that "
            "looks at the image (method='ridge', 'cmrcnet', …) and whose genes were measured."
        )
        raise ValueError(msg)
    return axes[:, :N_AXES], squares[:N_AXES] / squares[:N_AXES].mean()


def median_square(scores: np.ndarray, seed: int) -> float:
    """Median squared distance between spots, of a thousand at most."""
    from scipy.spatial.distance import pdist

    few = np.random.default_rng(seed).permutation(len(scores))[:1000]
    squares = pdist(scores[few], "sqeuclidean")
    return float(np.median(squares[squares > 0])) if (squares > 0).any() else 1.0


def _shrunken(after: np.ndarray, base: np.ndarray, measured: np.ndarray, n: int) -> np.ndarray:
    """Mean square error of every gene: left-out errors, drawn to what the base model expects of the gene.

    What the base model expects is first brought to the level of the left-out errors. Genes that it does not know are
    drawn to the mean of their like; those that were not measured have its own. One that expects nothing (NaN) expects of
    every gene what is the mean.
    """
    known = measured[: len(base)]
    if np.isnan(base).any():
        base = np.full(len(base), after[: len(base)][known].mean())
    expected = np.full(len(after), after[len(base) :].mean() if len(after) > len(base) else 0.0)
    expected[: len(base)] = base * (after[: len(base)][known].sum() / max(base[known].sum(), 1e-30))
    mixed = (n * after + BASE_SPOTS * expected) / (n + BASE_SPOTS)
    unmeasured = np.append(~known, np.zeros(len(after) - len(base), dtype=bool))
    mixed[unmeasured] = base[~known]
    return mixed


def history(learned: Correction, weights: np.ndarray, spots: Spots) -> dict[str, Any]:
    """Errors before and after the correction, and in words what it is made of, ready for JSON."""
    known = np.isfinite(spots.expression).all(axis=0)
    known[spots.predicted.shape[1] :] = False
    errors = [float(np.sqrt(square[known].mean())) for square in (learned.before, learned.after)]
    share = weights / weights.sum()
    told = ", ".join(f"{length:g} pitches {s:.0%}" for length, s in zip(LENGTHS, share[2:], strict=True))
    notes = [
        f"{len(spots.rows)} measured spots in {len(np.unique(spots.section[spots.rows]))} section(s)",
        f"correction: level {share[0]:.0%}, alike to the model {share[1]:.0%}, near in space: {told}",
    ]
    return {"values": {"rmse_base": errors[:1], "rmse_adapted": errors[1:]}, "notes": notes}
