"""The numbers behind a figure: expression of a section's spots, measured or from a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.labels import layer_names
from stpredict._core.names import gene_names
from stpredict._genes import symbols
from stpredict.models._base.contract import UNITS
from stpredict.models._trust.trust import OUTSIDE
from stpredict.tl._prediction.believed import judgement_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stpredict._sections.section import Section

MIN_SPOTS = 3

DO_NOT_BELIEVE = "outside of the training data: do not believe"
"""What stands below a prediction for such a section."""


def expression_of(section: Section, genes: str | Iterable[str], layer: str | None) -> pd.DataFrame:
    """(spots, genes) of a layer and of the genes beside it, or of the counts as log1p CP10k where `layer` is None.

    Columns are named as the genes were asked for; aliases and Ensembl ids are resolved. Raises KeyError if there is no
    such layer, or a gene is in neither place; ValueError if no gene is asked for, or counts are needed and are none.
    """
    wanted = list(dict.fromkeys(gene_names(genes)))
    if not wanted:
        msg = "No genes to draw: pass a gene name or a list of them."
        raise ValueError(msg)
    adata = section.adata
    beside_var = None if layer is None else keys.extra_genes(layer)
    extra: Any = None if beside_var is None else adata.obsm.get(beside_var)
    in_var = layer is None or layer in adata.layers
    if not in_var and extra is None:
        hint = "Call tl.predict_expression first, or pass layer=None for the measured counts."
        msg = f"There is no layers[{layer!r}]; there is {', '.join(layer_names(adata)) or 'none'}. {hint}"
        raise KeyError(msg)
    inside = symbols.match(wanted, section.genes) if in_var else {}
    beside = {} if extra is None else symbols.match(wanted, extra.columns)
    unknown = [gene for gene in wanted if gene not in inside and gene not in beside]
    if unknown:
        where = "var_names" + ("" if extra is None else f" or obsm[{beside_var!r}]")
        msg = f"Not in {where}: {symbols.describe_missing(unknown)}."
        raise KeyError(msg)
    table = pd.DataFrame(index=section.obs_names, columns=wanted, dtype=float)
    if inside:
        table[list(inside)] = _from_var(section, list(inside.values()), layer)
    for gene, column in beside.items():
        if table[gene].isna().all():
            table[gene] = extra[column].to_numpy()[section.rows]
    return table


def units_of(section: Section, layer: str | None) -> str:
    """Units of a layer: those that its prediction was recorded with, else its name; of the counts our own."""
    record = None if layer is None else section.adata.uns.get(layer)
    told = record.get("units") if isinstance(record, Mapping) else None
    return str(told or (UNITS if layer in (None, keys.PREDICTED) else layer))


def outside(section: Section, layer: str | None) -> bool:
    """Whether a layer is a prediction for a section that lies outside of what the model was trained on."""
    record = None if layer is None else section.adata.uns.get(layer)
    return isinstance(record, Mapping) and judgement_of(record, section.name)[0] == OUTSIDE


def measured_beside(section: Section, genes: Iterable[str], layer: str | None) -> pd.DataFrame:
    """Measured expression of those `genes` that the section measures, where `layer` is a prediction in the same units."""
    nothing = pd.DataFrame(index=section.obs_names)
    if layer is None or units_of(section, layer) != UNITS:
        return nothing
    inside = symbols.match(genes, section.genes)
    try:
        measured = bool(inside) and section.totals().any()
    except ValueError:  # no raw counts: a slide of which only the image is there
        return nothing
    return expression_of(section, inside, None) if measured else nothing


def both_of(
    section: Section, genes: str | Iterable[str] | None, predicted: str, min_counts: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measured and predicted expression of the spots with at least `min_counts` counts, as `tl.evaluate` compares them.

    Genes default to all of ``var`` that were predicted. Raises KeyError if there is no such layer, or a gene was not
    measured or not predicted; ValueError if counts are needed and are none, or fewer than `MIN_SPOTS` spots have enough
    of them.
    """
    if genes is None and predicted in section.adata.layers:
        values = _from_var(section, list(section.genes), predicted)
        genes = section.genes[np.isfinite(values).any(axis=0)]
    after = expression_of(section, section.genes if genes is None else genes, predicted)
    before = expression_of(section, after.columns, None)
    enough = section.totals() >= max(min_counts, 1)
    if enough.sum() < MIN_SPOTS:
        msg = (
            f"Section {section.name!r} has {enough.sum()} spots with min_counts={min_counts} counts; "
            f"{MIN_SPOTS} are needed. Lower min_counts."
        )
        raise ValueError(msg)
    return before[enough], after[enough]


def _from_var(section: Section, names: list[str], layer: str | None) -> np.ndarray:
    from scipy import sparse

    if layer is None:
        return section.log_expression(names)
    values = section.adata.layers[layer][section.rows][:, section.genes.get_indexer(names)]
    return values.toarray() if sparse.issparse(values) else np.asarray(values)
