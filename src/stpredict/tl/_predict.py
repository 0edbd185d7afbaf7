"""Write predicted expression into AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from stpredict._core import keys
from stpredict._core.checks import check_section_names
from stpredict._core.docs import with_shared_texts
from stpredict._core.files import replacing
from stpredict._core.warning import warn
from stpredict._sections.open import Opened, Where
from stpredict.tl._given import given_model
from stpredict.tl._prediction.asked import BESIDE, asked_of, bare_anndata
from stpredict.tl._prediction.encoded import encode_missing
from stpredict.tl._prediction.tables import PredictedTable, fill
from stpredict.tl._prediction.to_store import into_store
from stpredict.tl._prediction.zarr_store import checked_path, mark_store, new_store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anndata import AnnData

    from stpredict._core.typing import Data
    from stpredict.models import ExpressionModel
    from stpredict.tl._prediction.asked import Asked


@with_shared_texts
def predict_expression(
    data: Data,
    model: ExpressionModel | str | Path,
    *,
    genes: Iterable[str] | None = None,
    key_added: str = keys.PREDICTED,
    std: bool = False,
    interval: float | None = None,
    as_anndata: bool = False,
    out: str | Path | None = None,
    ortholog: bool = False,
    copy: bool = False,
    library_key: str | None = None,
    table_key: str | None = None,
) -> Data | AnnData | None:
    """Predict the expression of every spot from its image features.

    Values are log1p of counts per 10,000. Several sections in one object are predicted each on their own. With `out`
    predictions go to disk as they are made, so that a section of any number of spots and genes is predicted in little
    memory.

    A model that others trained (`stpredict.models.pretrained`) takes features of its own encoder. Where the data lack
    them they are made for this call, at the model's own scale, and not kept; run `stpredict.pp.tiles` and
    `stpredict.pp.encode` before to keep them.

    Parameters
    ----------
    %(encoded_data)s
        Counts are neither needed nor read.
    %(model)s
    genes
        Genes to predict, by default all that the model learned from. Aliases and Ensembl ids are resolved. A model of
        ``"align_st"``, and one of ``"consensus"`` with references, predicts all genes of ``model.vocabulary``, most of which no section needs to
        have measured.
    %(key_added)s
    %(std)s
    interval
        Write intervals too, which are to contain this share of the measured values, such as 0.9. Its ends are
        quantiles of each gene's errors on held-out training spots, wider the farther the section is from those of
        training.
    as_anndata
        Return a new AnnData of the predicted genes and leave `data` untouched.
    out
        Write that AnnData to this zarr store (``"<name>.zarr"``) instead, and leave `data` untouched. It appears only
        when it is complete, and then replaces a store that an earlier call wrote.
    ortholog
        Take genes of the same symbol in human and mouse (ERBB2 and Erbb2) for each other. Without it a model of one
        species refuses data of the other species.
    %(copy)s
    %(sections)s

    Returns
    -------
    None, or the copy. Written:

    - ``layers["predicted"]``: float32 (spots, genes), NaN for genes that were not predicted; not written where there
      is no gene in ``var``
    - ``var["predicted"]``: bool, which genes were
    - ``obsm["predicted_genes"]``: DataFrame of the genes that ``var`` lacks, where there are any
    - with `std`, ``layers["predicted_std"]`` and ``obsm["predicted_std_genes"]``, alike; with `interval`, the same of
      ``"predicted_lower"`` and ``"predicted_upper"``
    - ``obs["predicted_distance"]``: float32, how far the image features of each spot lie from those of training spots,
      1 = as far as held-out training spots did
    - ``var["predicted_reliability"]``: float32, the Pearson correlation over spots to expect of every gene on these
      sections, learned from held-out training spots, and lower the farther the sections are from training;
      ``predicted_reliability_lower`` and ``_upper``, its 90 % interval
    - ``uns["predicted"]["domain"]``: ``verdict``, whether the section is ``"inside"`` of what the model was trained on, at
      its ``"edge"`` or ``"outside"`` (``"unknown"`` for models that look at no encoded features, were saved by earlier
      versions, or that others trained, until `stpredict.tl.calibrate`); ``distance``, the median over spots; ``nearest_section``; and ``why``. Of several sections, those of the
      farthest, one that is outside before others, and of each in ``sections``
    - ``uns["predicted"]``: ``model_id``, ``method``, ``encoder``, ``mpp``, ``units``, ``versions``, ``parameters``,
      ``date``; of a model that others trained (`stpredict.models.pretrained`) also ``published``, with its ``licence``,
      ``revision``, ``sha256``, ``source`` and ``paper``
    - ``uns["predicted"]["unseen"]``, of a model that predicts genes it did not learn from (``"align_st"``; ``"consensus"`` with references): of those
      among the predicted, ``genes``, their names here; ``distance``, 1 − cosine between the places of the gene and of
      the most similar gene of training (0 alike, 1 unrelated); and ``reliability``, the Pearson correlation within a
      section to expect, learned from genes hidden in training (NaN where there were too few)

    With `as_anndata`, a new AnnData with the predicted genes in ``var``, the prediction in ``X`` and
    ``layers["predicted"]``, the spots' ``obs``, coordinates and images, and the same ``uns["predicted"]``; as a further table of a SpatialData
    it annotates the same shapes.

    With `out`, None; the store holds the same. Read it with ``anndata.read_zarr``, or lazily with
    ``anndata.experimental.read_lazy``, of which `stpredict.pl.expression` loads the genes that it draws. ``X`` and
    ``layers["predicted"]`` take room on disk once, where the file system has hard links.

    Raises
    ------
    ValueError
        If features are missing or were not made as in training, the model is of another species, it knows none of `genes`, gene names are
        duplicated, or a section has fewer than two spots; with `out`, if the name of a section holds ``/``. `data` is then unchanged.
    FileExistsError
        If something else than such a store is at `out`.
    OSError
        If the disk is full; nothing is left of the new store then.

    Warns
    -----
    UserWarning
        If the model does not know some of `genes`; they are NaN. If ``var`` has none of the model's genes. If a section lies outside of what the model was trained
        on.

    Notes
    -----
    Image features are standardised over the whole section as `stpredict.pp.encode` saw it, so a subset of its spots,
    taken afterwards, gets the values that the whole gets. Not so with ``"mixture"``, ``"align_st"`` and ``reference=``,
    which compare all spots of a section with each other, and where features were made by hand: predict whole sections
    then, and take the subset of the result.

    Genes that were not predicted are NaN in the layer, which scanpy's and squidpy's tests take for values. Give them the
    predicted genes alone: ``adata[:, adata.var["predicted"]]``, or call with ``as_anndata=True``.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, genes=["ERBB2", "COL1A1"], method="ridge")
    >>> st.tl.predict_expression(new, model)
    >>> int(new.var["predicted"].sum()), new.layers["predicted"].shape == new.shape
    (2, True)

    Of a slide with very many spots, such as Visium HD, predictions go to disk as they are made:

    >>> st.tl.predict_expression(new, model, out="predicted.zarr")  # doctest: +SKIP

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
    if sum((as_anndata, copy, out is not None)) > 1:
        msg = "as_anndata=True, out= and copy=True each leave the data untouched and give the result another way; pass one."
        raise ValueError(msg)
    model = given_model(model)
    path = None if out is None else checked_path(out)
    opened = Opened(data, Where(library_key, table_key), copy=copy)
    ask = asked_of(opened, model, genes, key_added, std=std, interval=interval, ortholog=ortholog)
    encode_missing(opened, model, ask.record)
    if path is not None:
        check_section_names(section.name for section in opened.sections)
        with replacing(path) as store:
            into_store(store, opened, model, ask, new_store)
            mark_store(store)
        return None
    if as_anndata:
        return _new_anndata(opened, model, ask)
    _into_target(opened, model, ask)
    return opened.result


