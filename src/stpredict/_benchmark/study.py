"""A study: sections, methods and what is scored, checked once, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._benchmark import duplicates
from stpredict._benchmark.methods import FIXED, check_genes, check_image_features, method_specs
from stpredict._benchmark.panels import shared_genes, wanted_genes
from stpredict._core.settings import settings
from stpredict._core.version import __version__
from stpredict._evaluation.scoring import KNOWN, METRICS, MIN_SPOTS, OF_INTERVALS, check_deep_spots
from stpredict._evaluation.stated import OF_STATED
from stpredict._evaluation.target import LOG1P, checked_metrics
from stpredict._sections.groups import section_groups
from stpredict._sections.open import Where, open_all, separate, unique_names
from stpredict._sections.references import STUDY_KEY, open_references
from stpredict._sections.spread import kept_of_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from stpredict._benchmark.methods import Methods
    from stpredict._core.typing import Data
    from stpredict._sections.references import Reference
    from stpredict._sections.section import Section

ALWAYS = ("pcc_given_depth", "ceiling", "ceiling_sd", "pcc_of_ceiling")
"""Metrics that every table has, as far as its target allows."""
DEFAULT = (*(metric for metric in METRICS if metric not in ALWAYS), *OF_INTERVALS, *OF_STATED)
"""Further metrics where none are asked for."""


@dataclass
class Study:
    """What all jobs share. `data` holds one section each, under `names`, of `groups`."""

    data: list[Data]
    names: list[str]
    groups: list[str]
    specs: dict[str, dict[str, Any]]
    references: list[Reference]
    seeds: list[int]
    genes: list[str] | None
    n_genes: int
    markers: dict[str, list[str]]
    shared: list[str]
    metrics: list[str]
    target: str
    group_key: str | None
    features: list[str] | None
    min_counts: int
    where: Where
    digests: dict[str, str]

    def plan(self) -> dict[str, Any]:
        """Everything that numbers depend on beside the method, for the store."""
        own = ("n_genes", "markers", "metrics", "target", "group_key", "features", "min_counts", "genes")
        return {
            "sections": self.digests,
            "groups": dict(zip(self.names, self.groups, strict=True)),
            **{name: getattr(self, name) for name in own},
            "settings": {"seed": settings.seed, "precision": settings.precision},
            "version": __version__,
        }


def open_study(
    data: Data | Sequence[Data],
    methods: Methods,
    *,
    reference: Data | Sequence[Data] | str | Path | Sequence[str | Path] | None,
    genes: Iterable[str] | None,
    n_genes: int,
    markers: Iterable[str] | Mapping[str, Iterable[str]] | None,
    metrics: Iterable[str] | None,
    seeds: Iterable[int],
    group_key: str | None,
    features: str | Sequence[str] | None,
    min_counts: int,
    where: Where,
    target: str = LOG1P,
) -> Study:
    """Check everything that can be checked before anything is trained, planted leaks included."""
    specs = method_specs(methods)
    metrics = checked_metrics(metrics, target, known=KNOWN, default=DEFAULT)
    always = checked_metrics(None, target, known=KNOWN, default=ALWAYS)
    seeds = _checked_seeds(seeds)
    sections = open_all(data, where, least_spots=MIN_SPOTS)
    for section in sections:
        check_deep_spots(section, min_counts)
    names = unique_names(sections)
    groups = names if group_key is None else section_groups(sections, group_key)
    shared = shared_genes(sections)
    hashes = [duplicates.section_hashes(section, shared, min_counts) for section in sections]
    duplicates.refuse_duplicates(hashes, names, groups)
    studies = Where(where.library_key or STUDY_KEY, where.table_key)
    references = [] if reference is None else open_references(reference, studies)
    duplicates.refuse_disguised_references(references, sections, groups, group_key=group_key, min_counts=min_counts)
    keys = None if features is None else [features] if isinstance(features, str) else list(features)
    check_image_features(specs, sections, keys)
    wanted, marker_sets = wanted_genes(shared, genes, n_genes, markers)
    check_genes(specs, shared)
    duplicates.warn_of_sisters(sections, groups, group_key)
    return Study(
        data=separate(data, where),
        names=names,
        groups=groups,
        specs=specs,
        references=references,
        seeds=seeds,
        genes=wanted,
        n_genes=n_genes,
        markers=marker_sets,
        shared=shared,
        metrics=list(dict.fromkeys([*metrics, *always])),
        target=target,
        group_key=group_key,
        features=keys,
        min_counts=min_counts,
        where=where,
        digests=_digests(sections, names, references, keys, specs),
    )


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    seeds = [seeds] if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if not seeds or any(not isinstance(seed, (int, np.integer)) or seed < 0 for seed in seeds):
        msg = f"seeds must be one or more non-negative integers, got {seeds!r}."
        raise ValueError(msg)
    return [int(seed) for seed in seeds]


def _digests(
    sections: Sequence[Section],
    names: Sequence[str],
    references: Sequence[Reference],
    features: Sequence[str] | None,
    specs: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """Fingerprint of every section (counts, gene names, features) and reference, by name."""
    import hashlib

    asked = {key for spec in specs.values() for key in np.atleast_1d(spec.get("features") or [])} | set(features or [])
    asked |= {key for spec in specs.values() if FIXED in spec for key in spec[FIXED].config["features"]}
    digests = {}
    for section, name in zip(sections, names, strict=True):
        digest = hashlib.sha256("\n".join(section.genes).encode())
        digest.update(duplicates.section_hashes(section, section.genes, 0).tobytes())
        digest.update(section.centres.tobytes())
        for key in sorted(key for key in section.adata.obsm if key in asked or _encoded(section.record(key))):
            digest.update(key.encode())
            digest.update(section.features(key).tobytes())
            for values in kept_of_whole(section, key) or ():
                digest.update(values.tobytes())
        digests[name] = digest.hexdigest()[:16]
    for number, reference in enumerate(references):
        genes = tuple(reference.genes)
        hashed = duplicates.reference_hashes(reference, [genes], 0)[genes]
        digest = hashlib.sha256("\n".join(genes).encode() + hashed.tobytes())
        digests[f"reference {number}"] = digest.hexdigest()[:16]
    return digests


def _encoded(record: Any) -> bool:
    return isinstance(record, Mapping) and "encoder_hash" in record
