"""Build ``resources/human_genes.tsv.gz``: ``python scripts/build_genes.py SOURCE.tsv.gz OUT``."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import pandas as pd

COLUMNS = ["symbol", "name", "ensembl_id", "aliases"]

MITOCHONDRIAL = {
    **{name: f"MT-{name}" for name in ("ATP6", "ATP8", "ND1", "ND2", "ND3", "ND4", "ND4L", "ND5", "ND6")},
    **{f"COX{i}": f"MT-CO{i}" for i in (1, 2, 3)},
    "CYTB": "MT-CYB",
}
"""NCBI Gene's symbols of the genes on mitochondrial DNA → the approved (HGNC) ones, which everybody's data have."""


def read_source(source: Path) -> pd.DataFrame:
    """Read the gene table, with approved symbols and sorted by them, all text."""
    table = pd.read_csv(source, sep="\t", dtype=str, keep_default_na=False)
    table["symbol"] = table["symbol"].replace(MITOCHONDRIAL)
    return table.sort_values("symbol", ignore_index=True)


def build(source: Path, out: Path) -> None:
    """Keep the columns that names are resolved with; the same input gives the same bytes."""
    table = read_source(source)
    others = [
        "|".join(alias for alias in aliases.split("|") if alias and alias != symbol)
        for symbol, aliases in zip(table["symbol"], table["aliases"], strict=True)
    ]
    text = table.assign(aliases=others)[COLUMNS].to_csv(sep="\t", index=False, lineterminator="\n")
    out.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def main() -> None:
    """Read the two paths from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="gene table with at least the columns " + ", ".join(COLUMNS))
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    build(arguments.source, arguments.out)


if __name__ == "__main__":
    main()
