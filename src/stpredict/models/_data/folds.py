"""Inner folds that never split a patient, and the choice of a hyper-parameter on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict._evaluation.metrics import pearson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stpredict.models._data.table import Table

    Predictions = Callable[["Table", np.ndarray], Iterable[np.ndarray]]

MAX_FOLDS = 5
MIN_GROUPS = 3
"""With fewer patients than this, an inner fold would learn from one alone, which says little about learning from two."""


MAX_HELD = 2_000
"""Held-out spots whose predictions are kept, at most."""

MAX_VALUES = 2**21
"""Values of such predictions that are kept, at most, for every candidate."""


@dataclass(frozen=True)
class HeldOut:
    """What was predicted for spots that were held out of training.

    Attributes
    ----------
    rows
        Row numbers of the spots in the training table.
    predicted
        float32 (len(rows), genes), NaN for genes that were not predicted.
    """

    rows: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Choice:
    """What cross-validation chose.

    Attributes
    ----------
    value
        The best candidate.
    scores
        Mean PCC of every candidate, per gene within section, over held-out spots.
    residual_sd
        float32 (genes,), root mean square error of the best candidate on held-out spots.
    note
        What was held out.
    held
        What the best candidate predicts for held-out spots, drawn at random where there are many.
    """

    value: float
    scores: list[float]
    residual_sd: np.ndarray
    note: str
    held: HeldOut


def inner_folds(table: Table) -> tuple[list[np.ndarray], str]:
    """Held-out masks (n,), and in words what they hold out.

    Patients (groups), where there are at least `MIN_GROUPS`; else sections; else strips of the only section.
    """
    from sklearn.model_selection import GroupKFold

    for units, least, word in ((table.group, MIN_GROUPS, "groups"), (table.section, 2, "sections")):
        n = len(np.unique(units))
        if n >= least:
            splits = GroupKFold(min(n, MAX_FOLDS)).split(units, groups=units)
            return [_mask(rows, len(table)) for _, rows in splits], f"inner folds hold out {word} ({n})"
    masks = [_mask(rows, len(table)) for rows in strips(table.centres)]
    return masks, f"inner folds hold out strips of the one section ({MAX_FOLDS})"


def judged(not_measured: np.ndarray | None, train: Table, test: Table) -> np.ndarray | bool:
    """Bool (spots of `test`, genes): measured in the spot's section and in one of `train`; True where all are.

    ``not_measured`` (sections, genes) says what was not. What was filled in of it is nothing to judge predictions by.
    """
    if not_measured is None or not not_measured.any():
        return True
    measured = ~not_measured
    known: np.ndarray = (measured & measured[np.unique(train.section)].any(axis=0))[test.section]
    return known


def strips(centres: np.ndarray) -> list[np.ndarray]:
    """Rows of `MAX_FOLDS` strips across the longer side of a section, of equally many spots."""
    axis = np.ptp(centres, axis=0).argmax()
    return np.array_split(np.argsort(centres[:, axis], kind="stable"), MAX_FOLDS)


def choose(
    table: Table,
    candidates: Sequence[float],
    predictions: Predictions,
    *,
    looked_at: np.ndarray | None = None,
) -> Choice:
    """Choose the candidate with the best mean PCC per gene and section on inner held-out spots.

    Parameters
    ----------
    table
        Training spots; genes are not judged on sections that did not measure them.
    candidates
        Values to choose from; the first of equals wins.
    predictions
        Maps a table to learn from and a design matrix to predict for, to one prediction (n, genes) per candidate.
    looked_at
        Rows, in order, whose predictions are kept; by default all, or some at random where there are many.
    """
    folds, note = inner_folds(table)
    scores: list[list[float]] = [[] for _ in candidates]
    n_genes = table.expression.shape[1]
    squares, n_judged = np.zeros((len(candidates), n_genes)), np.zeros(n_genes)
    looked_at = sample(len(table), n_genes) if looked_at is None else looked_at
    kept = np.zeros((len(candidates), len(looked_at), n_genes), dtype=np.float32)
    for held in folds:
        test, train = table.take(held), table.take(~held)
        judged = ~np.isnan(test.expression) & ~np.isnan(train.expression).all(axis=0)
        n_judged += judged.sum(axis=0)
        own, among = held[looked_at], np.searchsorted(np.flatnonzero(held), looked_at[held[looked_at]])
        for i, predicted in enumerate(predictions(train, test.design)):
            kept[i, own] = predicted[among]
            squares[i] += np.square(np.where(judged, predicted - test.expression, 0), dtype=np.float64).sum(axis=0)
            for section in np.unique(test.section):
                rows = test.section == section
                scores[i].append(float(pearson(test.expression[rows], predicted[rows])[0].mean()))
    means = [float(np.mean(s)) for s in scores]
    best = int(np.argmax(means))
    error = _error(squares[best], n_judged, table)
    return Choice(candidates[best], means, error, note, HeldOut(looked_at, kept[best].copy()))


def sample(n: int, n_genes: int) -> np.ndarray:
    """Numbers of rows whose predictions of so many genes are kept, in order; all of `n`, where these are few."""
    most = max(min(MAX_HELD, MAX_VALUES // max(n_genes, 1)), 2)
    return np.sort(np.random.default_rng(0).permutation(n)[:most])


def residual_sd(table: Table, held: HeldOut) -> np.ndarray:
    """float32 (genes,): root mean square error at held-out spots of the `table`; spread of genes of which none is known."""
    square = np.square(held.predicted - np.asarray(table.expression[held.rows]), dtype=np.float64)
    known = np.isfinite(square)
    return _error(np.sum(square, axis=0, where=known), known.sum(axis=0), table)


def _error(squares: np.ndarray, n: np.ndarray, table: Table) -> np.ndarray:
    """float32 (genes,): root of the mean of `n` squares; spread in the `table` where there are none to judge by."""
    error: np.ndarray = np.sqrt(squares / np.maximum(n, 1)).astype(np.float32)
    if not n.all():
        error[n == 0] = np.nanstd(np.asarray(table.expression[:])[:, n == 0], axis=0)
    return error


def _mask(rows: np.ndarray, n: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask
