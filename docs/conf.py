"""Sphinx configuration: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

from pathlib import Path

import stpredict

HERE = Path(__file__).parent

# Notebooks live beside docs/, and Sphinx only sees what is below it.
(HERE / "tutorials").mkdir(exist_ok=True)
for notebook in (HERE.parent / "tutorials").glob("*.ipynb"):
    text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
    (HERE / "tutorials" / notebook.name).write_text(text, encoding="utf-8")

project = "stpredict"
author = "The stpredict developers"
copyright = author
version = release = stpredict.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
]
suppress_warnings = ["toc.empty_glob"]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
default_role = "code"

nb_execution_mode = "off"  # the notebooks are stored executed: pytest -m tutorials
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = "stpredict"
html_show_sourcelink = False
html_static_path = ["_static"]
html_js_files = ["sortable.js"]
