"""Warnings name the user's line, however deep inside of the package they were thought of."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

import stpredict as st
from stpredict._core.warning import warn


def told_at(function, match):
    """File and line of the warning that `function` gives."""
    with pytest.warns(UserWarning, match=match) as told:
        function()
    (one,) = [one for one in told if re.search(match, str(one.message))]
    return one.filename, one.lineno


def test_the_line_is_the_callers_whether_the_warning_is_near_or_deep(section):
    def near():
        warn("near")

    def deep():
        st.pp.niches(section, members="nearest", n_neighbors=section.n_obs + 1)

    for function, match in ((near, "near"), (deep, "other spots")):
        assert told_at(function, match) == (__file__, function.__code__.co_firstlineno + 1)


def test_a_filter_for_the_packages_own_lines_does_not_meet_what_is_told_to_users():
    with warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("error", module="stpredict")
        warnings.filterwarnings("always", module=re.escape(__name__))
        warn("to the user", FutureWarning)
    assert [(one.category, one.filename) for one in told] == [(FutureWarning, __file__)]


def test_no_module_counts_frames_by_hand():
    source = Path(st.__file__).parent
    counting = [path.name for path in source.rglob("*.py") if "warnings.warn(" in path.read_text(encoding="utf-8")]
    assert counting == ["warning.py"]
