"""The methods that `stpredict.tl.train` knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.models.align_st import AlignSt
from stpredict.models.baselines.density import Density
from stpredict.models.baselines.knn import Knn
from stpredict.models.baselines.mean import Mean
from stpredict.models.baselines.mixture import Mixture
from stpredict.models.baselines.ridge import Ridge
from stpredict.models.cmrcnet import CmrcNet
from stpredict.models.consensus import Consensus
from stpredict.models.st_align import StAlign

if TYPE_CHECKING:
    from stpredict.models._base.featured import FeatureModel

METHODS: dict[str, type[FeatureModel]] = {
    model.method: model for model in (Consensus, Mean, Density, Ridge, Knn, Mixture, CmrcNet, StAlign, AlignSt)
}
"""Name → class of every method."""
