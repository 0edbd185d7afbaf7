"""How far to believe a published model, learned from sections that its user measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.warning import warn
from stpredict._evaluation.metrics import pearson
from stpredict._genes.symbols import match_once
from stpredict._sections.measured import gene_sums, not_measured, tell_of_not_measured
from stpredict.models._base.contract import UNITS
from stpredict.models._data.folds import MAX_HELD, HeldOut, inner_folds
from stpredict.models._data.table import MIN_SPOTS, Table
from stpredict.models._trust.trust import Trust
from stpredict.models.adapted.measured import measured_expression, well_measured
from stpredict.models.adapted.units import slope_and_intercept

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stpredict._sections.section import Section
    from stpredict.models.published.contract import FixedModel


def calibrated(
    model: FixedModel, sections: Sequence[Section], groups: Sequence[str], *, min_counts: int, seed: int
) -> FixedModel:
    """The `model`, in our units, with the trust that the measured `sections` teach; `groups` names the patient of each.

    No spot was looked at in the model's training, so all are as good as held out. Only what brings predictions to our
    units is learned from some of them, and judged on the others.

    Raises
    ------
    ValueError
        If features or counts are missing or unusable, too few spots are left, or the model knows no gene with counts.

    Warns
    -----
    UserWarning
        If genes of the model are left out.
    """
    model = model.anew(model.genes)
    for section in sections:
        model.check(section)
    rows = _rows(sections, min_counts, seed)
    called = [match_once(model.genes, section.genes) for section in sections]
    genes = _genes(model, sections, called)
    measured = measured_expression(sections, rows, called, genes)
    there = np.asarray(measured.any(axis=0))
    genes, measured = [gene for gene, known in zip(genes, there, strict=True) if known], measured[:, there]
    _tell_of_others(model, genes)
    predicted = np.concatenate([_predicted(model, *pair, genes) for pair in zip(sections, rows, strict=True)])
    table = _table(sections, groups, rows, measured)
    folds, _ = inner_folds(table)
    if model.units == UNITS:
        model = model.anew(genes)
    else:
        model = model.brought_to(genes, *slope_and_intercept(predicted, measured))
        raw = predicted.copy()
        for held in folds:
            slope, intercept = slope_and_intercept(raw[~held], measured[~held])
            predicted[held] = slope * raw[held] + intercept
    held_out = HeldOut(np.arange(len(table)), predicted.astype(np.float32))
    trust = Trust.learn(sections, model.sight, table, held_out)
    return model.calibrated(
        trust,
        {
            "sections": [section.name for section in sections],
            "groups": list(groups),
            "min_counts": min_counts,
            "n_spots": len(table),
            "history": {
                "values": {"inner_pcc": [_score(measured, predicted, table.section)]},
                "notes": [*model.history.notes, f"calibrated on {len(table)} spots of {len(sections)} section(s)"],
            },
        },
    )


def _rows(sections: Sequence[Section], min_counts: int, seed: int) -> list[np.ndarray]:
    """Rows of every section to learn from, `MAX_HELD` in all at most."""
    rows = [well_measured(section, np.ones(len(section), dtype=bool), min_counts) for section in sections]
    n = sum(map(len, rows))
    if n < MIN_SPOTS:
        msg = (
            f"Only {n} spots have min_counts={min_counts} counts or more; at least {MIN_SPOTS} are needed to learn how far "
            "to believe a model. Lower min_counts or add sections."
        )
        raise ValueError(msg)
    number = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    kept = np.sort(np.random.default_rng(seed).permutation(n)[:MAX_HELD])
    flat = np.concatenate(rows)
    return [flat[kept[number[kept] == i]] for i in range(len(rows))]


def _genes(model: FixedModel, sections: Sequence[Section], called: Sequence[Mapping[str, str]]) -> list[str]:
    """Genes of the model that all sections measured."""
    genes = [gene for gene in model.genes if all(gene in theirs for theirs in called)]
    sums = [
        gene_sums(section).reindex([theirs[gene] for gene in genes]).set_axis(genes)
        for section, theirs in zip(sections, called, strict=True)
    ]
    zeros = not_measured(sums, genes)
    tell_of_not_measured(sections, genes, zeros, "They are left out.")
    return [gene for gene, lacking in zip(genes, zeros.T, strict=True) if not lacking.any()]


def _tell_of_others(model: FixedModel, genes: Sequence[str]) -> None:
    """Say how many of the model's genes are not among those with counts."""
    known = set(genes)
    others = [gene for gene in model.genes if gene not in known]
    if not known:
        msg = (
            f"No gene that {model.card.title} knows has counts in all sections, so nothing can be learned of how far to "
            "believe it. Are they of the same species, and do var_names name genes?"
        )
        raise ValueError(msg)
    if others:
        warn(
            f"{len(others)} of the {len(model.genes)} genes of {model.card.title} have no counts in all sections and are "
            f"left out, since nothing can be learned of them: {', '.join(others[:5])}{', …' if len(others) > 5 else ''}."
        )


def _predicted(model: FixedModel, section: Section, rows: np.ndarray, genes: Sequence[str]) -> np.ndarray:
    """float64 (rows, genes): what the model predicts for some spots of a section, of which it sees all."""
    found = [np.empty((0, len(genes)))]
    for part, prediction in model.predict_parts(section.without_counts(), genes):
        own = rows[(rows >= part.start) & (rows < part.start + len(prediction.mean))] - part.start
        found.append(prediction.mean[own].astype(np.float64))
    return np.concatenate(found)


def _table(
    sections: Sequence[Section], groups: Sequence[str], rows: Sequence[np.ndarray], measured: np.ndarray
) -> Table:
    sizes = [len(own) for own in rows]
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return Table(
        design=np.zeros((len(measured), 0), dtype=np.float32),
        expression=measured,
        log_total=np.zeros(len(measured)),
        section=np.repeat(np.arange(len(sections)), sizes),
        group=np.repeat([numbers[group] for group in groups], sizes),
        row=np.concatenate(rows),
        centres=np.concatenate([section.centres[own] for section, own in zip(sections, rows, strict=True)]),
    )


def _score(measured: np.ndarray, predicted: np.ndarray, section: np.ndarray) -> float:
    """Mean PCC over genes and sections."""
    of_sections = [section == number for number in np.unique(section)]
    return float(np.mean([pearson(measured[own], predicted[own])[0].mean() for own in of_sections]))
