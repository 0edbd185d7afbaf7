"""The page of messages quotes messages that the code has, and the citation is of this version."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import stpredict as st

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)


def text_of(node: ast.AST) -> str:
    """A text of the code, with … for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    return "…"


@cache
def texts() -> list[str]:
    """All texts of the package, those that are joined from pieces as one."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py"))
    kinds = (ast.Constant, ast.JoinedStr)
    return [text_of(node) for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_one_of_the_code(quoted):
    pattern = re.compile(".*".join(map(re.escape, quoted.split("…"))), re.DOTALL)
    assert any(pattern.search(text) for text in texts())


def test_at_least_twenty_messages_are_explained_each_once():
    assert len(QUOTED) == len(set(QUOTED)) >= 20


def test_the_citation_is_of_this_version():
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {st.__version__}" in lines
    assert "license: BSD-3-Clause" in lines
