"""What the configuration of a stored model may say, so that one that was tampered with is refused when it is read."""

from __future__ import annotations

from dataclasses import fields, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from stpredict.models._base.files import REST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from stpredict.models._base.files import Stored
    from stpredict.models._base.options import NetworkOptions

    Kind = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _dict_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


NATURAL: Kind = "a whole number of at least 0", _is_natural
NUMBER: Kind = "a number", _is_number
TEXT: Kind = "text", _is_text
TEXTS: Kind = "a list of texts", _list_of(_is_text)
NUMBERS: Kind = "a list of numbers", _list_of(_is_number)
DICT: Kind = "an object", _is_dict
YES_OR_NO: Kind = "true or false", lambda value: isinstance(value, bool)

FEATURE: dict[str, Kind] = {
    "encoder": TEXT,
    "encoder_hash": TEXT,
    "niche": TEXT,
    "stain_norm": TEXT,
    "spot_um": NUMBER,
    "niche_um": NUMBER,
    "mpp": NUMBER,
    "n_features": NATURAL,
    "input_size": NATURAL,
    "mean": NUMBERS,
    "std": NUMBERS,
}
"""What is known of the features under one key."""

FIELDS: dict[str, Kind] = {
    "features": ("an object of objects", _dict_of(_is_dict)),
    "tiles": DICT,
    "min_counts": NUMBER,
    "history": DICT,
    "n_design": NATURAL,
    "n_spots": NATURAL,
    "sections": TEXTS,
    "groups": TEXTS,
    "group_key": TEXT,
    "seed": NATURAL,
    "options": DICT,
    "encoder": TEXT,
    "reference": DICT,
    "vocabulary": TEXTS,
    "n_facts": NATURAL,
    "n_channels": NATURAL,
    "n_expression": NATURAL,
    "own_facts": YES_OR_NO,
    "niches": TEXT,
    "bank": DICT,
    "has_bank": YES_OR_NO,
    "without_bank": DICT,
    "spots": TEXTS,
    "pitches": ("a list of positive numbers", _list_of(lambda value: _is_number(value) and value > 0)),
    "base": DICT,
    "parts": ("an object of objects", _dict_of(_is_dict)),
}
"""Fields that a configuration may have; methods have further ones of their own."""

REQUIRED = ("features", "min_counts", "history")

HISTORY: dict[str, Kind] = {
    "values": ("an object of lists of numbers", _dict_of(_list_of(lambda v: isinstance(v, int | float)))),
    "notes": TEXTS,
}
BANK: dict[str, Kind] = {"sections": TEXTS, "section": ("a list of numbers", _list_of(_is_natural)), "spots": TEXTS}
WITHOUT_BANK: dict[str, Kind] = {
    "inner_pcc": (
        "a list of two numbers",
        lambda v: isinstance(v, list) and len(v) == 2 and all(isinstance(x, float) for x in v),
    )
}
BASE: dict[str, Kind] = {"method": TEXT, "genes": TEXTS, "config": DICT}


def check_config(stored: Stored, path: str | Path) -> None:
    """Refuse a model read from `path` whose configuration no model can have.

    Raises ValueError if a field is missing or of the wrong kind; the message names the file and the field.
    """
    try:
        _check_fields(stored.config)
    except _WrongFieldError as error:
        raise ValueError(_message(stored, path, error)) from None


def check_options(stored: Stored, default: NetworkOptions, path: str | Path) -> None:
    """Refuse a model read from `path` whose options are not named and of the kinds of the `default`.

    Raises ValueError; the message names the file and the option.
    """
    try:
        _check_options(stored.config.get("options"), default)
    except _WrongFieldError as error:
        raise ValueError(_message(stored, path, error)) from None


class _WrongFieldError(Exception):
    """A field that is missing or of the wrong kind."""


def _message(stored: Stored, path: str | Path, error: _WrongFieldError) -> str:
    return f"The model at {path} is damaged: {REST} describes no model of method {stored.method!r} ({error})."


def _check_fields(config: Mapping[str, Any]) -> None:
    _check(config, FIELDS, "config", required=REQUIRED)
    for key, made in config["features"].items():
        _check(made, FEATURE, f"config.features[{key!r}]", required=("n_features",))
    if "tiles" in config:
        _check(config["tiles"], FEATURE, "config.tiles", required=("n_features", "mpp"))
    if "n_design" in config:
        n = sum(made["n_features"] for made in config["features"].values())
        _refuse(n == config["n_design"], "config.features", f"of {config['n_design']} columns in all")
    for name, kinds in (("history", HISTORY), ("bank", BANK), ("without_bank", WITHOUT_BANK), ("base", BASE)):
        if name in config:
            _check(config[name], kinds, f"config.{name}", required=tuple(kinds))


def _check_options(options: Any, default: NetworkOptions) -> None:
    _refuse(isinstance(options, dict), "config.options", "an object")
    kinds = {field.name: str(field.type) for field in fields(default)}
    for name, value in options.items():
        where = f"config.options.{name}"
        _refuse(name in kinds, where, "an option of this method")
        told = kinds[name]
        if value is None:
            _refuse("None" in told, where, told)
        elif "bool" in told:
            _refuse(isinstance(value, bool), where, told)
        elif "int" in told or "float" in told:
            _refuse(_is_number(value) and ("float" in told or isinstance(value, int)), where, told)
        else:
            _refuse(isinstance(value, str), where, told)
    try:
        replace(default, **options).check()
    except (ValueError, TypeError) as error:
        msg = f"config.options: {error}"
        raise _WrongFieldError(msg) from error


def _check(values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str, *, required: tuple[str, ...]) -> None:
    for name in required:
        _refuse(name in values, f"{where}.{name}", kinds[name][0])
    for name, (told, is_one) in kinds.items():
        if name in values:
            _refuse(is_one(values[name]), f"{where}.{name}", told)


def _refuse(is_right: bool, where: str, wanted: str) -> None:
    if not is_right:
        msg = f"{where} must be {wanted}"
        raise _WrongFieldError(msg)
