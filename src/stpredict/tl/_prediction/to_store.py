"""Predictions that go to a store as they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict._core import keys
from stpredict._core.checks import check_section_names
from stpredict._sections.open import Opened, Where
from stpredict.tl._prediction.asked import asked_of, bare_anndata
from stpredict.tl._prediction.tables import fill_store
from stpredict.tl._prediction.zarr_store import finish_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anndata import AnnData

    from stpredict.models import ExpressionModel
    from stpredict.tl._prediction.asked import Asked


def predict_to_store(
    path: Path,
    adata: AnnData,
    model: ExpressionModel,
    *,
    genes: Sequence[str] | None,
    std: bool,
    model_id: str,
    begin: Callable[[Path], None],
    add: Callable[[AnnData], None],
) -> None:
    """Write what `stpredict.tl.predict_expression` writes with `out` to a new store.

    Parameters
    ----------
    model_id
        Identity of the model.
    begin
        Makes a store that has nothing yet.
    add
        Adds to ``obs`` and ``uns`` of the new AnnData, once the store has its matrices.
    """
    opened = Opened(adata, Where())
    ask = asked_of(opened, model, genes, keys.PREDICTED, std=std, model_id=model_id)
    check_section_names(section.name for section in opened.sections)
    into_store(path, opened, model, ask, begin, add)


def into_store(
    path: Path,
    opened: Opened,
    model: ExpressionModel,
    ask: Asked,
    begin: Callable[[Path], None],
    add: Callable[[AnnData], None] | None = None,
) -> None:
    new = bare_anndata(opened.table, ask)
    begin(path)
    believed = fill_store(path, new, opened.sections, model, ask.genes, ask.kinds, ask.record)
    believed.write(new, ask.key_added, ask.genes)
    believed.warn_of_outside()
    if add is not None:
        add(new)
    finish_store(path, new, ask.key_added)
