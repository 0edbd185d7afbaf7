"""Build ``resources/gene_facts.npz``: ``python scripts/build_gene_facts.py SOURCE.tsv.gz OUT``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from build_genes import read_source

ASPECTS = ("molecular_function", "biological_process", "cellular_component")
"""Columns of the source, each with its Gene Ontology terms separated by ``"; "``."""


def build(source: Path, out: Path) -> None:
    """Number the terms, and list every gene's; the same input gives the same bytes.

    Arrays: ``terms``, the text of all terms in UTF-8, one a line, sorted within an aspect; ``aspect`` (terms,), the
    number of its column in `ASPECTS`; ``numbers``, term numbers of all genes one after the other, aspect by aspect and
    in the order of the source; ``starts`` (genes + 1,), where each gene's begin. Genes are in the order of
    ``human_genes.tsv.gz``.
    """
    table = read_source(source)
    lists = [[[term for term in text.split("; ") if term] for text in table[aspect]] for aspect in ASPECTS]
    terms = [sorted({term for gene in genes for term in gene}) for genes in lists]
    number = {(a, t): i for i, (a, t) in enumerate((a, t) for a, some in enumerate(terms) for t in some)}
    per_gene = [
        [number[a, term] for a, genes in enumerate(lists) for term in dict.fromkeys(genes[gene])]
        for gene in range(len(table))
    ]
    with out.open("wb") as file:
        np.savez_compressed(
            file,
            terms=np.frombuffer("\n".join(t for some in terms for t in some).encode(), dtype=np.uint8),
            aspect=np.repeat(np.arange(len(ASPECTS), dtype=np.uint8), [len(some) for some in terms]),
            numbers=np.array([n for gene in per_gene for n in gene], dtype=np.uint16),
            starts=np.cumsum([0, *map(len, per_gene)]).astype(np.int32),
        )


def main() -> None:
    """Read the two paths from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="gene table with symbols and the columns " + ", ".join(ASPECTS))
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    build(arguments.source, arguments.out)


if __name__ == "__main__":
    main()
