"""Learn to predict expression from image features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stpredict._checks import check_named_once, one_of
from stpredict._evaluation.splits import section_groups
from stpredict._section import table_of
from stpredict._stored_sections import StoredSections, are_stored, open_stored
from stpredict.tl._sections import check_sizes, open_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from stpredict._section import Section
    from stpredict._typing import Data
    from stpredict.models import ExpressionModel

N_GENES = 1000
"""Genes learned by default."""

NONE_MEANS = ("image_encoder", "depth", "rebuilt", "expression_key", "final_weight_decay", "genes_per_step")
"""Options of networks for which None is a value."""


def train(
    sections: Data | Sequence[Data] | str | Path | Sequence[str | Path],
    *,
    reference: Data | Sequence[Data] | None = None,
    method: str = "ridge",
    genes: Iterable[str] | None = None,
    features: str | Sequence[str] | None = None,
    group_key: str | None = "patient",
    min_counts: int = 50,
    preset: str | None = None,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    show_progress: bool | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    **options: Any,
) -> ExpressionModel:
    """Train a model that predicts gene expression from H&E.

    Targets are log1p of counts per 10,000, by the total over all measured genes. The hyper-parameter is chosen on inner
    folds of the training sections that hold out whole patients, where there are at least three; else sections; else
    strips of the only section.

    Parameters
    ----------
    sections
        Training sections with raw counts, after `stpredict.pp.tiles` and `stpredict.pp.encode`: one object or a list. For
        ``"cmrcnet"`` and ``"st_align"`` also a folder of ``.h5ad`` and ``.zarr`` stores of such objects, or a list of
        stores: they are read one at a time and the rows to learn from are kept in ``stpredict.settings.cache_dir`` until
        training ends, so memory does not grow with the number of sections (see Notes).
    reference
        Sections or single cells without images, with raw counts: one object or a list. Their gene–gene correlation
        corrects predictions, little on sections like those in training and more the further a section's image
        features lie from theirs; see Notes. To ``"align_st"`` they tell instead where genes lie among the programmes of
        co-expression: all genes that they measure can then be predicted. Never pass counts of a patient on whom the
        model will be tested.
    method
        ``"mean"`` (training mean), ``"density"`` (what cell density alone tells), ``"ridge"`` (linear), ``"knn"``
        (retrieval of look-alike spots), ``"mixture"`` (half of ridge, half of knn), ``"cmrcnet"`` (contrastive alignment
        of image and expression, with cross-modal mask reconstruction [1]_; prediction by retrieval in the joint space),
        ``"st_align"`` (alignment of image and expression of spots and of their niches, and a fusion of both [2]_;
        prediction alike, and a joint space for `stpredict.tl.domains`) or ``"align_st"`` (tiles and genes in one space,
        expression as their product [3]_; it also predicts genes that no training section measures). ``"st_align"``
        needs spot and niche features; niches are those of `stpredict.pp.niches`, by default the niche windows of
        `stpredict.pp.tiles`. ``"align_st"`` needs any features, and nuclei of `stpredict.pp.nuclei` with
        ``nuclei=True`` or the preset ``"published"``; see Notes.
    genes
        Genes to learn, measured in every section; by default ``stpredict.pp.gene_panel(sections, n_top=1000)``.
    features
        ``obsm`` keys to learn from; by default everything that `stpredict.pp.encode` left, spot and niche.
    group_key
        Column of ``obs`` that names each section's patient. Where no section has it, and with None, every section
        counts as a patient of its own in the inner folds; the model's ``history`` says so.
    min_counts
        Spots with fewer counts are not learned from.
    preset
        For trained networks: ``"default"``, what measured best, or ``"published"``, the paper's recipe as far as it is
        known.
    seed
        Seed of trained networks; the same seed gives the same model. By default ``stpredict.settings.seed``.
    checkpoint
        Folder for checkpoints of trained networks, written after each epoch and within a long one every five minutes; a
        run that was interrupted is continued from there, to the numbers that it would have come to.
    show_progress
        Show a progress bar while networks train; by default ``stpredict.settings.progress``.
    library_key
        Column of ``obs`` that names each spot's section, where an AnnData holds several.
    table_key
        Table of a SpatialData that has several.
    **options
        Options of the method, in place of the preset's. For ``"cmrcnet"`` and ``"st_align"`` among others
        ``image_encoder`` (a timm network to train end to end on 112 µm tiles; None learns from frozen features),
        ``epochs``, ``batch_size``, ``learning_rate``, ``temperature``, ``neighbours`` and ``members``. For
        ``"align_st"`` ``gene_embeddings`` (a DataFrame of `stpredict.pp.gene_embeddings` or your own, genes as index; by
        default the vectors of names and Gene Ontology terms that the package carries), ``nuclei``, ``text_layers``,
        ``gene_neighbours``, ``epochs`` and ``members``. All are listed in `stpredict.models.cmrcnet.Options`,
        `stpredict.models.st_align.Options` and `stpredict.models.align_st.Options`.

    Returns
    -------
    The trained model; `sections` are unchanged. ``model.history`` tells how its hyper-parameter was chosen.

    Raises
    ------
    ValueError
        If image features are missing or differ between sections, counts are not raw counts, genes are not measured
        everywhere, or there are too few spots; if `reference` is empty, or one of it has no raw counts, no gene of the
        model or fewer than two usable rows; if gene embeddings are not finite, or nuclei were not looked for; if the loss
        of a network becomes NaN, a checkpoint is of another run, or there are more processes than spots in a batch.
    TypeError
        If the method has no such option, or cannot learn from stores on disk.
    FileNotFoundError
        If there is no store at a path.

    Warns
    -----
    UserWarning
        If genes of the model are in no reference, so that their predictions are not corrected; if a contrastive model
        has not left chance on held-out spots; if gene embeddings are of too few genes to place others by them.

    Notes
    -----
    With `reference`, standardised predictions are read as noisy observations of an expression whose correlation is
    that of the references, within studies (sections named in ``obs[library_key]``, else whole objects), and replaced by
    its expectation: along an axis of gene space with variance v they are weighted by v / (v + e). The error e is the
    squared distance between the new section's mean image features and those of the training sections, over that of the
    training sections to each other. Hyper-parameters are chosen with the correction on, at e = 1. Means and standard
    deviations of genes stay as predicted.

    A model of ``"align_st"`` places genes by correlation within sections: without `reference`, genes that it learns
    from have the place that the training sections give them, and all others one that is read off their embedding, by
    ridge regression on the genes that have both (at least 20). With `reference`, genes that it measures are placed by
    their correlation there with those that are learned from. ``model.vocabulary`` lists all genes with a place;
    ``predict_expression(data, model, genes=[…])`` predicts any of them.

    In processes that ``torchrun`` starts, ``"cmrcnet"`` and ``"st_align"`` share every batch: losses are those of the whole,
    contrastive ones with negatives from all processes, and each process returns the same model, the one that a single
    process trains but for rounding and what is left out at random. Each takes a GPU of its own, where there are some.

    Streamed from stores, sections give the model that they would give in memory, to the bit. What is kept of every spot
    in memory is about 200 bytes; on disk it is its features, and its expression and that of its niche up to four
    times, as float32. A model keeps at most ``bank_spots`` reference spots (20,000; drawn from every section in
    proportion), and of the held-out spots that choose the number of epochs 5,000 are looked at.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(adata, genes=["ERBB2", "COL1A1"])
    >>> model.method, model.genes
    ('ridge', ['ERBB2', 'COL1A1'])

    With other patients' sections that have no image:

    >>> others = st.datasets.simulate(4)[1:]
    >>> model = st.tl.train(adata, genes=["ERBB2", "KRT8", "COL1A1"], reference=others)
    >>> model.config["reference"]["n_studies"]
    3

    A gene that training does not see:

    >>> seen = [gene for gene in adata.var_names if gene != "KRT18"]
    >>> model = st.tl.train(adata, method="align_st", genes=seen, epochs=2, members=1, show_progress=False)
    >>> st.tl.predict_expression(adata, model, genes=["KRT18"])
    >>> adata.uns["predicted"]["unseen"]["genes"].tolist()
    ['KRT18']

    References
    ----------
    .. [1] Liu et al., Spatial Transcriptomics Expression Prediction from Histopathology Based on Cross-Modal Mask
       Reconstruction and Contrastive Learning. Medical Image Analysis 108:103889 (2025).
    .. [2] Lin et al., ST-Align: A Multimodal Foundation Model for Image-Gene Alignment in Spatial Transcriptomics. arXiv
       2411.16793 (2024), and its later version at a workshop of ICLR 2026.
    .. [3] Zhou et al., Deep Association Multimodal Learning for Zero-Shot Spatial Transcriptomics Prediction. MICCAI
       2025.
    """
    from stpredict.models import METHODS

    one_of(method, METHODS, "method")
    own = _own_arguments(METHODS[method], options | {"preset": preset, "checkpoint": checkpoint})
    if METHODS[method].seeded:
        own |= {"seed": seed, "show_progress": show_progress}
    model = METHODS[method](features=features, min_counts=min_counts, **own)
    opened = _opened(sections, model, library_key=library_key, table_key=table_key)
    _check_counts(opened)
    if genes is None:
        from stpredict.pp import gene_panel

        genes = gene_panel(
            opened if isinstance(opened, StoredSections) else sections,
            n_top=N_GENES,
            min_counts=min_counts,
            library_key=library_key,
            table_key=table_key,
        )
    genes = _checked_genes(genes, opened)
    if group_key is not None and not any(group_key in section.adata.obs for section in opened):
        group_key = None
    if reference is not None:
        several = reference if isinstance(reference, (list, tuple)) else [reference]
        tables = [table_of(one, table_key) for one in several]
        study_key = library_key or "library_id"
        model.learn_reference(tables, genes, min_counts=min_counts, study_key=study_key)
    model.fit(opened, genes=genes, groups=section_groups(opened, group_key))
    return model


def _opened(
    sections: Any, model: ExpressionModel, *, library_key: str | None, table_key: str | None
) -> Sequence[Section]:
    """All sections, those in stores to be read when they are asked for."""
    if not are_stored(sections):
        return open_all(sections, library_key=library_key, table_key=table_key)
    if not model.streams:
        msg = (
            f"method={model.method!r} learns from all spots at once, so it cannot stream sections from disk: pass the "
            "sections themselves, [anndata.read_h5ad(path) for path in paths], or take method='st_align' or 'cmrcnet'."
        )
        raise TypeError(msg)
    on_disk = open_stored(sections, library_key=library_key)
    check_sizes(on_disk)
    return on_disk


def _check_counts(sections: Sequence[Section]) -> None:
    """Refuse sections of which one has no raw counts."""
    for section in sections:
        section.counts()


def _own_arguments(model: type[ExpressionModel], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments that only trained networks take, those that were given."""
    given = {name: value for name, value in given.items() if value is not None or name in NONE_MEANS}
    if given and not model.seeded:
        msg = (
            f"method={model.method!r} takes no {', '.join(given)}: leave it out, or train a network (method='cmrcnet', "
            "'st_align' or 'align_st')."
        )
        raise TypeError(msg)
    return given


def _checked_genes(genes: Iterable[str], sections: Sequence[Section]) -> list[str]:
    """`genes` as a list, each once and measured in every section."""
    wanted = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    if not wanted:
        msg = "genes is empty; name the genes to learn, or leave it out for the 1,000 with the highest mean."
        raise ValueError(msg)
    check_named_once(wanted)
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
