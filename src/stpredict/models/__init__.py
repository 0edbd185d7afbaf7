"""Image-to-expression models behind one contract: fit, predict, embed, save, load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.models import _store
from stpredict.models._adapted import rebuilt
from stpredict.models._contract import ExpressionModel, History, Prediction
from stpredict.models._density import Density
from stpredict.models._knn import Knn
from stpredict.models._mean import Mean
from stpredict.models._mixture import Mixture
from stpredict.models._ridge import Ridge
from stpredict.models.align_st import AlignSt
from stpredict.models.cmrcnet import CmrcNet
from stpredict.models.st_align import StAlign

if TYPE_CHECKING:
    from pathlib import Path

    from stpredict.models._arrays import ArrayModel

METHODS: dict[str, type[ArrayModel]] = {
    model.method: model for model in (Mean, Density, Ridge, Knn, Mixture, CmrcNet, StAlign, AlignSt)
}
"""Name → class of every method that `stpredict.tl.train` knows."""

__all__ = ["METHODS", "ExpressionModel", "History", "Prediction", "load"]


def load(path: str | Path) -> ExpressionModel:
    """Read a model that ``model.save(path)`` wrote.

    Nothing is unpickled: arrays come from safetensors, the rest from JSON, and both are checked.

    Parameters
    ----------
    path
        The model's folder.

    Returns
    -------
    The model; it predicts exactly what the saved one did.

    Raises
    ------
    FileNotFoundError
        If there is no model at `path`.
    ValueError
        If its files are damaged, of a newer format or of a method that this version does not know.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> model = st.tl.train(adata, method="mean")
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "model"
    >>> model.save(folder)
    >>> st.models.load(folder).method
    'mean'
    """
    return rebuilt(_store.read(path), path)
