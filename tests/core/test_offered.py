"""Names that a package does not have are answered by what was meant."""

from __future__ import annotations

import importlib

import pytest

import stpredict as st
from stpredict._core.offered import ELSEWHERE, MEANT

PACKAGES = ("datasets", "io", "models", "pl", "pp", "tl")


@pytest.mark.parametrize(
    ("package", "name", "hint"),
    [
        ("tl", "predict", "Did you mean stpredict.tl.predict_expression?"),
        ("tl", "encode", "Did you mean stpredict.pp.encode?"),
        ("tl", "evalute", "Did you mean 'evaluate'?"),
        ("pl", "spatial", "Did you mean stpredict.pl.expression?"),
        ("pp", "extract_features", "Did you mean stpredict.pp.encode?"),
        ("io", "read_visum", "Did you mean 'read_visium'?"),
        ("models", "load_model", "Did you mean stpredict.models.load?"),
    ],
)
def test_a_wrong_name_is_answered_by_what_is_offered_and_meant(package, name, hint):
    with pytest.raises(AttributeError) as told:
        getattr(getattr(st, package), name)
    assert str(told.value).startswith(f"module 'stpredict.{package}' has no attribute {name!r}; it offers ")
    assert str(told.value).endswith(hint)
    assert all(offered in str(told.value) for offered in getattr(st, package).__all__)


def test_the_top_level_says_where_a_verb_is():
    with pytest.raises(AttributeError, match=r"Did you mean stpredict\.tl\.predict_expression\?"):
        st.predict  # noqa: B018
    with pytest.raises(AttributeError, match=r"Did you mean 'read_visium'\?"):
        st.read_visum  # noqa: B018


def test_a_name_like_nothing_is_answered_by_what_is_offered_alone():
    with pytest.raises(AttributeError, match=r"read_wsi, to_spatialdata[.]$"):
        st.io.zzz  # noqa: B018


@pytest.mark.parametrize("place", ELSEWHERE)
def test_what_is_suggested_exists(place):
    package, name = place.split(".")
    assert name in getattr(st, package).__all__


def test_no_name_is_promised_to_two_verbs():
    assert len(MEANT) == sum(map(len, ELSEWHERE.values()))


@pytest.mark.parametrize("package", PACKAGES)
def test_dir_shows_what_is_public(package):
    assert dir(importlib.import_module(f"stpredict.{package}")) == sorted(getattr(st, package).__all__)


def test_modules_inside_a_package_can_still_be_imported():
    from stpredict.tl import _train

    assert _train.train is st.tl.train
    assert not hasattr(st.tl, "nothing")
