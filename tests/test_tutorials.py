"""The tutorials run from top to bottom: ``pytest -m tutorials``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import stpredict as st

FOLDER = Path(__file__).parents[1] / "tutorials"
NEEDS_DATA = {
    "02-her2st-tumour-map.ipynb": "her2st",
    "04-niches-and-domains.ipynb": "mob_spacest",
    "05-few-measured-spots.ipynb": "her2st",
    "06-genes-never-measured.ipynb": "her2st",
}
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def complaints(cells):
    """What stands in the outputs beside results: warnings, logs and errors."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_stored_tutorials_are_executed_and_hold_no_warnings(name):
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    assert any(cell.get("outputs") for cell in cells)
    assert complaints(cells) == []


@pytest.mark.tutorials
@pytest.mark.parametrize("name", NAMES)
def test_tutorial_runs_without_warnings_from_its_file_alone(name, monkeypatch, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    if (dataset := NEEDS_DATA.get(name)) and not st.datasets.available(dataset):
        pytest.skip(f"{name} needs the real sections of {dataset} in STPREDICT_DATA ({st.settings.data_dir})")
    monkeypatch.setenv("STPREDICT_DATA", str(Path(st.settings.data_dir).resolve()))
    monkeypatch.setenv("MPLBACKEND", os.environ.get("MPLBACKEND", "module://matplotlib_inline.backend_inline"))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert complaints(notebook.cells) == []
