"""Image-to-expression models behind one contract: fit, predict, embed, save, load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict._core.offered import offers
from stpredict.models._base import files
from stpredict.models._base.contract import ExpressionModel, History, Prediction
from stpredict.models._base.load import rebuilt
from stpredict.models.adapted.model import Adapted
from stpredict.models.methods import METHODS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["METHODS", "ExpressionModel", "History", "Prediction", "load"]

__getattr__, __dir__ = offers(__name__, __all__)


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
    return rebuilt(files.read(path), path, METHODS | {Adapted.method: Adapted})
