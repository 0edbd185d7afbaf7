"""Models as named arrays and a JSON configuration, and how these are saved and loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from stpredict.models._base import files
from stpredict.models._base.contract import Prediction
from stpredict.models._base.described import facts_of_model
from stpredict.models._base.history import Facts, History, as_html, as_text
from stpredict.models._base.load import rebuilt
from stpredict.models._base.model import ExpressionModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    import numpy as np

    from stpredict._sections.section import Section


class StoredModel(ExpressionModel):
    """A model whose whole content is ``genes``, ``config`` (JSON) and ``arrays``, which `fit` fills.

    Attributes
    ----------
    arrays
        Name → array.
    shapes
        Names of the arrays and their dimensions, see `stpredict.models._base.files.check_shapes`.
    """

    shapes: ClassVar[dict[str, tuple[str | int, ...]]]

    def __init__(self) -> None:
        self.genes: list[str] = []
        self.config: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}

    @property
    def history(self) -> History:
        """Losses, scores and remarks of the training."""
        return History(**self.config["history"])

    def __repr__(self) -> str:
        return as_text(*self._described())

    def _repr_html_(self) -> str:
        return as_html(*self._described())

    def _described(self) -> tuple[str, Facts]:
        """Title and facts, for people to read."""
        if not self.arrays or "history" not in self.config:
            return f"Model of method {self.method!r}, not trained", {}
        return f"Model of method {self.method!r}", facts_of_model(self, self.history)

    def predict(self, section: Section, genes: Sequence[str] | None = None) -> Prediction:
        """Expression of `genes` (default: all that the model knows) for every spot of `section`.

        Raises
        ------
        ValueError
            If the section's features are missing or were made differently from those in training.
        """
        asked = self.genes if genes is None else list(genes)
        return Prediction.of_parts(self.predict_parts(section, asked), len(section), asked)

    def save(self, path: str | Path, *, share_bank: bool = True) -> None:
        """Write the model as a folder of ``model.safetensors`` and ``model.json``.

        Parameters
        ----------
        path
            Folder to make; a model that is already there is replaced.
        share_bank
            Whether the expression of single training spots is written, where the method predicts from it. What is written
            without it predicts by its decoder, somewhat worse: ``st.models.load(path).history`` says how much.

        Raises
        ------
        FileExistsError
            If `path` holds something else than a model.
        ValueError
            If the model was not trained, or its method cannot do without what ``share_bank=False`` keeps back.
        """
        if not self.arrays:
            msg = "This model was not trained, so there is nothing to save; stpredict.tl.train or stpredict.tl.adapt makes one."
            raise ValueError(msg)
        model = self if share_bank else self.without_bank()
        files.write(path, files.Stored(model.method, model.genes, model.config, model.arrays))

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
        stored = files.read(path)
        return cast("Self", rebuilt(stored, path, {stored.method: cls}))

    @classmethod
    def from_stored(cls, stored: files.Stored, path: str | Path) -> Self:
        """Rebuild the model from what was read from `path`.

        Raises ValueError if it is of another method, or its arrays are not those that its configuration asks for.
        """
        if stored.method != cls.method:
            msg = f"The model at {path} is a {stored.method!r}, not a {cls.method!r}; use stpredict.models.load."
            raise ValueError(msg)
        model = cls._checked(stored, path)
        model.genes, model.config, model.arrays = stored.genes, stored.config, stored.arrays
        return model

    @classmethod
    def _checked(cls, stored: files.Stored, path: str | Path) -> Self:
        """Check what was read, and make an untrained model for it."""
        files.check_shapes(stored, cls.shapes_of(stored), path)
        return cls()

    @classmethod
    def shapes_of(cls, stored: files.Stored) -> dict[str, tuple[str | int, ...]]:
        """`shapes` of this stored model; classes whose arrays depend on the configuration extend it."""
        return cls.shapes
