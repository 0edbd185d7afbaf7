"""Scores of one section: predicted against measured expression, panel by panel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core.warning import warn
from stpredict._evaluation import metrics as m
from stpredict._evaluation.ceiling import ceiling_draws, spread
from stpredict._evaluation.stated import OF_STATED, Stated, share_inside, stated_excess, stated_r
from stpredict._evaluation.target import LOG1P, pearson_residuals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from stpredict._core.typing import Matrix
    from stpredict._sections.section import Section

METRICS = (
    "pcc",
    "pcc_given_depth",
    "spearman",
    "mse",
    "sd_ratio",
    "ceiling",
    "ceiling_sd",
    "pcc_of_ceiling",
    "gene_structure",
    "spatial_structure",
    "undefined",
)
OF_INTERVALS = ("coverage", "interval_width")
"""Metrics of `INTERVAL` intervals, which need a predictive standard deviation."""
KNOWN = (*METRICS, *OF_INTERVALS, *OF_STATED)
"""All metrics."""

OF_UNITS = ("mse", "sd_ratio")
"""Metrics that say nothing of a prediction in other units than those of the measurement."""

INTERVAL = 0.9
NOTHING = Stated()
COLUMNS = ["panel", "gene", "target", "metric", "value"]
MIN_SPOTS = 3

FEW_SPOTS = 30
"""Correlations over fewer spots are reported with a warning: by chance one in twenty is beyond ±.36 and more."""


def score(
    section: Section,
    values: np.ndarray,
    genes: Sequence[str],
    *,
    std: np.ndarray | None = None,
    stated: Stated = NOTHING,
    panels: Mapping[str, Iterable[str]] | None,
    metrics: Sequence[str],
    target: str = LOG1P,
    min_counts: int,
    seed: int,
    ceilings: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Score predicted `values` (spots of the section, genes) in log1p CP10k; a gene that `genes` lacks is undefined.

    Parameters
    ----------
    section
        Where expression was measured.
    values, genes
        The prediction and the names of its columns.
    std
        Predictive standard deviation, like `values`; needed for `OF_INTERVALS`.
    stated
        What the prediction says of itself, with the same columns; metrics of it are left out where it says nothing.
    panels
        Names of gene sets and their genes; None takes every predicted gene as ``"all"``.
    metrics
        Which of `KNOWN`; those that `target` allows.
    target
        Measured expression as one of `target.TARGETS`.
    min_counts
        Spots with fewer counts are left out.
    seed
        Seed of the thinning for the noise ceiling.
    ceilings
        What `noise_ceilings` said of the genes, where it is known already.

    Returns
    -------
    Tidy table with the columns ``panel``, ``gene``, ``target``, ``metric`` and ``value``.

    Raises
    ------
    ValueError
        If `metrics` has some of `OF_INTERVALS` and there is no `std`.
    """
    if std is None and (lacking := set(OF_INTERVALS) & set(metrics)):
        msg = f"{' and '.join(sorted(lacking))} need std, the predictive standard deviation."
        raise ValueError(msg)
    said = stated.metrics()
    metrics = [metric for metric in metrics if metric not in OF_STATED or metric in said]
    compared = _Compared(section, values, genes, panels, min_counts, std, stated, target)
    if {"ceiling", "ceiling_sd", "pcc_of_ceiling"} & set(metrics):
        if ceilings is None:
            ceilings = noise_ceilings(section, compared.genes, min_counts=min_counts, seed=seed)
        compared.ceilings = ceilings
    rows = [
        pd.DataFrame({"panel": panel, "gene": names, "target": target, "metric": metric, "value": values})
        for panel, panel_genes in compared.panels.items()
        for metric, names, values in _scores(compared, panel_genes, metrics)
    ]
    return pd.concat(rows, ignore_index=True)[COLUMNS]


