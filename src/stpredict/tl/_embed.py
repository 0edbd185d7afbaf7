"""Write the joint space of image and expression into AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import check_key_added
from stpredict._core.docs import with_shared_texts
from stpredict._sections.open import Opened, Where, check_sizes
from stpredict.tl._given import given_model
from stpredict.tl._prediction.record import run_record

if TYPE_CHECKING:
    from pathlib import Path

    from stpredict._core.typing import Data
    from stpredict.models import ExpressionModel


@with_shared_texts
def embed(
    data: Data,
    model: ExpressionModel | str | Path,
    *,
    use: str = "image",
    key_added: str | None = None,
    copy: bool = False,
    library_key: str | None = None,
    table_key: str | None = None,
) -> Data | None:
    """Embed every spot in the space in which a model compares spots.

    The result is an ordinary representation: `stpredict.tl.domains`, ``scanpy.pp.neighbors(use_rep=...)`` and
    ``scanpy.tl.umap`` work on it. Several sections in one object are embedded each on their own, into one space.

    Parameters
    ----------
    %(encoded_data)s
    %(model)s
    use
        What to embed:

        - ``"image"``, what spots look like; counts are neither needed nor looked at. All models can.
        - ``"expression"``, what they express, in the same space: ``"cmrcnet"`` and ``"st_align"``. Image features are
          not needed. Genes that the section does not measure count as average.
        - ``"fused"``, both together: ``"st_align"``. Where a spot has fewer counts than the model's ``min_counts``, a
          learned token stands in for its expression.
    key_added
        Name of the result; by default ``X_<method>``.
    %(copy)s
    %(sections)s

    Returns
    -------
    None, or the copy. Written:

    - ``obsm["X_<method>"]``: float32 (spots, d); of aligned models rows have length 1
    - ``uns["X_<method>"]``: ``model_id``, ``method``, ``encoder``, ``mpp``, ``versions``, ``parameters``, ``date``

    Raises
    ------
    ValueError
        If the model has no such space, features are missing or were not made as in training, there is no expression
        and `use` is ``"expression"``, or a section has fewer than two spots. `data` is then unchanged.

    Warns
    -----
    UserWarning
        If `use` is ``"fused"`` and a section has no expression: the image alone is embedded then. If a section measures
        fewer than half of the model's genes.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, method="st_align", epochs=2, members=1, width=32, show_progress=False)
    >>> st.tl.embed(new, model, use="fused")
    >>> new.obsm["X_st_align"].shape == (new.n_obs, 64)
    True

    References
    ----------
    See `stpredict.tl.train`.
    """
    model = given_model(model)
    key = key_added or keys.features(model.method)
    opened = Opened(data, Where(library_key, table_key), copy=copy)
    adata, sections = opened.table, opened.sections
    check_key_added(adata, key, mark="model_id", obsm=[key])
    check_sizes(sections)
    parts = [model.embed(section, use=use) for section in sections]
    embedded = np.full((adata.n_obs, parts[0].shape[1]), np.nan, dtype=np.float32)
    for section, part in zip(sections, parts, strict=True):
        embedded[section.rows] = part
    record = run_record(model, adata, {"use": use})
    opened.target.obsm[key] = embedded
    opened.target.uns[key] = record
    return opened.result
