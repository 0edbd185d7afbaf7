"""Sphinx configuration: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import inspect
from pathlib import Path

from numpydoc.docscrape import NumpyDocString, Parameter

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
    "sphinx_design",
]
suppress_warnings = ["toc.empty_glob"]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
default_role = "code"

_parse = NumpyDocString._parse_param_list


def _prose_stays_prose(self, content, single_element_is_type=False):
    """Parse a section of a docstring; where "Returns" are sentences, numpydoc would take every line for a type."""
    items = _parse(self, content, single_element_is_type)
    if single_element_is_type and items and not items[0].desc:
        return [Parameter("", "", inspect.cleandoc("\n".join(content)).splitlines())]
    return items


NumpyDocString._parse_param_list = _prose_stays_prose

nb_execution_mode = "off"  # the notebooks are stored executed: pytest -m tutorials
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = "stpredict"
html_show_sourcelink = False
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = ["sortable.js"]
