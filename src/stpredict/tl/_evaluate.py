"""Compare predicted with measured expression."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict import _keys
from stpredict._checks import one_of
from stpredict._evaluation import metrics as m
from stpredict._evaluation.ceiling import noise_ceiling
from stpredict._settings import settings
from stpredict.tl._sections import open_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from stpredict._section import Section
    from stpredict._typing import Data

METRICS = (
    "pcc",
    "spearman",
    "mse",
    "sd_ratio",
    "ceiling",
    "pcc_of_ceiling",
    "gene_structure",
    "spatial_structure",
    "undefined",
)
MIN_SPOTS = 3


def evaluate(
    data: Data | Sequence[Data],
    *,
    predicted: str = _keys.PREDICTED,
    panels: Mapping[str, Iterable[str]] | None = None,
    metrics: Iterable[str] = METRICS,
    min_counts: int = 50,
    seed: int | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Score predicted against measured expression, per section and gene.

    The truth is raw log1p of counts per 10,000, never smoothed or rescaled. A correlation that is undefined (a
    constant or unpredicted gene) counts as 0, so that leaving out hard genes gains nothing, and is counted in
    ``"undefined"``. Average ``"pcc"`` over genes, then over sections; never over pooled spots.

    Parameters
    ----------
    data
        Sections with raw counts and a prediction: one object or a list.
    predicted
        Layer to score, in log1p of counts per 10,000.
    panels
        Names of gene sets and their genes, chosen on training sections; by default ``"all"``, every predicted gene.
        Genes that a section does not measure are left out there, with a warning.
    metrics
        Per gene: ``"pcc"``, ``"spearman"``, ``"mse"``, ``"sd_ratio"`` (contrast: predicted over measured standard
        deviation) and ``"ceiling"`` (the PCC that the true expression itself would score against these noisy counts,
        by binomial thinning). Per section, with ``gene`` empty: ``"pcc_of_ceiling"`` (mean PCC over mean ceiling),
        ``"gene_structure"`` (correlation of the gene–gene correlation matrices), ``"spatial_structure"`` (correlation
        of Moran's I over genes) and ``"undefined"`` (genes whose PCC is undefined).
    min_counts
        Spots with fewer counts are left out.
    seed
        Seed of the thinning; by default ``stpredict.settings.seed``.
    library_key
        Column of ``obs`` that names each spot's section, where an AnnData holds several.
    table_key
        Table of a SpatialData that has several.

    Returns
    -------
    Tidy table with columns ``section``, ``panel``, ``gene``, ``metric`` and ``value``.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If counts are not raw counts, a metric is unknown, a section measures no gene of a panel, or too few spots
        have `min_counts` counts.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, genes=["ERBB2", "COL1A1"])
    >>> st.tl.predict_expression(new, model)
    >>> scores = st.tl.evaluate(new, metrics=["pcc", "ceiling"])
    >>> scores["metric"].value_counts().to_dict()
    {'pcc': 2, 'ceiling': 2}
    """
    chosen = [metrics] if isinstance(metrics, str) else list(metrics)
    for metric in chosen:
        one_of(metric, METRICS, "metric")
    if panels is not None:
        panels = {name: list(dict.fromkeys(genes)) for name, genes in panels.items()}
    sections = open_all(data, library_key=library_key, table_key=table_key, least_spots=MIN_SPOTS)
    seed = settings.seed if seed is None else seed
    rows = []
    for section, name in zip(sections, _unique([s.name for s in sections]), strict=True):
        compared = _Compared(section, predicted, panels, min_counts)
        if {"ceiling", "pcc_of_ceiling"} & set(chosen):
            compared.ceiling = noise_ceiling(compared.counts, compared.totals, seed=seed)
        for panel, genes in compared.panels.items():
            for metric, names, values in _scores(compared, genes, chosen):
                rows.append(pd.DataFrame({"gene": names, "metric": metric, "value": values, "panel": panel}))
                rows[-1].insert(0, "section", name)
    table = pd.concat(rows, ignore_index=True)
    return table[["section", "panel", "gene", "metric", "value"]]


