"""What ``uns`` keeps of how a model was applied."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.version import __version__
from stpredict.models._base.files import identity

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.models import ExpressionModel


def run_record(
    model: ExpressionModel, adata: AnnData, parameters: dict[str, Any], model_id: str | None = None
) -> dict[str, Any]:
    """What ``uns`` keeps of how a model was applied; its identity is found where it is not known yet."""
    features = model.config.get("features", {})
    record: dict[str, Any] = {
        "model_id": model_id or identity(model),
        "method": model.method,
        "encoder": model.config.get("encoder")
        or ", ".join(dict.fromkeys(str(made.get("encoder", key)) for key, made in features.items())),
        "versions": {"stpredict": __version__, "anndata": version("anndata"), "numpy": np.__version__},
        "parameters": {"features": list(features), **parameters},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if model.provenance:
        record["published"] = model.provenance
    made = (adata.uns.get(key) for key in features)
    found = (one.get("mpp") for one in made if hasattr(one, "get"))
    scales = [
        float(mpp) for mpp in found if isinstance(mpp, int | float | np.number)
    ]  # (others are refused by the model)
    return record | ({"mpp": scales[0]} if scales else {})
