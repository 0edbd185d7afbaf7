"""Genes that no section measures, read off those that a model predicts by how they vary together in references."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import pandas as pd

from stpredict._evaluation.metrics import pearson
from stpredict._sections.spread import moments
from stpredict.models._reference.coexpression import MIN_SD, MOMENTS
from stpredict.models._trust.reliability import NORMAL_QUANTILES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stpredict.models._base.contract import Prediction
    from stpredict.models._data.chunks import Parts
    from stpredict.models._data.folds import HeldOut
    from stpredict.models._data.table import Table
    from stpredict.models._reference.coexpression import ReferenceGenes
    from stpredict.models._trust.trust import Judgement

MIN_HIDDEN = 10
"""Fewer hidden genes are too few to learn reliability from."""

TINY = 1e-6
ROWS = 1024
"""Genes that are compared at a time."""

SIMILAR = 20
"""Seen genes that an unseen gene follows. Chosen on other tasks than those that tables report, where 10 to 30 were alike."""


@dataclass(frozen=True)
class UnseenGenes:
    """Genes that were not trained on, by those that were and vary most alike in references.

    What is predicted of an unseen gene is the mean of its most similar seen genes' predictions, standardised and weighted by
    their correlation in the references. It is brought to the gene's mean and spread there, the spread lessened by as much
    as that of seen genes is in predictions.

    How well this works is learned from seen genes, each hidden in turn: predicted from the others for held-out spots.

    Attributes
    ----------
    names
        Names of the genes.
    similar, weights
        int32 and float32 (unseen, `SIMILAR`): numbers of the most similar seen genes, and their correlation with each.
    level, sd
        float32 (unseen,), mean to expect, and standard deviation of what is predicted within a section.
    reliability
        float64 (4,), what is expected of their PCC, see `learn_reliability`, and the level below which hidden genes were few.
    error
        float32 (unseen,), standard deviation of the error to expect.
    """

    names: list[str]
    similar: np.ndarray
    weights: np.ndarray
    level: np.ndarray
    sd: np.ndarray
    reliability: np.ndarray
    error: np.ndarray

    SHAPES: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "unseen_similar": ("u", "similar"),
        "unseen_weights": ("u", "similar"),
        "unseen_level": ("u",),
        "unseen_sd": ("u",),
        "unseen_reliability": (4,),
        "unseen_error": ("u",),
    }

    @classmethod
    def learn(cls, reference: ReferenceGenes, genes: Sequence[str], table: Table, held: HeldOut) -> UnseenGenes:
        """Learn of all genes of the `reference` that are not among the `genes` of the training `table`.

        `held` is what is predicted for held-out spots of the table.
        """
        alike = np.full((len(reference.correlation), len(genes)), -np.inf, dtype=np.float32)
        columns = pd.Index(genes).get_indexer(reference.correlation.columns)
        alike[:, columns] = reference.correlation.to_numpy()
        rows = reference.correlation.index.get_indexer(genes)
        among = np.full((len(genes), len(genes)), -np.inf, dtype=np.float32)
        among[rows >= 0] = alike[rows[rows >= 0]]
        np.fill_diagonal(among, -np.inf)
        hidden = hidden_in_turn(table, held, *_most_similar(among))
        own = _moments_of(table, genes)
        is_unseen = ~reference.correlation.index.isin(genes)
        told = like_training(reference.moments, own)[is_unseen]
        level, sd = told["level"].to_numpy(), np.exp(told["log_sd"].to_numpy())
        similar, weights = _most_similar(alike[is_unseen])
        usable = np.isfinite(hidden.pcc)
        return cls(
            list(told.index),
            similar,
            weights,
            level.astype(np.float32),
            (sd * hidden.spread).astype(np.float32),
            _reliability(hidden.pcc[usable], among.max(axis=1)[usable], own["level"].to_numpy()[usable]),
            (sd * hidden.error).astype(np.float32),
        )

    def of(self, means: Parts[np.ndarray], rows: np.ndarray) -> Parts[np.ndarray]:
        """float32 (spots, len(rows)): the genes of these `rows`, by the predictions of all seen genes of one section.

        These come in parts, which are gone through twice beforehand.
        """
        level, size = moments(means)
        varies = size > 1e-6 * np.abs(level) + 1e-9
        towards = _towards(self.similar[rows], self.weights[rows], len(level))
        towards /= np.where(varies, size, np.inf)[:, None]
        expected = means.map(lambda mean: (mean - level) @ towards)
        spread = moments(expected)[1]
        factor = self.sd[rows] / np.where(spread > 0, spread, np.inf)
        return expected.map(lambda values: (values * factor + self.level[rows]).astype(np.float32))

    def filled(self, prediction: Prediction, columns: np.ndarray, values: np.ndarray, rows: np.ndarray) -> Prediction:
        """The `prediction` with the `values` of the genes of these `rows` in its `columns`, and what is known of them."""
        judgement = cast("Judgement", prediction.judgement)
        error, told = self.error[rows] * np.float32(judgement.widening), self.told(rows)
        prediction.mean[:, columns], prediction.std[:, columns] = values, error
        cast("np.ndarray", prediction.reached)[0, columns] = told["reliability"] * judgement.kept
        cast("np.ndarray", prediction.errors)[:, columns] = NORMAL_QUANTILES[:, None] * error
        return replace(prediction, unseen=told)

    def told(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Names of the genes of these `rows`, how far they are from seen ones, and how reliable.

        Below the level of the genes that this was learned from, the correlation with so few counts falls with the root of the level.
        """
        nearest, level = self.weights[rows].max(axis=1), self.level[rows]
        few = np.sqrt(np.clip(level / max(self.reliability[3], TINY), 0, 1))
        reliability = (expected_pcc(self.reliability[:3], nearest, level) * few).astype(np.float32)
        return {"genes": np.array(self.names, dtype=object)[rows], "distance": 1 - nearest, "reliability": reliability}

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model stores, by name."""
        return {name: getattr(self, name.removeprefix("unseen_")) for name in self.SHAPES}

    @classmethod
    def stored_in(cls, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> UnseenGenes:
        """The genes of these `names` among a model's `arrays`."""
        return cls(list(names), **{name.removeprefix("unseen_"): arrays[name] for name in cls.SHAPES})


