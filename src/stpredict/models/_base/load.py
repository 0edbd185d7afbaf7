"""Reading a model of any method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from stpredict.models._base.files import REST
from stpredict.models._base.schema import check_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stpredict.models._base.files import Stored
    from stpredict.models._base.model import ExpressionModel


def rebuilt(stored: Stored, path: str | Path, methods: Mapping[str, type[Any]]) -> ExpressionModel:
    """The model that was read from `path`, as its class in `methods` makes it.

    Raises ValueError if `methods` has no such method, or the configuration describes no model of it.
    """
    if stored.method not in methods:
        msg = f"The model at {path} is a {stored.method!r}; this version of stpredict knows {', '.join(methods)}."
        raise ValueError(msg)
    check_config(stored, path)
    try:
        model = cast("ExpressionModel", methods[stored.method].from_stored(stored, path))
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError, MemoryError) as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        msg = f"The model at {path} is damaged: {REST} describes no model of method {stored.method!r} ({told})."
        raise ValueError(msg) from error
    domain, texture, n = model.trust.domain, model.trust.texture, len(model.trained_on)
    wrong = ""
    if domain is not None and len(domain.level) != model.sight.width:
        wrong = "config.features and config.tiles must name all columns that distances are measured in"
    elif domain is not None and not ((domain.place_section >= 0) & (domain.place_section < n)).all():
        wrong = "config.sections must name the sections of all training spots"
    elif texture is not None and not ((texture.columns >= 0) & (texture.columns < model.sight.width)).all():
        wrong = "config.features and config.tiles must name all columns of the texture"
    if wrong:
        msg = f"The model at {path} is damaged: {REST} describes no model of method {stored.method!r} ({wrong})."
        raise ValueError(msg)
    return model
