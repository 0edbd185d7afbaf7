"""Adapt a trained model to a few measured spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.checks import check_column_name
from stpredict._core.docs import with_shared_texts
from stpredict._core.settings import settings
from stpredict._core.warning import warn
from stpredict._genes.symbols import describe_missing, match, match_once
from stpredict._sections.open import Where, open_all
from stpredict.models._base.contract import UNITS
from stpredict.models._base.model import ExpressionModel
from stpredict.models.adapted.model import Adapted
from stpredict.models.adapted.units import in_our_units
from stpredict.models.published.contract import FixedModel
from stpredict.tl._given import given_genes, given_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

FEW = 5
"""With fewer measured spots than this the correction is mostly a guess."""


@with_shared_texts
def adapt(
    data: Data | Sequence[Data],
    model: ExpressionModel | str | Path,
    *,
    measured: str | None = None,
    genes: Iterable[str] | None = None,
    min_counts: int = 50,
    seed: int | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> ExpressionModel:
    """Correct a trained model by a few measured sections of a new cohort, or a few measured spots of one section.

    The model itself is frozen; what is learned is a correction of its predictions. Near measured spots of the same
    section it works like kriging of the model's errors. Everywhere, also in other sections, spots with similar
    predictions or embeddings get similar corrections. The reach of both is chosen on the measured spots; spots unlike
    all of them keep their prediction. A few spots take a second or two.

    Parameters
    ----------
    data
        Sections after `stpredict.pp.tiles` and `stpredict.pp.encode` as in training: one object or a list.
    %(model)s
    measured
        Column of ``obs``, boolean, that says which spots were measured. Counts of other spots are never looked at. By
        default all spots were.
    genes
        Genes to predict, by default the model's. Others, which the model does not know, are predicted from the measured
        spots alone. The model's own that `data` does not measure stay as the model predicts them; so do those of which a
        section has only zeros where other sections or the model let expect counts, as after an outer join.
    min_counts
        Measured spots with fewer counts are not learned from.
    seed
        Seed of the choice of 1,500 spots where more are measured; by default ``stpredict.settings.seed``.
    %(sections)s

    Returns
    -------
    A new model, for `stpredict.tl.predict_expression`. `data` and `model` stay as they are. A section that was adapted
    on is recognised by names and coordinates of its spots, whichever of them are there. ``model.history`` has root mean
    square errors at measured spots left out in turn, before and after.

    Raises
    ------
    KeyError
        If a section has no such column.
    TypeError
        If `model` is no model, `measured` is no name, or the column is not boolean.
    ValueError
        If features are missing or were not made as in training, no measured spot has enough raw counts, a gene that the
        model does not know is not measured in all sections, or the model predicts the same for every spot.

    Warns
    -----
    UserWarning
        If fewer than five spots were measured, or some of the model's genes were not, or are zero as after an outer join.

    Notes
    -----
    Errors of the model at measured spots, in log1p of counts per 10,000, are read as a Gaussian process. Its covariance
    between spots is level + Σ exp(−distance / length) + likeness to the model, with lengths of 1, 2, 4 and 8 spot pitches.
    Likeness is exp(−d²), d being the difference of two predictions over its median, and the same of embeddings (mean of
    both). Between genes the covariance is that of predictions (first 20 principal axes), plus a part for every gene on its
    own. The weights are an average over a grid by marginal likelihood; the part of single genes is chosen by left-out
    errors.

    A model of `stpredict.models.pretrained` that predicts in other units is first brought to log1p of counts per 10,000: one
    slope for all genes, an intercept for each, by least squares at measured spots. Genes without counts there are left out.

    Examples
    --------
    >>> import numpy as np
    >>> import stpredict as st
    >>> train, new = st.datasets.simulate(2)
    >>> for adata in (train, new):
    ...     st.pp.tiles(adata)
    ...     st.pp.encode(adata, show_progress=False)
    >>> model = st.tl.train(train, genes=["ERBB2", "KRT8", "COL1A1"], method="ridge")
    >>> new.obs["measured"] = np.random.default_rng(0).random(new.n_obs) < 0.1
    >>> adapted = st.tl.adapt(new, model, measured="measured")
    >>> st.tl.predict_expression(new, adapted)
    >>> adapted.method, int(new.var["predicted"].sum())
    ('adapted', 3)
    """
    if isinstance(data, ExpressionModel):
        warn(
            "The order is stpredict.tl.adapt(data, model) now; the old one, model first, ends with the next release.",
            FutureWarning,
        )
        data, model = model, data
    model = given_model(model)
    sections = open_all(data, Where(library_key, table_key))
    masks = [_mask(section, measured) for section in sections]
    wanted = _wanted(model, genes, sections)
    if isinstance(model, FixedModel) and model.units != UNITS:
        model = in_our_units(model, sections, masks, min_counts=min_counts)
        wanted = [gene for gene in wanted if genes is not None or gene in set(model.genes)]
    adapted = Adapted(model, min_counts=min_counts, seed=settings.seed if seed is None else seed)
    adapted.fit(sections, genes=wanted, measured=masks)
    if (n := adapted.config["n_spots"]) < FEW:
        msg = f"Only {n} measured spots with min_counts={min_counts} counts or more; with fewer than {FEW} the correction is mostly a guess."
        warn(msg)
    return adapted


def _mask(section: Section, measured: str | None) -> np.ndarray:
    """Which of the section's spots were measured."""
    if measured is None:
        return np.ones(len(section), dtype=bool)
    if not isinstance(measured, str):
        msg = (
            f"measured= names a column of obs, got {type(measured).__name__}. Write adata.obs['measured'] = mask, True "
            "where a spot was measured, and pass measured='measured'."
        )
        raise TypeError(msg)
    obs = section.adata.obs
    check_column_name(measured, "measured")
    if measured not in obs:
        msg = (
            f"Section {section.name!r} has no obs[{measured!r}] (it has {', '.join(obs.columns) or 'no columns'}); "
            "measured= names a boolean column, True where a spot was measured."
        )
        raise KeyError(msg)
    return _read_mask(obs[measured].iloc[section.rows], f"obs[{measured!r}] of section {section.name!r}")


