"""What networks learn from: the rows of a training table as tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np

    from stpredict.models._aligned._options import AlignedOptions
    from stpredict.models._inner_cv import Table


@dataclass(frozen=True)
class Tensors:
    """What networks see, one row per spot.

    Attributes
    ----------
    images, genes
        Arguments of the network's ``image`` and ``gene``.
    groups
        What else its ``losses`` take, behind these.
    arrays
        What the model must keep of how these were made.
    """

    images: tuple[torch.Tensor, ...]
    genes: tuple[torch.Tensor, ...]
    groups: tuple[torch.Tensor, ...] = ()
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def all(self) -> tuple[torch.Tensor, ...]:
        """Arguments of the network's ``losses``."""
        return (*self.images, *self.genes, *self.groups)

    def take(self, rows: torch.Tensor) -> Tensors:
        """Only the spots in the mask `rows`."""
        parts = [tuple(tensor[rows] for tensor in part) for part in (self.images, self.genes, self.groups)]
        return Tensors(*parts, self.arrays)


@dataclass(frozen=True)
class Inputs:
    """A training table and what networks see of it.

    Attributes
    ----------
    table
        The spots; their sections levelled, where the options want it.
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
        """Only the spots in the mask `rows`."""
        return Inputs(self.table.take(rows), self.tensors.take(torch.from_numpy(rows)), self.between, self.arrays)

    def __len__(self) -> int:
        return len(self.table)

    def identity(self, options: AlignedOptions) -> str:
        """Tell a training on these inputs with these options from any other."""
        digest = hashlib.sha256(repr(options).encode())
        for tensor in self.tensors.all:
            digest.update(repr(tensor.shape).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()
