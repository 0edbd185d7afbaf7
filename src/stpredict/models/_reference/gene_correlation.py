"""Gene–gene structure of sections and cells without images, and how predictions are drawn towards it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._core.warning import warn
from stpredict._sections.open import Where
from stpredict._sections.references import open_references
from stpredict._sections.spread import moments
from stpredict.models._data.chunks import Parts, rows_of
from stpredict.models._data.linalg import cross
from stpredict.models._reference.distance import distance_to, section_means_and_scale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from stpredict._core.typing import Data
    from stpredict._sections.references import Reference
    from stpredict._sections.section import Section
    from stpredict.models._data.table import Table

N_AXES = 50
"""Axes of gene space that are kept; on real sections more changed nothing."""

MIN_GENES = 2
"""Fewer shared genes have no structure to speak of."""

LEAST_POWER = 1e-9
"""A gene varies if the sum of its squares is more than this share of the largest."""


@dataclass(frozen=True)
class GeneStructure:
    """How genes vary together, learned without images, and how far a new section is from those a model was trained on.

    The correlation matrix of genes is kept as its first axes and one variance for all other directions. `apply` takes
    a method's predictions, standardised per gene, for what they are: noisy observations of an expression that has this
    correlation. What comes back is the expectation of that expression given all genes together, so along an axis of
    variance v the prediction is weighted by v / (v + e), where e is the variance of the prediction's error. The error
    is taken to grow with the squared distance of a section: e is `distance`, which is 1 where a section lies as far
    from the training sections as these do from each other. Nothing is tuned.

    Attributes
    ----------
    axes
        float32 (genes, r), orthonormal; rows of genes that no reference measures are 0.
    variances, rest
        (r,) and (1,): variance along the axes, and along all directions beside them.
    places, scale
        (s, f) and (f,): mean of every image feature in every training section, and its standard deviation within
        sections. Empty before `placed`.
    record
        What it was learned from, ready for JSON.
    """

    axes: np.ndarray
    variances: np.ndarray
    rest: np.ndarray
    places: np.ndarray
    scale: np.ndarray
    record: dict[str, Any]

    PREFIX: ClassVar[str] = "reference_"
    SHAPES: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "reference_axes": ("g", "axes"),
        "reference_variances": ("axes",),
        "reference_rest": (1,),
        "reference_places": ("places", "raw"),
        "reference_scale": ("raw",),
    }

    # ------------------------------------------------------------------ learning

    @classmethod
    def learn(
        cls,
        references: Sequence[Data | str | Path],
        genes: Sequence[str],
        *,
        min_counts: int = 50,
        study_key: str | None = None,
    ) -> GeneStructure:
        """Learn from counts alone, in one pass over their rows.

        Covariances of log1p counts per 10,000 are taken within every study and summed, so that differences between
        studies do not count, and every spot or cell counts the same. A gene that some references lack takes part
        through the others.

        Parameters
        ----------
        references
            Objects with raw counts, or stores of such, which are read block by block; images, coordinates and features
            are neither needed nor looked at.
        genes
            Genes of the model.
        min_counts
            Spots or cells with fewer counts are left out.
        study_key
            Column of ``obs`` that splits an object into studies, in those that have it; else each is one study.

        Raises
        ------
        ValueError
            If there is no reference, or one lacks raw counts, shares no genes with the model or has fewer than two
            usable rows.

        Warns
        -----
        UserWarning
            If some genes vary in no reference.
        """
        genes = list(genes)
        opened = open_references(references, Where(study_key))
        if not opened:
            msg = "reference is empty; pass objects with raw counts, or leave it out."
            raise ValueError(msg)
        columns = [_columns(reference, genes) for reference in opened]
        products, n_rows, n_studies = np.zeros((len(genes), len(genes))), 0, 0
        for reference, present in zip(opened, columns, strict=True):
            product, sizes = _cross_products(reference, present, min_counts)
            if not len(sizes):
                msg = (
                    f"{reference.name} has fewer than two spots or cells with min_counts={min_counts} counts in any "
                    "study; drop it or lower min_counts."
                )
                raise ValueError(msg)
            there = np.flatnonzero(present >= 0)
            products[np.ix_(there, there)] += product
            n_rows, n_studies = n_rows + int(sizes.sum()), n_studies + len(sizes)
        structure = cls._of(products, {"n_studies": n_studies, "n_spots": n_rows})
        if n_unknown := len(genes) - structure.record["n_genes"]:
            msg = (
                f"{n_unknown} of the model's {len(genes)} genes are not measured, or constant, in all "
                "references; their predictions do not profit from reference."
            )
            warn(msg)
        return structure

    @classmethod
    def of_table(cls, table: Table) -> GeneStructure | None:
        """Structure of the training spots themselves; None where fewer than `MIN_GENES` genes vary."""
        products = np.zeros((table.expression.shape[1],) * 2)
        for _, rows in table.of_sections():
            values = np.nan_to_num(np.asarray(table.expression[rows]))
            centred = values - values.mean(axis=0)
            products += cross(centred, centred)
        if np.count_nonzero(_varies(products)) < MIN_GENES:
            return None
        return cls._of(products, {"n_studies": len(np.unique(table.section)), "n_spots": len(table)})

    @classmethod
    def _of(cls, products: np.ndarray, record: dict[str, Any]) -> GeneStructure:
        """Structure of summed cross-products (genes, genes)."""
        known = _varies(products)
        n_known = int(known.sum())
        if n_known < MIN_GENES:
            msg = f"Only {n_known} of the model's genes vary in the references; at least {MIN_GENES} are needed."
            raise ValueError(msg)
        size = np.sqrt(np.diag(products)[known])
        values, vectors = np.linalg.eigh(products[np.ix_(known, known)] / size[:, None] / size)
        order = np.argsort(-values)[:N_AXES]
        axes = np.zeros((len(known), len(order)), dtype=np.float32)
        axes[known] = vectors[:, order]
        others = np.delete(values, order)
        return cls(
            axes=axes,
            variances=np.maximum(values[order], 0).astype(np.float32),
            rest=np.array([max(others.mean(), 0) if len(others) else 0], dtype=np.float32),
            places=np.zeros((0, 0), dtype=np.float32),
            scale=np.zeros(0, dtype=np.float32),
            record=record | {"n_genes": n_known},
        )

    def placed(self, sections: Sequence[Section], keys: Sequence[str]) -> GeneStructure:
        """The same, knowing where training `sections` lie in the space of their features under `keys`.

        Where there is one section only, strips of it stand for several.
        """
        places, scale = section_means_and_scale(sections, keys)
        return replace(self, places=places, scale=scale)

    # ------------------------------------------------------------------ use

    def distance(self, features: np.ndarray) -> float:
        """Squared distance of a section to the training sections, over that of these to each other.

        The section's `features`, or their mean as one row. See `stpredict.models._reference.distance.distance_to`.
        """
        return distance_to(self.places, self.scale, features)

    def apply(self, mean: np.ndarray, distance: float) -> np.ndarray:
        """Predictions (spots, genes) of one section, drawn towards the structure; float32.

        Every gene keeps its mean and standard deviation over the section: the structure moves patterns, not levels.
        Genes that it does not know, or that are predicted constant, stay as they are.
        """
        parts = Parts(lambda rows: mean[rows], len(mean), rows_of(mean.shape[1]))
        return np.concatenate(list(self.apply_to(parts, distance)))

    def apply_to(self, means: Parts[np.ndarray], distance: float) -> Parts[np.ndarray]:
        """`apply` to predictions of one section that come in parts, which are gone through twice beforehand."""
        level, size = moments(means)
        level = level.astype(np.float32)
        moving = np.flatnonzero((size > 1e-6 * np.abs(level) + 1e-9) & self.axes.any(axis=1))
        level, size, axes = level[moving], size[moving].astype(np.float32), self.axes[moving]
        beside = float(self.rest[0] / (self.rest[0] + distance))
        weights = self.variances / (self.variances + distance) - beside

        def expected(mean: np.ndarray) -> np.ndarray:
            standard = (mean[:, moving] - level) / size
            return beside * standard + (standard @ axes * weights) @ axes.T

        spread = moments(means.map(expected))[1]
        contrast = (size / np.where(spread > 0, spread, np.inf)).astype(np.float32)

        def drawn(mean: np.ndarray) -> np.ndarray:
            out = np.array(mean, dtype=np.float32)
            out[:, moving] = expected(mean) * contrast + level
            return out

        return means.map(drawn)

    # ------------------------------------------------------------------ storage

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model stores, by name."""
        return {name: getattr(self, name.removeprefix(self.PREFIX)) for name in self.SHAPES}

    @staticmethod
    def is_in(arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether a model's `arrays` have a structure among them."""
        return "reference_axes" in arrays

    @classmethod
    def stored_in(cls, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> GeneStructure | None:
        """The structure among a model's `arrays`, if it has one."""
        if not cls.is_in(arrays):
            return None
        kept = {name.removeprefix(cls.PREFIX): arrays.get(name, np.zeros(0)) for name in cls.SHAPES}
        return cls(**kept, record=dict(config.get("reference", {})))


def _varies(products: np.ndarray) -> np.ndarray:
    """Bool (genes,): which genes vary, of cross-products (genes, genes)."""
    power: np.ndarray = np.diag(products)
    return power > LEAST_POWER * power.max()


def _columns(reference: Reference, genes: Sequence[str]) -> np.ndarray:
    """Number of every gene among those of a reference, -1 where it lacks one; a reference without any is refused."""
    columns: np.ndarray = reference.genes.get_indexer(list(genes))
    if not (columns >= 0).any():
        first = ", ".join(map(str, reference.genes[:3]))
        msg = (
            f"{reference.name} measures none of the model's {len(genes)} genes (it has {first}, …); "
            "are its var_names the same kind of names, and the same species?"
        )
        raise ValueError(msg)
    return columns


def _cross_products(reference: Reference, columns: np.ndarray, min_counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross-products (genes, genes) of log1p CP10k in those `columns` that are there, centred within every study and summed.

    Beside them, the numbers of rows with enough counts in all studies that have two of them or more.
    """
    present = columns[columns >= 0]
    products = np.zeros((len(present),) * 2)
    totals: dict[int, Any] = defaultdict(float)
    sizes: dict[int, int] = defaultdict(int)
    for study, block in reference.blocks(min_counts, present):
        values = block.toarray()
        products += cross(values, values)
        for number, n in zip(*np.unique(study, return_counts=True), strict=True):
            totals[number] += (values if n == len(values) else values[study == number]).sum(axis=0)
            sizes[number] += n
    for number, n in sizes.items():
        products -= np.outer(totals[number], totals[number]) / n
    return products, np.array([n for n in sizes.values() if n > 1])
