"""Which genes a section did not measure although it lists them: zeros that a join filled in.

``anndata.concat(join="outer")`` writes zeros for genes that a section lacks. A gene that is zero in every spot of a
section is taken for not measured there where the other sections let expect at least `MANY` counts, or at least `SOME` and
`SHARE` of the genes of which that is expected (and `FEWEST`) are zero: joins fill in many genes at once. What patients do not
express stays measured: among 13 real sections of breast cancer at most 0.5 % of genes with 10 expected counts are silent,
with 215 expected counts at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict._core.warning import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section

MANY, SOME = 500, 10
"""Counts that a section would have of a gene, as the others have it."""

FEWEST, SHARE = 3, 0.02
"""Genes that are zero at once, and their share of those that all sections list."""


def gene_sums(section: Section) -> pd.Series:
    """Counts of every gene over all spots of the section."""
    return pd.Series(np.asarray(section.counts().sum(axis=0), dtype=np.float64).ravel(), index=section.genes)


def not_measured(sums: Sequence[pd.Series], genes: Sequence[str]) -> np.ndarray:
    """Bool (sections, genes): zeros where others let expect more, out of the `gene_sums` of every section.

    All sections list the `genes`. What is expected is what the others have, scaled by the counts of genes that the
    section has too.
    """
    table = pd.concat(list(sums), axis=1, join="inner")
    values, chosen = table.to_numpy().T, table.index.get_indexer(list(genes))
    found = np.zeros((len(values), len(chosen)), dtype=bool)
    for number, own in enumerate(values):
        others, has = values.sum(axis=0) - own, own > 0
        shared = others[has].sum()
        if shared > 0:
            expected = others * (own.sum() / shared)
            silent, some = ~has & (expected >= SOME), expected >= SOME
            at_once = silent.sum() >= max(FEWEST, SHARE * some.sum())
            least = SOME if at_once else MANY
            found[number] = (~has & (expected >= least))[chosen]
    return found


def tell_of_not_measured(
    sections: Sequence[Section], genes: Sequence[str], found: np.ndarray, consequence: str
) -> None:
    """Warn of the genes that some sections did not measure, in one line that ends with the `consequence`."""
    if found.any():
        names = [gene for gene, lacking in zip(genes, found.T, strict=True) if lacking.any()]
        where = [section.name for section, lacking in zip(sections, found, strict=True) if lacking.any()]
        msg = (
            f"{len(names)} gene(s) ({_few(names)}) are zero in every spot of {_few(where)}, where the other sections let "
            f"expect them: not measured there, as after anndata.concat(join='outer'). {consequence}"
        )
        warn(msg)


def measured_everywhere(sections: Sequence[Section], genes: Sequence[str]) -> list[str]:
    """Those of `genes` that every section measured.

    Warns
    -----
    StpredictWarning
        If some did not measure all of them.
    """
    found = not_measured([gene_sums(section) for section in sections], genes)
    tell_of_not_measured(sections, genes, found, "They are left out.")
    return [gene for gene, lacking in zip(genes, found.T, strict=True) if not lacking.any()]


def _few(names: Sequence[str], most: int = 5) -> str:
    return f"{', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}"
