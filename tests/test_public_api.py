"""The public surface: what is offered exists, is documented, runs as documented, and costs nothing to import."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import pytest
from numpydoc.docscrape import FunctionDoc

import stpredict as st
from stpredict._core.docs import TEXTS, with_shared_texts

ROOT = Path(__file__).parents[1]
PACKAGES = ("datasets", "io", "models", "pl", "pp", "tl")
HEAVY = {
    "torch",
    "lightning",
    "timm",
    "scanpy",
    "squidpy",
    "spatialdata",
    "skimage",
    "sklearn",
    "matplotlib",
    "pandas",
    "anndata",
}
NAMES = [
    f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(f"stpredict.{package}").__all__
]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(getattr(st, name.split(".")[0]), name.split(".")[1]))]


def resolve(name):
    package, attribute = name.split(".")
    return getattr(getattr(st, package), attribute)


def test_top_level_offers_the_packages_the_readers_and_settings():
    assert set(st.__all__) == {*PACKAGES, "doctor", "read_st", "read_visium", "read_wsi", "settings", "__version__"}
    assert dir(st) == sorted(st.__all__)
    assert st.read_visium is st.io.read_visium
    with pytest.raises(AttributeError, match="no attribute 'predict'; it offers datasets, io"):
        st.predict  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_exists_and_is_in_the_api_reference(name):
    package, attribute = name.split(".")
    assert resolve(name) is not None
    assert attribute in dir(getattr(st, package))
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines()
    assert f"   {name}" in reference


def test_the_api_reference_lists_nothing_else():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines()
    listed = [line.strip() for line in reference if line.startswith(tuple(f"   {package}." for package in PACKAGES))]
    assert sorted(listed) == sorted(NAMES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_are_complete(name):
    function = resolve(name)
    doc = FunctionDoc(function)
    assert doc["Summary"]
    assert doc["Returns"]
    assert doc["Examples"]
    documented = [part.strip().lstrip("*") for entry in doc["Parameters"] for part in entry.name.split(",")]
    assert documented == list(inspect.signature(function).parameters)
    assert all("".join(entry.desc).strip() for entry in doc["Parameters"])
    assert "None" not in inspect.signature(function).parameters
    assert function.__annotations__.keys() >= {*inspect.signature(function).parameters, "return"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shared_texts_stand_in_the_docstring_itself(name):
    doc = inspect.getdoc(resolve(name))
    assert not re.search(r"%\(\w+\)s", doc)
    if "ax" in inspect.signature(resolve(name)).parameters:
        assert "return_fig\n    Return the figure.\n" in doc


def test_a_shared_text_takes_the_indentation_and_leaves_the_rest():
    def function():
        """50 % of {these}.

        %(copy)s
            And more.
        """

    shared = inspect.getdoc(with_shared_texts(function)).split("\n")
    assert shared[0] == "50 % of {these}."
    assert shared[2:] == [*TEXTS["copy"].split("\n"), "    And more."]


def test_functions_without_docstrings_are_left_alone():
    assert with_shared_texts(lambda: None).__doc__ is None


def test_every_shared_text_serves_more_than_one_function():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert [name for name in TEXTS if source.count(f"%({name})s") < 2] == []


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore")
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    function = resolve(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=flags)
    tests = finder.find(function, name, globs={})
    assert sum(len(test.examples) for test in tests)
    with st.settings.override(progress=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = []
        for test in tests:
            runner.run(test, out=output.append)
    assert not runner.failures, "".join(output)


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter has after `code` and did not have before."""
    script = f"import sys; before = set(sys.modules); {code}; print('\\n'.join(set(sys.modules) - before))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(out.stdout.split())


def test_importing_stpredict_imports_next_to_nothing():
    modules = loaded_by("import stpredict")
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert len(modules) < 150


def test_looking_at_every_package_loads_no_framework():
    code = "import stpredict as st; " + "; ".join(f"st.{package}" for package in PACKAGES)
    modules = loaded_by(code)
    assert not {name.partition(".")[0] for name in modules} & {
        "torch",
        "lightning",
        "timm",
        "squidpy",
        "spatialdata",
        "scanpy",
    }
    assert "matplotlib.pyplot" not in modules


def test_continuous_integration_runs_the_command_of_the_readme():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    (command,) = [line.strip() for line in ci if "pytest" in line]
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_the_snippets_beside_scanpy_run():
    page = (ROOT / "docs" / "beside_scanpy.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in page.split("```python\n")[1:]:
            exec(block.split("```")[0], names)
    assert names["second"].uns["tumor"]["tumor_labels"] == ["tumor"]
    assert names["predicted"].n_vars == 3


@pytest.mark.filterwarnings("ignore")
def test_the_snippets_for_looking_closer_run_and_viewers_find_what_they_are_pointed_to(tmp_path, monkeypatch):
    pytest.importorskip("bokeh")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "looking_closer.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    for block in blocks:
        if "from napari" not in block and "from vitessce" not in block:
            exec(block, names)
    assert Path("section.html").stat().st_size < 15e6
    config = json.loads(Path("section/vitessce.json").read_text(encoding="utf-8"))
    paths = set(re.findall(r'"((?:images|shapes)/[^"]+)"', json.dumps(config)))
    assert len(paths) == 2
    assert [path for path in paths if not (Path("section/section.zarr") / path / "zarr.json").is_file()] == []
    sdata = names["sdata"]
    (spots,) = sdata.shapes
    for table in (sdata["table"], sdata["predicted"]):
        assert list(table.uns["spatialdata_attrs"]["region"]) == [spots]
        assert list(table.obs["spot_id"]) == list(sdata[spots].index)  # what links a value to its circle
    assert list(sdata["predicted"].var_names) == ["ERBB2", "KRT8", "EPCAM", "COL1A1", "CD3E"]
