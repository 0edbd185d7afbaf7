"""Compare predicted with measured expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.checks import one_of
from stpredict._core.docs import with_shared_texts
from stpredict._core.labels import layer_names
from stpredict._core.settings import settings
from stpredict._evaluation.scoring import METRICS, MIN_SPOTS, OF_INTERVALS, score
from stpredict._sections.open import Where, open_all, unique_names

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
    %(predicted)s
    panels
        Names of gene sets and their genes, chosen on training sections; by default ``"all"``, every predicted gene.
        Genes that a section does not measure are left out there, with a warning.
    metrics
        Per gene: ``"pcc"``, ``"spearman"``, ``"mse"``, ``"sd_ratio"`` (contrast: predicted over measured standard
        deviation) and ``"ceiling"`` (the PCC that the true expression itself would score against these noisy counts,
        by binomial thinning). Per section, with ``gene`` empty: ``"ceiling_sd"`` (standard deviation by which another
        seed of the thinning moves the mean ceiling), ``"pcc_of_ceiling"`` (mean PCC over mean ceiling),
        ``"gene_structure"`` (correlation of the gene–gene correlation matrices), ``"spatial_structure"`` (correlation
        of Moran's I over genes) and ``"undefined"`` (genes whose PCC is undefined). All of these by default. Where the
        prediction was made with ``std=True``, also per gene: ``"coverage"`` (share of spots inside their 90 % interval)
        and ``"interval_width"`` (its mean width).
    %(min_counts)s
    %(seed)s
        Only the noise ceiling depends on it.
    %(library_key)s
    %(table_key)s

    Returns
    -------
    Tidy table with columns ``section``, ``panel``, ``gene``, ``metric`` and ``value``.

    Raises
    ------
    KeyError
        If there is no such layer, or intervals are to be judged and there is no standard deviation.
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
        one_of(metric, (*METRICS, *OF_INTERVALS), "metric")
    if panels is not None:
        panels = {name: list(genes) for name, genes in panels.items()}
    sections = open_all(data, Where(library_key, table_key), least_spots=MIN_SPOTS)
    seed = settings.seed if seed is None else seed
    tables = []
    for section, name in zip(sections, unique_names(sections), strict=True):
        values = _layer(section, predicted)
        std = _layer(section, keys.std(predicted)) if set(OF_INTERVALS) & set(chosen) else None
        table = score(
            section, values, section.genes, std=std, panels=panels, metrics=chosen, min_counts=min_counts, seed=seed
        )
        table.insert(0, "section", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


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
