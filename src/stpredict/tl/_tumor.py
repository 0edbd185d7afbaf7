"""Where the tumour is, by its marker genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import check_column_name, check_key_added
from stpredict._core.docs import with_shared_texts
from stpredict._core.labels import layer_names
from stpredict._core.warning import warn
from stpredict._evaluation.labels import TumorLabels, read_labels, split_tumor_labels
from stpredict._genes import symbols
from stpredict._genes.markers import marker_genes
from stpredict._sections.open import Opened, Where
from stpredict.tl._prediction.believed import outside_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

MEASURED = "measured counts"

MOST_MISSING = 0.5
"""Share of the markers that may be missing before a warning says so."""


@with_shared_texts
def localize_tumor(
    data: Data,
    *,
    markers: str | Iterable[str] | Mapping[str, float] = "carcinoma",
    layer: str | None = keys.PREDICTED,
    key_added: str = keys.TUMOR,
    threshold: float | None = None,
    label_key: str | None = None,
    tumor_labels: Iterable[str] | None = None,
    force: bool = False,
    library_key: str | None = None,
    table_key: str | None = None,
    copy: bool = False,
) -> Data | None:
    """Score every spot by tumour marker genes and call the tumour.

    The score is the mean of the markers' z-scores, each taken within its section, so it ranks the spots of a section
    and says nothing about which of two sections has more tumour. Without a `threshold`, Otsu's [1]_ splits the scores
    of each section into two groups; whether there are two groups at all is checked by comparing one with two Gaussians
    (BIC), and where one is enough, the call is still made, but a warning says that its border is arbitrary.

    Markers are the lineage and epithelial genes of a carcinoma: healthy epithelium scores high too. Compare the map
    with that of ``total_counts``, which alone finds the tumour of some sections well and fails on others.

    Parameters
    ----------
    data
        One or more sections.
    markers
        A set's name from `datasets.marker_sets`, such as ``"breast"``; a list of genes; or genes with weights, of
        which those expected low in tumour are negative. Aliases and Ensembl ids are resolved.
    layer
        Expression to score, as log1p of counts per 10,000: ``"predicted"``, with the genes that ``var`` lacks from
        ``obsm["predicted_genes"]``; any other layer; None normalises the measured counts.
    %(key_added)s
    threshold
        Score above which a spot is called tumour. None finds one per section, as described above.
    label_key
        Column of ``obs`` with a pathologist's labels, to measure the score against.
    tumor_labels
        Which labels are tumour, as they stand in the column. None takes labels that say so in plain words ("Tumor",
        "invasive cancer", "DCIS") and refuses labels that can be read both ways ("tumor edge", "tumor-adjacent normal",
        "tumor stroma"). "Non-tumor" is other tissue. Spots whose label is missing, "NA", "unknown", "unassigned" or
        "undetermined" are left out.
    force
        Call the tumour on sections that lie outside of what the model was trained on, too.
    %(sections)s
    %(copy)s

    Returns
    -------
    None, or the copy. Written:

    - ``obs["tumor_score"]`` (float): mean z-score; NaN where a marker's expression is NaN
    - ``obs["tumor"]`` (bool): the call; False where the score is NaN. Of a predicted section that lies outside of what
      the model was trained on (`tl.predict_expression`) it is missing without `force`, and the column is then one of
      pandas' nullable booleans
    - ``uns["tumor"]``: ``markers`` used, their ``weights``, ``markers_missing``, ``layer``, ``rule``; with labels
      ``tumor_labels`` and ``other_labels``, which labels were taken for what; ``withheld``, where sections lie outside,
      why, by section; and by section
      ``threshold``, ``two_groups`` (where the threshold was found) and, with labels, ``auroc``, ``average_precision``
      and ``prevalence`` (NaN where a section has only tumour or none)

    Raises
    ------
    KeyError
        If there is no such layer or label column.
    ValueError
        If no marker is there, a section has fewer than two spots with values, or no label is a tumour's.

    Warns
    -----
    UserWarning
        If more than half of the markers are missing, the scores of a section form one group, or a section lies outside
        of what the model was trained on.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.tl.localize_tumor(adata, markers=["ERBB2", "EPCAM"], layer=None, threshold=0.5)
    >>> adata.uns["tumor"]["markers"], adata.obs["tumor"].dtype.name
    (['ERBB2', 'EPCAM'], 'bool')

    References
    ----------
    .. [1] Otsu, A threshold selection method from gray-level histograms. IEEE Transactions on Systems, Man, and
       Cybernetics 9, 62–66 (1979).
    """
    opened = Opened(data, Where(library_key, table_key), copy=copy)
    adata, sections = opened.table, opened.sections
    check_key_added(adata, key_added, mark="markers", obs=[key_added, f"{key_added}_score"])
    weights = _weights(markers)
    labelled = None if label_key is None else _tumor_truth(adata, label_key, tumor_labels)
    expression, columns = _expression(adata, sections, list(weights), layer)
    used = np.array([weights[name] for name in columns])
    _warn_of_missing(list(weights), columns)

    score = np.full(adata.n_obs, np.nan)
    for section in sections:
        score[section.rows] = _section_score(expression[section.rows], used, section.name)
    record: dict[str, Any] = {
        "markers": list(columns.values()),
        "weights": used,
        "markers_missing": [name for name in weights if name not in columns],
        "layer": layer or MEASURED,
        "rule": "given" if threshold is not None else "Otsu per section",
    }
    call, thresholds = _call(sections, score, threshold)
    record |= thresholds
    away = {} if layer is None else outside_of(adata.uns.get(layer, {}), [section.name for section in sections])
    if away and not force:
        record["withheld"] = away
        call = _withheld(call, sections, away)
    if labelled is not None:
        named, truth = labelled
        taken = {"tumor_labels": named.tumor, "other_labels": named.other}
        record |= {"label_key": label_key, **taken, **_agreement(sections, score, truth)}
    opened.target.obs[f"{key_added}_score"] = score
    opened.target.obs[key_added] = call
    opened.target.uns[key_added] = record
    return opened.result


def _weights(markers: str | Iterable[str] | Mapping[str, float]) -> dict[str, float]:
    if not hasattr(markers, "items"):
        return dict.fromkeys(marker_genes(markers), 1.0)
    given = cast("Mapping[str, float]", markers)  # (or a Series)
    weights = {name: float(given[name]) for name in marker_genes(markers)}
    if not all(np.isfinite(w) and w for w in weights.values()):
        msg = "Marker weights must be finite and not 0; positive where tumour expresses the gene, negative where not."
        raise ValueError(msg)
    return weights


def _expression(
    adata: AnnData, sections: Sequence[Section], wanted: list[str], layer: str | None
) -> tuple[np.ndarray, dict[str, str]]:
    """(spots, markers found) in log1p CP10k, and marker → its name in the data."""
    if layer is None:
        found = _found(wanted, list(adata.var_names), MEASURED)
        values = np.full((adata.n_obs, len(found)), np.nan)
        for section in sections:
            values[section.rows] = section.log_expression(found.values())
        return values, found
    table = _layer_table(adata, wanted, layer)
    found = _found(wanted, list(table.columns), f"layers[{layer!r}]")
    return table[list(found.values())].to_numpy(np.float64), found


def _layer_table(adata: AnnData, wanted: list[str], layer: str) -> pd.DataFrame:
    """Columns of a layer, and of the genes beside it, that `wanted` may refer to and that have values."""
    import pandas as pd
    from scipy import sparse

    extra = adata.obsm.get(keys.extra_genes(layer))
    if layer not in adata.layers and extra is None:
        hint = "Call tl.predict_expression first, or pass layer=None for the measured counts."
        msg = f"There is no layers[{layer!r}]; there is {', '.join(layer_names(adata)) or 'none'}. {hint}"
        raise KeyError(msg)
    if layer not in adata.layers:  # a slide on which no gene was measured
        return extra.dropna(axis=1, how="all")
    names = list(dict.fromkeys(symbols.match(wanted, adata.var_names).values()))
    values = adata.layers[layer][:, adata.var_names.get_indexer(names)]
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    table = pd.DataFrame(values, index=adata.obs_names, columns=names).dropna(axis=1, how="all")
    if extra is None:
        return table
    extra = extra.drop(columns=table.columns, errors="ignore").dropna(axis=1, how="all").set_axis(adata.obs_names)
    return pd.concat([table, extra], axis=1)


def _found(wanted: list[str], names: list[str], where: str) -> dict[str, str]:
    found = symbols.match(wanted, names)
    if not found:
        msg = f"None of the markers is in {where}: {symbols.describe_missing(wanted)}."
        raise ValueError(msg)
    once = {name: marker for marker, name in reversed(found.items())}
    return {marker: name for marker, name in found.items() if once[name] == marker}


def _warn_of_missing(wanted: list[str], columns: Mapping[str, str]) -> None:
    missing = [name for name in wanted if name not in columns]
    if len(missing) > MOST_MISSING * len(wanted):
        msg = (
            f"{len(missing)} of {len(wanted)} markers are missing ({symbols.describe_missing(missing)}): the tumour map rests "
            f"on {', '.join(columns.values())} alone. Predict the other markers too, or choose markers= that are there."
        )
        warn(msg)


def _section_score(expression: np.ndarray, weights: np.ndarray, name: str) -> np.ndarray:
    """Weighted mean of z-scores; NaN for spots where a marker is NaN."""
    known = np.isfinite(expression).all(axis=1)
    if known.sum() < 2:
        msg = f"Section {name!r} has {known.sum()} spots with values of all markers; z-scores need two or more."
        raise ValueError(msg)
    values = expression[known]
    spread = values.std(axis=0)
    z = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    score = np.full(len(expression), np.nan)
    score[known] = z @ weights / np.abs(weights).sum()
    return score


def _call(
    sections: Sequence[Section], score: np.ndarray, threshold: float | None
) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    from skimage.filters import threshold_otsu

    call = np.zeros(len(score), dtype=bool)
    thresholds, two_groups = {}, {}
    for section in sections:
        values = score[section.rows]
        known = values[np.isfinite(values)]
        thresholds[section.name] = float(threshold_otsu(known) if threshold is None else threshold)
        call[section.rows] = values > thresholds[section.name]
        if threshold is None:
            two_groups[section.name] = _two_groups(known)
    single = [name for name, two in two_groups.items() if not two]
    if single:
        msg = (
            f"The tumour scores of {', '.join(single)} form one group rather than two, so the border of the called "
            "tumour is arbitrary: there may be no tumour, or nothing else. Use the score as a ranking, or pass threshold=."
        )
        warn(msg)
    return call, {"threshold": thresholds} | ({"two_groups": two_groups} if two_groups else {})


def _withheld(
    call: np.ndarray, sections: Sequence[Section], away: Mapping[str, str]
) -> pd.api.extensions.ExtensionArray:
    """The call, missing on sections that lie outside of what the model was trained on."""
    import pandas as pd

    name, why = next(iter(away.items()))
    msg = (
        f"The tumour is not called on {', '.join(away)}: section {name!r} lies outside of what the model was trained on "
        f"({why}). Train on sections of this kind; force=True calls it all the same."
    )
    warn(msg)
    nullable = pd.array(call, dtype="boolean")
    for section in sections:
        if section.name in away:
            nullable[section.rows] = pd.NA
    return nullable


def _two_groups(score: np.ndarray) -> bool:
    """Whether two Gaussians describe the scores better than one, by BIC."""
    from sklearn.mixture import GaussianMixture

    column = score[:: max(1, len(score) // 20_000), None]
    if len(column) < 10 or np.ptp(column) == 0:
        return False
    one, two = (GaussianMixture(k, n_init=3, random_state=0).fit(column).bic(column) for k in (1, 2))
    return bool(two < one)


def _tumor_truth(adata: AnnData, label_key: str, tumor_labels: Iterable[str] | None) -> tuple[TumorLabels, np.ndarray]:
    """Which labels were taken for what; and of every spot 1 for tumour, 0 for another label, NaN for none."""
    check_column_name(label_key, "label_key")
    if label_key not in adata.obs:
        msg = f"There is no obs[{label_key!r}]; obs has {', '.join(map(str, adata.obs.columns)) or 'no columns'}."
        raise KeyError(msg)
    labels = read_labels(adata.obs[label_key])
    named = split_tumor_labels((x for x in labels if x is not None), tumor_labels, f"obs[{label_key!r}]")
    return named, np.array([np.nan if x is None else float(x in named.tumor) for x in labels])


def _agreement(sections: Sequence[Section], score: np.ndarray, truth: np.ndarray) -> dict[str, dict[str, float]]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    result: dict[str, dict[str, float]] = {"auroc": {}, "average_precision": {}, "prevalence": {}}
    for section in sections:
        y, s = truth[section.rows], score[section.rows]
        known = np.isfinite(y) & np.isfinite(s)
        y, s = y[known], s[known]
        both = 0 < y.sum() < len(y)
        result["auroc"][section.name] = float(roc_auc_score(y, s)) if both else np.nan
        result["average_precision"][section.name] = float(average_precision_score(y, s)) if both else np.nan
        result["prevalence"][section.name] = float(y.mean()) if len(y) else np.nan
    return result
