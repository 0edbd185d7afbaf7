"""Training a model on what a user passes: sections opened, arguments checked, references learned from."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from stpredict._core import keys
from stpredict._core.checks import check_named_once, one_of
from stpredict._core.files import check_writable
from stpredict._core.names import gene_names
from stpredict._core.warning import warn
from stpredict._genes.symbols import match
from stpredict._sections.groups import section_groups
from stpredict._sections.measured import gene_sums, not_measured, tell_of_not_measured
from stpredict._sections.open import Where, check_sizes, open_all
from stpredict._sections.references import STUDY_KEY, open_references
from stpredict._sections.stored import StoredSections, are_stored, open_stored
from stpredict.models.methods import METHODS
from stpredict.models.widths import fit_widths
from stpredict.pp import gene_panel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section
    from stpredict.models._base.model import ExpressionModel

GENE_IDS = "gene_ids"
"""Column of ``var`` with Ensembl ids, as readers write it."""

N_GENES = 1000
"""Genes learned by default."""


def fit(
    sections: Data | Sequence[Data] | str | Path | Sequence[str | Path],
    *,
    reference: Data | Sequence[Data] | str | Path | Sequence[str | Path] | None = None,
    method: str = "consensus",
    genes: Iterable[str] | None = None,
    features: str | Sequence[str] | None = None,
    group_key: str | None = keys.PATIENT,
    min_counts: int = 50,
    preset: str | None = None,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    show_progress: bool | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    **options: Any,
) -> ExpressionModel:
    """Train a model; everything is explained at `stpredict.tl.train`."""
    one_of(method, METHODS, "method")
    own = own_arguments(METHODS[method], options | {"preset": preset, "checkpoint": checkpoint})
    if METHODS[method].seeded:
        own |= {"seed": seed, "show_progress": show_progress}
    model = METHODS[method](features=features, min_counts=min_counts, **own)
    opened = _opened(sections, model, Where(library_key, table_key))
    dropped, sums = _check_counts(opened)
    if genes is None:
        genes = gene_panel(
            opened if isinstance(opened, StoredSections) else sections,
            n_top=N_GENES,
            min_counts=min_counts,
            library_key=library_key,
            table_key=table_key,
        )
    genes = _checked_genes(genes, opened)
    if group_key == keys.PATIENT and not any(group_key in section.adata.obs for section in opened):
        group_key = None
    if reference is not None:
        study_key = library_key or STUDY_KEY
        tables: Any = open_references(reference, Where(study_key, table_key))
        model.learn_reference(tables, genes, min_counts=min_counts, study_key=study_key)
    if checkpoint is not None:
        check_writable(checkpoint)
    model.not_measured = not_measured(sums, genes)
    tell_of_not_measured(opened, genes, model.not_measured, "They are learned from the other sections alone.")
    model.group_key = group_key
    model = fit_widths(model, opened, genes=genes, groups=section_groups(opened, group_key))
    if dropped:
        note = f"genes were dropped from {_listed(dropped, 5)}: totals are those in obs['total_counts']"
        model.config["history"]["notes"].append(note)
    return model


def _opened(sections: Any, model: ExpressionModel, where: Where) -> Sequence[Section]:
    """All sections, those in stores to be read when they are asked for."""
    if not are_stored(sections):
        return open_all(sections, where)
    if not model.streams:
        msg = (
            f"method={model.method!r} learns from all spots at once, so it cannot stream sections from disk: pass the "
            "sections themselves, [anndata.read_h5ad(path) for path in paths], or take method='st_align' or 'cmrcnet'."
        )
        raise TypeError(msg)
    on_disk = open_stored(sections, where)
    check_sizes(on_disk)
    return on_disk


def _check_counts(sections: Sequence[Section]) -> tuple[list[str], list[pd.Series]]:
    """Refuse sections of which one has no raw counts or no totals.

    Returns
    -------
    Names of the sections that lack genes of their totals, and the `gene_sums` of all.
    """
    dropped, sums = [], []
    for section in sections:
        if section.lacks_genes():
            dropped.append(section.name)
        sums.append(gene_sums(section))
    return dropped, sums


def own_arguments(model: type[ExpressionModel], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments that only trained networks take, those that were given.

    None stands for not given, unless the options of the network have it for a value; unknown options are kept, to be
    refused whatever their value. Raises TypeError if some were given to a method that trains no network.
    """
    plain = ("preset", "checkpoint", "seed", "show_progress", "gene_embeddings")
    known = {field.name: field for field in fields(model.presets["default"])} if hasattr(model, "presets") else {}
    given = {
        name: value
        for name, value in given.items()
        if value is not None or not (name in plain or (name in known and "None" not in str(known[name].type)))
    }
    if given and not model.seeded:
        msg = (
            f"method={model.method!r} takes no {', '.join(given)}: leave it out, or train a network (method='cmrcnet', "
            "'st_align' or 'align_st')."
        )
        raise TypeError(msg)
    return given


def _checked_genes(genes: Iterable[str], sections: Sequence[Section]) -> list[str]:
    """`genes` as a list, each once and measured in every section."""
    wanted = gene_names(genes)
    if not wanted:
        msg = "genes is empty; name the genes to learn, or leave it out for the 1,000 with the highest mean."
        raise ValueError(msg)
    check_named_once(wanted)
    known: dict[str, tuple[str, str]] = {}
    for section in sections:
        there = set(section.genes)
        if missing := [gene for gene in wanted if gene not in there]:
            msg = f"Section {section.name!r} does not measure {_listed(missing)}.{_other_names(missing, section)}"
            raise ValueError(msg)
        if GENE_IDS in section.adata.var:
            _check_gene_ids(wanted, section, known)
    return wanted


def _check_gene_ids(genes: list[str], section: Section, known: dict[str, tuple[str, str]]) -> None:
    """Refuse a name that stands for another gene than in an earlier section; `known` are their ids and sections."""
    ids = section.adata.var[GENE_IDS].reindex(genes).dropna().astype(str).str.split(".").str[0]
    for gene, number in ids.items():
        other, where = known.setdefault(gene, (number, section.name))
        if other != number:
            msg = (
                f"{gene} is {other} in section {where!r} and {number} in section {section.name!r}: two genes of one "
                "name. Use ids in all sections: adata.var_names = adata.var['gene_ids']; or leave this gene out."
            )
            raise ValueError(msg)
    if twice := [gene for gene in ids.index if f"{gene}-1" in section.genes]:
        told = ", ".join(f"{gene} ({known[gene][0]})" for gene in twice[:5])
        msg = f"More than one gene is called {', '.join(twice[:5])}; learned is the one with the first id: {told}."
        warn(msg)


def _other_names(missing: list[str], section: Section) -> str:
    """What the section calls the missing genes, as a hint."""
    found = match(missing, section.genes)
    written = {str(name).upper(): str(name) for name in section.genes}
    found = {gene: written[gene.upper()] for gene in missing if gene.upper() in written} | found
    hint = " Drop them, or take genes that all sections share, as stpredict.pp.gene_panel does."
    if found:
        told = ", ".join(f"{theirs} for {asked}" for asked, theirs in list(found.items())[:5])
        hint = f" It names some of them differently ({told}): use the names in var_names, the same in all sections."
    return hint


def _listed(names: list[str], most: int = 10) -> str:
    return f"{', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}"
