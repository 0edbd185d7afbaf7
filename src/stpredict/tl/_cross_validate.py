"""Cross-validate methods on held-out patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stpredict._benchmark.jobs import Split, run
from stpredict._benchmark.splits import leave_one_group_out
from stpredict._benchmark.study import open_study
from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._sections.open import Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from stpredict._benchmark.methods import Methods
    from stpredict._core.typing import Data


@with_shared_texts
def cross_validate(
    sections: Data | Sequence[Data],
    *,
    methods: Methods,
    group_key: str | None = keys.PATIENT,
    test: Sequence[str] | None = None,
    genes: Iterable[str] | None = None,
    n_genes: int = 1000,
    markers: str | Iterable[str] | Mapping[str, Iterable[str]] | None = None,
    features: str | Sequence[str] | None = None,
    reference: Data | Sequence[Data] | str | Path | Sequence[str | Path] | None = None,
    metrics: Iterable[str] | None = None,
    target: Literal["log1p", "pearson_residuals"] = "log1p",
    seeds: Iterable[int] = (0,),
    min_counts: int = 50,
    n_jobs: int | None = 1,
    path: str | Path | None = None,
    show_progress: bool | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Compare methods on patients they never saw, all on the same folds, genes and features.

    Every group is held out in turn. Its gene panels are chosen on the other groups, methods are trained on these, and
    they predict the held-out sections from image features alone: a method is handed sections without their counts.
    Scores are those of `stpredict.tl.evaluate`. `stpredict.tl.compare_methods` says which differences are real, and
    ``stpredict.pl.scores`` draws them.

    Refused before anything is trained: one section under two groups (at least a tenth of its spots with identical
    counts), and a reference that holds a section's spots without naming their group.

    Parameters
    ----------
    sections
        Sections with raw counts, after `stpredict.pp.tiles` and `stpredict.pp.encode`: one object or a list. They stay
        as they are. Genes that all of them share are eligible.
    methods
        Names of methods, or label → name or arguments of `stpredict.tl.train`, as
        ``{"small": {"method": "ridge", "features": ["X_small"]}}``. A model that others trained,
        ``{"theirs": stpredict.models.pretrained("path2space")}``, is not trained: it is asked for the same genes of the
        same sections; genes that it does not know count as PCC 0. Metrics that depend on units are NaN where its units
        are not ours.
    group_key
        Column of ``obs`` that names each section's patient. None makes every section a group of its own, which says
        nothing about new patients where one patient has several.
    test
        Groups to hold out; by default every one. The others are trained on all the same.
    genes
        Genes to learn and score, by default the `n_genes` of highest mean in the training sections, without
        mitochondrial and ribosomal ones.
    n_genes
        See `genes`.
    markers
        Further genes to learn and score: names, the name of a set of ``stpredict.datasets.marker_sets``, or panel →
        names.
    features
        ``obsm`` keys to learn from; by default everything that `stpredict.pp.encode` left. A method's own win.
    reference
        Expression without images, for methods that learn from it, or paths of stores of such, as in
        `stpredict.tl.train`. Rows that ``obs[group_key]`` gives to the held-out
        group are left out of its fold. A method with ``"reference": None`` does without.
    metrics
        Metrics of `stpredict.tl.evaluate`, by default all that `target` allows; ``"pcc_given_depth"``, ``"ceiling"``,
        ``"ceiling_sd"`` and ``"pcc_of_ceiling"`` are always added (those of the ceiling for ``"log1p"`` only).
        Those of what a prediction says of itself (``"stated_pcc"``, …) are left out of methods that say nothing;
        intervals are those of level 0.9.
    target
        What to score against, ``"log1p"`` of counts per 10,000 or ``"pearson_residuals"``, as in
        `stpredict.tl.evaluate`. Methods learn and predict log1p all the same.
    seeds
        Seeds of methods that depend on chance; the others run once, under the first.
    %(min_counts)s
        They are neither learned from nor scored.
    n_jobs
        Jobs (fold × method × seed) at a time. None takes as many as there are cores, as long as free memory holds
        1.5 GiB and twice the data for each, and one where a method trains on a GPU. Every job works on one thread, so
        that numbers do not depend on `n_jobs`.
    path
        Folder that keeps the result of every finished job. The same call again does only what is missing; methods,
        seeds and tested groups may be added.
    %(show_progress)s
    %(sections)s

    Returns
    -------
    Tidy table with columns ``method``, ``seed``, ``fold`` (the group held out), ``section``, ``panel``, ``gene``,
    ``target``, ``metric`` and ``value``. Panels: ``"HEG"``, the 50 genes of highest mean, ``"HVG"``, the 250 most
    variable ones, the markers, and ``"all"``, each chosen on training sections among the genes learned.

    Raises
    ------
    KeyError
        If a section lacks ``obs[group_key]``.
    ValueError
        If there are fewer than two groups, a section has too few spots or belongs to two groups, sections share no
        gene, counts are not raw counts, a method, group, metric or target is unknown, a metric needs another target,
        spots of one group are found in another, or `path` holds results of another run.

    Warns
    -----
    UserWarning
        If groups split the sections of one ``obs["patient"]``. Of a model that others trained, which collections it has
        seen. If fewer than 30 spots of a section are scored, whose correlations are largely chance.

    Examples
    --------
    >>> import stpredict as st
    >>> sections = st.datasets.simulate(3)
    >>> for adata in sections:
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> table = st.tl.cross_validate(sections, methods=["mean", "ridge"], markers=["ERBB2", "EPCAM"])
    >>> table["fold"].unique().tolist(), table["panel"].unique().tolist()
    (['P1', 'P2', 'P3'], ['HEG', 'HVG', 'markers', 'all'])
    """
    study = open_study(
        sections,
        methods,
        reference=reference,
        genes=genes,
        n_genes=n_genes,
        markers=markers,
        metrics=metrics,
        target=target,
        seeds=seeds,
        group_key=group_key,
        features=features,
        min_counts=min_counts,
        where=Where(library_key, table_key),
    )
    folds = leave_one_group_out(study.groups, test)
    splits = [Split(fold.group, fold.train, fold.test, pool=fold.train) for fold in folds]
    return run(study, splits, path=path, n_jobs=n_jobs, show_progress=show_progress)
