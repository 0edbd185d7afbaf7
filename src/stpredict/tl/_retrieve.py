"""Which reference spots a prediction comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import check_key_added
from stpredict._core.docs import with_shared_texts
from stpredict._core.renamed import renamed
from stpredict._sections.open import Opened, Where, check_sizes
from stpredict.models import METHODS
from stpredict.models._retrieval.bank import Banked
from stpredict.tl._given import given_model
from stpredict.tl._prediction.record import run_record

if TYPE_CHECKING:
    from pathlib import Path

    from stpredict._core.typing import Data
    from stpredict.models import ExpressionModel


@renamed(k="n_neighbors")
@with_shared_texts
def retrieve(
    data: Data,
    model: ExpressionModel | str | Path,
    *,
    n_neighbors: int = 10,
    key_added: str = keys.RETRIEVED,
    copy: bool = False,
    library_key: str | None = None,
    table_key: str | None = None,
) -> Data | None:
    """Find the training spots that are nearest to each spot in the space where the model compares them.

    A model that predicts by retrieval takes its prediction for a spot from the spots found here: ``"knn"`` compares
    images, a contrastive model the image of the spot with the expression of the others. `stpredict.pl.retrieval`
    draws them. The search is exact, unless ``stpredict.settings.search`` says otherwise.

    Parameters
    ----------
    %(encoded_data)s
        Counts are neither needed nor read.
    model
        A model with a reference bank, ``"knn"`` for example.
    n_neighbors
        Reference spots to find for each spot.
    %(key_added)s
    %(copy)s
    %(sections)s

    Returns
    -------
    None, or the copy. Written:

    - ``obsm["retrieved"]``: int64 (spots, n_neighbors), rows of the reference bank, most similar first
    - ``obsm["retrieved_similarity"]``: float32 (spots, n_neighbors), their cosine similarities, at most 1
    - ``uns["retrieved"]``: ``sections``, the names of the training sections; ``bank_section`` and ``bank_spot``, for
      every row of the bank the number of its section in ``sections`` and the name of its spot; ``model_id``,
      ``method``, ``encoder``, ``mpp``, ``versions``, ``parameters``, ``date``

    Raises
    ------
    TypeError
        If the model has no reference bank.
    ValueError
        If `n_neighbors` is larger than the bank, features are missing or were not made as in training, or a section has fewer
        than two spots. `data` is then unchanged.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, method="knn", genes=["ERBB2", "COL1A1"])
    >>> st.tl.retrieve(new, model, n_neighbors=5)
    >>> found = new.uns["retrieved"]
    >>> new.obsm["retrieved"].shape == (new.n_obs, 5), found["bank_spot"].shape == (train.n_obs,)
    (True, True)
    """
    model = given_model(model)
    if not isinstance(model, Banked) or not model.config.get("has_bank", True):
        raise TypeError(_no_bank(model))
    opened = Opened(data, Where(library_key, table_key), copy=copy)
    adata, sections = opened.table, opened.sections
    check_sizes(sections)
    check_key_added(adata, key_added, mark="bank_spot", obsm=[key_added, keys.similarity(key_added)])
    found = [model.neighbours(section, n_neighbors) for section in sections]
    rows = np.empty((adata.n_obs, n_neighbors), dtype=np.int64)
    similarity = np.empty((adata.n_obs, n_neighbors), dtype=np.float32)
    for section, (their_rows, their_similarity) in zip(sections, found, strict=True):
        rows[section.rows], similarity[section.rows] = their_rows, their_similarity
    bank = model.config["bank"]
    origin = {
        "sections": np.array(bank["sections"], dtype=object),
        "bank_section": np.array(bank["section"], dtype=np.int64),
        "bank_spot": np.array(bank["spots"], dtype=object),
    }
    record = run_record(model, adata, {"k": n_neighbors})
    adata = opened.target
    adata.obsm[key_added] = rows
    adata.obsm[keys.similarity(key_added)] = similarity
    adata.uns[key_added] = record | origin
    return opened.result


def _no_bank(model: ExpressionModel) -> str:
    if isinstance(model, Banked):
        return "This model was saved without its reference spots (share_bank=False); there are none to retrieve. Ask its makers for them."
    with_bank = ", ".join(repr(name) for name, kind in METHODS.items() if issubclass(kind, Banked))
    return f"A model of method {model.method!r} keeps no reference spots to retrieve; train one that does: {with_bank}."