def in_other_units(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `score` for a prediction in other units than log1p CP10k: metrics that depend on them are NaN."""
    table.loc[table["metric"].isin(OF_UNITS), "value"] = np.nan
    return table


def noise_ceilings(section: Section, genes: Iterable[str], *, min_counts: int, seed: int) -> pd.DataFrame:
    """`ceiling_draws` of `genes` (rows, by name) over the section's spots with enough counts."""
    genes = list(genes)
    counts, totals, enough = _deep_spots(section, min_counts)
    chosen = _rows(counts[:, section.genes.get_indexer(genes)], enough)
    return pd.DataFrame(ceiling_draws(chosen, totals[enough], seed=seed).T, index=genes)


def check_deep_spots(section: Section, min_counts: int) -> None:
    """Refuse a section with too few spots to score.

    Raises ValueError if counts are not raw counts, or fewer than `MIN_SPOTS` spots have `min_counts`.
    """
    _deep_spots(section, min_counts)


class _Compared:
    """A section's measured and predicted values, of spots with enough counts and genes of any panel."""

    def __init__(
        self,
        section: Section,
        values: np.ndarray,
        genes: Sequence[str],
        panels: Mapping[str, Iterable[str]] | None,
        min_counts: int,
        std: np.ndarray | None,
        stated: Stated,
        target: str,
    ) -> None:
        section.lacks_genes()  # (which warns)
        counts, totals, enough = _deep_spots(section, min_counts)
        _warn_of_few(section, int(enough.sum()), min_counts)
        values, known = values[enough], pd.Index(genes)
        if panels is None:
            panels = {"all": list(known[np.isfinite(values).any(axis=0)])}
        self.panels = {panel: _measured(list(names), section, panel) for panel, names in panels.items()}
        self.genes = pd.Index(list(dict.fromkeys(gene for names in self.panels.values() for gene in names)))
        places = known.get_indexer(self.genes)
        self.predicted = np.where(places < 0, np.nan, values[:, places]).astype(np.float64)
        std = np.full(values.shape, np.nan) if std is None else std[enough]
        self.std = np.where(places < 0, np.nan, std[:, places]).astype(np.float64)
        self.totals = totals[enough]
        if target == LOG1P:
            self.measured = section.log_expression(self.genes)[enough].astype(np.float64)
        else:
            chosen = _rows(counts[:, section.genes.get_indexer(self.genes)], enough)
            self.measured = pearson_residuals(chosen, self.totals)
        self.stated = stated.taken(enough, places)
        self.ceilings = pd.DataFrame(np.nan, index=self.genes, columns=["unknown"])
        self.adjacency = section.neighbours()[enough][:, enough]


def _deep_spots(section: Section, min_counts: int) -> tuple[Matrix, np.ndarray, np.ndarray]:
    """Counts, totals and which spots have enough of them."""
    counts = section.counts()
    totals = section.totals(counts)
    enough = totals >= max(min_counts, 1)
    if enough.sum() < MIN_SPOTS:
        msg = (
            f"Section {section.name!r} has {enough.sum()} spots with min_counts={min_counts} counts; "
            f"{MIN_SPOTS} are needed. Lower min_counts, or leave the section out."
        )
        raise ValueError(msg)
    return counts, totals, enough


def _warn_of_few(section: Section, n_spots: int, min_counts: int) -> None:
    """Tell how large correlations over so few spots are by chance alone."""
    if n_spots >= FEW_SPOTS:
        return
    from scipy.stats import t

    beyond = t.ppf(0.975, n_spots - 2)
    msg = (
        f"Section {section.name!r} is evaluated on {n_spots} spots (those with min_counts={min_counts} counts or more). Of so few, "
        f"unrelated values correlate by more than ±{beyond / np.sqrt(n_spots - 2 + beyond**2):.2f} in one of twenty genes: do "
        "not judge a model by them."
    )
    warn(msg)


def _scores(
    compared: _Compared, genes: list[str], chosen: Sequence[str]
) -> Iterator[tuple[str, list[str], np.ndarray | list[float]]]:
    """Each chosen metric of one panel: its name, gene names (or one empty), and values."""
    columns = compared.genes.get_indexer(genes)
    measured, predicted = compared.measured[:, columns], compared.predicted[:, columns]
    pcc, undefined = m.pearson(measured, predicted)
    draws = compared.ceilings.loc[genes].to_numpy()
    ceiling = draws.mean(axis=1)
    stated: Any = compared.stated.taken(np.arange(len(measured)), columns)
    for metric in chosen:
        match metric:
            case "pcc":
                yield metric, genes, pcc
            case "pcc_given_depth":
                yield metric, genes, m.pearson_given_depth(measured, predicted, compared.totals)
            case "spearman":
                yield metric, genes, m.spearman(measured, predicted)[0]
            case "mse":
                yield metric, genes, m.mse(measured, predicted)
            case "sd_ratio":
                yield metric, genes, m.sd_ratio(measured, predicted)
            case "ceiling":
                yield metric, genes, ceiling
            case "ceiling_sd":
                yield metric, [""], [spread(draws.mean(axis=0))]
            case "pcc_of_ceiling":
                top = ceiling.mean()
                yield metric, [""], [pcc.mean() / top if top > 0 else np.nan]
            case "gene_structure":
                yield metric, [""], [m.gene_structure(measured, predicted)]
            case "spatial_structure":
                yield metric, [""], [m.spatial_structure(measured, predicted, compared.adjacency)]
            case "undefined":
                yield metric, [""], [float(undefined)]
            case "coverage":
                yield metric, genes, m.coverage(measured, predicted, compared.std[:, columns], [INTERVAL])[0]
            case "interval_width":
                yield metric, genes, m.interval_width(compared.std[:, columns], INTERVAL)
            case "stated_pcc":
                yield metric, genes, stated.pcc
            case "stated_r":
                yield metric, [""], [stated_r(stated.pcc, pcc)]
            case "stated_excess":
                yield metric, [""], [stated_excess(stated.pcc, pcc)]
            case "interval_coverage":
                yield metric, genes, share_inside(measured, *stated.ends)
            case "interval_level":
                yield metric, [""], [stated.level]
            case "distance":
                yield metric, [""], [stated.distance]


def _measured(genes: list[str], section: Section, panel: str) -> list[str]:
    """Those of `genes` that the section measures, each once."""
    genes, there = list(dict.fromkeys(genes)), set(section.genes)
    kept = [gene for gene in genes if gene in there]
    if not kept:
        which = "Nothing was predicted for" if not genes else f"None of the genes of panel {panel!r} is measured in"
        msg = f"{which} section {section.name!r}. Give genes by the names in var_names."
        raise ValueError(msg)
    if missing := [gene for gene in genes if gene not in there]:
        told = ", ".join(missing[:10])
        msg = f"Section {section.name!r} does not measure {len(missing)} genes of panel {panel!r}, left out: {told}."
        warn(msg)
    return kept


def _rows(matrix: Matrix, rows: np.ndarray) -> np.ndarray:
    from scipy import sparse

    taken: Any = matrix[rows]
    return taken.toarray() if sparse.issparse(taken) else np.asarray(taken)
