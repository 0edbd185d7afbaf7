"""Image-to-expression models behind one contract: fit, predict, embed, save, load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict._core.offered import offers
from stpredict.models._base import files
from stpredict.models._base.contract import Prediction
from stpredict.models._base.history import History
from stpredict.models._base.hub import fetched, on_hub
from stpredict.models._base.load import rebuilt
from stpredict.models._base.model import ExpressionModel
from stpredict.models.adapted.model import Adapted
from stpredict.models.methods import METHODS
from stpredict.models.published.pretrained import PUBLISHED, available, pretrained

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["METHODS", "ExpressionModel", "History", "Prediction", "available", "load", "pretrained"]

__getattr__, __dir__ = offers(__name__, __all__)


def load(path: str | Path) -> ExpressionModel:
    """Read a model that ``model.save(path)`` or ``model.push_to_hub`` wrote.

    Nothing is unpickled: arrays come from safetensors, the rest from JSON, and both are checked.

    Parameters
    ----------
    path
        The model's folder; or ``"hf-hub:<laboratory>/<name>"``, a repository of the Hugging Face hub, of which only the two
        files of the model are downloaded. ``"hf-hub:<laboratory>/<name>@<revision>"`` is one commit, branch or tag of it;
        a commit never changes.

    Returns
    -------
    The model; it predicts exactly what the saved one did.

    Raises
    ------
    FileNotFoundError
        If there is no model at `path`, or its repository cannot be reached.
    ValueError
        If its files are damaged, of a newer format or of a method that this version does not know, or the name of the
        repository is none.

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
    folder = fetched(str(path)) if on_hub(path) else path
    try:
        return rebuilt(files.read(folder), folder, METHODS | PUBLISHED | {Adapted.method: Adapted})
    except ValueError as error:
        if folder is path:
            raise
        msg = f"{path}: {error} Where the download was cut short, delete {folder} and load it again."
        raise ValueError(msg) from error