class _Compared:
    """A section's measured and predicted values, of spots with enough counts and genes of any panel."""

    def __init__(self, section: Section, layer: str, panels: Mapping[str, list[str]] | None, min_counts: int) -> None:
        adata = section.adata
        if layer not in adata.layers:
            known = ", ".join(adata.layers) or "none"
            msg = f"Section {section.name!r} has no layers[{layer!r}] (it has {known}). Run stpredict.tl.predict_expression."
            raise KeyError(msg)
        counts = section.counts()
        totals = np.asarray(counts.sum(axis=1)).ravel()
        enough = totals >= max(min_counts, 1)
        if enough.sum() < MIN_SPOTS:
            msg = (
                f"Section {section.name!r} has {enough.sum()} spots with min_counts={min_counts} counts; "
                f"{MIN_SPOTS} are needed. Lower min_counts."
            )
            raise ValueError(msg)
        values = _rows(adata.layers[layer], section.rows[enough])
        if panels is None:
            genes = list(section.genes[np.isfinite(values).any(axis=0)])
            panels = {"all": genes}
        self.panels = {panel: _measured(names, section, panel) for panel, names in panels.items()}
        self.genes = pd.Index(list(dict.fromkeys(gene for names in self.panels.values() for gene in names)))
        columns = section.genes.get_indexer(self.genes)
        self.predicted = values[:, columns].astype(np.float64)
        self.measured = section.log_expression(self.genes)[enough].astype(np.float64)
        self.counts = _rows(counts[:, columns], enough)
        self.totals = totals[enough]
        self.ceiling: np.ndarray | None = None
        self.adjacency = section.neighbours()[enough][:, enough]


def _scores(
    compared: _Compared, genes: list[str], chosen: list[str]
) -> Iterator[tuple[str, list[str], np.ndarray | list[float]]]:
    """Each chosen metric of one panel: its name, gene names (or one empty), and values."""
    columns = compared.genes.get_indexer(genes)
    measured, predicted = compared.measured[:, columns], compared.predicted[:, columns]
    pcc, undefined = m.pearson(measured, predicted)
    ceiling = compared.ceiling[columns] if compared.ceiling is not None else None
    for metric in chosen:
        match metric:
            case "pcc":
                yield metric, genes, pcc
            case "spearman":
                yield metric, genes, m.spearman(measured, predicted)[0]
            case "mse":
                yield metric, genes, m.mse(measured, predicted)
            case "sd_ratio":
                yield metric, genes, m.sd_ratio(measured, predicted)
            case "ceiling":
                yield metric, genes, ceiling
            case "pcc_of_ceiling":
                top = ceiling.mean()
                yield metric, [""], [pcc.mean() / top if top > 0 else np.nan]
            case "gene_structure":
                yield metric, [""], [m.gene_structure(measured, predicted)]
            case "spatial_structure":
                yield metric, [""], [m.spatial_structure(measured, predicted, compared.adjacency)]
            case "undefined":
                yield metric, [""], [float(undefined)]


def _measured(genes: list[str], section: Section, panel: str) -> list[str]:
    """Those of `genes` that the section measures."""
    there = set(section.genes)
    kept = [gene for gene in genes if gene in there]
    if not kept:
        which = "Nothing was predicted for" if not genes else f"None of the genes of panel {panel!r} is measured in"
        msg = f"{which} section {section.name!r}. Give genes by the names in var_names."
        raise ValueError(msg)
    if missing := [gene for gene in genes if gene not in there]:
        told = ", ".join(missing[:10])
        msg = f"Section {section.name!r} does not measure {len(missing)} genes of panel {panel!r}, left out: {told}."
        warnings.warn(msg, UserWarning, stacklevel=4)
    return kept


def _rows(matrix: object, rows: np.ndarray) -> np.ndarray:
    from scipy import sparse

    taken = matrix[rows]
    return taken.toarray() if sparse.issparse(taken) else np.asarray(taken)


def _unique(names: list[str]) -> list[str]:
    """Section names, those that come again with ``-1``, ``-2``, … appended."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        number = seen.get(name, 0)
        seen[name] = number + 1
        out.append(f"{name}-{number}" if number else name)
    return out
