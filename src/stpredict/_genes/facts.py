"""What is known of human genes: their names, their Gene Ontology terms, and vectors of those texts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core.warning import warn
from stpredict._genes import symbols

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ASPECTS = ("function", "process", "component")
"""Aspects of the Gene Ontology, as columns of `gene_facts`."""


def gene_facts(genes: str | Iterable[str] | None = None) -> pd.DataFrame:
    """Describe human genes: approved names, Gene Ontology terms, and both as one text.

    Parameters
    ----------
    genes
        Symbols, aliases or Ensembl ids, with or without version; None takes all genes.

    Returns
    -------
    DataFrame
        One row per gene that is known, indexed by the names as asked, all text: ``symbol``, ``name``, the terms of
        ``function``, ``process`` and ``component``, separated by ``"; "``, those with experimental evidence first, and
        ``description``, a text of them all.

    Raises
    ------
    ValueError
        If `genes` is empty, or none of them is known.

    Warns
    -----
    UserWarning
        If some of `genes` are unknown or ambiguous.

    References
    ----------
    NCBI Gene and the Gene Ontology, through Bioconductor's org.Hs.eg.db and GO.db 3.16; ``resources/SOURCES.md`` in
    this package tells more.

    Examples
    --------
    >>> import stpredict as st
    >>> facts = st.datasets.gene_facts(["HER2", "CK7"])
    >>> facts["symbol"].to_dict()
    {'HER2': 'ERBB2', 'CK7': 'KRT7'}
    >>> facts.loc["CK7", "process"]
    'keratinization; intermediate filament organization'
    """
    table = symbols.table()
    names = table["symbol"].tolist() if genes is None else symbols.asked(genes)
    approved = symbols.resolve(names)
    missing = [name for name in names if name not in approved]
    if missing:
        msg = f"{len(missing)} of {len(names)} genes are not known: {symbols.describe_missing(missing)}."
        if not approved:
            raise ValueError(msg)
        warn(msg)
    known = [name for name in names if name in approved]
    rows = symbols.rows_of(approved[name] for name in known)
    out = table.iloc[rows][["symbol", "name"]].set_axis(pd.Index(known, dtype=str), axis=0)
    terms = [facts().terms_of(row) for row in rows]
    for number, aspect in enumerate(ASPECTS):
        out[aspect] = ["; ".join(gene[number]) for gene in terms]
    out["description"] = [
        describe(symbol, name, dict(zip(ASPECTS, gene, strict=True)))
        for symbol, name, gene in zip(out["symbol"], out["name"], terms, strict=True)
    ]
    return out


def describe(symbol: str, name: str, terms: dict[str, list[str]]) -> str:
    """Text of a gene: its symbol, name, and terms by aspect; an aspect without terms is left out."""
    said = (f" {aspect.capitalize()}: {'; '.join(some)}." for aspect, some in terms.items() if some)
    return f"{symbol}: {name}.{''.join(said)}"


def with_facts(genes: Iterable[str] | None = None) -> list[str]:
    """Those of `genes`, by default of all, of which a fact is known: a term, or a name that describes."""
    approved = symbols.table()["symbol"]
    if genes is None:
        return approved.iloc[states().named].tolist()
    those = set(approved.iloc[states().named])
    genes = list(genes)
    known = symbols.resolve(genes)
    return [gene for gene in genes if known.get(gene) in those]


def fact_states(genes: Sequence[str], max_facts: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of single facts, gene by gene: the tokens that a model of genes reads.

    The first is that of the gene's symbol and name; terms follow, function, process and component in turn, each in the
    order of the source, which is experimental evidence first.

    Parameters
    ----------
    genes
        Symbols, aliases or Ensembl ids.
    max_facts
        As many at most of each gene.

    Returns
    -------
    states, mask
        float32 (genes, facts, d), 0 where there is no fact, and bool (genes, facts). A gene that is unknown, ambiguous
        or without a telling name and any term has none.
    """
    names = [str(name) for name in genes]
    approved = symbols.resolve(names)
    vectors = states()
    lists: list[list[int]] = [[] for _ in names]
    for place, name in enumerate(names):
        if name in approved:
            lists[place] = vectors.of_gene(*symbols.rows_of([approved[name]]))[:max_facts]
    width = max(1, *map(len, lists)) if lists else 1
    mask = np.arange(width) < np.array([len(one) for one in lists], dtype=int)[:, None]
    out = np.zeros((*mask.shape, vectors.scale.size), dtype=np.float32)
    out[mask] = vectors.dense([number for one in lists for number in one])
    return out, mask


