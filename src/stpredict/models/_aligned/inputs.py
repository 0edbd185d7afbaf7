"""What networks learn from: the rows of a training table as tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from stpredict.models._data.rows import as_tensor, chunks, take

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from stpredict.models._aligned.options import AlignedOptions
    from stpredict.models._data.rows import DiskRows, Rows
    from stpredict.models._data.table import Table


@dataclass(frozen=True)
class Tensors:
    """What networks see, one row per spot: tensors, or where sections are streamed, rows on disk.

    Attributes
    ----------
    images, genes
        Arguments of the network's ``image`` and ``gene``.
    groups
        What else its ``losses`` take, behind these.
    arrays
        What the model must keep of how these were made.
    """

    images: tuple[torch.Tensor | DiskRows, ...]
    genes: tuple[torch.Tensor | DiskRows, ...]
    groups: tuple[torch.Tensor | DiskRows, ...] = ()
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls, images: Sequence[Rows], genes: Sequence[Rows], groups: Sequence[Rows] = (), **arrays: np.ndarray
    ) -> Tensors:
        """From rows of any kind."""
        return cls(*(tuple(as_tensor(values) for values in part) for part in (images, genes, groups)), arrays)

    @property
    def all(self) -> tuple[torch.Tensor | DiskRows, ...]:
        """Arguments of the network's ``losses``."""
        return (*self.images, *self.genes, *self.groups)

    def take(self, rows: np.ndarray) -> Tensors:
        """Only the spots in `rows`."""
        parts = [tuple(take(values, rows) for values in part) for part in (self.images, self.genes, self.groups)]
        return Tensors(*parts, self.arrays)


@dataclass(frozen=True)
class Inputs:
    """A training table and what networks see of it.

    Attributes
    ----------
    table
        The spots; the mean expression of their sections aligned, where the options want it.
    tensors
        The same as networks see them.
    between
        (genes,), variance of a new section's mean expression.
    arrays
        What the model must keep of how the inputs were made.
    """

    table: Table
    tensors: Tensors
    between: np.ndarray
    arrays: dict[str, np.ndarray]

    def take(self, rows: np.ndarray) -> Inputs:
        """Only the spots in `rows`, a mask or row numbers in order."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows) == len(self):
            return self
        return replace(self, table=self.table.take(rows), tensors=self.tensors.take(rows))

    def sample(self, most: int, seed: int) -> Inputs:
        """Some `most` spots, drawn from every section in proportion; all, where there are no more."""
        return self.take(drawn(self.table.section, most, seed))

    def with_expression(self) -> Inputs:
        """The same, the expression of all spots in memory."""
        return replace(self, table=replace(self.table, expression=np.asarray(self.table.expression[:])))

    def __len__(self) -> int:
        return len(self.table)

    def identity(self, options: AlignedOptions) -> str:
        """Tell a training on these inputs with these options from any other."""
        digest = hashlib.sha256(repr(options).encode())
        for values in self.tensors.all:
            digest.update(repr(tuple(values.shape)).encode())
            for chunk in chunks(values):
                digest.update(np.ascontiguousarray(chunk))
        return digest.hexdigest()


def drawn(section: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Row numbers of `most` spots, in order and of every section in proportion; all, where there are no more.

    Rows of a section lie together, so rows taken at even distances are in proportion; the seed says which of them.
    """
    n = len(section)
    if n <= most:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    within = np.argsort(rng.random(n), kind="stable")
    order = within[np.argsort(section[within], kind="stable")]
    return np.sort(order[((np.arange(most) + rng.random()) * n / most).astype(np.int64)])
