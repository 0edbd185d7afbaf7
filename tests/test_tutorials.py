"""The tutorials run from top to bottom: ``pytest -m tutorials``."""

from __future__ import annotations

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


@pytest.mark.tutorials
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.ipynb")))
def test_tutorial_runs(name, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    if (dataset := NEEDS_DATA.get(name)) and not st.datasets.available(dataset):
        pytest.skip(f"{name} needs the real sections of {dataset} in STPREDICT_DATA ({st.settings.data_dir})")
    monkeypatch.setenv("STPREDICT_DATA", str(Path(st.settings.data_dir).resolve()))
    monkeypatch.setenv("MPLBACKEND", os.environ.get("MPLBACKEND", "module://matplotlib_inline.backend_inline"))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