def text_table(genes: Sequence[str]) -> np.ndarray:
    """Vector of every gene's text, of length 1: three parts of equal length side by side.

    Topics of its terms (latent semantic analysis), the mean of its terms' vectors, and the vector of its symbol and
    name. A gene without one of them has 0 there.

    Returns
    -------
    float32 (genes, d); NaN where a gene is unknown, ambiguous or without facts.
    """
    names = [str(name) for name in genes]
    approved = symbols.resolve(names)
    out = np.full((len(names), states().width), np.nan, dtype=np.float32)
    for place, name in enumerate(names):
        if name in approved:
            out[place] = states().text_of(*symbols.rows_of([approved[name]]))
    return out


@lru_cache(maxsize=1)
def texts() -> pd.DataFrame:
    """`text_table` of all genes of which something is known, by symbol; not to be changed."""
    approved = with_facts()
    return pd.DataFrame(text_table(approved), index=pd.Index(approved, dtype=str))


@dataclass(frozen=True)
class Facts:
    """All Gene Ontology terms and those of every gene, by its row in the gene table."""

    terms: list[str]
    aspect: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray

    def numbers_of(self, row: int) -> list[list[int]]:
        """Numbers of a gene's terms in each of the three aspects."""
        mine = self.numbers[self.starts[row] : self.starts[row + 1]]
        return [mine[self.aspect[mine] == aspect].tolist() for aspect in range(len(ASPECTS))]

    def terms_of(self, row: int) -> list[list[str]]:
        """A gene's terms in each of the three aspects."""
        return [[self.terms[number] for number in some] for some in self.numbers_of(row)]


@dataclass(frozen=True)
class States:
    """Vectors in 8 bits, of facts (all terms, then the names of `named` genes) and of the topics of `described` genes.

    `named` and `described` are rows of the gene table, ascending.
    """

    vectors: np.ndarray
    scale: np.ndarray
    named: np.ndarray
    topics: np.ndarray
    topic_scale: np.ndarray
    described: np.ndarray

    @property
    def width(self) -> int:
        """Length of the vector of a gene's text."""
        return self.topic_scale.size + 2 * self.scale.size

    def of_gene(self, row: int) -> list[int]:
        """Numbers of a gene's facts, name first, then its terms, one aspect after the other in turn."""
        name = [len(facts().terms) + place for place in _places(self.named, row)]
        turns = chain.from_iterable(zip_longest(*facts().numbers_of(row)))
        return name + [number for number in turns if number is not None]

    def dense(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 (facts, d)."""
        return self.vectors[np.asarray(numbers, dtype=int)] * self.scale

    def text_of(self, row: int) -> np.ndarray:
        """Vector of a gene's text; NaN where there is none."""
        numbers = np.array(self.of_gene(row), dtype=int)
        is_name = numbers >= len(facts().terms)
        parts = [
            _unit(self.topics[_places(self.described, row)].sum(axis=0) * self.topic_scale),
            _unit(self.dense(numbers[~is_name]).sum(axis=0)),
            _unit(self.dense(numbers[is_name]).sum(axis=0)),
        ]
        return _unit(np.concatenate(parts)) if len(numbers) else np.full(self.width, np.nan)


def _places(ascending: np.ndarray, row: int) -> list[int]:
    """Where `row` is among `ascending` rows; empty where it is not."""
    place = int(np.searchsorted(ascending, row))
    return [place] if place < len(ascending) and ascending[place] == row else []


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


@lru_cache(maxsize=1)
def facts() -> Facts:
    """The facts that this package carries."""
    arrays = _load("gene_facts.npz")
    terms = arrays.pop("terms").tobytes().decode().split("\n")
    return Facts(terms=terms, **arrays)


@lru_cache(maxsize=1)
def states() -> States:
    """The vectors of facts that this package carries."""
    return States(**_load("gene_states.npz"))


def _load(name: str) -> dict[str, Any]:
    with (
        (files("stpredict._genes") / "resources" / name).open("rb") as file,
        np.load(file, allow_pickle=False) as all_,
    ):
        return {key: all_[key] for key in all_.files}
