"""From a model's predictions, part by part, to matrices in memory or on disk under the genes' own names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from stpredict._core.warning import warn
from stpredict._sections.spread import kept_of_whole
from stpredict.models._data.chunks import rows_of
from stpredict.tl._prediction.believed import Believed
from stpredict.tl._prediction.zarr_store import matrices_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from stpredict._sections.section import Section
    from stpredict.models import ExpressionModel, Prediction
    from stpredict.tl._prediction.zarr_store import RowsOnDisk


class PredictedTable(NamedTuple):
    """Where the values of one kind go: float32 (spots, genes), NaN for genes that the model does not know."""

    kind: str
    """``"mean"``, ``"std"``, ``"lower"`` or ``"upper"``."""
    genes: dict[str, str | None]
    """The model's gene by the name under which it is written."""
    names: pd.Index
    values: np.ndarray | RowsOnDisk

    @classmethod
    def empty(
        cls, kind: str, n_spots: int, genes: dict[str, str | None], names: pd.Index | None = None
    ) -> PredictedTable:
        """Table in memory, of the `genes` or with other columns beside them."""
        names = pd.Index(list(genes), dtype=str) if names is None else names
        return cls(kind, genes, names, np.full((n_spots, len(names)), np.nan, dtype=np.float32))

    def take(self, rows: slice | np.ndarray, prediction: Prediction, interval: float | None = None) -> None:
        """Write the prediction for some rows."""
        column: dict[str | None, int] = {gene: i for i, gene in enumerate(prediction.genes)}
        taken = np.array([column.get(self.genes.get(name), -1) for name in self.names], dtype=int)
        values = _values(prediction, self.kind, interval).take(taken, axis=1).astype(np.float32, copy=False)
        values[:, taken < 0] = np.nan
        self.values[rows] = values


def fill(
    tables: Iterable[PredictedTable],
    sections: Sequence[Section],
    model: ExpressionModel,
    genes: dict[str, str | None],
    record: dict[str, Any],
    size: int | None = None,
) -> Believed:
    """Predict all sections, part by part, into `tables`; what is known of unseen genes goes to the `record`.

    Returns
    -------
    How far the prediction can be believed.
    """
    if model.compares_spots:
        _tell_of_parts(sections, model)
    believed = Believed()
    asked = list(dict.fromkeys(gene for gene in genes.values() if gene is not None))
    predictions = [model.predict_parts(section, asked, size=size) for section in sections]
    for section, parts in zip(sections, predictions, strict=True):
        for part, prediction in parts:
            for table in tables:
                table.take(_as_slice(section.rows[part]), prediction, record["parameters"].get("interval"))
            if prediction.unseen is not None:
                record["unseen"] = _under_own_names(prediction.unseen, genes)
        believed.take(section, prediction)
    record["domain"] = believed.domain()
    return believed


def _tell_of_parts(sections: Sequence[Section], model: ExpressionModel) -> None:
    """Warn where only a part of a section is here, for a model that compares the spots of a section with each other."""
    keys = model.config.get("features", {})
    if parts := [s.name for s in sections if any(kept_of_whole(s, key) is not None for key in keys)]:
        msg = (
            f"Only a part of the spots of {', '.join(parts[:5])} is here, and this model (method {model.method!r}) compares "
            "the spots of a section with each other: the values differ from those of the whole section. Predict the whole "
            "and take the part afterwards."
        )
        warn(msg)


def fill_store(
    path: Path,
    new: AnnData,
    sections: Sequence[Section],
    model: ExpressionModel,
    genes: dict[str, str | None],
    kinds: Mapping[str, str],
    record: dict[str, Any],
) -> Believed:
    """The same, into new layers of a store on disk for `new`, one for each of the `kinds`."""
    size = rows_of(max(len(model.genes), new.n_vars))
    matrices = matrices_of(path, new.shape, list(kinds), size)
    tables = [
        PredictedTable(kind, genes, new.var_names, into) for kind, into in zip(kinds.values(), matrices, strict=True)
    ]
    return fill(tables, sections, model, genes, record, size)


def _values(prediction: Prediction, kind: str, interval: float | None) -> np.ndarray:
    """Values of one kind."""
    if kind == "lower":
        return prediction.end("lower", interval or 0.9)
    if kind == "upper":
        return prediction.end("upper", interval or 0.9)
    values: np.ndarray = getattr(prediction, kind)
    return values


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Row numbers, as a slice where they follow each other."""
    return slice(rows[0], rows[-1] + 1) if len(rows) and (np.diff(rows) == 1).all() else rows


def _under_own_names(unseen: Mapping[str, np.ndarray], genes: dict[str, str | None]) -> dict[str, np.ndarray]:
    """What is known of unseen genes, by the names under which they are written."""
    row = {gene: i for i, gene in enumerate(unseen["genes"])}
    names = [name for name, gene in genes.items() if gene in row]
    rows = [row[genes[name]] for name in names]
    return {key: values[rows] for key, values in unseen.items()} | {"genes": np.array(names, dtype=object)}