def _read_mask(column: pd.Series, what: str) -> np.ndarray:
    """True where a spot was measured; missing values of a boolean column mean that it was not."""
    values = column.dropna()
    if not values.map(lambda value: isinstance(value, bool | np.bool_)).all():
        right = "True" if values.map(lambda value: isinstance(value, str)).all() else 1
        name = column.name
        msg = (
            f"{what} must be boolean, True where a spot was measured; it holds {', '.join(map(repr, values.unique()[:4]))}. "
            f"Write adata.obs[{name!r}] = adata.obs[{name!r}] == {right!r}, with the value that means measured."
        )
        raise TypeError(msg)
    mask: np.ndarray = column.astype(object).where(column.notna(), False).to_numpy(dtype=bool)
    return mask


def _wanted(model: ExpressionModel, genes: Iterable[str] | None, sections: Sequence[Section]) -> list[str]:
    """Genes to predict, by the model's names: each known to the model or measured in all sections, by any name."""
    asked, known, others = given_genes(model.genes if genes is None else genes, model.genes)
    known |= match(others, sections[0].genes)
    wanted = list(dict.fromkeys(known[gene] for gene in asked if gene in known))
    called = [match_once(wanted, section.genes) for section in sections]
    lost = [gene for gene in wanted if not all(gene in theirs for theirs in called)]
    if nowhere := [gene for gene in others if known.get(gene) in {None, *lost}]:
        msg = (
            f"{describe_missing(nowhere)}: neither known to the model nor measured in all sections. Use the names in "
            "var_names, or leave these genes out."
        )
        raise ValueError(msg)
    if not wanted:
        msg = "genes is empty; name one gene or more, or leave it out for those of the model."
        raise ValueError(msg)
    if lost:
        msg = (
            f"{len(lost)} of the model's genes are not measured in all sections; they stay as the model predicts them: "
            f"{', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}."
        )
        warn(msg)
    return wanted
