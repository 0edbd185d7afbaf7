"""What is known of genes: their place among the programmes of co-expression, measured, or predicted from text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from stpredict._genes import facts, symbols
from stpredict.models._data.linalg import cross
from stpredict.models._reference.coexpression import MIN_SD, MOMENTS
from stpredict.models._reference.unseen import largest_cosine, like_training

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from stpredict.models._data.table import Table

PENALTIES = tuple(float(10**e) for e in np.arange(-2, 3.1, 0.5))
"""Of the regression on text, as multiples of a gene's mean squared length there."""

MIN_WITH_TEXT = 20
"""Genes with both, at least, to learn what text says of co-expression."""

MEASURED, FROM_TEXT = 0, 1
"""Rows of what is learned: genes that a reference places, and genes that only text does."""

TINY = 1e-12


@dataclass(frozen=True)
class GeneSpace:
    """Genes among the programmes of co-expression.

    Attributes
    ----------
    names
        Seen genes first, in order, then all others that are known.
    coordinates
        float32 (genes, axes).
    variance
        float32 (axes,), variance of the seen genes' correlation along each axis.
    from_text
        float32 (genes,): 1 where coordinates are predicted from text, 0 where they were measured.
    level, sd
        float32 (genes,): expected mean and standard deviation within a section, log1p CP10k.
    nearest
        float32 (genes,): cosine between a gene and the seen gene, not itself, that is most similar to it.
    by_text
        float32 (genes, axes), coordinates of every measured gene predicted from its text, learned from the other genes;
        NaN where there is no prediction.
    """

    names: list[str]
    coordinates: np.ndarray
    variance: np.ndarray
    from_text: np.ndarray
    level: np.ndarray
    sd: np.ndarray
    nearest: np.ndarray
    by_text: np.ndarray

    SHAPES: ClassVar[dict[str, tuple[str, ...]]] = {
        "gene_coordinates": ("v", "a"),
        "gene_variance": ("a",),
        "gene_told": ("v",),
        "gene_level": ("v",),
        "gene_sd": ("v",),
        "gene_nearest": ("v",),
    }

    def only(self, names: Container[str], n_seen: int) -> GeneSpace:
        """The first `n_seen` genes, and of the others those in `names`."""
        rows = [i for i, name in enumerate(self.names) if i < n_seen or name in names]
        per_gene = ("coordinates", "from_text", "level", "sd", "nearest", "by_text")
        return replace(self, names=[self.names[i] for i in rows], **{k: getattr(self, k)[rows] for k in per_gene})

    def trusted(self, distance: float) -> np.ndarray:
        """float32 (genes, axes): coordinates where programmes are read off a section that lies `distance` away.

        What a model says of a programme is taken for a measurement with an error of variance `distance`: beside it, an
        axis with variance v keeps v / (v + error). So far from the training sections only the main programmes count.
        """
        return self.coordinates * (self.variance / (self.variance + max(distance, 1e-6))).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model stores."""
        return {name: getattr(self, field_of(name)) for name in self.SHAPES}


def field_of(name: str) -> str:
    """The field of `GeneSpace` that models store under `name`."""
    return "from_text" if name == "gene_told" else name.removeprefix("gene_")


def gene_space(
    table: Table,
    seen: Sequence[str],
    *,
    reference: pd.DataFrame | None = None,
    text: pd.DataFrame | None = None,
    axes: int,
) -> GeneSpace:
    """Place seen genes, and all others that `reference` or `text` knows.

    Without a reference, axes are those of the seen genes' own correlation within the training sections. Seen genes
    that no reference measures are placed by their correlation there with seen genes that one does. Genes that only text
    knows are placed by ridge regression on text, learned from all genes that have both and vary: a gene that does not says
    nothing of others.

    Parameters
    ----------
    table
        Training spots; its expression has the columns `seen`.
    reference
        Genes (genes, axes and `MOMENTS`) in image-free data.
    text
        Embeddings of genes (genes, d).
    axes
        Axes to keep.
    """
    seen = list(seen)
    own = moments(table, seen)
    placed = own_coordinates(table, seen, axes) if reference is None else reference.iloc[:, :axes]
    variance = np.array((placed if reference is None else reference).attrs["variance"], dtype=np.float32)
    if reference is not None:
        placed = pd.concat([placed, placed_by_training(table, seen, placed)])
        own = pd.concat([own, like_training(reference[MOMENTS], own).drop(index=seen, errors="ignore")])
    squares = np.square(placed.to_numpy()).sum(axis=1)
    placed = placed / np.sqrt(max(squares.sum() / max((squares > TINY).sum(), 1) / axes, TINY))
    measured = placed.join(own, how="inner")
    predicted, left_out = predicted_from_text(text, measured[measured["log_sd"] > np.log(MIN_SD)])
    whole = pd.concat([measured, predicted.drop(index=measured.index, errors="ignore")])
    others = whole.index.difference(seen, sort=False)
    whole = whole.loc[[*seen, *others]]
    coordinates = whole.drop(columns=MOMENTS).to_numpy(np.float32, copy=True)
    return GeneSpace(
        names=list(whole.index),
        coordinates=coordinates,
        variance=variance,
        from_text=(~whole.index.isin(measured.index)).astype(np.float32),
        level=whole["level"].to_numpy(np.float32, copy=True),
        sd=np.exp(whole["log_sd"].to_numpy(np.float32)),
        nearest=largest_cosine(coordinates, coordinates[: len(seen)]),
        by_text=left_out.reindex(whole.index).drop(columns=MOMENTS).to_numpy(np.float32, copy=True),
    )


# ---------------------------------------------------------------------- measured


def within_sections(table: Table) -> np.ndarray:
    """Expression (n, genes) minus the mean of its section."""
    out = np.array(table.expression, dtype=np.float64)
    for _, rows in table.of_sections():
        own = out[rows[0] : rows[-1] + 1]  # a view
        own -= own.mean(axis=0)
    return out


def moments(table: Table, genes: Sequence[str]) -> pd.DataFrame:
    """`MOMENTS` of every gene over the training sections."""
    values = within_sections(table)
    sd = np.sqrt(np.square(values, out=values).mean(axis=0))
    level = table.section_means(table.expression).mean(axis=0, dtype=np.float64)
    return pd.DataFrame({"level": level, "log_sd": np.log(np.maximum(sd, MIN_SD))}, index=list(genes))


def own_correlation(table: Table) -> np.ndarray:
    """Correlation (genes, genes) within sections; 0 for genes that do not vary."""
    values = within_sections(table)
    size = np.sqrt(np.square(values).sum(axis=0))
    values /= np.maximum(size, TINY)
    return cross(values, values)


def placed_by_training(table: Table, genes: Sequence[str], known: pd.DataFrame) -> pd.DataFrame:
    """Coordinates of those `genes` that are not `known`, by their correlation in training with those that are.

    A gene of correlations r with genes at L lies at r L (L'L)⁻¹, the Nyström extension.
    """
    both, missing = pd.Index(genes).intersection(known.index), pd.Index(genes).difference(known.index, sort=False)
    at = pd.Index(genes).get_indexer
    loadings = known.loc[both].to_numpy()
    alike = own_correlation(table)[np.ix_(at(missing), at(both))]
    values = alike @ loadings @ np.linalg.pinv(loadings.T @ loadings, rcond=1e-6, hermitian=True)
    return pd.DataFrame(values, index=missing, columns=known.columns)


def own_coordinates(table: Table, genes: Sequence[str], axes: int) -> pd.DataFrame:
    """Loadings (genes, axes) of the principal axes of correlation within sections."""
    power, vectors = np.linalg.eigh(own_correlation(table))
    kept = np.argsort(-power)[:axes]
    loadings = vectors[:, kept] * np.sqrt(np.maximum(power[kept], 0))
    missing = axes - loadings.shape[1]
    frame = pd.DataFrame(np.pad(loadings, ((0, 0), (0, missing))), index=list(genes))
    frame.attrs["variance"] = [*power[kept].clip(0).tolist(), *[0.0] * missing]
    return frame


# ---------------------------------------------------------------------- predicted from text


def predicted_from_text(text: pd.DataFrame | None, measured: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `text` says of the columns of `measured`: for all genes in `text`, and for each in both when it is left out.

    The penalty, of every column its own, has the least squared error of genes left out. Both are empty where fewer than
    `MIN_WITH_TEXT` genes are in both.
    """
    if text is None or len(both := measured.index.intersection(text.index)) < MIN_WITH_TEXT:
        return measured.iloc[:0], measured.iloc[:0]
    x, y = text.loc[both].to_numpy(np.float64), measured.loc[both].to_numpy(np.float64)
    centre, level = x.mean(axis=0), y.mean(axis=0)
    u, size, axes = np.linalg.svd(x - centre, full_matrices=False)
    along = u.T @ (y - level)
    shrink, left_out = np.zeros((len(size), y.shape[1])), np.zeros_like(y)
    least = np.full(y.shape[1], np.inf)
    for penalty in PENALTIES:
        kept = size**2 / (size**2 + penalty * np.square(size).sum() / len(x))
        leverage = np.einsum("ij,j,ij->i", u, kept, u) + 1 / len(x)
        errors = (y - level - u @ (kept[:, None] * along)) / (1 - np.minimum(leverage, 0.99))[:, None]
        better = np.square(errors).sum(axis=0) < least
        least[better] = np.square(errors).sum(axis=0)[better]
        shrink[:, better], left_out[:, better] = kept[:, None], (y - errors)[:, better]
    weights = axes.T @ (shrink / np.maximum(size, TINY)[:, None] * along)
    predicted = (text.to_numpy(np.float64) - centre) @ weights + level
    return (
        pd.DataFrame(predicted, index=text.index, columns=measured.columns),
        pd.DataFrame(left_out, index=both, columns=measured.columns),
    )


def text_of(names: Sequence[str], table: pd.DataFrame | None) -> pd.DataFrame:
    """All of `table`, by default the shipped one; genes among `names` under these, and each gene once."""
    table = facts.texts() if table is None else table
    theirs = symbols.match(list(dict.fromkeys(names)), table.index)
    taken = {*theirs.values(), *symbols.resolve(theirs.values()).values()}
    official = symbols.resolve(table.index)
    others = [name for name in table.index if name not in taken and official.get(name) not in taken]
    return table.loc[[*theirs.values(), *others]].set_axis([*theirs, *others])
