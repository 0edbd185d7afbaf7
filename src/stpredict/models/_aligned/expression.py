"""Expression as networks see it: section means aligned, genes scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.warning import warn
from stpredict.models._data.rows import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stpredict._sections.section import Section
    from stpredict.models._aligned.options import AlignedOptions
    from stpredict.models._data.rows import Rows

FEW = 0.5
"""Share of a model's genes below which a section's expression hardly tells what it told in training."""


@dataclass(frozen=True)
class GeneScale:
    """How expression is scaled, gene by gene.

    Attributes
    ----------
    level
        float32 (genes,), mean over the training spots.
    sd
        float32 (genes,), standard deviation over them; 1 for genes that do not vary.
    options
        Whether genes are standardised at all.
    """

    level: np.ndarray
    sd: np.ndarray
    options: AlignedOptions

    @classmethod
    def of(cls, expression: Rows, options: AlignedOptions) -> GeneScale:
        """Learn from training spots, whose section means are aligned already where the options want it."""
        return cls(*mean_and_sd(expression), options)

    def scaled(self, expression: np.ndarray) -> np.ndarray:
        """float32 (n, genes): expression at the scale of networks."""
        return ((expression - self.level) / self.sd if self.options.standardise_genes else expression).astype(
            np.float32
        )

    def unscaled(self, values: np.ndarray) -> np.ndarray:
        """float32 (n, genes): what networks decode, at the scale of expression."""
        return (values * self.sd + self.level if self.options.standardise_genes else values).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model stores of it."""
        return {"gene_level": self.level.astype(np.float32), "gene_sd": self.sd.astype(np.float32)}


def measured_expression(section: Section, genes: Sequence[str], level: np.ndarray) -> np.ndarray:
    """float32 (n spots, genes): log expression; genes that the section does not measure are at `level`.

    Raises
    ------
    ValueError
        If it measures none of them, or has no raw counts.

    Warns
    -----
    UserWarning
        If it measures fewer than half of them.
    """
    there = set(section.genes)
    known = [i for i, gene in enumerate(genes) if gene in there]
    if not known:
        msg = (
            f"Section {section.name!r} measures none of the model's {len(genes)} genes, so it has no expression to embed; "
            "use='image' needs none."
        )
        raise ValueError(msg)
    if len(known) < FEW * len(genes):
        msg = (
            f"Section {section.name!r} measures {len(known)} of the model's {len(genes)} genes; the others count as "
            "average, so its expression is embedded from few."
        )
        warn(msg)
    out = np.repeat(level[None].astype(np.float32), len(section), axis=0)
    out[:, known] = section.log_expression([genes[i] for i in known])
    return out


def usable_spots(section: Section, min_counts: int) -> np.ndarray:
    """Bool (n spots,): which have counts enough to be taken for measured."""
    totals = section.totals()
    return totals >= max(min_counts, 1)


def moved_to(level: np.ndarray, expression: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """`expression` (n spots, genes) of one section, shifted so that the mean over its usable spots is `level` (genes,)."""
    return expression + (level - expression[usable].mean(axis=0)) if usable.any() else expression


def mean_and_sd(values: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(columns,) each, to the bit as numpy has them of a whole matrix; the deviation is 1 where a column does not vary."""
    mean = _total(chunks(values)) / len(values)
    sd = np.sqrt(_total(np.square(chunk - mean) for chunk in chunks(values)) / len(values))
    return mean, np.where(sd > 1e-6, sd, 1)


def _total(parts: Iterable[np.ndarray]) -> np.ndarray:
    total: Any = None
    for part in parts:
        total = part.sum(axis=0) if total is None else np.concatenate([total[None], part]).sum(axis=0)
    return total


def has_expression(section: Section, genes: Sequence[str], key: str | None = None) -> bool:
    """Whether a section has counts of any of `genes` (or, given a `key`, cell embeddings in ``obsm``)."""
    if key is not None and key not in section.adata.obsm:
        return False
    if section.adata.n_vars == 0 or not set(genes) & set(section.genes):
        return False
    return section.adata.X is not None or keys.COUNTS in section.adata.layers
