"""Text embeddings of genes, under the names that training uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.datasets import _gene_facts, _genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def text_of(names: Sequence[str], table: pd.DataFrame | None) -> pd.DataFrame:
    """All of `table`, by default the shipped one; genes among `names` under these, and each gene once."""
    table = _gene_facts.texts() if table is None else table
    theirs = _genes.match(list(dict.fromkeys(names)), table.index)
    taken = {*theirs.values(), *_genes.resolve(theirs.values()).values()}
    symbols = _genes.resolve(table.index)
    others = [name for name in table.index if name not in taken and symbols.get(name) not in taken]
    return table.loc[[*theirs.values(), *others]].set_axis([*theirs, *others])