@dataclass(frozen=True)
class Hidden:
    """What is reached for seen genes that are hidden in turn.

    Attributes
    ----------
    pcc
        (genes,), with what was measured on held-out spots, a mean over sections; NaN where it is not known.
    spread, error
        Standard deviation of predictions, and of what they miss, over that of the measured; medians over genes.
    """

    pcc: np.ndarray
    spread: float
    error: float


def hidden_in_turn(table: Table, held: HeldOut, similar: np.ndarray, weights: np.ndarray) -> Hidden:
    """Predict every seen gene on the held-out spots of `table` from its most `similar` others, (genes, k) with `weights`."""
    measured, section = np.asarray(table.expression[held.rows]), table.section[held.rows]
    blocks = [slice(first, first + ROWS) for first in range(0, len(similar), ROWS)]
    pccs, spreads, errors = [], [], []
    for number in np.unique(section):
        rows = section == number
        predicted, truth = held.predicted[rows].astype(np.float64), measured[rows].astype(np.float64)
        size, scale = predicted.std(axis=0), truth.std(axis=0)
        varies = size > 1e-6
        standard = np.nan_to_num((predicted - predicted.mean(axis=0)) / np.where(varies, size, np.inf))
        expected = np.hstack([standard @ _towards(similar[b], weights[b], len(similar)) for b in blocks])
        known = (expected.std(axis=0) > 0) & varies & (scale > 1e-6) & np.isfinite(truth).all(axis=0)
        if rows.sum() < MIN_HIDDEN or not known.any():
            continue
        pcc = np.full(len(known), np.nan)
        pcc[known] = pearson(truth[:, known], expected[:, known])[0]
        pccs.append(pcc)
        share = size[known] / scale[known]
        spreads.append(np.median(share))
        errors.append(np.median(np.sqrt(np.maximum(1 + share**2 - 2 * pcc[known] * share, 0))))
    if not pccs:
        return Hidden(np.full(measured.shape[1], np.nan), 1.0, 1.0)
    there = np.isfinite(pccs)
    mean = np.where(there, pccs, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    return Hidden(np.where(there.any(axis=0), mean, np.nan), float(np.mean(spreads)), float(np.mean(errors)))


def _towards(similar: np.ndarray, weights: np.ndarray, n_seen: int) -> np.ndarray:
    """(seen genes, genes): by how much each seen gene counts for every gene that has these `similar` ones."""
    towards = np.zeros((n_seen, len(similar)))
    np.put_along_axis(towards, similar.T, weights.T, axis=0)
    return towards


def _most_similar(alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int32 and float32 (genes, k): numbers of the seen genes of largest correlation, and that, where it is above 0."""
    similar = np.empty((len(alike), min(SIMILAR, alike.shape[1])), dtype=np.int32)
    for first in range(0, len(alike), ROWS):
        rows = slice(first, first + ROWS)
        similar[rows] = np.argsort(-alike[rows], axis=1)[:, :SIMILAR]
    return similar, np.maximum(np.take_along_axis(alike, similar, axis=1), 0).astype(np.float32)


def _reliability(pcc: np.ndarray, nearest: np.ndarray, level: np.ndarray) -> np.ndarray:
    """`learn_reliability`, never more for genes of less expression, and the level below which few of these genes lie."""
    learned = learn_reliability(pcc, nearest, level)
    if learned[2] < 0:
        learned = learn_reliability(pcc, nearest, np.zeros_like(level))
    return np.append(learned, np.quantile(level, 0.05) if len(level) else 0)


def _moments_of(table: Table, genes: Sequence[str]) -> pd.DataFrame:
    """`MOMENTS` of every gene over the training sections; NaN where none measured it."""
    level, sd = np.zeros((2, len(genes)))
    n = np.zeros(len(genes))
    for _, rows in table.of_sections():
        values = np.asarray(table.expression[rows], dtype=np.float64)
        known = np.isfinite(values).all(axis=0)
        level[known] += values[:, known].mean(axis=0)
        sd[known] += values[:, known].std(axis=0)
        n += known
    level, sd = (np.where(n > 0, total / np.maximum(n, 1), np.nan) for total in (level, sd))
    return pd.DataFrame({MOMENTS[0]: level, MOMENTS[1]: np.log(np.maximum(sd, MIN_SD))}, index=list(genes))


def like_training(reference: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """`MOMENTS` of the reference, brought to where training sections have them, by the genes that both have.

    Levels are multiplied, so that a gene of which there is next to nothing stays so, and never falls below 0.
    """
    both = reference.index.intersection(own.index)
    if not len(both):
        return reference
    moved = reference + (own.loc[both] - reference.loc[both]).median()
    there = both[reference.loc[both, MOMENTS[0]] > 0]
    factor = (own.loc[there, MOMENTS[0]] / reference.loc[there, MOMENTS[0]]).median() if len(there) else 1.0
    moved[MOMENTS[0]] = reference[MOMENTS[0]] * factor
    return moved


def largest_cosine(genes: np.ndarray, seen: np.ndarray, *, own: bool = True) -> np.ndarray:
    """float32 (genes,): largest cosine of every row with a row of `seen`; with `own`, never with that of its own number."""
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12) for values in (genes, seen)]
    out = np.empty(len(genes), dtype=np.float32)
    for first in range(0, len(genes), ROWS):
        alike = unit[0][first : first + ROWS] @ unit[1].T
        if own:
            itself = np.arange(first, min(first + len(alike), len(seen)))
            alike[itself - first, itself] = -1
        out[first : first + len(alike)] = alike.max(axis=1)
    return out


def learn_reliability(pcc: np.ndarray, nearest: np.ndarray, level: np.ndarray) -> np.ndarray:
    """(3,) intercept and slopes of the PCC that hidden genes reach, on `nearest` and `level`; NaN where they are few."""
    if len(pcc) <= MIN_HIDDEN:
        return np.full(3, np.nan)
    return np.linalg.lstsq(np.column_stack([np.ones(len(pcc)), nearest, level]), pcc, rcond=None)[0]


def expected_pcc(learned: np.ndarray, nearest: np.ndarray, level: np.ndarray) -> np.ndarray:
    """float32 (genes,) in 0 to 1: PCC to expect of unseen genes, by what was `learned`, (3,) or a row for each."""
    start, by_nearest, by_level = learned.T
    return np.clip(start + by_nearest * nearest + by_level * level, 0, 1).astype(np.float32)
