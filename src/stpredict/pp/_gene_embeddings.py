"""What is known of genes beside the sections to learn from, as one vector per gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from stpredict._core.checks import one_of
from stpredict._core.docs import with_shared_texts
from stpredict._core.version import __version__
from stpredict._core.warning import warn
from stpredict._genes import facts, symbols
from stpredict._genes.text_vectors import encoder_name, text_encoder
from stpredict._sections.open import Where
from stpredict._sections.references import open_references
from stpredict.pp._coexpression import coexpression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from stpredict._core.typing import Data

SHIPPED = "minilm and topics, shipped"
"""What ``attrs["encoder"]`` says of vectors that the package carries."""

TEXT_WEIGHT = 0.3
"""Length of the text's part where co-expression, the better judge of expression, has 1."""

MIN_DIMS = 2


@with_shared_texts
def gene_embeddings(
    genes: str | Iterable[str] | None = None,
    *,
    source: Literal["text", "coexpression", "both"] = "text",
    reference: Data | str | Path | Sequence[Data | str | Path] | None = None,
    encoder: str | Path | Callable[[list[str]], np.ndarray] | None = None,
    n_dims: int = 64,
    min_counts: int = 50,
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Describe genes by texts about them, by their co-expression with other genes, or by both.

    A model needs this to predict genes that it never saw: genes that behave alike should have similar vectors. Text
    is available for every known human gene but says little about expression; co-expression in sections or single
    cells without images says much more. A table of your own (GenePT, ProtT5, scGPT) serves wherever the result of
    this function does: a DataFrame of numbers whose index has gene names.

    Parameters
    ----------
    genes
        Symbols, aliases or Ensembl ids of human genes. None takes all genes with a text, or, where there are
        references, all their genes.
    source
        ``"text"``: names and Gene Ontology terms, see `datasets.gene_facts`. ``"coexpression"``: correlation in
        `reference`. ``"both"``: the two side by side, text at 0.3 of the length; a gene that has one of them only has 0
        in place of the other.
    reference
        Sections or single cells with raw counts, any names of genes, and no need for images or coordinates: one AnnData
        or SpatialData, or a list; or, read in blocks of rows, a path or a list of paths of ``.h5ad`` or ``.zarr``
        stores or folders of them. Leave out the patients that you will test on.
    encoder
        Text encoder. None takes vectors that come with this package. ``"minilm"``, a folder, or the id of a
        sentence-transformers or transformers model on the Hugging Face hub encodes each gene's description (needs
        ``pip install 'stpredict[text]'``), and so does a function of a list of texts that gives one vector each.
    n_dims
        Axes of co-expression, at most. The text has as many as its encoder gives.
    min_counts
        Spots or cells with fewer counts are left out of co-expression.
    library_key
        Column of ``obs`` that names each row's study or section, in references that have it; others are one study each.
        Differences between studies do not count.
    %(table_key)s

    Returns
    -------
    DataFrame
        One row per gene that has a vector, indexed by the names as asked; columns ``text_0``, …, ``coexpression_0``, …;
        float32. Text by the shipped vectors or a model has length 1. The product of two vectors of co-expression is the
        correlation of the genes' log1p counts per 10,000 within studies, as far as it is more than noise. ``attrs``
        records how it was made.

    Raises
    ------
    TypeError
        If `genes`, `reference` or `encoder` is of a wrong kind.
    ValueError
        If `genes` is empty or none of them has a vector, `source` does not go with `reference` or `encoder`, a
        reference has no raw counts or too few rows, or the encoder fails.
    FileNotFoundError
        If a store is not there.
    ImportError
        If the encoder needs packages that are not installed.

    Warns
    -----
    UserWarning
        If some of `genes` have no vector, with the reason.

    Examples
    --------
    >>> import stpredict as st
    >>> text = st.pp.gene_embeddings(["KRT8", "KRT18", "CD3D", "HER2"])
    >>> bool(text.loc["KRT8"] @ text.loc["KRT18"] > text.loc["KRT8"] @ text.loc["CD3D"])
    True
    >>> both = st.pp.gene_embeddings(source="both", reference=st.datasets.simulate(2), n_dims=10)
    >>> len(both), both.columns[-1]
    (192, 'coexpression_9')
    """
    one_of(source, ("text", "coexpression", "both"), "source")
    _check_arguments(source, reference, encoder, n_dims)
    names = None if genes is None else symbols.asked(genes)
    parts: dict[str, pd.DataFrame] = {}
    record: dict[str, Any] = {"source": source, "stpredict": __version__}
    if source != "text":
        parts["coexpression"], made = _coexpression(names, reference, n_dims, min_counts, Where(library_key, table_key))
        record |= made
    if source != "coexpression":
        parts["text"] = _text(names if source == "text" or names else list(parts["coexpression"].index), encoder)
        record["encoder"] = SHIPPED if encoder is None else encoder_name(encoder)
    if names is not None:
        _report_missing(names, parts)
    out = _side_by_side(names, parts) if source == "both" else parts[source]
    out.attrs = record
    return out


def check_embeddings(embeddings: pd.DataFrame) -> pd.DataFrame:
    """Check a table of gene vectors, of `gene_embeddings` or of the user's own.

    Returns
    -------
    The table as float32.

    Raises
    ------
    TypeError
        If it is no DataFrame, has columns that are not numbers, or an index that is not names.
    ValueError
        If it has no row, fewer than two columns, a gene twice, or values that are not finite.
    """
    if not isinstance(embeddings, pd.DataFrame):
        msg = (
            f"Gene embeddings must be a DataFrame with gene names as index, got {type(embeddings).__name__}. "
            "Make one with stpredict.pp.gene_embeddings, or pandas.DataFrame(vectors, index=names)."
        )
        raise TypeError(msg)
    words = [column for column, kind in embeddings.dtypes.items() if kind.kind not in "fiub"]
    if words:
        msg = f"Gene embeddings must be numbers, but column {words[0]!r} is not. Put the gene names into the index."
        raise TypeError(msg)
    if not len(embeddings) or embeddings.shape[1] < MIN_DIMS:
        msg = f"Gene embeddings need a row per gene and at least {MIN_DIMS} columns, got shape {embeddings.shape}."
        raise ValueError(msg)
    if odd := [name for name in embeddings.index if not isinstance(name, str)]:
        msg = f"The index of gene embeddings must be names of genes, got {odd[0]!r}. Put them there with set_index."
        raise TypeError(msg)
    if not embeddings.index.is_unique:
        twice = ", ".join(map(str, embeddings.index[embeddings.index.duplicated()].unique()[:5]))
        msg = f"Gene embeddings have genes more than once ({twice}). Keep one row each."
        raise ValueError(msg)
    out = embeddings.astype(np.float32)
    wrong = ~np.isfinite(out.to_numpy()).all(axis=1)
    if wrong.any():
        first = ", ".join(map(str, embeddings.index[wrong][:5]))
        msg = f"Gene embeddings of {wrong.sum()} genes are not finite ({first}). Drop these rows."
        raise ValueError(msg)
    return out


def _check_arguments(source: str, reference: object, encoder: object, n_dims: int) -> None:
    if (source == "text") != (reference is None):
        msg = (
            f"source={source!r} needs reference=, sections or cells with raw counts."
            if reference is None
            else "reference= goes with source='coexpression' or 'both'."
        )
        raise ValueError(msg)
    if source == "coexpression" and encoder is not None:
        msg = "encoder= is for text; it goes with source='text' or 'both'."
        raise ValueError(msg)
    if not n_dims >= MIN_DIMS:
        msg = f"n_dims must be at least {MIN_DIMS}, got {n_dims!r}."
        raise ValueError(msg)


def _text(names: list[str] | None, encoder: Any) -> pd.DataFrame:
    """Vectors of the text of those genes that have one."""
    names = facts.with_facts(names)
    if encoder is None or not names:
        return _frame(facts.text_table(names), names, "text")
    return _frame(text_encoder(encoder)(facts.gene_facts(names)["description"].tolist()), names, "text")


def _coexpression(
    names: list[str] | None,
    reference: Any,
    n_dims: int,
    min_counts: int,
    where: Where,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Vectors of the co-expression of those genes that vary in the references."""
    opened = open_references(reference, where)
    if not opened:
        msg = "reference is empty; pass sections or cells with raw counts."
        raise ValueError(msg)
    vectors, made = coexpression(opened, n_dims=n_dims, min_counts=min_counts)
    if names is not None:
        found = symbols.match(names, vectors.index)
        vectors = vectors.loc[list(found.values())].set_axis(pd.Index(list(found), dtype=str), axis=0)
    return _frame(vectors.to_numpy(), vectors.index, "coexpression"), made


