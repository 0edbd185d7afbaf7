"""How scores grow with the number of training sections."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from stpredict._benchmark.jobs import Split, run
from stpredict._benchmark.splits import leave_one_group_out
from stpredict._benchmark.study import open_study
from stpredict._core import keys
from stpredict._core.settings import settings
from stpredict._sections.open import Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from stpredict._benchmark.methods import Methods
    from stpredict._benchmark.splits import Fold
    from stpredict._core.typing import Data


def learning_curve(
    sections: Data | Sequence[Data],
    *,
    methods: Methods,
    sizes: Sequence[int] = (1, 2, 3),
    repeats: int = 3,
    group_key: str | None = keys.PATIENT,
    test: Sequence[str] | None = None,
    genes: Iterable[str] | None = None,
    n_genes: int = 1000,
    markers: str | Iterable[str] | Mapping[str, Iterable[str]] | None = None,
    features: str | Sequence[str] | None = None,
    reference: Data | Sequence[Data] | str | Path | Sequence[str | Path] | None = None,
    metrics: Iterable[str] = ("pcc",),
    seeds: Iterable[int] = (0,),
    min_counts: int = 50,
    n_jobs: int | None = 1,
    path: str | Path | None = None,
    show_progress: bool | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Score methods that learned from one section, from two, from three, and so on.

    As `stpredict.tl.cross_validate`, but each method is trained on draws of few sections from those that are not of the
    group held out; all methods get the same draws. Panels are those of all training sections of the fold, so that
    every size is scored on the same genes.

    Parameters
    ----------
    sections, methods
        As in `stpredict.tl.cross_validate`.
    sizes
        Numbers of training sections.
    repeats
        Draws of each size and fold; fewer where there are fewer ways to choose.
    group_key, test, genes, n_genes, markers, features, reference, metrics
        As in `stpredict.tl.cross_validate`.
    seeds, min_counts, n_jobs, path, show_progress, library_key, table_key
        As in `stpredict.tl.cross_validate`. Draws follow from ``stpredict.settings.seed``.

    Returns
    -------
    The table of `stpredict.tl.cross_validate` with two more columns, ``n_train`` and ``repeat``.

    Raises
    ------
    ValueError
        If a size is not positive or larger than some fold's number of training sections, and for all reasons of
        `stpredict.tl.cross_validate`.

    Examples
    --------
    >>> import stpredict as st
    >>> sections = st.datasets.simulate(3)
    >>> for adata in sections:
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> table = st.tl.learning_curve(sections, methods=["ridge"], sizes=[1, 2], repeats=1, test=["P3"])
    >>> table["n_train"].unique().tolist()
    [1, 2]
    """
    study = open_study(
        sections,
        methods,
        reference=reference,
        genes=genes,
        n_genes=n_genes,
        markers=markers,
        metrics=metrics,
        seeds=seeds,
        group_key=group_key,
        features=features,
        min_counts=min_counts,
        where=Where(library_key, table_key),
    )
    folds = list(leave_one_group_out(study.groups, test))
    sizes = sorted(dict.fromkeys(sizes))
    most = min(len(fold.train) for fold in folds)
    if not sizes or sizes[0] < 1 or sizes[-1] > most or repeats < 1:
        msg = f"sizes must lie between 1 and {most}, the training sections there are, and repeats be at least 1; got "
        msg += f"{sizes} and {repeats}."
        raise ValueError(msg)
    splits = [
        Split(fold.group, draw, fold.test, pool=fold.train, labels={"n_train": size, "repeat": repeat})
        for fold in folds
        for size in sizes
        for repeat, draw in enumerate(_draws(fold, size, repeats))
    ]
    return run(study, splits, path=path, n_jobs=n_jobs, show_progress=show_progress)


def _draws(fold: Fold, size: int, repeats: int) -> list[list[int]]:
    """Different choices of `size` of the fold's training sections: all of them, or `repeats` at random.

    Random ones are the first of shuffled sections, so that larger draws tend to hold the smaller ones.
    """
    if comb(len(fold.train), size) <= repeats:
        return list(map(list, combinations(fold.train, size)))
    rng = np.random.default_rng(settings.seed)
    drawn: list[list[int]] = []
    while len(drawn) < repeats:
        draw = sorted(rng.permutation(fold.train)[:size].tolist())
        if draw not in drawn:
            drawn.append(draw)
    return drawn
