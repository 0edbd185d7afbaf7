"""The human gene table, and names of genes resolved through it."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_NAMED = 20
"""A message names as many genes at most."""

HUMAN, MOUSE = "human", "mouse"

_ENSEMBL = re.compile(r"(ENSG\d{11})\.\d+")


def genes() -> pd.DataFrame:
    """List human genes with their approved names, Ensembl ids and aliases.

    Returns
    -------
    DataFrame
        One row per gene (43,822), indexed 0 … n − 1 and sorted by symbol, all text: ``symbol`` (approved, unique),
        ``name``, and ``ensembl_id`` and ``aliases``, in which several entries are separated by ``|`` and none is an
        empty string.

    References
    ----------
    NCBI Gene, through Bioconductor's org.Hs.eg.db 3.16; ``resources/SOURCES.md`` in this package tells more.

    Examples
    --------
    >>> import stpredict as st
    >>> table = st.datasets.genes().set_index("symbol")
    >>> table.loc["ERBB2", "name"], table.loc["ERBB2", "ensembl_id"]
    ('erb-b2 receptor tyrosine kinase 2', 'ENSG00000141736')
    """
    return table().copy()


def resolve(names: Iterable[str]) -> dict[str, str]:
    """Approved symbol of every name that has exactly one; the others are left out.

    A name is tried as an approved symbol, then as an Ensembl gene id (with or without version), then as an alias.
    """
    found = ((name, candidates(name)) for name in names)
    return {name: symbols[0] for name, symbols in found if len(symbols) == 1}


def candidates(name: str) -> tuple[str, ...]:
    """Approved symbols that `name` may stand for: none if unknown, several if ambiguous."""
    symbols, others = _index()
    if name in symbols:
        return (name,)
    versioned = _ENSEMBL.fullmatch(name)
    return others.get(versioned[1] if versioned else name, ())


def asked(genes: str | Iterable[str]) -> list[str]:
    """Names of genes as a list without repeats. Raises TypeError if they are not text, ValueError if there is none."""
    names = [genes] if isinstance(genes, str) else list(dict.fromkeys(genes))
    if wrong := [name for name in names if not isinstance(name, str)]:
        msg = f"genes must be names, got {wrong[0]!r}."
        raise TypeError(msg)
    if not names:
        msg = "genes is empty; pass names of genes."
        raise ValueError(msg)
    return names


def rows_of(symbols: Iterable[str]) -> list[int]:
    """Rows of approved `symbols` in the gene table."""
    places = _places()
    return [places[symbol] for symbol in symbols]


def match(wanted: Iterable[str], measured: Iterable[str]) -> dict[str, str]:
    """Which of the `measured` names each of the `wanted` names is; those that are not measured are left out.

    The same name wins. Otherwise two names are the same gene when both stand for the same approved human symbol, unless
    that symbol is measured under several other names. Names of mouse genes only match themselves, since many of them
    happen to be aliases of unrelated human genes.
    """
    wanted, measured = list(wanted), list(measured)
    exact = set(measured)
    found = {name: name for name in wanted if name in exact}
    if MOUSE in (species_of(wanted), species_of(measured)):
        return found
    by_symbol: dict[str, list[str]] = {}
    for name, symbol in resolve(measured).items():
        by_symbol.setdefault(symbol, []).append(name)
    for name, symbol in resolve(name for name in wanted if name not in exact).items():
        called = by_symbol.get(symbol, [])
        hit = symbol if symbol in called else called[0] if len(called) == 1 else None
        if hit is not None:
            found[name] = hit
    return {name: found[name] for name in wanted if name in found}


def match_once(wanted: Iterable[str], measured: Iterable[str]) -> dict[str, str]:
    """`match`, but every measured name stands for one of the wanted ones only: for itself, or else for the first."""
    found = match(wanted, measured)
    first = {hit: name for name, hit in reversed(found.items())}
    return {name: hit for name, hit in found.items() if name == hit or (hit not in found and first[hit] == name)}


def species_of(names: Iterable[str]) -> str | None:
    """``"human"`` or ``"mouse"``, by what most of the `names` are: symbols and Ensembl ids; None where none tells."""
    approved, _ = _index()
    human = mouse = 0
    for name in dict.fromkeys(map(str, names)):
        if name in approved or name.startswith("ENSG"):
            human += 1
        elif name.startswith("ENSMUSG") or (
            name[:1].isupper() and name[1:] == name[1:].lower() and name.upper() in approved
        ):
            mouse += 1
    return None if human == mouse else HUMAN if human > mouse else MOUSE


def describe_missing(names: Iterable[str]) -> str:
    """`names`, each with what it may stand for if there is something, to be put into a message."""
    names = list(names)
    shown = ", ".join(_described(name) for name in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"


def _described(name: str) -> str:
    symbols = candidates(name)
    if len(symbols) > 1:
        return f"{name} (may be {' or '.join(symbols)})"
    if name.startswith("ENSMUS"):
        return f"{name} (a mouse gene; human ones are needed)"
    upper = resolve([name.upper()]).get(name.upper())
    if not symbols and name != name.upper() and upper:
        how = "looks like mouse" if name[1:] == name[1:].lower() and name[0].isupper() else "not as written"
        return f"{name} ({how}; the human gene is {upper})"
    return name


@lru_cache(maxsize=1)
def _places() -> dict[str, int]:
    return {symbol: row for row, symbol in enumerate(table()["symbol"].tolist())}


@lru_cache(maxsize=1)
def table() -> pd.DataFrame:
    """The gene table itself, not to be changed."""
    source = files("stpredict._genes") / "resources" / "human_genes.tsv.gz"
    with source.open("rb") as file:
        return pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False, compression="gzip")


@lru_cache(maxsize=1)
def _index() -> tuple[frozenset[str], Mapping[str, tuple[str, ...]]]:
    """Approved symbols, and the symbols that every Ensembl id and every alias points to."""
    known = table()
    others: dict[str, tuple[str, ...]] = {}
    for column in ("aliases", "ensembl_id"):
        for symbol, entries in zip(known["symbol"].tolist(), known[column].tolist(), strict=True):
            for entry in entries.split("|") if entries else ():
                others[entry] = (*others.get(entry, ()), symbol)
    return frozenset(known["symbol"]), others
