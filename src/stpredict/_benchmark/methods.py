"""Methods to compare: a label and what `tl.train` is told."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from stpredict._core.checks import one_of
from stpredict.models._data.features import check_features, describe_features, find_features
from stpredict.models.fit import fit, own_arguments
from stpredict.models.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stpredict._sections.section import Section
    from stpredict.models._base.featured import FeatureModel

OURS = (
    "sections",
    "genes",
    "group_key",
    "min_counts",
    "library_key",
    "table_key",
    "seed",
    "checkpoint",
    "show_progress",
)
"""Arguments of `tl.train` that are the same for all methods, given by seeds=, or would carry one fold into another."""


def method_specs(methods: str | Iterable[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Label → arguments of `tl.train`, ``"method"`` among them, checked.

    Raises
    ------
    ValueError
        If there is none, a method is unknown, or an argument is not one that a method may have.
    """
    if isinstance(methods, str):
        methods = [methods]
    specs = methods if hasattr(methods, "items") else {name: {"method": name} for name in methods}
    if not specs:
        msg = f"No methods given; name some of {', '.join(METHODS)}."
        raise ValueError(msg)
    checked = {}
    for label, given in specs.items():
        spec = {"method": given} if isinstance(given, str) else dict(given)
        if "method" not in spec:
            msg = f"Method {label!r} needs a 'method', one of {', '.join(METHODS)}."
            raise ValueError(msg)
        one_of(spec["method"], METHODS, f"method of {label!r}")
        _check_arguments(label, spec)
        checked[str(label)] = spec
    return checked


def _check_arguments(label: str, spec: dict[str, Any]) -> None:
    if fixed := [name for name in spec if name in OURS]:
        msg = f"Method {label!r} sets {', '.join(fixed)}, which it cannot: all methods share it. Leave it out there."
        raise ValueError(msg)
    if spec.get("reference") is not None:
        msg = (
            f"Method {label!r} sets reference; pass reference= to the function, and reference=None to a method without."
        )
        raise ValueError(msg)
    try:
        _model(spec)
    except (TypeError, ValueError) as error:
        error.add_note(f"It was given to method {label!r}.")
        raise


def _model(spec: Mapping[str, Any]) -> FeatureModel:
    """The untrained model."""
    shared = set(inspect.signature(fit).parameters) - {"preset"}
    model = METHODS[spec["method"]]
    return model(**own_arguments(model, {name: value for name, value in spec.items() if name not in shared}))


def check_image_features(
    specs: Mapping[str, Mapping[str, Any]], sections: Sequence[Section], features: Sequence[str] | None
) -> None:
    """Refuse sections whose image features are missing or differ, where a method learns from them.

    Raises
    ------
    ValueError
        As `tl.train` would, but for all sections at once.
    """
    for spec in specs.values():
        if _model(spec).uses_features:
            expected = describe_features(sections[0], find_features(sections, spec.get("features", features)))
            for section in sections[1:]:
                check_features(section, expected)


def seeded(spec: Mapping[str, Any]) -> bool:
    """Whether the method's result depends on a seed."""
    return getattr(METHODS[spec["method"]], "seeded", False)
