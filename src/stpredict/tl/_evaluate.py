"""Compare predicted with measured expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.labels import layer_names
from stpredict._core.settings import settings
from stpredict._evaluation.scoring import KNOWN, METRICS, MIN_SPOTS, OF_INTERVALS, in_other_units, score
from stpredict._evaluation.stated import OF_STATED, OF_STATED_ENDS, OF_STATED_PCC, Stated
from stpredict._evaluation.target import checked_metrics
from stpredict._sections.open import Where, open_all, unique_names
from stpredict.models._base.contract import UNITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section


@with_shared_texts
def evaluate(
    data: Data | Sequence[Data],
    *,
    predicted: str = keys.PREDICTED,
    panels: Mapping[str, Iterable[str]] | None = None,
    metrics: Iterable[str] | None = None,
    target: Literal["log1p", "pearson_residuals"] = "log1p",
    min_counts: int = 50,
    seed: int | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Score predicted against measured expression, per section and gene.

    The truth is raw log1p of counts per 10,000 (or Pearson residuals, see `target`), never smoothed or rescaled. A
    correlation that is undefined (a constant or unpredicted gene) counts as 0, so that leaving out hard genes gains
    nothing, and is counted in ``"undefined"``. Average ``"pcc"`` over genes, then over sections; never over pooled
    spots.

    Parameters
    ----------
    data
        Sections with raw counts and a prediction: one object or a list.
    %(predicted)s
    panels
        Names of gene sets and their genes, chosen on training sections; by default ``"all"``, every predicted gene.
        Genes that a section does not measure are left out there, with a warning.
    metrics
        Per gene: ``"pcc"``, ``"pcc_given_depth"`` (the PCC of what is left of both sides after a regression on the log
        total count of the spots and its square: what is predicted beyond how deeply a spot was sequenced),
        ``"spearman"``, ``"mse"``, ``"sd_ratio"`` (contrast: predicted over measured standard deviation) and
        ``"ceiling"`` (the PCC that the true expression itself would score against these noisy counts, by binomial
        thinning). Per section, with ``gene`` empty: ``"ceiling_sd"`` (standard deviation by which another
        seed of the thinning moves the mean ceiling), ``"pcc_of_ceiling"`` (mean PCC over mean ceiling),
        ``"gene_structure"`` (correlation of the gene–gene correlation matrices), ``"spatial_structure"`` (correlation
        of Moran's I over genes) and ``"undefined"`` (genes whose PCC is undefined). All of these by default, and where
        the prediction says something of itself: per gene ``"stated_pcc"`` (the PCC to expect, from ``var``) and, with
        ``interval=``, ``"interval_coverage"`` (share of spots whose measured value lies in its interval); per section
        ``"stated_r"`` (correlation over genes of stated and reached PCC), ``"stated_excess"`` (mean stated minus mean
        reached PCC; above 0 where too much was promised), ``"interval_level"`` (share that intervals are to hold) and
        ``"distance"`` (median distance of spots from training spots). Not by default, for predictions made with
        ``std=True``, per gene: ``"coverage"`` (share of spots inside the 90 % interval of a normal distribution) and
        ``"interval_width"`` (its mean width).
    target
        Measured expression as ``"log1p"`` of counts per 10,000, the units of predictions; or as
        ``"pearson_residuals"``, those of ``scanpy.experimental.pp.normalize_pearson_residuals`` (theta 100, clipped at
        the square root of the number of spots) over the spots that are scored and all genes, which take sequencing
        depth out. Predictions stay as they are. Metrics whose meaning needs the same units on both sides are then left
        out: there are ``"pcc"``, ``"pcc_given_depth"``, ``"spearman"``, ``"gene_structure"``,
        ``"spatial_structure"``, ``"undefined"`` and ``"distance"``.
    %(min_counts)s
    %(seed)s
        Only the noise ceiling depends on it.
    %(sections)s

    Returns
    -------
    Tidy table with columns ``section``, ``panel``, ``gene``, ``target``, ``metric`` and ``value``.

    Raises
    ------
    KeyError
        If there is no such layer, or metrics are asked for by name that need a standard deviation, intervals or the
        stated PCC, which are not there.
    ValueError
        If counts are not raw counts, a metric or target is unknown, a metric needs another target, a section measures
        no gene of a panel, or too few spots have `min_counts` counts.

    Warns
    -----
    UserWarning
        If fewer than 30 spots of a section are scored, whose correlations are largely chance.

    Examples
    --------
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, genes=["ERBB2", "COL1A1"], method="ridge")
    >>> st.tl.predict_expression(new, model)
    >>> scores = st.tl.evaluate(new, metrics=["pcc", "ceiling"])
    >>> scores["metric"].value_counts().to_dict()
    {'pcc': 2, 'ceiling': 2}
    """
    asked = () if metrics is None else (metrics,) if isinstance(metrics, str) else tuple(metrics)
    chosen = checked_metrics(None if metrics is None else asked, target, known=KNOWN, default=(*METRICS, *OF_STATED))
    if panels is not None:
        panels = {name: list(genes) for name, genes in panels.items()}
    sections = open_all(data, Where(library_key, table_key), least_spots=MIN_SPOTS)
    seed = settings.seed if seed is None else seed
    tables = []
    for section, name in zip(sections, unique_names(sections), strict=True):
        values = _layer(section, predicted)
        std = _layer(section, keys.std(predicted)) if set(OF_INTERVALS) & set(chosen) else None
        stated = _stated(section, predicted, chosen)
        _check_stated(section, predicted, stated, asked)
        what: dict[str, Any] = {"std": std, "stated": stated, "panels": panels, "metrics": chosen, "target": target}
        table = score(section, values, section.genes, **what, min_counts=min_counts, seed=seed)
        table.insert(0, "section", name)
        tables.append(table if _units(section, predicted) == UNITS else in_other_units(table))
    return pd.concat(tables, ignore_index=True)


