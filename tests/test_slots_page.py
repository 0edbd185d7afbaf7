"""The page of slots names every slot that the package reads or writes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from stpredict._core import keys

PAGE = (Path(__file__).parents[1] / "docs" / "concepts.md").read_text(encoding="utf-8")
NAMES = [value for name, value in vars(keys).items() if name.isupper()]
MADE = [make for _, make in inspect.getmembers(keys, inspect.isfunction) if make.__module__ == keys.__name__]
EXAMPLES = {"features": "<encoder>", "niche": "X_<encoder>", "std": "predicted", "extra_genes": "predicted"}
EXAMPLES |= {"similarity": "retrieved", "colours": "domains"}
EXAMPLES |= dict.fromkeys(("lower", "upper", "distance", "reliability"), "predicted")


@pytest.mark.parametrize("name", NAMES)
def test_every_fixed_slot_is_on_the_page(name):
    assert re.search(rf"[`\"]{re.escape(name)}[`\"]", PAGE), f"docs/concepts.md does not name the slot {name!r}"


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_every_derived_slot_is_on_the_page(make):
    name = make(EXAMPLES[make.__name__])
    assert f'["{name}"]' in PAGE, f"docs/concepts.md does not name the slot {name!r}"
