"""Vectors of genes whose products are the correlations of their expression within studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._genes import symbols

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.references import Reference

OVERSAMPLED, PASSES = 10, 5
"""Of the randomised decomposition: directions beside those wanted, and passes over the references."""

MIN_GENES = 2

AT_ONCE = 128
"""Columns of a dense matrix that a sparse one is multiplied with at a time: so few stay in the processor's cache."""


def coexpression(
    references: Sequence[Reference], *, n_dims: int, min_counts: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Vectors of all genes that vary in the references, and what they were made of.

    The correlation matrix of genes is taken as its first `n_dims` axes: a gene's vector is its place on them times the
    square root of their eigenvalues, so that the product of two vectors is their correlation. Each eigenvalue is
    lowered by the mean of those left out, which is what directions of pure noise have. Raises ValueError if there are
    too few spots or cells, or too few genes vary.
    """
    matrix = CorrelationWithinStudies(references, min_counts)
    values, axes, left_out = _first_axes(matrix, n_dims)
    lowered = values - left_out
    kept = lowered > 0
    vectors = axes[:, kept] * np.sqrt(lowered[kept])
    frame = pd.DataFrame(vectors[matrix.known].astype(np.float32), index=matrix.names[matrix.known])
    return frame, {"n_studies": matrix.n_studies, "n_spots": matrix.n_rows}


class CorrelationWithinStudies:
    """The correlation matrix of log1p CP10k within studies, which is only ever multiplied: it need not fit in memory.

    Cross-products of a study's centred rows are summed over the studies that measure both genes, and divided by the
    sizes of both; a pair that is seldom measured together is thereby drawn to 0. Genes are the same where they stand
    for the same approved symbol.

    Attributes
    ----------
    names
        Genes of all references, each as the first that has it calls it.
    known
        Which of them vary.
    n_rows, n_studies
        Spots or cells with enough counts, in studies that have two or more; and the number of these studies.
    """

    def __init__(self, references: Sequence[Reference], min_counts: int) -> None:
        self._references, self._min_counts = references, min_counts
        self.names, self._columns = _union([reference.genes for reference in references])
        self._means: list[np.ndarray] = []
        self.n_rows = self.n_studies = 0
        power, n_measured, total = np.zeros((3, len(self.names)))
        for reference, columns in zip(references, self._columns, strict=True):
            sizes, means, squares = _moments(reference, min_counts)
            if not (sizes > 1).any():
                msg = (
                    f"{reference.name} has fewer than two spots or cells with min_counts={min_counts} counts in any "
                    "study; drop it or lower min_counts."
                )
                raise ValueError(msg)
            self._means.append(means)
            self.n_rows += int(sizes[sizes > 1].sum())
            self.n_studies += int((sizes > 1).sum())
            power[columns] += np.maximum(squares - (sizes[:, None] * means**2).sum(axis=0), 0)
            n_measured[columns] += sizes.sum()
            total[columns] += sizes @ means
        self._power, self._n_measured, self._total = power, n_measured, total
        self.known = power > 1e-9 * power.max(initial=1e-300)
        if self.known.sum() < MIN_GENES:
            msg = f"Only {self.known.sum()} genes vary in the references; at least {MIN_GENES} are needed."
            raise ValueError(msg)
        self._scale = np.where(self.known, 1 / np.sqrt(np.where(self.known, power, 1)), 0)[:, None]

    @property
    def rank(self) -> int:
        """The most directions in which genes can vary."""
        return int(min(self.known.sum(), self.n_rows - self.n_studies))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """(genes,) each: mean log1p CP10k where a gene is measured, and standard deviation within studies."""
        n = np.maximum(self._n_measured, 1)
        return self._total / n, np.sqrt(self._power / n)

    def times(self, vectors: np.ndarray) -> np.ndarray:
        """Product with `vectors` (genes, k), in one pass over the references."""
        scaled = self._scale * vectors
        out = np.zeros_like(scaled)
        for reference, columns, means in zip(self._references, self._columns, self._means, strict=True):
            weights = scaled[columns]
            middle = means @ weights
            for study, values in reference.blocks(self._min_counts):
                out[columns] += values.T @ (values @ weights - middle[study])
        return self._scale * out

    def of(self, genes: np.ndarray) -> np.ndarray:
        """Correlation (all genes, `genes`) of every gene with those in rows `genes`, in one pass over the references."""
        out = np.zeros((len(self.names), len(genes)))
        for reference, columns, means in zip(self._references, self._columns, self._means, strict=True):
            place = np.full(len(self.names), -1)
            place[columns] = np.arange(len(columns))
            there = np.flatnonzero(place[genes] >= 0)
            chosen = place[genes[there]]
            products, middle = np.zeros((len(columns), len(there))), means[:, chosen]
            for study, values in reference.blocks(self._min_counts):
                centred = values[:, chosen].toarray() - middle[study]
                by_gene = values.T.tocsr()
                for first in range(0, len(there), AT_ONCE):
                    few = slice(first, first + AT_ONCE)
                    products[:, few] += by_gene @ np.ascontiguousarray(centred[:, few])
            out[np.ix_(columns, there)] += products
        out *= self._scale
        out *= self._scale[genes].T
        return out


def _first_axes(matrix: CorrelationWithinStudies, n_dims: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Largest eigenvalues, their axes (genes, r), and the mean of the other eigenvalues that are not 0."""
    n_dims = min(n_dims, matrix.rank)
    known = np.flatnonzero(matrix.known)
    if len(known) <= 2 * (n_dims + OVERSAMPLED):  # few genes: exact, in one pass
        basis, passes = np.eye(len(matrix.names))[:, known], 1
    else:
        random = np.random.default_rng(0).standard_normal((len(matrix.names), n_dims + OVERSAMPLED))
        basis, passes = _orthonormal(random * matrix.known[:, None]), PASSES
    for _ in range(passes - 1):
        basis = _orthonormal(matrix.times(basis))
    projected = basis.T @ matrix.times(basis)
    values, rotation = np.linalg.eigh((projected + projected.T) / 2)
    chosen = np.argsort(-values)[:n_dims]
    axes = basis @ rotation[:, chosen]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(chosen))])
    others = matrix.rank - n_dims
    left_out = (len(known) - values[chosen].sum()) / others if others else 0.0  # a correlation matrix has trace n
    return values[chosen], axes, max(float(left_out), 0.0)


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.qr(vectors)[0]