def _units(section: Section, predicted: str) -> str:
    """Units of a prediction, as its record has them."""
    record = section.adata.uns.get(predicted, {})
    return str(record.get("units", UNITS)) if hasattr(record, "get") else UNITS


def _stated(section: Section, predicted: str, chosen: Sequence[str]) -> Stated:
    """What the prediction of a section says of itself, as far as it is asked for."""
    adata = section.adata
    reliability, distance = keys.reliability(predicted), keys.distance(predicted)
    ends = [keys.lower(predicted), keys.upper(predicted)]
    has_ends = set(OF_STATED_ENDS) & set(chosen) and all(end in adata.layers for end in ends)
    away = adata.obs[distance].to_numpy(float)[section.rows] if distance in adata.obs else np.array([])
    record = adata.uns.get(predicted, {})
    return Stated(
        pcc=adata.var[reliability].to_numpy(float) if reliability in adata.var else None,
        ends=(_layer(section, ends[0]), _layer(section, ends[1])) if has_ends else None,
        level=float(record.get("parameters", {}).get("interval", np.nan)) if hasattr(record, "get") else np.nan,
        distance=float(np.median(away[np.isfinite(away)])) if np.isfinite(away).any() else np.nan,
    )


def _check_stated(section: Section, predicted: str, stated: Stated, asked: Sequence[str]) -> None:
    """Refuse metrics that are asked for by name where the prediction does not say what they need."""
    lacking = [metric for metric in asked if metric in OF_STATED and metric not in stated.metrics()]
    if not lacking:
        return
    if lacking[0] in OF_STATED_ENDS:
        needed, fix = f"layers[{keys.lower(predicted)!r}]", ", with interval=0.9"
    elif lacking[0] in OF_STATED_PCC:
        needed, fix = f"values in var[{keys.reliability(predicted)!r}]", ""
    else:
        needed, fix = f"values in obs[{keys.distance(predicted)!r}]", ""
    msg = (
        f"Metric {lacking[0]!r} needs {needed}, which section {section.name!r} lacks. Run "
        f"stpredict.tl.predict_expression{fix}, with a model that learned it, or leave the metric out."
    )
    raise KeyError(msg)


def _layer(section: Section, layer: str) -> np.ndarray:
    from scipy import sparse

    adata = section.adata
    if layer not in adata.layers:
        known = ", ".join(layer_names(adata)) or "none"
        msg = (
            f"Section {section.name!r} has no layers[{layer!r}] (it has {known}). Run stpredict.tl.predict_expression"
            f"{', with std=True' if layer.endswith('_std') else ''}."
        )
        raise KeyError(msg)
    values = adata.layers[layer][section.rows]
    return values.toarray() if sparse.issparse(values) else np.asarray(values)
