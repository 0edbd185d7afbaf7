"""The table of spots that models learn from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from stpredict.models._data.features import design
from stpredict.models._data.rows import RowStore, take

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stpredict._sections.section import Section
    from stpredict.models._data.rows import Rows

MIN_SPOTS = 10
"""Fewer spots than this cannot be trained on."""


@dataclass(frozen=True)
class Table:
    """Spots to learn from, of one or more sections, in the order of sections.

    Attributes
    ----------
    design
        float32 (n, d), see `stpredict.models._data.features`; where sections are streamed, on disk.
    expression
        float32 (n, genes), log1p of counts per 10,000; likewise.
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
        kept in the `store`, by default in memory.
        """
        return replace(
            self,
            expression=self._level(self.expression, store or RowStore()),
            log_total=self._level(self.log_total, RowStore()),
        )

    def _level(self, values: Rows, store: RowStore) -> Rows:
        out = store.collect()
        means = self.section_means(values)
        for (_, rows), mean in zip(self.of_sections(), means, strict=True):
            out.append(np.asarray(values[rows]) + (means.mean(axis=0) - mean))
        return out.done()

    def section_means(self, values: Rows) -> np.ndarray:
        """Mean of `values` (n, …) over the spots of every section."""
        return np.stack([np.asarray(values[rows]).mean(axis=0) for _, rows in self.of_sections()])

    def between_sections(self) -> np.ndarray:
        """(genes,): variance of a new section's mean expression around the mean over these; 0 where there is but one."""
        means = self.section_means(self.expression)
        n = len(means)
        return means.var(axis=0, ddof=1) * (1 + 1 / n) if n > 1 else np.zeros_like(means[0])

    def take(self, rows: np.ndarray) -> Table:
        """Only `rows`, a mask or row numbers in order; the same table where these are all."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows) == len(self):
            return self
        return Table(**{name: take(values, rows) for name, values in vars(self).items()})


def training_table(
    sections: Sequence[Section],
    groups: Sequence[str],
    *,
    genes: Sequence[str],
    keys: Sequence[str],
    min_counts: int,
    store: RowStore | None = None,
) -> Table:
    """Spots of all `sections` with at least `min_counts` counts; what is large is kept in the `store`.

    Raises
    ------
    ValueError
        If fewer than `MIN_SPOTS` are left, or counts are not raw counts.
    """
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    small, large = RowStore(), store or RowStore()
    out = {f.name: (large if f.name in ("design", "expression") else small).collect() for f in fields(Table)}
    for i, section in enumerate(sections):
        totals = section.totals()
        part = Table(
            design=design(section, keys),
            expression=section.log_expression(genes),
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
