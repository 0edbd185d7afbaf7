"""Fields of a stored configuration and options of networks: what passes and what is refused, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from stpredict.models._base.files import Stored, check_shapes
from stpredict.models._base.load import rebuilt
from stpredict.models._base.network import checked, network_state
from stpredict.models._base.options import NetworkOptions
from stpredict.models._base.schema import check_config, check_options

NAN = float("nan")
CONFIG = {"features": {"X": {"n_features": 2}}, "min_counts": 50, "history": {"values": {}, "notes": []}}


def stored(config, **arrays):
    return Stored("mine", ["A", "B"], CONFIG | config, {name: np.zeros(shape) for name, shape in arrays.items()})


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("seed", [0, 7], [-1, 1.0, True, "1"]),
        ("min_counts", [0, 0.5, -1], [NAN, float("inf"), True, "1"]),
        ("group_key", [""], [1, None]),
        ("sections", [[], ["a"]], ["a", [1], ["a", 1], {"a": "b"}]),
        ("has_bank", [True, False], [0, "yes"]),
        ("pitches", [[], [0.5]], [[0], [1, -1], ["a"], [True], 3]),
        ("parts", [{}, {"a": {}}], [{"a": 1}, [], "a"]),
        ("features", [{}, {"X": {"n_features": 0}}], [None, {"X": 1}, {"X": {}}, {"X": {"n_features": -1}}]),
        ("features", [{"X": {"n_features": 1, "mean": [0.5]}}], [{"X": {"n_features": 1, "mean": [None]}}]),
        ("features", [{"X": {"n_features": 1, "mpp": 1}}], [{"X": {"n_features": 1, "mpp": "1"}}]),
        ("tiles", [{"n_features": 1, "mpp": 1}], [{"n_features": 1}, {"mpp": 1}, 3]),
        ("n_design", [2], [-2, 2.0]),
        ("without_bank", [{"inner_pcc": [0.1, 0.2]}], [{}, *({"inner_pcc": v} for v in ([0.1], [0.1, 1], "ab", 3))]),
        ("bank", [{"sections": [], "section": [0], "spots": []}], [{"sections": [], "section": []}, []]),
        ("base", [{"method": "a", "genes": [], "config": {}}], [{"method": "a", "genes": []}]),
        ("history", [{"values": {"a": [1, NAN]}, "notes": ["b"]}], [{"values": {}}, {"values": {"a": 1}, "notes": []}]),
    ],
)
def test_fields_are_of_their_kinds(name, right, wrong):
    for value in right:
        check_config(stored({name: value}), "here")
    for value in wrong:
        with pytest.raises(ValueError, match=rf"The model at here is damaged: model.json .*config\.{name}.* must be"):
            check_config(stored({name: value}), "here")


def test_features_have_the_columns_of_the_design():
    check_config(stored({"n_design": 2}), "here")
    for n in (1, 3):
        with pytest.raises(ValueError, match=rf"config\.features must be of {n} columns in all"):
            check_config(stored({"n_design": n}), "here")


@pytest.mark.parametrize("name", ["features", "min_counts", "history"])
def test_fields_that_every_model_has_are_asked_for(name):
    config = {key: value for key, value in CONFIG.items() if key != name}
    with pytest.raises(ValueError, match=f"config.{name} must be"):
        check_config(Stored("mine", [], config, {}), "here")


# ---------------------------------------------------------------------- options


@dataclass(frozen=True)
class Options(NetworkOptions):
    width: int = 16
    members: int = 1
    rate: float = 1.0
    few: int | None = None
    decay: float = 0.0
    share: float = 0.0
    is_on: bool = True
    kind: str = "a"

    POSITIVE = ("width", "rate", "few")
    NOT_NEGATIVE = ("decay",)
    SHARES = ("share",)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("width", [8, 24], [0, -8, 7, 9, 12]),
        ("few", [None, 1], [0, -1]),
        ("rate", [1e-9], [0, -1, NAN]),
        ("decay", [0, 2.5], [-1e-9, NAN]),
        ("share", [0, 0.99], [1, -0.01, NAN]),
    ],
)
def test_options_lie_in_their_range(name, right, wrong):
    presets = {"default": Options(), "published": Options(rate=3.0)}
    for value in right:
        assert getattr(checked("mine", presets, "published", {name: value}), name) == value
    for value in wrong:
        with pytest.raises(ValueError, match=f"^{name} must"):
            checked("mine", presets, "default", {name: value})
    assert checked("mine", presets, "published", {}).rate == 3
    with pytest.raises(TypeError, match="method='mine' has no option depth; it has width, members, rate"):
        checked("mine", presets, "default", {"depth": 1, "rate": 2})
    assert Options().offline() == Options()


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("members", [2], [2.0, True, None, "2"]),
        ("rate", [2, 2.5], [True, None, "2", NAN]),
        ("few", [None, 3], [2.5, "3"]),
        ("is_on", [True, False], [1, None, "a"]),
        ("kind", ["b"], [1, None, True]),
        ("depth", [], [1]),
    ],
)
def test_stored_options_are_of_the_kinds_of_the_fields(name, right, wrong):
    for value in right:
        check_options(stored({"options": {name: value}}), Options(), "here")
    for value in wrong:
        with pytest.raises(ValueError, match=rf"The model at here .*config\.options\.{name} must be"):
            check_options(stored({"options": {name: value}}), Options(), "here")
    for options in (None, [], {"width": 9}):
        with pytest.raises(ValueError, match="The model at here is damaged"):
            check_options(stored({"options": options}), Options(), "here")


def test_weights_of_a_member_are_found_by_its_number():
    arrays = {f"network.{name}": np.full(1, i) for i, name in enumerate(["1.a", "11.a", "1.b.c", "0.a"])}
    assert {name: int(value) for name, value in network_state(arrays, 1).items()} == {"a": 0, "b.c": 2}


# ---------------------------------------------------------------------- arrays, and the model made of both


@pytest.mark.parametrize(
    ("arrays", "wrong"),
    [
        ({"a": (2, 5), "b": (3, 3), "c": (4,)}, ""),
        ({"a": (3, 5), "b": (3, 3), "c": (4,)}, "a"),  # genes
        ({"a": (2, 4), "b": (3, 3), "c": (4,)}, "a"),  # columns of the design
        ({"a": (2, 5), "b": (3, 2), "c": (4,)}, "b"),  # one letter, two sizes
        ({"a": (2, 5), "b": (3, 3), "c": (5,)}, "c"),  # a number
        ({"a": (2, 5, 1), "b": (3, 3), "c": (4,)}, "a"),
        ({"a": (2, 5), "b": (3, 3)}, "c"),
        ({"a": (2, 5), "b": (3, 3), "c": (4,), "d": (1,)}, "d"),
    ],
)
def test_arrays_have_the_shapes_that_are_asked_for(arrays, wrong):
    shapes = {"a": ("g", "d"), "b": ("n", "n"), "c": (4,)}
    if not wrong:
        check_shapes(stored({"n_design": 5}, **arrays), shapes, "here")
        return
    with pytest.raises(ValueError, match=f"The model at here is damaged: {wrong} missing or of wrong shape"):
        check_shapes(stored({"n_design": 5}, **arrays), shapes, "here")


def of(make):
    return rebuilt(stored({}), "here", {"mine": SimpleNamespace(from_stored=lambda *_: make())})


def model(*, level=3, places=(0, 1), columns=(0, 2), domain=True, texture=True):
    trust = SimpleNamespace(
        domain=SimpleNamespace(level=np.zeros(level), place_section=np.array(places)) if domain else None,
        texture=SimpleNamespace(columns=np.array(columns)) if texture else None,
    )
    return SimpleNamespace(trust=trust, trained_on=["a", "b"], sight=SimpleNamespace(width=3))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"level": 2}, "columns that distances are measured in"),
        ({"places": [0, 2]}, "the sections of all training spots"),
        ({"places": [-1, 1]}, "the sections of all training spots"),
        ({"columns": [0, 3]}, "all columns of the texture"),
        ({"columns": [-1, 0]}, "all columns of the texture"),
    ],
)
def test_parts_of_a_model_fit_each_other(wrong, told):
    for right in ({}, {"domain": False}, {"texture": False}):
        of(lambda right=right: model(**right))
    with pytest.raises(ValueError, match=told):
        of(lambda: model(**wrong))


@pytest.mark.parametrize(
    "kind", [KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError, MemoryError]
)
def test_what_ends_inside_is_told_in_one_line(kind):
    def fail():
        raise kind("one\ntwo")

    with pytest.raises(
        ValueError, match=rf"The model at here is damaged: .*'mine' \({kind.__name__}: .*one.*\)\.$"
    ) as told:
        of(fail)
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="is a 'mine'; this version of stpredict knows other"):
        rebuilt(stored({}), "here", {"other": object})
    with pytest.raises(ValueError, match=r"config\.seed must be a whole number"):
        rebuilt(stored({"seed": -1}), "here", {"mine": SimpleNamespace(from_stored=lambda *_: model())})
