"""Progress bars in notebooks."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from types import SimpleNamespace

kernel = SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = SimpleNamespace(get_ipython=lambda: kernel)
sys.modules["ipykernel.zmqshell"] = SimpleNamespace()  # tqdm takes this for a notebook
sys.modules["ipywidgets"] = None  # as if it were not installed
from stpredict._core.progress import progress_bar

with progress_bar(total=2, desc="encode", unit="spot") as bar:
    bar.update(2)
"""


def test_a_notebook_without_widgets_gets_a_bar_of_text_and_no_warning():
    run = subprocess.run([sys.executable, "-W", "always", "-c", CODE], capture_output=True, text=True, check=True)
    assert "IProgress" not in run.stderr
    assert "encode: 100%" in run.stderr
    assert "2/2" in run.stderr
