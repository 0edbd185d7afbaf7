"""Models that learn from a table of spots with image features and counts."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from stpredict._core.checks import one_of
from stpredict.models._base.stored import StoredModel
from stpredict.models._data.features import (
    check_all,
    check_features,
    column_names,
    describe_features,
    designer,
    find_features,
)
from stpredict.models._data.table import Table, training_table
from stpredict.models._trust.sight import tiles_record
from stpredict.models._trust.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    import numpy as np

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section
    from stpredict.models._base.files import Stored
    from stpredict.models._base.history import History
    from stpredict.models._data.folds import HeldOut
    from stpredict.models._data.rows import RowStore


class FeatureModel(StoredModel):
    """A model that learns from spots of one or more sections, and sees a section as a matrix of its features.

    Parameters
    ----------
    features
        ``obsm`` keys to learn from; by default all that `stpredict.pp.encode` left.
    min_counts
        Spots with fewer counts are not learned from.

    Attributes
    ----------
    features
        As passed.
    looks_at_tiles
        Whether the method learns from the pixels of tiles.
    weighs_widths
        Whether the method itself chooses among niche widths.
    checkpoint
        Folder of checkpoints, where the method writes any.
    held
        After `fit`, what was predicted for held-out training spots; not stored.
    columns
        Names of the columns of `design`, known in training.
    group_key
        Column of ``obs`` that names the groups, set before `fit`. None where every section is a group of its own.
    not_measured
        Bool (sections, genes), set before `fit`: genes that a training section lists but did not measure. None where
        all are measured.
    """

    uses_features: ClassVar[bool] = True
    looks_at_tiles: bool = False
    weighs_widths: ClassVar[bool] = False
    checkpoint: Path | None = None
    held: HeldOut | None = None

    def __init__(self, *, features: str | Sequence[str] | None = None, min_counts: int = 50) -> None:
        super().__init__()
        self.columns: list[str] = []
        self.group_key: str | None = None
        self.not_measured: np.ndarray | None = None
        self.features = features
        self._min_counts = min_counts

    # ------------------------------------------------------------------ training

    @abstractmethod
    def learn_reference(
        self, tables: Sequence[Data | str | Path], genes: Sequence[str], *, min_counts: int, study_key: str | None
    ) -> None:
        """Learn how genes vary together from `tables` without images, before `fit`."""

    def _table(
        self, sections: Sequence[Section], genes: Sequence[str], groups: Sequence[str], store: RowStore | None = None
    ) -> Table:
        """Table of the spots to learn from, its large columns in `store`; ``config`` is filled with what describes it.

        Raises ValueError if features or counts are missing or unusable, or too few spots are left.
        """
        keys = find_features(sections, self.features) if self.uses_features else []
        described = describe_features(sections[0], keys)
        check_all(sections, described)
        how: dict[str, Any] = {"min_counts": self._min_counts, "not_measured": self.not_measured, "store": store}
        table = training_table(sections, groups, genes=genes, keys=keys, **how)
        self.columns = column_names(sections[0], keys)
        self.config = {
            "features": described,
            "n_design": table.design.shape[1],
            "min_counts": self._min_counts,
            "n_spots": len(table),
            "sections": [section.name for section in sections],
            "groups": list(groups),
        }
        if self.group_key is not None:
            self.config["group_key"] = self.group_key
        if self.not_measured is not None and self.not_measured.any():
            lacking = zip(sections, self.not_measured, strict=True)
            self.config["not_measured"] = [
                [section.name, [gene for gene, no in zip(genes, those, strict=True) if no]]
                for section, those in lacking
                if those.any()
            ]
        return table

    def _finish(self, genes: Sequence[str], arrays: dict[str, np.ndarray], history: History) -> History:
        """Take what was learned."""
        self.genes, self.arrays = list(genes), arrays
        self.config["history"] = {"values": history.values, "notes": history.notes}
        return history

    def _learn_trust(self, sections: Sequence[Section], table: Table, held: HeldOut) -> dict[str, np.ndarray]:
        """Learn how far predictions can be believed from those for spots of the `table` that were held out."""
        self.held = held
        if self.looks_at_tiles:
            self.config["tiles"] = tiles_record(sections)
        self.trust = Trust.learn(sections, self.sight, table, held)
        return self.trust.arrays()

    # ------------------------------------------------------------------ features of a section

    def design(self, section: Section) -> np.ndarray:
        """float32 (n_spots, d): the section's standardised features, checked to be made as those in training."""
        return self.designer(section)(slice(None))

    def designer(self, section: Section) -> Callable[[slice], np.ndarray]:
        """Make the function that returns any rows of `design`."""
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
    def from_stored(cls, stored: Stored, path: str | Path) -> Self:
        """Rebuild the model from what was read from `path`."""
        model = super().from_stored(stored, path)
        model.trust = Trust.stored_in(stored.arrays)
        return model

    @classmethod
    def shapes_of(cls, stored: Stored) -> dict[str, tuple[str | int, ...]]:
        """`shapes` and the error of every gene on held-out spots."""
        return {"residual_sd": ("g",)} | super().shapes_of(stored) | Trust.shapes_in(stored.arrays)
