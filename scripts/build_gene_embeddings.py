"""Build ``resources/gene_states.npz``: ``python scripts/build_gene_embeddings.py ENCODER OUT``.

``ENCODER`` is ``minilm`` (needs ``stpredict[text]``), or any other that `stpredict._genes.text_vectors` takes. The
facts are those of the resources ``human_genes.tsv.gz`` and ``gene_facts.npz``, which must be there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from stpredict._genes import symbols
from stpredict._genes.facts import Facts, facts
from stpredict._genes.text_vectors import text_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

N_STATE, N_TOPICS = 128, 64
"""Numbers per fact, and per gene in the topics of its terms."""

SAY_NOTHING = ("uncharacterized LOC", "microRNA ", "long intergenic non-protein coding RNA ")
"""Genes whose names begin so, and that have no terms, are left out."""


def build(encode: Callable[[Sequence[str]], np.ndarray], out: Path) -> None:
    """Write vectors of all facts and topics of all genes; the same vectors give the same bytes.

    Arrays: ``vectors`` (facts, d) int8 and ``scale`` (d,), whose product is the place of a fact's embedding on the
    first principal axes of all; terms come first, names after them, each kind of text about its own mean; ``named``,
    rows of the gene table whose names have vectors; ``topics`` (genes with terms, r) int8 and ``topic_scale`` (r,),
    latent semantic analysis of the terms; ``described``, rows of the gene table that ``topics`` are of.
    """
    table, known = symbols.table(), facts()
    described = np.flatnonzero(np.diff(known.starts))
    told = ~table["name"].str.startswith(SAY_NOTHING).to_numpy()
    told[described] = True
    named = np.flatnonzero(told)
    names = [f"{symbol}: {name}" for symbol, name in table.iloc[named][["symbol", "name"]].itertuples(index=False)]
    texts = [made - made.mean(axis=0, dtype=np.float64) for made in (encode(known.terms), encode(names))]
    vectors, scale = _in_8_bits(_principal(np.concatenate(texts), N_STATE))
    topics, topic_scale = _in_8_bits(_topics(known, described))
    with out.open("wb") as file:
        np.savez_compressed(
            file,
            vectors=vectors,
            scale=scale,
            named=named.astype(np.int32),
            topics=topics,
            topic_scale=topic_scale,
            described=described.astype(np.int32),
        )


def _principal(vectors: np.ndarray, n: int) -> np.ndarray:
    axes = np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1][:, :n]
    return vectors @ _upright(axes)


def _topics(known: Facts, rows: np.ndarray) -> np.ndarray:
    """Places of genes on the first singular axes of terms, weighted by how few genes have them (TF-IDF)."""
    lengths = np.diff(known.starts)[rows]
    member = sparse.csr_matrix(
        (np.ones(len(known.numbers)), (np.repeat(np.arange(len(rows)), lengths), known.numbers.astype(int))),
        (len(rows), len(known.terms)),
    )
    has = np.asarray(member.sum(axis=0)).ravel()
    weighted = member @ sparse.diags(np.log((1 + len(rows)) / (1 + has)) + 1)
    size = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted = sparse.diags(1 / size) @ weighted
    _, _, axes = linalg.svds(weighted, N_TOPICS, v0=np.ones(min(weighted.shape)))
    return weighted @ _upright(axes[::-1].T)


def _upright(axes: np.ndarray) -> np.ndarray:
    """The same axes, each with the sign that makes its largest number positive."""
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])


def _in_8_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = (np.abs(values).max(axis=0) / 127).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def main() -> None:
    """Read the encoder and the path from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    build(text_encoder(arguments.encoder), arguments.out)


if __name__ == "__main__":
    main()
