"""Published models by name, and the table of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from stpredict._core.checks import one_of
from stpredict.models.published.deepspotm import DeepSpotM
from stpredict.models.published.path2space import Path2Space
from stpredict.models.published.stpath import STPath

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stpredict.models.published.contract import FixedModel

PUBLISHED: dict[str, type[FixedModel]] = {model.method: model for model in (Path2Space, STPath, DeepSpotM)}
"""Name → class of every published model."""


def available() -> pd.DataFrame:
    """List the published models that `stpredict.models.pretrained` knows.

    Returns
    -------
    One row per model, by name: ``tissue``, ``genes`` (how many it predicts), ``encoder`` (of `stpredict.pp.encode`),
    ``um_per_px`` and ``spot_um`` (of its tiles), ``units`` of its predictions, ``licence`` of its weights, ``commercial``
    (whether that allows commercial use), ``gated`` (whether access must be asked for), ``size_gb``, ``trained_on``,
    ``source`` and ``paper``.

    Examples
    --------
    >>> import stpredict as st
    >>> st.models.available().loc["path2space", ["tissue", "encoder", "licence"]].tolist()
    ['breast', 'ctranspath', 'Apache-2.0']
    """
    rows = {
        name: {
            "tissue": card.tissue,
            "genes": card.n_genes,
            "encoder": card.encoder,
            "um_per_px": round(card.mpp, 3),
            "spot_um": card.spot_um,
            "units": card.units,
            "licence": card.licence,
            "commercial": card.commercial,
            "gated": card.gated,
            "size_gb": card.gigabytes,
            "trained_on": card.trained_on,
            "source": card.source,
            "paper": card.paper,
        }
        for name, card in ((name, model.card) for name, model in PUBLISHED.items())
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def pretrained(
    name: str,
    *,
    path: str | Path | None = None,
    revision: str | None = None,
    organ: str | None = None,
    technology: str | None = None,
    genes: Iterable[str] | None = None,
    features: str | None = None,
) -> FixedModel:
    """Get a model that others trained and published, ready to predict.

    It can be used wherever a trained model can: `stpredict.tl.predict_expression`, `stpredict.tl.cross_validate`
    beside methods of our own, `stpredict.tl.adapt`. It needs the features of its own encoder at its own scale; where
    they are missing, `stpredict.tl.predict_expression` makes them, and errors of other functions name the calls that do. Nothing is
    unpickled.

    Parameters
    ----------
    name
        One of `stpredict.models.available`.
    path
        Folder that holds the model's files, called as on the hub or in the authors' archive. By default they come from
        the hub, and are kept in its cache.
    revision
        Commit, branch or tag of the hub's repository, for the same weights again. ``uns`` tells which commit was used.
    organ, technology
        What the section is, for models that are told (``"stpath"``): for example ``"breast"`` and ``"visium"``.
    genes
        Genes to predict, by any of their names; by default all that the model knows. Few are faster.
    features
        ``obsm`` key of features that were made elsewhere. You vouch that they are those of the model's encoder. By
        default those that `stpredict.pp.encode` writes for it, which are checked.

    Returns
    -------
    The model. Its predictions have no standard deviation (NaN), and the judgement of a section is ``"unknown"``;
    ``model.units`` are those of its authors.

    Raises
    ------
    OSError
        If files are missing in the folder, the hub cannot be reached, or access must be asked for.
    ValueError
        If no model has this name, files are damaged, the model knows none of `genes`, or is not told `organ`.

    Warns
    -----
    UserWarning
        Before a download, with the licence. If the model does not know some of `genes`.

    Examples
    --------
    >>> import stpredict as st
    >>> st.models.available().index.tolist()  # doctest: +ELLIPSIS
    ['path2space'...]
    >>> model = st.models.pretrained("path2space", genes=["ERBB2", "ESR1"])  # doctest: +SKIP
    >>> st.pp.tiles(adata, spot_um=100)  # doctest: +SKIP
    >>> st.pp.encode(adata, "ctranspath", niche=False, stain_norm="macenko")  # doctest: +SKIP
    >>> st.tl.predict_expression(adata, model)  # doctest: +SKIP
    """
    one_of(name, PUBLISHED, "name")
    told = {"organ": organ, "technology": technology}
    choices = {what: value for what, value in told.items() if value is not None}
    return PUBLISHED[name].pretrained(path=path, revision=revision, genes=genes, features=features, choices=choices)
