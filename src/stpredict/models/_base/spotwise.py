"""Models that predict every spot from its own features."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from stpredict.models._base.contract import Prediction
from stpredict.models._base.featured import FeatureModel
from stpredict.models._data.chunks import Parts, rows_of
from stpredict.models._data.features import mean_features
from stpredict.models._reference.gene_correlation import GeneStructure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Self

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section
    from stpredict.models._base.files import Stored
    from stpredict.models._base.history import History
    from stpredict.models._data.folds import HeldOut, Predictions
    from stpredict.models._data.rows import RowStore
    from stpredict.models._data.table import Table
    from stpredict.models._trust.trust import Judgement


SPREAD_SPOTS = 256
"""Training spots for which the width of a method's own spread is looked at."""


class SpotwiseModel(FeatureModel):
    """A model that predicts every spot from its row of the design matrix.

    A method says how its arrays predict (`apply`).

    Parameters
    ----------
    features, min_counts
        See `stpredict.models._base.featured.FeatureModel`.

    Attributes
    ----------
    structure
        Gene–gene structure of references without images, to which predictions are drawn; None without. It is set
        before `fit`, and lives in ``arrays`` with the rest of the model.
    """

    structure: GeneStructure | None = None

    @property
    def compares_spots(self) -> bool:  # type: ignore[override]
        """Whether predictions are standardised over the spots that are there: to be drawn to the gene structure."""
        return self.structure is not None

    @abstractmethod
    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Predict for the rows of a design matrix: mean (rows, genes), and its spread where the method has its own."""

    # ------------------------------------------------------------------ training

    def learn_reference(
        self, tables: Sequence[Data | str | Path], genes: Sequence[str], *, min_counts: int, study_key: str | None
    ) -> None:
        """Learn the gene–gene structure of `tables` without images, before `fit`."""
        self.structure = GeneStructure.learn(tables, genes, min_counts=min_counts, study_key=study_key)

    def _table(
        self, sections: Sequence[Section], genes: Sequence[str], groups: Sequence[str], store: RowStore | None = None
    ) -> Table:
        table = super()._table(sections, genes, groups, store)
        if self.structure is not None:
            self.structure = self.structure.placed(sections, list(self.config["features"]))
            self.config["reference"] = self.structure.record
        return table

    def _finish(self, genes: Sequence[str], arrays: dict[str, np.ndarray], history: History) -> History:
        structure = {} if self.structure is None else self.structure.arrays()
        return super()._finish(genes, arrays | structure, history)

    def _learn_trust(
        self, sections: Sequence[Section], table: Table, held: HeldOut, arrays: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Learn from held-out spots, and how wide the method's own spread with these `arrays` is, where it has one."""
        learned = super()._learn_trust(sections, table, held)
        spread = None if arrays is None else self.apply(arrays, self.designer(sections[0])(slice(SPREAD_SPOTS)))[1]
        if spread is not None:
            learned |= self.trust.learn_spread(spread)
        return learned

    def structured(self, predictions: Predictions) -> Predictions:
        """`predictions` for inner held-out spots as `predict` would give them: drawn to the gene structure, if any."""
        structure = self.structure
        if structure is None:
            return predictions
        return lambda table, queries: (structure.apply(mean, 1.0) for mean in predictions(table, queries))

    # ------------------------------------------------------------------ the contract

    def predict_parts(
        self, section: Section, genes: Sequence[str] | None = None, *, size: int | None = None
    ) -> Iterable[tuple[slice, Prediction]]:
        """`predict`, a few spots at a time: slices of rows of `section`, in order, and the prediction for them.

        What is standardised within a section is so within all of it, so parts put together equal the whole.

        Parameters
        ----------
        section, genes
            See `predict`.
        size
            Spots in a part; by default as many as make a prediction of 32 MiB.

        Raises
        ------
        ValueError
            If the section's features are missing or were made differently from those in training; before the first part.
        """
        queries = Parts(self.designer(section), len(section), size or rows_of(len(self.genes)))
        judgement = self._judged(section)
        predicted = self.apply_to(queries)
        means = self.drawn(predicted.map(itemgetter(0)), self.distance(section))
        asked = self.genes if genes is None else list(genes)
        return (
            (rows, self._of_genes(asked, mean, spread, judgement))
            for rows, mean, (_, spread) in zip(queries.rows, means, predicted, strict=True)
        )

    def distance(self, section: Section) -> float:
        """How far `section` is for the gene structure, see `GeneStructure.distance`; 1 without any."""
        if self.structure is None:
            return 1.0
        return self.structure.distance(mean_features(section, list(self.config["features"])))

    def drawn(self, means: Parts[np.ndarray], distance: float) -> Parts[np.ndarray]:
        """Predictions for a section at this `distance`, drawn to the gene structure, if any."""
        return means if self.structure is None else self.structure.apply_to(means, distance)

    def apply_to(self, queries: Parts[np.ndarray]) -> Parts[tuple[np.ndarray, np.ndarray | None]]:
        """`apply` to a section's design, part by part; methods that compare all of its spots override it."""
        return queries.map(partial(self.apply, self.arrays))

    def _of_genes(
        self, genes: list[str], mean: np.ndarray, spread: np.ndarray | None, judgement: Judgement
    ) -> Prediction:
        """Prediction of `genes` out of those for all genes of the model; NaN where it does not know one."""
        unit = self.trust.error_width(judgement, spread is not None)
        std = np.broadcast_to(self.arrays["residual_sd"] if unit is None else unit, mean.shape)
        if spread is not None:
            std = spread if unit is None else spread * unit
        column = {gene: i for i, gene in enumerate(self.genes)}
        taken = np.array([column.get(gene, -1) for gene in genes], dtype=int)
        reached, errors = self.trust.expected(judgement, taken)
        if genes == self.genes:
            return Prediction(mean, np.array(std), genes, judgement=judgement, reached=reached, errors=errors)
        out = np.stack([mean[:, taken], std[:, taken]]) if len(self.genes) else np.zeros((2, len(mean), len(genes)))
        out[..., taken < 0] = np.nan
        return Prediction(out[0], out[1], genes, judgement=judgement, reached=reached, errors=errors)

    # ------------------------------------------------------------------ storage

    @classmethod
    def from_stored(cls, stored: Stored, path: str | Path) -> Self:
        """Rebuild the model from what was read from `path`."""
        model = super().from_stored(stored, path)
        model.structure = GeneStructure.stored_in(stored.arrays, stored.config)
        return model

    @classmethod
    def shapes_of(cls, stored: Stored) -> dict[str, tuple[str | int, ...]]:
        """Arrays of the method, and of the gene structure if it has one."""
        return super().shapes_of(stored) | (GeneStructure.SHAPES if GeneStructure.is_in(stored.arrays) else {})
