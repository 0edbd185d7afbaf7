"""A published model's predictions brought to our units by what was measured, so that they can be corrected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.warning import warn
from stpredict._genes.symbols import match_once
from stpredict.models.adapted.measured import LEAST_SPOTS, measured_expression, well_measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section
    from stpredict.models.published.contract import FixedModel

LEAST_SLOPE = 0.1
"""In standard deviations of what was measured over those of what was predicted: a model is not turned round."""


def in_our_units(
    model: FixedModel, sections: Sequence[Section], masks: Sequence[np.ndarray], *, min_counts: int
) -> FixedModel:
    """The `model` of those of its genes that have counts at measured spots, in log1p CP10k.

    One slope for all genes, and an intercept for each, by least squares at the spots that `masks` name. Of too few spots
    the model comes back as it is, for `Adapted` to refuse.

    Raises
    ------
    ValueError
        If no gene of the model has counts there.

    Warns
    -----
    UserWarning
        If some genes have none.
    """
    rows = [well_measured(section, mask, min_counts) for section, mask in zip(sections, masks, strict=True)]
    if sum(map(len, rows)) < LEAST_SPOTS:
        return model
    called = [match_once(model.genes, section.genes) for section in sections]
    genes = [gene for gene in model.genes if all(gene in theirs for theirs in called)]
    measured = measured_expression(sections, rows, called, genes)
    there = np.asarray(measured.any(axis=0))
    if not there.any():
        msg = f"No gene that {model.card.title} knows has counts at the measured spots, so its units cannot be found."
        raise ValueError(msg)
    if lost := [gene for gene, known in zip(genes, there, strict=True) if not known]:
        msg = (
            f"{len(lost)} genes have no counts at the measured spots and are left out, since {model.card.title} predicts "
            f"in other units ({model.units}): {', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}."
        )
        warn(msg)
    genes = [gene for gene, known in zip(genes, there, strict=True) if known]
    measured = measured[:, there].astype(np.float64)
    predicted = np.concatenate(
        [model.predict(section.without_counts(), genes).mean[own] for section, own in zip(sections, rows, strict=True)]
    ).astype(np.float64)
    return model.brought_to(genes, *slope_and_intercept(predicted, measured))


def slope_and_intercept(predicted: np.ndarray, measured: np.ndarray) -> tuple[float, np.ndarray]:
    """Slope of all genes and intercept of each, by least squares, from what was `predicted` to what was `measured`.

    Raises ValueError if the same is predicted for every spot.
    """
    level = predicted.mean(axis=0), measured.mean(axis=0)
    x, y = predicted - level[0], measured - level[1]
    square = np.square(x).sum()
    if not square > 1e-10 * np.square(predicted).sum():
        msg = (
            "The model predicts the same for every spot, so its units cannot be compared with measured ones. Is the image the "
            "right one, at its right scale, and does it show tissue at the measured spots?"
        )
        raise ValueError(msg)
    slope = max((x * y).sum() / square, LEAST_SLOPE * np.sqrt(np.square(y).sum() / square))
    return float(slope), level[1] - slope * level[0]
