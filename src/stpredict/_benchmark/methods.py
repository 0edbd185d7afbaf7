"""Methods to compare: a label and what `tl.train` is told, or a model that others trained."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeAlias

from stpredict._core.checks import one_of
from stpredict._core.warning import warn
from stpredict._genes.symbols import match
from stpredict.models._base.model import ExpressionModel
from stpredict.models._data.features import check_features, describe_features, find_features
from stpredict.models.fit import fit, own_arguments
from stpredict.models.methods import METHODS
from stpredict.models.published.contract import FixedModel

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

FIXED = "fixed"
"""Key under which a method that is a model of others has the model, in place of ``"method"``."""

Methods: TypeAlias = "str | Iterable[str | FixedModel] | Mapping[str, Mapping[str, Any] | str | FixedModel]"


def method_specs(methods: Methods) -> dict[str, dict[str, Any]]:
    """Label → arguments of `tl.train`, ``"method"`` among them, or a published model under `FIXED`; checked.

    Raises ValueError if there is none, a method is unknown, or an argument is not one that a method may have.
    """
    if isinstance(methods, str | ExpressionModel):
        methods = [methods]
    specs: Any = methods if hasattr(methods, "items") else {getattr(given, "method", given): given for given in methods}
    if not specs:
        msg = f"No methods given; name some of {', '.join(METHODS)}."
        raise ValueError(msg)
    checked: dict[str, dict[str, Any]] = {}
    for label, given in specs.items():
        if isinstance(given, FixedModel):
            checked[str(label)] = {FIXED: given}
            continue
        if isinstance(given, ExpressionModel):
            msg = (
                f"Method {label!r} is a model that was trained already, perhaps on the sections to be predicted. Name the "
                f"method, {{{label!r}: {{'method': {given.method!r}}}}}, so that it is trained on each fold anew; only "
                "models of stpredict.models.pretrained are taken as they are."
            )
            raise TypeError(msg)
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
    """Refuse sections whose image features are missing or differ, where a method looks at them.

    Raises ValueError as `tl.train` would, but for all sections at once.
    """
    for spec in specs.values():
        if FIXED in spec:
            for section in sections:
                spec[FIXED].check(section)
        elif _model(spec).uses_features:
            expected = describe_features(sections[0], find_features(sections, spec.get("features", features)))
            for section in sections[1:]:
                check_features(section, expected)


def check_genes(specs: Mapping[str, Mapping[str, Any]], genes: Sequence[str]) -> None:
    """Refuse published models that know none of the sections' `genes`, and tell what the others were trained on.

    Raises ValueError if a model knows none.
    """
    for label, spec in specs.items():
        if FIXED not in spec:
            continue
        model = spec[FIXED]
        if not match(genes, model.genes):
            msg = (
                f"Method {label!r} knows none of the genes that all sections share ({', '.join(genes[:3])}, …), but such as "
                f"{', '.join(model.genes[:3])}. Is it of the same species?"
            )
            raise ValueError(msg)
        own = f" It was calibrated on {', '.join(model.trained_on)}: so is what it states of itself there."
        warn(
            f"Method {label!r} was trained by others, on {model.card.trained_on}: patients from there are not new to it, "
            f"and its scores on them are too good.{own * bool(model.trained_on)}"
        )


def seeded(spec: Mapping[str, Any]) -> bool:
    """Whether the method's result depends on a seed."""
    return FIXED not in spec and METHODS[spec["method"]].seeded
