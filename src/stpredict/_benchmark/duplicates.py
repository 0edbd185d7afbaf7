"""Leaks that hide in the data: one section under two names, sisters in two folds, references of the held-out patient."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from stpredict._core import keys
from stpredict._core.labels import as_text
from stpredict._core.warning import warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from stpredict._core.typing import Matrix
    from stpredict._sections.references import Reference
    from stpredict._sections.section import Section

SAME = 0.1
"""Two sections are one if this share of the smaller one's spots has the very counts of spots of the other."""


def spot_hashes(counts: Matrix, names: pd.Index, genes: Sequence[str], min_counts: int) -> np.ndarray:
    """64-bit hash of the counts of `genes` of every spot; 0 for spots too shallow to be told apart.

    The hash is the sum of the counts times a random odd number per gene, modulo 2⁶⁴.
    """
    weights = np.random.default_rng(0).integers(0, 2**63, len(genes), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    chosen = sparse.csr_matrix(counts[:, names.get_indexer(genes)]).astype(np.uint64)
    enough = np.asarray(chosen.sum(axis=1)).ravel() >= max(min_counts, 1)
    return np.where(enough, chosen @ weights, np.uint64(0))


def section_hashes(section: Section, genes: Sequence[str], min_counts: int) -> np.ndarray:
    """`spot_hashes` of a section."""
    return spot_hashes(section.counts(), section.genes, genes, min_counts)


def refuse_duplicates(hashes: Sequence[np.ndarray], names: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse sections of different groups that share spots.

    Raises ValueError if at least `SAME` of the spots of one are spots of the other; both are named.
    """
    distinct = [np.unique(h[h > 0]) for h in hashes]
    values, times = np.unique(np.concatenate(distinct), return_counts=True)
    shared = [np.intersect1d(h, values[times > 1], assume_unique=True) for h in distinct]
    for i, j in combinations([i for i, s in enumerate(shared) if len(s)], 2):
        both = len(np.intersect1d(shared[i], shared[j], assume_unique=True))
        if groups[i] != groups[j] and both >= SAME * min(len(distinct[i]), len(distinct[j])):
            msg = (
                f"Sections {names[i]!r} (group {groups[i]!r}) and {names[j]!r} (group {groups[j]!r}) share {both} spots "
                "with identical counts: they are one section under two names, which would leak it from training into "
                "the test. Drop one of them, or give both the same group."
            )
            raise ValueError(msg)


def warn_of_sisters(sections: Sequence[Section], groups: Sequence[str], group_key: str | None) -> None:
    """Warn where groups split the sections of one patient, as ``obs["patient"]`` tells."""
    homes: dict[str, set[str]] = {}
    for section, group in zip(sections, groups, strict=True):
        if keys.PATIENT in section.adata.obs:
            for patient in as_text(section.adata.obs[keys.PATIENT].iloc[section.rows]).dropna().unique():
                homes.setdefault(patient, set()).add(group)
    split = sorted(patient for patient, of in homes.items() if len(of) > 1)
    if split:
        how = "group_key=None makes every section a group" if group_key is None else f"group_key={group_key!r} is finer"
        msg = (
            f"SECTIONS OF ONE PATIENT ARE SPLIT: {how}, so sections of patient {', '.join(split)} are trained on while others of "
            f"the same patient are tested. Such scores say nothing about new patients; pass group_key={keys.PATIENT!r} for "
            "those."
        )
        warn(msg)


def refuse_disguised_references(
    references: Sequence[Reference],
    sections: Sequence[Section],
    groups: Sequence[str],
    *,
    group_key: str | None,
    min_counts: int,
) -> None:
    """Refuse references that hold the spots of a section without saying that they are of its group.

    Raises ValueError if at least `SAME` of a section's spots are in a reference under another group, or none; both are
    named.
    """
    for number, reference in enumerate(references):
        claimed = reference_groups(reference, group_key)
        shared = [tuple(section.genes.intersection(reference.genes)) for section in sections]
        hashes = reference_hashes(reference, set(shared), min_counts)
        for section, group, genes in zip(sections, groups, shared, strict=True):
            own = section_hashes(section, genes, min_counts)
            own = own[own > 0]
            others = hashes[genes][claimed != group]
            both = int(np.isin(own, others[others > 0]).sum())
            if both and both >= SAME * len(own):
                told = ", ".join(sorted(set(claimed) - {group})[:3]) or "none"
                msg = (
                    f"Reference {number} (group {told}) holds {both} spots of section {section.name!r} (group {group!r}), "
                    "with identical counts: it would leak that section into training when its group is held out. "
                    f"Drop the reference, or name its group in obs[{group_key or keys.PATIENT!r}] and pass group_key=."
                )
                raise ValueError(msg)


def reference_hashes(
    reference: Reference, gene_sets: Iterable[tuple[str, ...]], min_counts: int
) -> dict[tuple[str, ...], np.ndarray]:
    """`spot_hashes` of a reference by each of some sets of genes, in one pass over its rows."""
    hashes: dict[tuple[str, ...], list[np.ndarray]] = {genes: [] for genes in gene_sets}
    for _, counts in reference.counts():
        for genes, parts in hashes.items():
            parts.append(spot_hashes(counts, reference.genes, genes, min_counts))
    return {genes: np.concatenate([np.zeros(0, np.uint64), *parts]) for genes, parts in hashes.items()}


def reference_groups(reference: Reference, group_key: str | None) -> np.ndarray:
    """Group of every row of a reference, as text; empty where the reference does not say."""
    if group_key is None or group_key not in reference.obs:
        return np.full(len(reference.obs), "", dtype=object)
    return as_text(reference.obs[group_key]).fillna("").to_numpy()


def without_group(references: Sequence[Reference], group: str, group_key: str | None) -> list[Reference]:
    """References less the rows of `group`; those left empty are dropped, the others passed on as they are."""
    kept = []
    for reference in references:
        other = reference_groups(reference, group_key) != group
        if other.all():
            kept.append(reference)
        elif other.any():
            kept.append(reference.take(other))
    return kept