def _new_anndata(opened: Opened, model: ExpressionModel, ask: Asked) -> AnnData:
    new = bare_anndata(opened.table, ask)
    tables = {name: PredictedTable.empty(kind, new.n_obs, ask.genes) for name, kind in ask.kinds.items()}
    believed = fill(tables.values(), opened.sections, model, ask.genes, ask.record)
    believed.write(new, ask.key_added, ask.genes)
    believed.warn_of_outside()
    new.X = tables[ask.key_added].values
    for name, table in tables.items():
        new.layers[name] = table.values
    return new


def _into_target(opened: Opened, model: ExpressionModel, ask: Asked) -> None:
    adata, key_added, kinds = opened.table, ask.key_added, ask.kinds
    inside, outside = ask.inside, ask.outside
    tables = {name: PredictedTable.empty(kind, adata.n_obs, inside, adata.var_names) for name, kind in kinds.items()}
    extra = {keys.extra_genes(name): PredictedTable.empty(kind, adata.n_obs, outside) for name, kind in kinds.items()}
    believed = fill([*tables.values(), *extra.values()], opened.sections, model, ask.genes, ask.record)
    if adata.n_vars and not inside and ask.record["parameters"]["genes"] == "all":
        msg = (
            f"var_names has none of the model's genes: it has {', '.join(map(str, adata.var_names[:3]))}, … and the model "
            f"{', '.join(list(outside)[:3])}, …. Predictions are in obsm[{keys.extra_genes(key_added)!r}] alone, and "
            f"layers[{key_added!r}] is NaN throughout."
        )
        warn(msg)
    adata = opened.target
    _forget(adata, key_added)
    if adata.n_vars:
        for name, table in tables.items():
            adata.layers[name] = table.values
    if outside:
        for name, table in extra.items():
            adata.obsm[name] = pd.DataFrame(table.values, index=adata.obs_names, columns=table.names)
    adata.var[key_added] = adata.var_names.isin(list(inside))
    believed.write(adata, key_added, inside)
    believed.warn_of_outside()
    adata.uns[key_added] = ask.record


def _forget(adata: AnnData, key_added: str) -> None:
    """Drop what an earlier prediction under this name left."""
    for name in (key_added, *(of(key_added) for of in BESIDE)):
        for slot, key in ((adata.layers, name), (adata.obsm, keys.extra_genes(name))):
            if key in slot:
                del slot[key]
