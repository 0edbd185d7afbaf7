"""What a prediction is asked for, checked against the data and the model before anything is done."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from stpredict._core import keys
from stpredict._core.checks import check_key_added, check_unique_genes
from stpredict._core.warning import warn
from stpredict._genes.symbols import HUMAN, describe_missing, match, match_once, species_of
from stpredict._sections.open import check_sizes
from stpredict.tl._given import given_genes
from stpredict.tl._prediction.believed import ENDS
from stpredict.tl._prediction.record import run_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anndata import AnnData

    from stpredict._sections.open import Opened
    from stpredict.models import ExpressionModel

BESIDE = (keys.std, keys.lower, keys.upper)
"""Names of layers that may stand beside a prediction, after its own."""


class Asked(NamedTuple):
    """What is to be predicted, checked against the data and the model."""

    inside: dict[str, str | None]
    """Names in ``var``, each with the model's gene."""
    outside: dict[str, str | None]
    """The same of genes that ``var`` lacks."""
    kinds: dict[str, str]
    """Layers to write, each with what it holds."""
    record: dict[str, Any]
    key_added: str

    @property
    def genes(self) -> dict[str, str | None]:
        return self.inside | self.outside


def asked_of(
    opened: Opened,
    model: ExpressionModel,
    genes: Iterable[str] | None,
    key_added: str,
    *,
    std: bool,
    interval: float | None = None,
    ortholog: bool = False,
    model_id: str | None = None,
) -> Asked:
    adata = opened.table
    check_sizes(opened.sections)
    if interval is not None and not 0 < interval < 1:
        msg = f"interval must be a share of spots between 0 and 1, such as 0.9; got {interval!r}."
        raise ValueError(msg)
    columns = [f"{keys.reliability(key_added)}{end}" for end in ENDS]
    layers = [key_added, *(of(key_added) for of in BESIDE)]
    check_key_added(
        adata, key_added, mark="model_id", layers=layers, var=[key_added, *columns], obs=[keys.distance(key_added)]
    )
    check_unique_genes(adata.var_names, "This AnnData")
    wanted = None if genes is None else _asked_genes(genes, model)
    inside, outside = _places(wanted, model, _names_to_match(model, adata.var_names, ortholog=ortholog))
    parameters = {"genes": wanted or "all", "std": std} | ({} if interval is None else {"interval": interval})
    record = run_record(model, adata, parameters, model_id) | {"units": model.units}
    kinds = {key_added: "mean"} | ({keys.std(key_added): "std"} if std else {})
    if interval is not None:
        kinds |= {keys.lower(key_added): "lower", keys.upper(key_added): "upper"}
    return Asked(inside, outside, kinds, record, key_added)


def _asked_genes(genes: Iterable[str], model: ExpressionModel) -> list[str]:
    wanted, known, unknown = given_genes(genes, model.vocabulary)
    if bad := [gene for gene in wanted if "/" in gene]:
        msg = f"Gene names with '/' cannot be stored: {', '.join(bad[:5])}."
        raise ValueError(msg)
    if not known:
        msg = (
            f"The model knows none of the genes asked for ({describe_missing(unknown[:10]) or 'none'}); see "
            f"model.vocabulary.{_how_to_predict_others(model)}"
        )
        raise ValueError(msg)
    if unknown:
        msg = (
            f"The model does not know {len(unknown)} of the genes asked for; they are NaN: "
            f"{describe_missing(unknown)}.{_how_to_predict_others(model)}"
        )
        warn(msg)
    return wanted


def _how_to_predict_others(model: ExpressionModel) -> str:
    """Advice for a model that predicts only the genes it learned from."""
    if len(model.vocabulary) > len(model.genes):
        return ""
    return " Genes that training did not measure are predicted by models of stpredict.tl.train(reference=…), or of stpredict.tl.train(method='align_st')."


def _places(
    wanted: Sequence[str] | None, model: ExpressionModel, names: Mapping[str, str]
) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Names in ``var`` → the model's gene, and names that ``var`` lacks → the model's gene or None.

    `names` are those of the model's species, each with the name in ``var``.
    """
    asked = list(model.genes) if wanted is None else list(wanted)
    in_model = match(asked, model.vocabulary)
    in_var = {gene: names[name] for gene, name in match_once(asked, names).items()}
    inside: dict[str, str | None] = {
        in_var[gene]: in_model[gene] for gene in asked if gene in in_var and gene in in_model
    }
    outside = {gene: in_model.get(gene) for gene in asked if gene not in in_var}
    if bad := [gene for gene in outside if "/" in gene]:
        msg = f"Left out, because names with '/' cannot be stored: {', '.join(bad[:5])}."
        warn(msg)
    return inside, {gene: known for gene, known in outside.items() if gene not in bad}


def _names_to_match(model: ExpressionModel, var_names: pd.Index, *, ortholog: bool) -> dict[str, str]:
    """Names of genes in the model's species → their names in ``var``.

    Raises ValueError if the two are of different species and `ortholog` does not say that this is meant.
    """
    learned, own = species_of(model.genes), species_of(var_names)
    if learned is None or own is None or learned == own:
        return dict(zip(var_names, var_names, strict=True))
    if not ortholog:
        msg = (
            f"The model learned {learned} genes, and these data have {own} ones. Train a model on sections of the same "
            "species, or pass ortholog=True to take genes of the same symbol for each other (ERBB2 and Erbb2)."
        )
        raise ValueError(msg)
    written = str.upper if learned == HUMAN else str.capitalize
    return {written(name): name for name in reversed(var_names.astype(str))}


def bare_anndata(adata: AnnData, ask: Asked) -> AnnData:
    """Everything of the new AnnData but its matrices."""
    import anndata

    names = pd.Index(list(ask.genes), dtype=str)
    var = pd.DataFrame({ask.key_added: [gene is not None for gene in ask.genes.values()]}, index=names)
    new = anndata.AnnData(obs=adata.obs.copy(), var=var)
    if keys.SPATIAL in adata.obsm:
        new.obsm[keys.SPATIAL] = adata.obsm[keys.SPATIAL].copy()
    for key in (keys.SPATIAL, keys.TILES, keys.ANNOTATES):
        if key in adata.uns:
            new.uns[key] = deepcopy(adata.uns[key])
    new.uns[ask.key_added] = ask.record
    return new
