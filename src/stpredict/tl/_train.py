"""Learn to predict expression from image features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict._checks import one_of
from stpredict._evaluation.splits import section_groups
from stpredict.tl._sections import open_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stpredict._section import Section
    from stpredict._typing import Data
    from stpredict.models import ExpressionModel

N_GENES = 1000
"""Genes learned by default."""


def train(
    sections: Data | Sequence[Data],
    *,
    method: str = "ridge",
    genes: Iterable[str] | None = None,
    features: str | Sequence[str] | None = None,
    group_key: str | None = "patient",
    min_counts: int = 50,
    library_key: str | None = None,
    table_key: str | None = None,
) -> ExpressionModel:
    """Train a model that predicts gene expression from H&E.

    Targets are log1p of counts per 10,000, by the total over all measured genes. The hyper-parameter is chosen on inner
    folds of the training sections that hold out whole patients, where there are at least three; else sections; else
    strips of the only section.

    Parameters
    ----------
    sections
        Training sections with raw counts, after `stpredict.pp.tiles` and `stpredict.pp.encode`: one object or a list.
    method
        ``"mean"`` (training mean), ``"density"`` (what cell density alone tells), ``"ridge"`` (linear) or ``"knn"``
        (retrieval of look-alike spots).
    genes
        Genes to learn, measured in every section; by default ``stpredict.pp.gene_panel(sections, n_top=1000)``.
    features
        ``obsm`` keys to learn from; by default everything that `stpredict.pp.encode` left, spot and niche.
    group_key
        Column of ``obs`` that names each section's patient. Where no section has it, and with None, every section
        counts as a patient of its own in the inner folds; the model's ``history`` says so.
    min_counts
        Spots with fewer counts are not learned from.
    library_key
        Column of ``obs`` that names each spot's section, where an AnnData holds several.
    table_key
        Table of a SpatialData that has several.

    Returns
    -------
    The trained model; `sections` are unchanged. ``model.history`` tells how its hyper-parameter was chosen.

    Raises
    ------
    ValueError
        If image features are missing or differ between sections, counts are not raw counts, genes are not measured
        everywhere, or there are too few spots.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(adata, genes=["ERBB2", "COL1A1"])
    >>> model.method, model.genes
    ('ridge', ['ERBB2', 'COL1A1'])
    """
    from stpredict.models import METHODS

    one_of(method, METHODS, "method")
    opened = open_all(sections, library_key=library_key, table_key=table_key)
    for section in opened:
        section.counts()
    if genes is None:
        from stpredict.pp import gene_panel

        genes = gene_panel(sections, n_top=N_GENES, min_counts=min_counts, library_key=library_key, table_key=table_key)
    genes = _checked_genes(genes, opened)
    if group_key is not None and not any(group_key in section.adata.obs for section in opened):
        group_key = None
    model = METHODS[method](features=features, min_counts=min_counts)
    model.fit(opened, genes=genes, groups=section_groups(opened, group_key))
    return model


def _checked_genes(genes: Iterable[str], sections: list[Section]) -> list[str]:
    """`genes` as a list, each once and measured in every section."""
    wanted = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    if not wanted:
        msg = "genes is empty; name the genes to learn, or leave it out for the 1,000 with the highest mean."
        raise ValueError(msg)
    if twice := sorted({gene for gene in wanted if wanted.count(gene) > 1}):
        msg = f"genes names {', '.join(twice[:5])} more than once; name every gene once."
        raise ValueError(msg)
    for section in sections:
        there = set(section.genes)
        if missing := [gene for gene in wanted if gene not in there]:
            msg = f"Section {section.name!r} does not measure {_listed(missing)}.{_other_names(missing, section)}"
            raise ValueError(msg)
    return wanted


def _other_names(missing: list[str], section: Section) -> str:
    """What the section calls the missing genes, as a hint."""
    from stpredict.datasets._genes import match

    found = match(missing, section.genes)
    hint = " Drop them, or take genes that all sections share, as stpredict.pp.gene_panel does."
    if found:
        told = ", ".join(f"{theirs} for {asked}" for asked, theirs in list(found.items())[:5])
        hint = f" It names some of them differently ({told}): use the names in var_names, the same in all sections."
    return hint


def _listed(names: list[str], most: int = 10) -> str:
    return f"{', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}"
