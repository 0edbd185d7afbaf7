"""Learn to predict expression from image features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict.models.fit import fit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from stpredict._core.typing import Data
    from stpredict.models import ExpressionModel


@with_shared_texts
def train(
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
        Sections or single cells without images, with raw counts: one object or a list, also AnnData in backed mode, or the
        paths of stores, of which a few thousand rows are in memory at a time. Their gene–gene correlation
        corrects predictions, little on sections like those in training and more the further a section's image
        features lie from theirs; see Notes. To ``"align_st"`` they tell instead where genes lie among the programmes of
        co-expression: all genes that they measure can then be predicted. Never pass counts of a patient on whom the
        model will be tested.
    method
        ``"consensus"``, the default: ridge, knn and CMRCNet, each with spot and niche and once more with all niche widths,
        added with weights that are learned on held-out spots; see `stpredict.models.consensus.Consensus`. Or one method:
        ``"mean"`` (training mean), ``"density"`` (from cell density alone), ``"ridge"`` (linear), ``"knn"``
        (mean of the training spots that look most similar), ``"mixture"`` (half of ridge, half of knn), ``"cmrcnet"``
        (contrastive alignment of image and expression, with cross-modal mask reconstruction [1]_; prediction by
        retrieval in the joint space), ``"st_align"`` (alignment of image and expression of spots and of their niches,
        and a fusion of both [2]_; prediction alike, and a joint space for `stpredict.tl.domains`) or ``"align_st"``
        (tiles and genes in one space, expression as their product [3]_; it also predicts genes that no training
        section measures). ``"st_align"`` needs spot and niche features; niches are those of `stpredict.pp.niches`, by
        default the niche windows of `stpredict.pp.tiles`. ``"align_st"`` needs any features, and nuclei of
        `stpredict.pp.nuclei` with ``nuclei=True`` or the preset ``"published"``; see Notes.
    genes
        Genes to learn, measured in every section; by default ``stpredict.pp.gene_panel(sections, n_top=1000)``.
        As everywhere: names, a boolean Series over ``var`` such as ``adata.var["highly_variable"]``, or a dict of lists, of which
        the union is taken.
    features
        ``obsm`` keys to learn from; by default everything that `stpredict.pp.encode` left, spot and niche. Where niches have
        several widths, ``"consensus"`` has parts for both; another method is trained with the niche alone and with all, and
        the one kept that predicts inner held-out spots better; of a single section, the one with the niche alone.
    group_key
        Column of ``obs`` that names each section's patient. With None, and where no section has
        ``obs["patient"]``, every section counts as a patient of its own in the inner folds; the model's ``history`` says
        so. Any other column must be in every section.
    %(min_counts)s
    preset
        For trained networks: ``"default"``, what measured best, or ``"published"``, the paper's recipe as far as it is
        known.
    seed
        Seed of trained networks; the same seed gives the same model on a CPU, and on CUDA the same up to rounding. By
        default ``stpredict.settings.seed``.
    checkpoint
        Folder for checkpoints of trained networks, written after each epoch and within a long one every five minutes; a
        run that was interrupted continues from there, with the same numbers as without the interruption.
    %(show_progress)s
        Only networks have one.
    %(sections)s
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
    The trained model; `sections` are unchanged. ``model.history`` tells how its hyper-parameter, or the
    weights of its parts, were chosen.

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
        is no better than chance on held-out spots; if gene embeddings are of too few genes to place others by them.

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
    ``predict_expression(data, model, genes=[…])`` predicts any of them. So does a model of ``"consensus"`` with `reference`:
    a gene that it did not learn from is the mean of the 20 that it did and that vary most alike in the references.

    A gene that is zero in every spot of a section, as ``anndata.concat(join="outer")`` leaves it, and of which the others let
    expect many counts, was not measured there: it is learned from the others alone. Where a method needs a value,
    the one that a ridge regression on those sections predicts stands in. ``model.config["not_measured"]`` lists such genes.

    In processes that ``torchrun`` starts, ``"cmrcnet"``, also as a part of ``"consensus"``, and ``"st_align"`` share every
    batch, and ``"align_st"`` the spots and genes of every section: losses are those of the whole, contrastive ones with
    negatives from all processes, and each process returns the same model, the one that a single process trains but for
    rounding and what is left out at random. Each takes a GPU of its own, where there are some.

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
    >>> model = st.tl.train(adata, genes=["ERBB2", "COL1A1"], show_progress=False)
    >>> model.method, model.genes
    ('consensus', ['ERBB2', 'COL1A1'])

    With other patients' sections that have no image:

    >>> others = st.datasets.simulate(4)[1:]
    >>> model = st.tl.train(adata, genes=["ERBB2", "KRT8", "COL1A1"], reference=others, method="ridge")
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
    return fit(
        sections,
        reference=reference,
        method=method,
        genes=genes,
        features=features,
        group_key=group_key,
        min_counts=min_counts,
        preset=preset,
        seed=seed,
        checkpoint=checkpoint,
        show_progress=show_progress,
        library_key=library_key,
        table_key=table_key,
        **options,
    )
