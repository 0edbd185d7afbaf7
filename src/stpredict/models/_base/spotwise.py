"""What trained models share: from sections to tables, predictions for a section, and storage."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._core.checks import one_of
from stpredict.models._base import files
from stpredict.models._base.contract import ExpressionModel, History, Prediction
from stpredict.models._data.chunks import Parts, rows_of
from stpredict.models._data.features import (
    check_all,
    check_features,
    column_names,
    describe_features,
    designer,
    find_features,
    mean_features,
)
from stpredict.models._data.table import Table, training_table
from stpredict.models._reference.gene_correlation import GeneStructure
from stpredict.models._retrieval.bank import Banked, bank_record, check_bank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Self

    from anndata import AnnData

    from stpredict._sections.section import Section
    from stpredict.models._data.folds import Predictions
    from stpredict.models._data.rows import Shelf


class ArrayModel(ExpressionModel):
    """A model that is named arrays and a JSON configuration, and predicts every spot from its design.

    A method says how it learns arrays from a `Table` and how these predict (`apply`).

    Parameters
    ----------
    features
        ``obsm`` keys to learn from; by default all that `stpredict.pp.encode` left.
    min_counts
        Spots with fewer counts are not learned from.

    Attributes
    ----------
    columns
        Names of the design's columns, known in training.
    structure
        Gene–gene structure of references without images, to which predictions are drawn; None without. It is set
        before `fit`, and lives in ``arrays`` with the rest of the model.
    shapes
        Arrays and their dimensions: ``"g"`` genes, ``"d"`` columns of the design; other letters are free.
    """

    shapes: ClassVar[dict[str, tuple[str | int, ...]]]
    uses_features: ClassVar[bool] = True

    def __init__(self, *, features: str | Sequence[str] | None = None, min_counts: int = 50) -> None:
        self.genes: list[str] = []
        self.config: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.columns: list[str] = []
        self.structure: GeneStructure | None = None
        self._features = features
        self._min_counts = min_counts

    @abstractmethod
    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Mean of every gene for the rows of a design matrix, and their own spread where the method has one."""

    # ------------------------------------------------------------------ training

    def learn_reference(
        self, tables: Sequence[AnnData], genes: Sequence[str], *, min_counts: int, study_key: str | None
    ) -> None:
        """Learn from image-free `tables`, before `fit`: here, the structure to which predictions are drawn."""
        self.structure = GeneStructure.learn(tables, genes, min_counts=min_counts, study_key=study_key)

    def _table(
        self, sections: Sequence[Section], genes: Sequence[str], groups: Sequence[str], shelf: Shelf | None = None
    ) -> Table:
        """Spots to learn from, kept on the `shelf`, and the configuration that any model of them has.

        Raises
        ------
        ValueError
            If features or counts are missing or unusable, or too few spots are left.
        """
        keys = find_features(sections, self._features) if self.uses_features else []
        described = describe_features(sections[0], keys)
        check_all(sections, described)
        table = training_table(sections, groups, genes=genes, keys=keys, min_counts=self._min_counts, shelf=shelf)
        self.columns = column_names(sections[0], keys)
        self.config = {
            "features": described,
            "n_design": table.design.shape[1],
            "min_counts": self._min_counts,
            "n_spots": len(table),
            "sections": [section.name for section in sections],
            "groups": list(groups),
        }
        if isinstance(self, Banked):
            self.config["bank"] = bank_record(table.take(self.reference(table)), sections)
        if self.structure is not None:
            self.structure = self.structure.placed(sections, keys)
            self.config["reference"] = self.structure.record
        return table

    def _finish(self, genes: Sequence[str], arrays: dict[str, np.ndarray], history: History) -> History:
        """Take what was learned."""
        self.genes, self.arrays = list(genes), arrays
        if self.structure is not None:
            self.arrays = arrays | self.structure.arrays()
        self.config["history"] = {"values": history.values, "notes": history.notes}
        return history

    def structured(self, predictions: Predictions) -> Predictions:
        """`predictions` for inner held-out spots as `predict` would give them: drawn to the gene structure, if any."""
        structure = self.structure
        if structure is None:
            return predictions
        return lambda table, queries: (structure.apply(mean, 1.0) for mean in predictions(table, queries))

    # ------------------------------------------------------------------ the contract

    @property
    def history(self) -> History:
        """What happened in training."""
        return History(**self.config["history"])

    def predict(self, section: Section, genes: Sequence[str] | None = None) -> Prediction:
        """Expression of `genes` (default: all that the model knows) for every spot of `section`.

        Raises
        ------
        ValueError
            If the section's features are missing or were made differently from those in training.
        """
        asked = self.genes if genes is None else list(genes)
        return Prediction.of_parts(self.predict_parts(section, asked), len(section), asked)

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
        predicted = self.apply_to(queries)
        if self.structure is not None:
            distance = self.structure.distance(mean_features(section, list(self.config["features"])))
            means = self.structure.apply_to(predicted.map(itemgetter(0)), distance)
        else:
            means = predicted.map(itemgetter(0))
        asked = self.genes if genes is None else list(genes)
        return (
            (rows, self._of_genes(asked, mean, spread))
            for rows, mean, (_, spread) in zip(queries.rows, means, predicted, strict=True)
        )

    def apply_to(self, queries: Parts) -> Parts[tuple[np.ndarray, np.ndarray | None]]:
        """`apply` to a section's design, part by part; methods that compare all of its spots override it."""
        return queries.map(partial(self.apply, self.arrays))

    def _of_genes(self, genes: list[str], mean: np.ndarray, spread: np.ndarray | None) -> Prediction:
        """Prediction of `genes` out of those for all genes of the model; NaN where it does not know one."""
        std = np.broadcast_to(self.arrays["residual_sd"], mean.shape) if spread is None else spread
        if genes == self.genes:
            return Prediction(mean, np.array(std), genes)
        column = {gene: i for i, gene in enumerate(self.genes)}
        known = [i for i, gene in enumerate(genes) if gene in column]
        taken = [column[genes[i]] for i in known]
        out = np.full((2, len(mean), len(genes)), np.nan, dtype=np.float32)
        out[0][:, known], out[1][:, known] = mean[:, taken], std[:, taken]
        return Prediction(out[0], out[1], genes)

    def design(self, section: Section) -> np.ndarray:
        """float32 (n_spots, d): the section's design matrix, its features checked against those in training."""
        return self.designer(section)(slice(None))

    def designer(self, section: Section) -> Callable[[slice], np.ndarray]:
        """What gives any rows of `design`."""
        expected = self.config["features"]
        check_features(section, expected)
        return designer(section, list(expected))

    def embed(self, section: Section, *, use: str = "image") -> np.ndarray:
        """float32 (n_spots, d): images in the method's space; the design matrix, where it has none of its own.

        Raises
        ------
        ValueError
            If `use` is not ``"image"``, or the section's features were made differently from those in training.
        """
        one_of(use, ("image",), f"use, for a model of method {self.method!r},")
        return self._images(section)

    def _images(self, section: Section) -> np.ndarray:
        """What `embed` returns for images."""
        return self.design(section)

    # ------------------------------------------------------------------ storage

    @classmethod
    def shapes_of(cls, stored: files.Stored) -> dict[str, tuple[str | int, ...]]:
        """Arrays of a stored model and their dimensions; methods whose arrays depend on options override it."""
        return cls.shapes

    def save(self, path: str | Path) -> None:
        """Write the model as a folder of ``model.safetensors`` and ``model.json``.

        Parameters
        ----------
        path
            Folder to make; a model that is already there is replaced.

        Raises
        ------
        FileExistsError
            If `path` holds something else than a model.
        ValueError
            If the model was not trained.
        """
        if not self.arrays:
            msg = "This model was not trained, so there is nothing to save; stpredict.tl.train makes one."
            raise ValueError(msg)
        files.write(path, files.Stored(self.method, self.genes, self.config, self.arrays))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model that `save` wrote; `stpredict.models.load` finds the method by itself.

        Raises
        ------
        FileNotFoundError
            If there is no model at `path`.
        ValueError
            If it is damaged or of another method.
        """
        return cls.from_stored(files.read(path), path)

    @classmethod
    def from_stored(cls, stored: files.Stored, path: str | Path) -> Self:
        """Rebuild the model from what was read from `path`."""
        if stored.method != cls.method:
            msg = f"The model at {path} is a {stored.method!r}, not a {cls.method!r}; use stpredict.models.load."
            raise ValueError(msg)
        structure = GeneStructure.stored_in(stored.arrays, stored.config)
        own = {"residual_sd": ("g",)} | (GeneStructure.SHAPES if structure else {})
        files.check_shapes(stored, cls.shapes_of(stored) | own, path)
        if issubclass(cls, Banked):
            check_bank(stored, path)
        model = cls()
        model.genes, model.config, model.arrays = stored.genes, stored.config, stored.arrays
        model.structure = structure
        return model
