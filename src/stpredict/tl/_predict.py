"""Write predicted expression into AnnData."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict import _keys
from stpredict._checks import check_named_once, check_unique_genes, slot_name
from stpredict._copy import copy_of
from stpredict._section import table_of
from stpredict.models._contract import UNITS
from stpredict.tl._sections import open_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anndata import AnnData

    from stpredict._typing import Data
    from stpredict.models import ExpressionModel


def predict_expression(
    data: Data,
    model: ExpressionModel,
    *,
    genes: Iterable[str] | None = None,
    key_added: str = _keys.PREDICTED,
    std: bool = False,
    as_anndata: bool = False,
    copy: bool = False,
    library_key: str | None = None,
    table_key: str | None = None,
) -> Data | AnnData | None:
    """Predict the expression of every spot from its image features.

    Values are log1p of counts per 10,000. Several sections in one object are predicted each on their own.

    Parameters
    ----------
    data
        One or more sections, after `stpredict.pp.tiles` and `stpredict.pp.encode` as in training. Counts are neither
        needed nor looked at.
    model
        What `stpredict.tl.train` returned or `stpredict.models.load` read.
    genes
        Genes to predict, by default all that the model learned from. Aliases and Ensembl ids are resolved. A model of
        ``"align_st"`` predicts all genes of ``model.vocabulary``, most of which no section needs to have measured.
    key_added
        Name of the results.
    std
        Write the predictive standard deviation too.
    as_anndata
        Return a new AnnData of the predicted genes and leave `data` untouched.
    copy
        Return a changed copy and leave `data` untouched.
    library_key
        Column of ``obs`` that names each spot's section, where an AnnData holds several.
    table_key
        Table of a SpatialData that has several.

    Returns
    -------
    None, or the copy. Written:

    - ``layers["predicted"]``: float32 (spots, genes), NaN for genes that were not predicted; not written where there
      is no gene in ``var``
    - ``var["predicted"]``: bool, which genes were
    - ``obsm["predicted_genes"]``: DataFrame of the genes that ``var`` lacks, where there are any
    - with `std`, ``layers["predicted_std"]`` and ``obsm["predicted_std_genes"]``, alike
    - ``uns["predicted"]``: ``model_id``, ``method``, ``encoder``, ``mpp``, ``units``, ``versions``, ``parameters``,
      ``date``
    - ``uns["predicted"]["unseen"]``, of a model that predicts genes it did not learn from (``"align_st"``): of those
      among the predicted, ``genes``, their names here; ``distance``, 1 − cosine between the places of the gene and of
      the most similar gene of training (0 alike, 1 unrelated); and ``reliability``, the Pearson correlation within a
      section to expect, learned from genes hidden in training (NaN where there were too few)

    With `as_anndata`, a new AnnData with the predicted genes in ``var``, the prediction in ``X`` and
    ``layers["predicted"]``, the spots' ``obs``, coordinates and images, and the same ``uns["predicted"]``; as a further table of a SpatialData
    it annotates the same shapes.

    Raises
    ------
    ValueError
        If features are missing or were not made as in training, the model knows none of `genes`, gene names are
        duplicated, or a section has fewer than two spots. `data` is then unchanged.

    Warns
    -----
    UserWarning
        If the model does not know some of `genes`; they are NaN.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, genes=["ERBB2", "COL1A1"])
    >>> st.tl.predict_expression(new, model)
    >>> int(new.var["predicted"].sum()), new.layers["predicted"].shape == new.shape
    (2, True)

    Genes that training did not see, and how much to believe of them:

    >>> import pandas as pd
    >>> seen = [gene for gene in train.var_names if gene != "KRT18"]
    >>> model = st.tl.train(train, method="align_st", genes=seen, epochs=2, members=1, show_progress=False)
    >>> st.tl.predict_expression(new, model, genes=["KRT18", "KRT6A"])
    >>> list(new.obsm["predicted_genes"])
    ['KRT6A']
    >>> pd.DataFrame(new.uns["predicted"]["unseen"]).set_index("genes").columns.tolist()
    ['distance', 'reliability']
    """
    slot_name(key_added)
    if as_anndata and copy:
        msg = "as_anndata=True already leaves the data untouched and returns a new object; leave copy out."
        raise ValueError(msg)
    adata = table_of(data, table_key)
    check_unique_genes(adata.var_names, "This AnnData")
    wanted = None if genes is None else _asked_genes(genes, model)
    inside, outside = _places(wanted, model, adata.var_names)
    asked = list(dict.fromkeys(gene for gene in (inside | outside).values() if gene is not None))
    mean, spread, unseen = _predict(data, model, asked, library_key=library_key, table_key=table_key)
    results = {key_added: mean} | ({_keys.std(key_added): spread} if std else {})
    record = run_record(model, adata, {"genes": wanted or "all", "std": std}) | {"units": UNITS}
    if unseen is not None:
        record["unseen"] = _under_own_names(unseen, inside | outside)
    column = {gene: i for i, gene in enumerate(asked)}

    if as_anndata:
        return _new_anndata(adata, inside | outside, column, results, key_added, record)
    layers = {name: _spread_over(values, inside, column, adata.var_names) for name, values in results.items()}
    frames = {_keys.extra_genes(name): _frame(adata, values, outside, column) for name, values in results.items()}
    if copy:
        data = copy_of(data)
        adata = table_of(data, table_key)
    _forget(adata, key_added)
    if adata.n_vars:
        for name, values in layers.items():
            adata.layers[name] = values
    if outside:
        for name, frame in frames.items():
            adata.obsm[name] = frame
    adata.var[key_added] = adata.var_names.isin(list(inside))
    adata.uns[key_added] = record
    return data if copy else None


def _asked_genes(genes: Iterable[str], model: ExpressionModel) -> list[str]:
    from stpredict.datasets._genes import describe_missing, match

    wanted = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    check_named_once(wanted)
    if bad := [gene for gene in wanted if "/" in gene]:
        msg = f"Gene names with '/' cannot be stored: {', '.join(bad[:5])}."
        raise ValueError(msg)
    known = match(wanted, model.vocabulary)
    unknown = [gene for gene in wanted if gene not in known]
    if not known:
        msg = (
            f"The model knows none of the genes asked for ({describe_missing(unknown[:10]) or 'none'}); see "
            "model.vocabulary."
        )
        raise ValueError(msg)
    if unknown:
        msg = (
            f"The model does not know {len(unknown)} of the genes asked for; they are NaN: {describe_missing(unknown)}."
        )
        warnings.warn(msg, UserWarning, stacklevel=3)
    return wanted


def _places(
    wanted: Sequence[str] | None, model: ExpressionModel, var_names: pd.Index
) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Names in ``var`` → the model's gene, and names that ``var`` lacks → the model's gene or None."""
    from stpredict.datasets._genes import match

    asked = list(model.genes) if wanted is None else list(wanted)
    in_model = match(asked, model.vocabulary)
    in_var = match(asked, var_names)
    inside = {in_var[gene]: in_model[gene] for gene in asked if gene in in_var and gene in in_model}
    outside = {gene: in_model.get(gene) for gene in asked if gene not in in_var}
    return inside, outside


