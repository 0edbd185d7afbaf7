"""Columns of ``obs`` as maps of the page that `pl.browse` writes, and what is to be said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.names import gene_names, meant
from stpredict.pl import _canvas
from stpredict.pl._categories import NO_LABEL, categories_of, colours_of
from stpredict.pl._domains import label_colours
from stpredict.pl._trust import FARTHEST, WHERE
from stpredict.pl._tumor import caveats_of
from stpredict.tl._prediction.believed import judgement_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.colors import Colormap

    from stpredict._sections.section import Section

SCORE = "_score"
"""Ending of the column of the tumour score, after the name of the tumour map."""

MOST_CATEGORIES = 102
"""As many as there are colours."""


@dataclass
class Map:
    """A column as a map."""

    column: str
    title: str
    values: np.ndarray
    """Of every spot: float, NaN where there is none, or the name of its category."""
    limits: tuple[float, float] = (0.0, 1.0)
    """Values at the ends of the colours, of numbers."""
    cmap: str | Colormap = "viridis"
    colours: dict[str, str] | None = None
    """Category → colour; None for numbers."""
    outlined: np.ndarray | None = None
    """Bool: spots with a black line around them."""


def chosen_columns(
    section: Section, columns: str | Iterable[str] | None, predicted: str, cmap: str | Colormap
) -> tuple[list[Map], list[str]]:
    """Maps of the chosen columns, by default of those that stpredict wrote, and sentences that belong above them.

    Raises KeyError if a column is not there, ValueError if a column has more categories than there are colours.
    """
    obs = section.adata.obs
    names = own_columns(section, predicted) if columns is None else list(dict.fromkeys(gene_names(columns, "columns")))
    if unknown := [name for name in names if name not in obs]:
        msg = f"There is no obs[{unknown[0]!r}]; obs has {', '.join(map(str, obs.columns)) or 'no columns'}."
        raise KeyError(msg + meant(unknown[0], obs.columns))
    maps = [_map(section, name, predicted, cmap) for name in names]
    return maps, _notes(section, names, predicted)


def own_columns(section: Section, predicted: str) -> list[str]:
    """The tumour score, the domains, the labels that either was compared with, and the distance, where they are there."""
    uns = section.adata.uns
    labels = (_record(uns, key).get("label_key") for key in (keys.TUMOR, keys.DOMAINS))
    names: list[Any] = [f"{keys.TUMOR}{SCORE}", keys.DOMAINS, *labels, keys.distance(predicted)]
    return [name for name in dict.fromkeys(names) if name in section.adata.obs]


def _record(uns: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    record: Any = uns.get(key)
    return record if hasattr(record, "get") else {}


def _map(section: Section, name: str, predicted: str, cmap: str | Colormap) -> Map:
    column = section.adata.obs[name]
    numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if not numbers:
        return _categories(section, name)
    values = column.to_numpy(dtype=float, na_value=np.nan)[section.rows]
    if name == keys.distance(predicted):
        return Map(name, "distance from training spots", values, (0.0, FARTHEST), "cividis_r")
    key = name.removesuffix(SCORE)
    record = _record(section.adata.uns, key)
    if name != key and "threshold" in record and key in section.adata.obs:
        return _tumor(section, name, key, record, values, cmap)
    return Map(name, name, values, _canvas.robust_limits(values), cmap)


def _tumor(
    section: Section, name: str, key: str, record: Mapping[str, Any], values: np.ndarray, cmap: str | Colormap
) -> Map:
    if section.name in record.get("withheld", {}):
        return Map(name, "no tumor map", np.full(len(values), np.nan), cmap=cmap)
    call = section.adata.obs[key].iloc[section.rows].fillna(False).to_numpy(bool)
    title = f"tumor score, {call.sum()} of {len(call)} spots called tumor"
    return Map(name, title, values, _canvas.robust_limits(values), cmap, outlined=call)


def _categories(section: Section, name: str) -> Map:
    adata = section.adata
    values = categories_of(adata, name)
    if len(values.cat.categories) > MOST_CATEGORIES:
        msg = (
            f"obs[{name!r}] has {len(values.cat.categories):,} different values, and there are {MOST_CATEGORIES} colours. "
            "Leave it out of columns=, or make it numeric."
        )
        raise ValueError(msg)
    drawn = values.iloc[section.rows].astype(object)
    labels = drawn.where(drawn.notna(), NO_LABEL).to_numpy()
    own = colours_of(adata, name)
    if keys.DOMAINS in adata.obs and name == _record(adata.uns, keys.DOMAINS).get("label_key"):
        own = label_colours(
            adata, name, categories_of(adata, keys.DOMAINS), values, colours_of(adata, keys.DOMAINS)
        )  # of the domains that they agree with, as in pl.domains
    colours = {**own, NO_LABEL: _canvas.UNKNOWN}
    return Map(name, name, labels, colours={kind: shade for kind, shade in colours.items() if (labels == kind).any()})


def _notes(section: Section, names: list[str], predicted: str) -> list[str]:
    """How far the prediction can be believed, and what was warned of."""
    notes = []
    record = _record(section.adata.uns, predicted)
    if "domain" in record:
        verdict, why = judgement_of(record, section.name)
        notes.append(f"Prediction: {WHERE[verdict]}; {why}.")
    for name in names:
        key = name.removesuffix(SCORE)
        told = _record(section.adata.uns, key) if name != key else {}
        if section.name in (withheld := told.get("withheld", {})):
            notes.append(f"There is no tumor map: {withheld[section.name]}.")
        else:
            notes += [f"Tumor map: {caveat}." for caveat in caveats_of(told, section.name)]
    return notes
