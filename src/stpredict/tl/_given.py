"""Models and genes that a public function is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stpredict._core.checks import check_named_once
from stpredict._core.names import gene_names
from stpredict._genes.symbols import match
from stpredict.models import ExpressionModel, load
from stpredict.models._base.hub import on_hub

if TYPE_CHECKING:
    from collections.abc import Iterable


def given_model(model: ExpressionModel | str | Path) -> ExpressionModel:
    """The model itself, or the one that was saved at a path or passed on by a hub.

    Raises TypeError if it is neither.
    """
    if isinstance(model, str | Path):
        return load(str(model) if on_hub(model) else Path(model).expanduser())
    if not isinstance(model, ExpressionModel):
        msg = (
            "model must be a trained model (stpredict.tl.train, stpredict.models.load) or the path of a saved one, got "
            f"{type(model).__name__}."
        )
        raise TypeError(msg)
    return model


class GivenGenes(NamedTuple):
    """Genes that were asked for."""

    wanted: list[str]
    """Names as they were given."""
    known: dict[str, str]
    """The known name of every gene that is known, under this name, an alias or an Ensembl id."""
    unknown: list[str]
    """Those that are not."""


def given_genes(genes: Iterable[str], names: Iterable[str]) -> GivenGenes:
    """Look genes up among known `names`.

    Raises ValueError if a gene is named twice; TypeError if they are a mask without names, or no names.
    """
    wanted = gene_names(genes)
    check_named_once(wanted)
    known = match(wanted, names)
    return GivenGenes(wanted, known, [gene for gene in wanted if gene not in known])