def _predict(
    data: Data, model: ExpressionModel, genes: list[str], **keys: str | None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray] | None]:
    """Mean and standard deviation (all spots, `genes`), section by section, and what is known of unseen genes."""
    sections = open_all(data, **keys)
    mean, spread = np.full((2, sections[0].adata.n_obs, len(genes)), np.nan, dtype=np.float32)
    for section in sections:
        prediction = model.predict(section, genes)
        mean[section.rows], spread[section.rows] = prediction.mean, prediction.std
    return mean, spread, prediction.unseen


def _under_own_names(unseen: Mapping[str, np.ndarray], genes: dict[str, str | None]) -> dict[str, np.ndarray]:
    """What is known of unseen genes, by the names under which they are written."""
    row = {gene: i for i, gene in enumerate(unseen["genes"])}
    names = [name for name, gene in genes.items() if gene in row]
    rows = [row[genes[name]] for name in names]
    return {key: values[rows] for key, values in unseen.items()} | {"genes": np.array(names, dtype=object)}


def _spread_over(
    values: np.ndarray, genes: dict[str, str | None], column: dict[str, int], names: pd.Index
) -> np.ndarray:
    """float32 (spots, names): `values` of the genes under their own names, NaN elsewhere."""
    out = np.full((len(values), len(names)), np.nan, dtype=np.float32)
    known = {name: gene for name, gene in genes.items() if gene is not None}
    out[:, names.get_indexer(list(known))] = values[:, [column[gene] for gene in known.values()]]
    return out


def _frame(adata: AnnData, values: np.ndarray, genes: dict[str, str | None], column: dict[str, int]) -> pd.DataFrame:
    names = pd.Index(list(genes), dtype=object)
    return pd.DataFrame(_spread_over(values, genes, column, names), index=adata.obs_names, columns=names)


def _forget(adata: AnnData, key_added: str) -> None:
    """Drop what an earlier prediction under this name left."""
    for name in (key_added, _keys.std(key_added)):
        for slot, key in ((adata.layers, name), (adata.obsm, _keys.extra_genes(name))):
            if key in slot:
                del slot[key]


def run_record(model: ExpressionModel, adata: AnnData, parameters: dict[str, Any]) -> dict[str, Any]:
    """What ``uns`` keeps of how a model was applied."""
    from importlib.metadata import version

    from stpredict import __version__
    from stpredict.models._store import identity

    features = model.config.get("features", {})
    record: dict[str, Any] = {
        "model_id": identity(model),
        "method": model.method,
        "encoder": model.config.get("encoder")
        or ", ".join(dict.fromkeys(str(made.get("encoder", key)) for key, made in features.items())),
        "versions": {"stpredict": __version__, "anndata": version("anndata"), "numpy": np.__version__},
        "parameters": {"features": list(features), **parameters},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    scales = [float(adata.uns[key]["mpp"]) for key, made in features.items() if "mpp" in made]
    return record | ({"mpp": scales[0]} if scales else {})


def _new_anndata(
    adata: AnnData,
    genes: dict[str, str | None],
    column: dict[str, int],
    results: dict[str, np.ndarray],
    key_added: str,
    record: dict[str, Any],
) -> AnnData:
    from copy import deepcopy

    import anndata

    names = pd.Index(list(genes), dtype=object)
    layers = {name: _spread_over(values, genes, column, names) for name, values in results.items()}
    var = pd.DataFrame({key_added: [gene is not None for gene in genes.values()]}, index=names)
    new = anndata.AnnData(X=layers[key_added], obs=adata.obs.copy(), var=var, layers=layers)
    if _keys.SPATIAL in adata.obsm:
        new.obsm[_keys.SPATIAL] = adata.obsm[_keys.SPATIAL].copy()
    for key in (_keys.SPATIAL, _keys.TILES, _keys.ANNOTATES):
        if key in adata.uns:
            new.uns[key] = deepcopy(adata.uns[key])
    new.uns[key_added] = record
    return new
