"""The table of spots that models learn from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from stpredict.models._data.features import design
from stpredict.models._data.linalg import cross
from stpredict.models._data.rows import RowStore, take

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stpredict._sections.section import Section
    from stpredict.models._data.rows import Rows

MIN_SPOTS = 10
"""Fewer spots than this cannot be trained on."""

FILLING_PENALTY = 0.01
"""Squared penalty of the regression that fills in what was not measured, as a share of the design's variance."""


@dataclass(frozen=True)
class Table:
    """Spots to learn from, of one or more sections, in the order of sections.

    Attributes
    ----------
    design
        float32 (n, d), see `stpredict.models._data.features`; where sections are streamed, on disk.
    expression
        float32 (n, genes), log1p of counts per 10,000; likewise. NaN for genes that a spot's section did not measure.
    log_total
        (n,), log1p of each spot's total count.
    section, group
        (n,), number of the section, and of the patient or other unit that must not be split.
    row
        (n,), number of the spot within its section.
    centres
        (n, 2), spot centres.
    """

    design: Rows
    expression: Rows
    log_total: np.ndarray
    section: np.ndarray
    group: np.ndarray
    row: np.ndarray
    centres: np.ndarray

    def __len__(self) -> int:
        return len(self.design)

    def of_sections(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number of every section, and its rows here."""
        numbers, starts = np.unique(self.section, return_index=True)
        yield from zip(numbers.tolist(), np.split(np.arange(len(self)), starts[1:]), strict=True)

    def aligned(self, store: RowStore | None = None) -> Table:
        """The same, with every section's mean expression and mean log total moved to the mean over sections.

        The design says nothing of differences between sections, so a model can only learn them as noise. Expression is
        kept in the `store`, by default in memory. What was not measured is `filled` in.
        """
        aligned = replace(
            self,
            expression=self._level(self.expression, store or RowStore()),
            log_total=self._level(self.log_total, RowStore()),
        )
        return aligned.filled(store)

    def filled(self, store: RowStore | None = None) -> Table:
        """The same, expression that was not measured replaced by what the sections that measured it say of such spots.

        That is a ridge regression on the design, so that a gene is learned from those sections alone, and the others
        neither pull its level nor flatten its pattern. A gene that no section measured is 0.
        """
        unknown = np.isnan(np.stack([np.asarray(self.expression[rows[:1]])[0] for _, rows in self.of_sections()]))
        if not unknown.any():
            return self
        means = self.section_means(self.expression)
        level = mean_over_sections(means)
        weights = self._ridge(means)
        out = (store or RowStore()).collect()
        for (_, rows), lacking in zip(self.of_sections(), unknown, strict=True):
            values, design = np.asarray(self.expression[rows]), np.asarray(self.design[rows])  # (copies)
            patterns = (design - design.mean(axis=0)) @ weights[:, lacking]
            values[:, lacking] = np.nan_to_num(level[lacking]) + patterns
            out.append(values)
        return replace(self, expression=out.done())

    def _ridge(self, means: np.ndarray) -> np.ndarray:
        """float32 (d, genes): weights of the design within the sections that measured a gene."""
        d, lacking = self.design.shape[1], np.isnan(means)
        weights = np.zeros((d, means.shape[1]), dtype=np.float32)
        kinds, kind = np.unique(lacking, axis=1, return_inverse=True)
        squares = [np.zeros((d, d)) for _ in kinds.T]
        products = np.zeros(weights.shape)
        for number, (_, rows) in enumerate(self.of_sections()):
            design = np.asarray(self.design[rows])
            centred = design - design.mean(axis=0)
            own = cross(centred, centred)
            for total, without in zip(squares, kinds.T, strict=True):
                if not without[number]:
                    total += own
            products += cross(centred, np.nan_to_num(np.asarray(self.expression[rows]) - means[number]))
        for number, total in enumerate(squares):
            if (power := np.trace(total)) > 0:
                genes = np.ravel(kind) == number
                weights[:, genes] = np.linalg.solve(total + FILLING_PENALTY * power * np.eye(d), products[:, genes])
        return weights

    def _level(self, values: Rows, store: RowStore) -> Rows:
        out = store.collect()
        means = self.section_means(values)
        for (_, rows), mean in zip(self.of_sections(), means, strict=True):
            out.append(np.asarray(values[rows]) + (mean_over_sections(means) - mean))
        return out.done()

    def section_means(self, values: Rows) -> np.ndarray:
        """Mean of `values` (n, …) over the spots of every section."""
        return np.stack([np.asarray(values[rows]).mean(axis=0) for _, rows in self.of_sections()])

    def between_sections(self) -> np.ndarray:
        """(genes,): variance of a new section's mean expression around the mean over these; 0 where there is but one."""
        means = self.section_means(self.expression)
        n = (~np.isnan(means)).sum(axis=0)
        squares = np.nansum(np.square(means - mean_over_sections(means)), axis=0)
        return np.divide(squares * (n + 1), n * (n - 1), out=np.zeros_like(squares), where=n > 1)

    def take(self, rows: np.ndarray) -> Table:
        """Only `rows`, a mask or row numbers in order; the same table where these are all."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows) == len(self):
            return self
        return Table(**{name: take(values, rows) for name, values in vars(self).items()})


def mean_over_sections(means: np.ndarray) -> np.ndarray:
    """(…): mean of the `means` (sections, …) of sections, over those that measured a gene; NaN where none did."""
    n = (~np.isnan(means)).sum(axis=0)
    mean: np.ndarray = np.nansum(means, axis=0) / np.where(n, n, np.nan)
    return mean.astype(means.dtype)


def training_table(
    sections: Sequence[Section],
    groups: Sequence[str],
    *,
    genes: Sequence[str],
    keys: Sequence[str],
    min_counts: int,
    not_measured: np.ndarray | None = None,
    store: RowStore | None = None,
) -> Table:
    """Spots of all `sections` with at least `min_counts` counts; what is large is kept in the `store`.

    Expression is NaN for genes that are `not_measured` (sections, genes). Raises ValueError if fewer than `MIN_SPOTS`
    are left, or counts are not raw counts.
    """
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    small, large = RowStore(), store or RowStore()
    out = {f.name: (large if f.name in ("design", "expression") else small).collect() for f in fields(Table)}
    for i, section in enumerate(sections):
        totals = section.totals()
        expression = section.log_expression(genes)
        if not_measured is not None:
            expression[:, not_measured[i]] = np.nan
        part = Table(
            design=design(section, keys),
            expression=expression,
            log_total=np.log1p(totals),
            section=np.full(len(section), i),
            group=np.full(len(section), numbers[groups[i]]),
            row=np.arange(len(section)),
            centres=section.centres,
        )
        for name, values in vars(part.take(totals >= max(min_counts, 1))).items():
            out[name].append(values)
    table = Table(**{name: collected.done() for name, collected in out.items()})
    if len(table) < MIN_SPOTS:
        msg = (
            f"Only {len(table)} spots have min_counts={min_counts} counts or more; at least {MIN_SPOTS} are needed. "
            "Lower min_counts or add sections."
        )
        raise ValueError(msg)
    return table
