"""Arguments with a second name: an old one for one release, or the one that scanpy and squidpy use."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from stpredict._core.warning import warn

if TYPE_CHECKING:
    from collections.abc import Callable

SCANPY_NAMES = {"color": "genes", "color_map": "cmap", "img_alpha": "alpha_img"}
"""Names in scanpy's and squidpy's figures of genes on tissue → ours."""

Function = TypeVar("Function", bound="Callable[..., Any]")


def renamed(**names: str) -> Callable[[Function], Function]:
    """Take the argument ``new`` under the name ``old`` too, given as ``old="new"``, with a FutureWarning."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            for old, new in names.items():
                if old in given:
                    if new in given:
                        msg = f"{new}= was called {old}= before; pass {new}= only."
                        raise TypeError(msg)
                    warn(f"{old}= is called {new}= now; the old name ends with the next release.", FutureWarning)
                    given[new] = given.pop(old)
            return function(*args, **given)

        return cast("Function", call)

    return decorate


def also_called(**names: str) -> Callable[[Function], Function]:
    """Take the argument ``own`` under scanpy's or squidpy's name ``theirs`` too, given as ``theirs="own"``."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            for theirs, own in names.items():
                if theirs in given:
                    if own in given:
                        msg = f"{theirs}= is another name of {own}=; pass one of them."
                        raise TypeError(msg)
                    given[own] = given.pop(theirs)
            return function(*args, **given)

        return cast("Function", call)

    return decorate
