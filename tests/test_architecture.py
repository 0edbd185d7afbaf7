"""The layers of the package hold: imports go one way, and wait inside a function only for a heavy library."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import stpredict

SOURCE = Path(stpredict.__file__).parent
LAYERS = (
    "_core",
    "_images",
    "_genes",
    "_sections",
    "io",
    "datasets",
    "pp",
    "_evaluation",
    "models",
    "_benchmark",
    "tl",
    "pl",
    "_doctor",
    "cli",
)
METHODS = ("baselines", "adapted", "_aligned", "cmrcnet", "st_align", "align_st", "consensus", "published")
"""Packages of `stpredict.models` that are methods: what all methods share may not know them."""
SHARED = ("_base", "_data", "_retrieval", "_reference", "_training", "_trust", "nn")
HEAVY = ("torch", "timm", "lightning", "scanpy", "squidpy", "spatialdata", "skimage", "sklearn", "matplotlib.pyplot")
"""Libraries that take a second or more to load: no import of a public package may load them."""
PRIVATE = {
    ("stpredict.tl._predict_many", "stpredict.io._grid._check"),  # the same check of pitch and shape as io.grid's own
}
"""(importing module, name): underscored names that may be imported from another package."""


@dataclass(frozen=True)
class Import:
    """One imported name, and where."""

    importer: str
    line: int
    module: str
    name: str | None
    where: str
    """``top``, ``function`` or ``typing``."""

    @property
    def place(self) -> str:
        return f"{path_of(self.importer).relative_to(SOURCE.parent)}:{self.line}"

    @property
    def target(self) -> str:
        """The module that is loaded: `name` may be a module of the package `module`."""
        inner = f"{self.module}.{self.name}"
        return inner if inner in MODULES else self.module


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def path_of(module: str) -> Path:
    return MODULES[module]


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """Every import of a module, also those in functions and for types only."""
    found = []

    def walk(node: ast.AST, where: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(module, child.lineno, alias.name, None, where) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{path_of(module)}:{child.lineno}: relative import; write the whole name."
                found.extend(Import(module, child.lineno, child.module, alias.name, where) for alias in child.names)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                walk(child, "function")
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for part in child.body:
                    walk(ast.Module([part], []), "typing")
                for part in child.orelse:
                    walk(ast.Module([part], []), where)
            else:
                walk(child, where)

    walk(ast.parse(path_of(module).read_text(encoding="utf-8")), "top")
    return tuple(found)


def own_imports() -> list[Import]:
    """Imports of the package's own modules, all but those of its face ``stpredict/__init__.py``."""
    every = [item for module in MODULES if module != "stpredict" for item in imports_of(module)]
    return [item for item in every if item.module.partition(".")[0] == "stpredict"]


def layer(module: str) -> str:
    """The layer of a module; empty for the face."""
    return module.split(".")[1] if "." in module else ""


@cache
def heavy(module: str) -> bool:
    """Whether importing this module loads one of the heavy libraries."""
    seen, todo = set(), [module]
    while todo:
        current = todo.pop()
        parents = [".".join(current.split(".")[:n]) for n in range(2, current.count(".") + 1)]
        todo += [parent for parent in parents if parent not in seen]
        seen.add(current)
        for item in imports_of(current):
            if item.where != "top":
                continue
            whole = f"{item.module}.{item.name}" if item.name else item.module
            if any(f"{whole}.".startswith(f"{library}.") for library in HEAVY):
                return True
            if item.target in MODULES and item.target not in seen:
                todo.append(item.target)
    return False


def test_every_module_belongs_to_a_layer():
    homeless = sorted({layer(module) for module in MODULES if module != "stpredict"} - {*LAYERS})
    assert not homeless, f"{homeless}: not a layer; move it into one, or add it to LAYERS and docs/architecture.md."


def test_no_import_climbs():
    wrong = []
    for item in own_imports():
        own, other = layer(item.importer), layer(item.target)
        if not other:
            if own != "cli" and item.name != "__version__":
                wrong.append(f"{item.place}: imports the face stpredict; import the module that has {item.name}.")
        elif LAYERS.index(other) > LAYERS.index(own):
            wrong.append(
                f"{item.place}: {own} may not import {item.target}, a later layer; move what both need to {own} or "
                "an earlier one, or pass it as an argument."
            )
    assert not wrong, "\n".join(wrong)


def test_what_methods_share_knows_no_method():
    wrong = []
    for item in own_imports():
        own, other = item.importer.split("."), item.target.split(".")
        climbs = own[1:2] == other[1:2] == ["models"] and own[2:3] and own[2] in SHARED and other[2:3]
        if climbs and other[2] in METHODS:
            wrong.append(f"{item.place}: models.{own[2]} may not import the method {item.target}; turn it round.")
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    edges = {module: {} for module in MODULES}
    for item in own_imports():
        if item.target in MODULES and item.target not in (item.importer, "stpredict"):  # also for types only
            edges[item.importer].setdefault(item.target, item.place)
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            circle = [*trail[trail.index(module) :], module]
            steps = [f"{edges[a][b]}: {a} imports {b}" for a, b in pairwise(circle)]
            pytest.fail("a circle; move what both need to a module of its own:\n" + "\n".join(steps), pytrace=False)
        if module not in done:
            for other in edges[module]:
                visit(other, [*trail, module])
            done.add(module)

    for module in edges:
        visit(module, [])


def test_imports_stand_at_the_top_unless_they_load_a_heavy_library():
    wrong = [
        f"{item.place}: {item.target} loads nothing heavy; import it at the top of the module."
        for item in own_imports()
        if item.where == "function" and layer(item.importer) != "cli" and not heavy(item.target)
    ]  # the command line loads only what the chosen command needs
    assert not wrong, "\n".join(wrong)


def test_no_public_package_loads_a_heavy_library():
    wrong = [
        f"stpredict.{name}" for name in ("datasets", "io", "models", "pl", "pp", "tl") if heavy(f"stpredict.{name}")
    ]
    assert not wrong, (
        f"{wrong} import one of {', '.join(HEAVY)} on the way; import it inside the function that uses it."
    )


def test_private_names_stay_in_their_package():
    wrong = []
    for item in own_imports():
        private = item.name and item.name.startswith("_") and not item.name.startswith("__")
        name = f"{item.module}.{item.name}"
        package = item.module if path_of(item.module).stem == "__init__" else item.module.rpartition(".")[0]
        inside = item.importer.startswith(f"{package}.") or item.importer == package
        module_of_package = name in MODULES and inside
        if private and not module_of_package and (item.importer, name) not in PRIVATE:
            wrong.append(f"{item.place}: {name} is private; drop its underscore, or use what is public there.")
    assert not wrong, "\n".join(wrong)


def test_benchmarks_and_scripts_import_what_there_is():
    """No test runs them, so that a module that was moved would show only when they are needed."""
    root = Path(__file__).parents[1]
    scripts = [*root.glob("benchmarks/*.py"), *root.glob("scripts/*.py")]
    assert scripts
    wrong = []
    for script in scripts:
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] != "stpredict":
                continue
            there = vars(import_module(node.module)) if node.module in MODULES else {}
            wrong += [
                f"{script.relative_to(root)}:{node.lineno}: there is no {node.module}.{alias.name}."
                for alias in node.names
                if alias.name not in there and f"{node.module}.{alias.name}" not in MODULES
            ]
    assert not wrong, "\n".join(wrong)
