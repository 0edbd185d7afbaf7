"""Which gene the maps of a report show, and in which colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict._genes.markers import MARKER_SETS
from stpredict._genes.symbols import match, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict.models import ExpressionModel

STAINED = (
    "ACTA2 CD3D CD3E CD4 CD8A CD68 CD79A CHGA COL1A1 DES ERBB2 ESR1 GFAP KIT KRT5 KRT14 MBP MITF MKI67 MLANA MS4A1 NKX2-1 "
    "PDGFRA PECAM1 PGR PMEL PTPRC RBFOX3 S100B SOX10 SYP TP63 VIM"
)
"""Genes whose proteins pathologists stain every day, and collagen."""

KNOWN = frozenset(STAINED.split()).union(*(markers.genes for markers in MARKER_SETS.values()))
"""Genes whose maps a pathologist can judge by eye."""

RELIABLE = 0.3
"""Correlation to expect from which a known gene is drawn rather than the one that is predicted best."""

FEWEST_DRAWN = 10
"""Slides with fewer spots than this get no map."""


@dataclass(frozen=True)
class Drawn:
    """The gene that the maps of all slides show, and the values at the ends of their colours."""

    gene: str
    low: float
    high: float


def drawn_gene(model: ExpressionModel, asked: Sequence[str] | None) -> Drawn | None:
    """The first gene that was `asked` for; else the one of `model` with the highest product of reliability and span.

    Genes that pathologists know come first, where one of them is predicted reliably. Reliability, span and the ends of the
    colours are those of predictions for held-out training spots, so they do not depend on which slides there are. None
    where the model does not know them: it was saved by an earlier version, its predictions do not vary, or the gene was
    not learned from.
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
        column = _best(model.genes, np.nan_to_num(known.pcc), width)
        name = model.genes[column]
    if column is None or not width[column] > 0:
        return None
    low, high = span.ends[:, column].tolist()
    return Drawn(name, low, high)


def _best(genes: Sequence[str], pcc: np.ndarray, width: np.ndarray) -> int:
    """Number of the gene to draw."""
    worth = np.where(["/" in gene for gene in genes], 0, np.clip(pcc, 0, 1) * width)
    approved = resolve(genes)
    familiar = np.array([approved.get(gene, gene).upper() in KNOWN for gene in genes]) & (pcc >= RELIABLE)
    for choice in (worth * familiar, worth, width):
        if choice.any():
            break
    return int(np.argmax(choice))
