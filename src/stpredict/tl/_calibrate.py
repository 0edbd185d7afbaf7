"""Learn how far to believe a published model from sections of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.settings import settings
from stpredict._sections.groups import section_groups
from stpredict._sections.open import Where, open_all
from stpredict.models._base.model import ExpressionModel
from stpredict.models.adapted.calibrated import calibrated
from stpredict.models.published.contract import FixedModel
from stpredict.tl._given import given_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stpredict._core.typing import Data


@with_shared_texts
def calibrate(
    data: Data | Sequence[Data],
    model: ExpressionModel | str | Path,
    *,
    group_key: str | None = keys.PATIENT,
    min_counts: int = 50,
    seed: int | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> ExpressionModel:
    """Learn from measured sections how far to believe a model that others trained.

    A model of `stpredict.models.pretrained` comes without estimates of its errors. They are learned here from
    sections that have counts: `stpredict.tl.predict_expression` then writes what it writes for a model of our own,
    the correlation to expect of every gene, the distance of every spot from the measured ones, a verdict, standard
    deviations and intervals. The pattern that it predicts stays as it is; `stpredict.tl.adapt` changes it.

    Parameters
    ----------
    data
        Sections with raw counts and with what the model needs, features or image: one object or a list. The model may
        come first and `data` second, too.
    model
        A model of `stpredict.models.pretrained`, or the path of a saved one.
    group_key
        Column of ``obs`` that names each section's patient. With None, and where no section has ``obs["patient"]``, every
        section counts as a patient of its own.
    %(min_counts)s
    seed
        Seed of the choice of 2,000 spots where more are measured; by default ``stpredict.settings.seed``.
    %(sections)s

    Returns
    -------
    A new model of the genes that have counts in all sections; `data` and `model` stay as they are. ``model.history`` has the
    mean correlation that it reached.

    Raises
    ------
    KeyError
        If only some sections have the column of patients.
    TypeError
        If `model` is none of `stpredict.models.pretrained`.
    ValueError
        If features or counts are missing or unusable, fewer than ten spots have counts enough, or the model knows no gene
        with counts.

    Warns
    -----
    UserWarning
        If genes of the model have no counts in all sections, so that they are left out.

    Notes
    -----
    The model was trained on other spots, so all measured ones count as held out of training. That is wrong of sections from the
    collections that it did learn from (``model.card.trained_on``): what is learned on these is too good.

    Predictions in other units are first brought to log1p of counts per 10,000, as `stpredict.tl.adapt` does: one slope for all
    genes, an intercept for each. Errors are those on patients (of fewer than three: sections; of one section: strips) that the slope and
    intercepts were not learned from. Distance 1 is as far as such patients, sections or strips lie from the others. A model that
    reads the image itself has no distance, and its verdict is ``"unknown"``.

    Examples
    --------
    >>> import stpredict as st
    >>> model = st.models.pretrained("path2space")  # doctest: +SKIP
    >>> model = st.tl.calibrate(measured, model)  # doctest: +SKIP
    >>> st.tl.predict_expression(new, model, interval=0.9)  # doctest: +SKIP
    >>> new.uns["predicted"]["domain"]["verdict"]  # doctest: +SKIP
    'inside'
    """
    if isinstance(data, ExpressionModel):
        data, model = model, data
    model = given_model(model)
    if not isinstance(model, FixedModel):
        msg = (
            f"A model of method {model.method!r} has learned in training how far to believe it. "
            "stpredict.tl.adapt(data, model) corrects it by your sections, and learns this from them too; "
            "stpredict.tl.calibrate is for models of stpredict.models.pretrained."
        )
        raise TypeError(msg)
    sections = open_all(data, Where(library_key, table_key))
    if group_key == keys.PATIENT and not any(group_key in section.adata.obs for section in sections):
        group_key = None
    groups = section_groups(sections, group_key)
    return calibrated(model, sections, groups, min_counts=min_counts, seed=settings.seed if seed is None else seed)
