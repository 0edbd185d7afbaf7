"""The parts that scripts/mutants.py takes out are still where it looks for them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mutants(monkeypatch):
    """The script as a module."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    return __import__("mutants")


def test_every_named_part_is_found_once_and_taken_out_of_code_that_still_parses(mutants):
    named = mutants.named("")
    assert len(named) == len(mutants.NAMED) > 100
    for mutant in named:
        assert ast.dump(ast.parse(mutant.text)) != ast.dump(ast.parse((ROOT / mutant.path).read_text())), mutant.name
        assert all(list(ROOT.glob(test)) for test in mutant.tests), mutant.name


def test_every_module_that_changes_are_drawn_from_has_tests(mutants):
    package = ROOT / "src" / "stpredict"
    modules = [p.relative_to(package).as_posix() for area in mutants.DRAWN for p in (package / area).rglob("*.py")]
    assert not [module for module in modules if not any(module.startswith(area) for area in mutants.TESTS)]
    assert not [test for tests in mutants.TESTS.values() for test in tests if not list(ROOT.glob(test))]
