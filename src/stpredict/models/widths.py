"""Which niche widths a model learns from, where sections were encoded at several."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from stpredict._sections.niches import is_wider
from stpredict.models._data.features import find_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section
    from stpredict.models._base.featured import FeatureModel


def fit_widths(
    model: FeatureModel, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]
) -> FeatureModel:
    """Train on spot and niche, then on all widths too where there are several, and keep what predicts held-out spots better.

    Strips of one section cannot tell, as wide windows reach from one into the next: there the niche alone is taken. The
    same holds for features that the user named: these are learned from as they are.

    Returns
    -------
    The trained model: `model`, or a copy of it. Its history says what was compared.
    """
    chooses = model.uses_features and model.features is None and not model.weighs_widths
    found = find_features(sections) if chooses else []
    narrow = [key for key in found if not is_wider(key)]
    if not narrow or narrow == found:
        model.fit(sections, genes=genes, groups=groups)
        return model
    wide = deepcopy(model) if len(sections) > 1 else None
    model.features = narrow
    history = model.fit(sections, genes=genes, groups=groups)
    if wide is None:
        history.notes.append("learned from the niche alone: one section cannot tell whether wider windows help")
        return model
    wide.features = found
    if model.checkpoint is not None:
        wide.checkpoint = model.checkpoint / "all_widths"
    other = wide.fit(sections, genes=genes, groups=groups)
    told = f"held-out PCC {history.score:.3f} with the niche alone, {other.score:.3f} with all niche widths"
    if other.score > history.score:
        other.notes.append(f"{told}: learned from all")
        return wide
    history.notes.append(f"{told}: learned from the niche alone")
    return model
