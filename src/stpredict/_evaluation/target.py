"""What a prediction is scored against: log1p of counts per 10,000, or analytic Pearson residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.checks import one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

LOG1P, RESIDUALS = TARGETS = ("log1p", "pearson_residuals")
OF_ANY_TARGET = (
    "pcc",
    "pcc_given_depth",
    "spearman",
    "gene_structure",
    "spatial_structure",
    "undefined",
    "distance",
)
"""Metrics that do not need the prediction in the units of the target; all others need log1p CP10k."""

THETA = 100.0
"""Inverse overdispersion of the negative binomial, scanpy's default."""


def checked_metrics(
    metrics: str | Iterable[str] | None, target: str, *, known: Sequence[str], default: Sequence[str]
) -> list[str]:
    """`metrics`, each once; for None those of `default` that `target` allows.

    Raises ValueError if the target or a metric is unknown, or a metric needs another target.
    """
    one_of(target, TARGETS, "target")
    allowed = known if target == LOG1P else [metric for metric in known if metric in OF_ANY_TARGET]
    if metrics is None:
        return [metric for metric in default if metric in allowed]
    metrics = list(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    for metric in metrics:
        one_of(metric, known, "metric")
    if refused := [metric for metric in metrics if metric not in allowed]:
        msg = (
            f"{', '.join(map(repr, refused))} cannot be computed with target={target!r}: predictions are log1p of counts"
            f" per 10,000, so only metrics that do not depend on units are left. Choose among "
            f"{', '.join(map(repr, allowed))}, or pass target={LOG1P!r}."
        )
        raise ValueError(msg)
    return metrics


def one_target(table: pd.DataFrame) -> str:
    """The target of a table of scores. Raises ValueError if there are several."""
    if "target" not in table:
        return LOG1P
    targets = list(table["target"].fillna(LOG1P).unique())
    if len(targets) > 1:
        msg = (
            f"The table holds scores against several targets, {', '.join(map(repr, targets))}, which do not compare. "
            f"Choose one, as in table[table['target'] == {targets[0]!r}]."
        )
        raise ValueError(msg)
    return str(targets[0]) if targets else LOG1P


def pearson_residuals(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Analytic Pearson residuals of some genes, as ``scanpy.experimental.pp.normalize_pearson_residuals`` has them.

    Parameters
    ----------
    counts
        Raw counts of these genes, (spots, genes).
    totals
        Total count of every spot over all genes, (spots,), above 0.

    Returns
    -------
    float64 (spots, genes): counts minus those expected from the spot's total and the gene's share of all counts, over
    their standard deviation under a negative binomial, clipped at the square root of the number of spots. 0 for a gene
    without a count, of which scanpy says NaN.

    References
    ----------
    Lause, Berens and Kobak, Analytic Pearson residuals for normalization of single-cell RNA-seq UMI data. Genome
    Biology 22, 258 (2021).
    """
    counts = np.asarray(counts, dtype=np.float64)
    totals = np.asarray(totals, dtype=np.float64)
    expected = totals[:, None] * (counts.sum(axis=0) / totals.sum())
    deviation = np.sqrt(expected + expected**2 / THETA)
    limit = np.sqrt(len(counts))
    residuals = np.divide(counts - expected, deviation, out=np.zeros_like(expected), where=deviation > 0)
    return np.clip(residuals, -limit, limit)
