"""Which gene the maps of a report show, and in which colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict._genes.symbols import match

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict.models import ExpressionModel


@dataclass(frozen=True)
class Drawn:
    """The gene that the maps of all slides show, and the values at the ends of their colours."""

    gene: str
    low: float
    high: float


def drawn_gene(model: ExpressionModel, asked: Sequence[str] | None) -> Drawn | None:
    """The first gene that was `asked` for; else that of `model` with the highest product of reliability and span.

    Both, and the ends of its colours, are those of predictions for held-out training spots, so they do not depend on
    which slides there are. None where the model does not know them: it was saved by an earlier version, its predictions
    do not vary, or the gene was not learned from.
    """
    known, span = model.trust.reliability, model.trust.span
    if known is None or span is None or not model.genes:
        return None
    width = np.nan_to_num(span.ends[1] - span.ends[0])
    if asked:
        name = asked[0]
        found = match([name], model.vocabulary).get(name)
        column = model.genes.index(found) if found in model.genes else None
    else:
        worth = np.where(["/" in gene for gene in model.genes], 0, np.clip(known.pcc, 0, 1) * width)
        column = int(np.argmax(worth if worth.any() else width))
        name = model.genes[column]
    if column is None or not width[column] > 0:
        return None
    low, high = span.ends[:, column].tolist()
    return Drawn(name, low, high)