def _moments(reference: Reference, min_counts: int) -> tuple[np.ndarray, Any, np.ndarray]:
    """Rows of every study, mean of every gene in it (studies, genes), and sum of squares of every gene over all."""
    from scipy import sparse

    n_studies = int(reference.study.max(initial=-1)) + 1
    sizes = np.zeros(n_studies)
    sums, squares = np.zeros((n_studies, len(reference.genes))), np.zeros(len(reference.genes))
    for study, values in reference.blocks(min_counts):
        member = sparse.csr_matrix((np.ones(len(study)), (study, np.arange(len(study)))), (n_studies, len(study)))
        sizes += np.bincount(study, minlength=n_studies)
        sums += (member @ values).toarray()
        squares += np.asarray(values.multiply(values).sum(axis=0)).ravel()
    return sizes, sums / np.maximum(sizes, 1)[:, None], squares


def _union(indexes: Sequence[pd.Index]) -> tuple[np.ndarray, list[np.ndarray]]:
    """All genes of the references, and where each reference's are among them."""
    names: list[str] = []
    place: dict[str, int] = {}
    columns = []
    for index in indexes:
        mine = [str(name) for name in index]
        approved = symbols.resolve(mine)
        taken = {name for name in mine if approved.get(name) == name}
        keys = []
        for name in mine:
            symbol = approved.get(name, name)
            key = name if name == symbol or symbol in taken else symbol
            taken.add(key)
            keys.append(key)
            if key not in place:
                place[key] = len(names)
                names.append(name)
        columns.append(np.array([place[key] for key in keys]))
    return np.array(names, dtype=object), columns
