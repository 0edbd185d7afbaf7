"""Names that a user gives: genes in the forms that scanpy users have them in, and what a misspelt name may have meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np


def gene_names(genes: str | Iterable[str] | Mapping[str, Iterable[str]], what: str = "genes") -> list[str]:
    """Names of genes: one, several, those that a boolean Series over ``var`` marks, or all in a dict of lists.

    Raises TypeError if they are a mask without names, or no names.
    """
    if isinstance(genes, str):
        return [genes]
    if isinstance(genes, Mapping):
        return list(dict.fromkeys(name for some in genes.values() for name in gene_names(some, what)))
    values = list(genes)
    if values and all(isinstance(value, bool | np.bool_) for value in values):
        if not hasattr(genes, "index") or not hasattr(genes, "loc"):
            msg = f"{what} is a mask without names. Pass the names, adata.var_names[mask], or a column of adata.var."
            raise TypeError(msg)
        values = [name for name, marked in zip(genes.index, values, strict=True) if marked]
    if wrong := [value for value in values if not isinstance(value, str)]:
        msg = f"{what} must be names, got {wrong[:3]!r}."
        raise TypeError(msg)
    return [str(value) for value in values]


def meant(name: Any, choices: Iterable[Any]) -> str:
    """`` Did you mean …?``, where one of the choices is written alike, else nothing."""
    known = {str(choice).lower(): choice for choice in choices}
    near = get_close_matches(str(name).lower(), known, n=1, cutoff=0.75) if isinstance(name, str) else []
    return f" Did you mean {known[near[0]]!r}?" if near else ""
