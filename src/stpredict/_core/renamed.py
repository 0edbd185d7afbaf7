"""Arguments that still work under an old name for one release."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from stpredict._core.warning import warn

if TYPE_CHECKING:
    from collections.abc import Callable

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
