"""How often image and expression of the same spot find each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict._core.docs import with_shared_texts
from stpredict._sections.open import Where, open_all, unique_names
from stpredict.models._aligned.expression import usable_spots
from stpredict.tl._given import given_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stpredict._core.typing import Data
    from stpredict.models import ExpressionModel

ROWS = 2048
"""Queries compared at once."""


@with_shared_texts
def recall(
    data: Data | Sequence[Data],
    model: ExpressionModel | str | Path,
    *,
    k: Sequence[int] = (1, 5, 10, 50),
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Measure how often the image of a spot finds the expression of the same spot, and the other way round.

    Each spot's image asks for the most similar expression (cosine) among the spots of its own section, and among those
    of all sections; and the other way round. Use sections that the model was not trained on.

    Parameters
    ----------
    data
        Sections with raw counts, after `stpredict.pp.tiles` and `stpredict.pp.encode` as in training: one object or a
        list.
    model
        A model that brings image and expression into one space: ``"consensus"``, ``"cmrcnet"`` or ``"st_align"``.
    k
        Ranks up to which the counterpart counts as found.
    %(sections)s

    Returns
    -------
    One row per section, ``query`` (``"image"`` or ``"expression"``), ``among`` (``"section"`` or ``"all"``) and ``k``,
    with ``recall``, the share of queries whose counterpart is among the k most similar, ``chance``, what guessing would
    find, and ``n``, the number of spots. Spots with fewer counts than the model's ``min_counts`` are left out.

    Raises
    ------
    TypeError
        If the model has no space of expression.
    ValueError
        If a rank is not positive, features or counts are missing, or no spot has counts enough.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, method="st_align", epochs=4, members=1, width=32, show_progress=False)
    >>> table = st.tl.recall(new, model, k=[10])
    >>> table[["query", "among"]].values.tolist()
    [['image', 'section'], ['expression', 'section'], ['image', 'all'], ['expression', 'all']]
    """
    model = given_model(model)
    if "expression" not in getattr(model, "spaces", ()):
        msg = f"A model of method {getattr(model, 'method', type(model).__name__)!r} has no space that image and expression share; train 'cmrcnet' or 'st_align'."
        raise TypeError(msg)
    ranks = sorted({int(rank) for rank in k})
    if not ranks or ranks[0] < 1:
        msg = f"k must name positive ranks, got {k!r}."
        raise ValueError(msg)
    sections = open_all(data, Where(library_key, table_key))
    images, genes, home = [], [], []
    for number, section in enumerate(sections):
        usable = usable_spots(section, model.config["min_counts"])
        if not usable.any():
            msg = f"No spot of section {section.name!r} has {model.config['min_counts']} counts or more."
            raise ValueError(msg)
        images.append(model.embed(section)[usable])
        genes.append(model.embed(section, use="expression")[usable])
        home.append(np.full(usable.sum(), number))
    rows = _rows(np.concatenate(images), np.concatenate(genes), np.concatenate(home), unique_names(sections), ranks)
    return pd.DataFrame(rows)


def _rows(
    image: np.ndarray, gene: np.ndarray, home: np.ndarray, names: Sequence[str], ranks: Sequence[int]
) -> Iterator[dict[str, object]]:
    for among in ("section", "all"):
        for number, name in enumerate(names):
            own = home == number
            pool = own if among == "section" else np.ones(len(home), dtype=bool)
            for query, (asking, asked) in {"image": (image, gene), "expression": (gene, image)}.items():
                place = _place(asking[own], asked[own], asked[pool])
                for rank in ranks:
                    yield {
                        "section": name,
                        "query": query,
                        "among": among,
                        "k": rank,
                        "recall": float((place < rank).mean()),
                        "chance": min(rank / pool.sum(), 1.0),
                        "n": int(own.sum()),
                    }


def _place(asking: np.ndarray, counterpart: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """How many of `pool` are more similar to each asking row than its own counterpart is."""
    out = np.empty(len(asking), dtype=np.int64)
    for first in range(0, len(asking), ROWS):
        piece = slice(first, first + ROWS)
        own = (asking[piece] * counterpart[piece]).sum(axis=1, keepdims=True)
        out[piece] = (asking[piece] @ pool.T > own + 1e-6).sum(axis=1)
    return out