def _frame(vectors: np.ndarray, names: Sequence[str], part: str) -> pd.DataFrame:
    columns = [f"{part}_{number}" for number in range(vectors.shape[1])]
    return pd.DataFrame(vectors, index=pd.Index(names, dtype=str), columns=columns)


def _side_by_side(names: list[str] | None, parts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Both parts of every gene that has one, text at `TEXT_WEIGHT` of the length of co-expression."""
    if names is None:
        names = list(parts["coexpression"].index)
    names = [name for name in names if any(name in part.index for part in parts.values())]
    scaled = [
        part.div(np.maximum(np.linalg.norm(part, axis=1), 1e-12), axis=0) * (TEXT_WEIGHT if kind == "text" else 1.0)
        for kind, part in sorted(parts.items(), reverse=True)
    ]
    return pd.concat([part.reindex(names, fill_value=0.0) for part in scaled], axis=1).astype(np.float32)


def _report_missing(names: list[str], parts: dict[str, pd.DataFrame]) -> None:
    """Warn of genes without a vector, and say why; refuse if no gene has one."""
    missing = [name for name in names if not any(name in part.index for part in parts.values())]
    if not missing:
        return
    known = symbols.resolve(missing)
    reasons = []
    if "coexpression" in parts:
        reasons = [("vary in no reference", missing)]
    if "text" in parts:
        also = "are in no reference and " if "coexpression" in parts else ""
        reasons = [
            (f"{also}are not known as human genes", [name for name in missing if name not in known]),
            (f"{also}have no annotation", [name for name in missing if name in known]),
        ]
    listed = "; ".join(f"{len(some)} {why}: {symbols.describe_missing(some)}" for why, some in reasons if some)
    if len(missing) == len(names):
        msg = f"None of the {len(names)} genes has an embedding: {listed}."
        raise ValueError(msg)
    msg = f"{len(missing)} of {len(names)} genes have no embedding and are left out: {listed}."
    warn(msg)
