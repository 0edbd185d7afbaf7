"""Whatever writes is killed at any moment: what was there, or what is new, stands whole, and the next run makes the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import tifffile

import stpredict as st

GENES = ["ERBB2", "COL1A1", "CD74", "KRT8"]

SCRIPT = r"""
import os, random, shutil, signal, sys, time, warnings
from pathlib import Path

import anndata
import numpy as np
import torch

import stpredict as st

torch.set_num_threads(1)
warnings.simplefilter("ignore")
st.settings.progress = False
root, what, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
models = [st.models.load(root / name) for name in "AB"]
section = anndata.read_h5ad(root / "section.h5ad")
place = root / "place" / what
place.mkdir(parents=True)


def write(number):
    if what == "model":
        models[number].save(place / "it")
    elif what == "store":
        st.tl.predict_expression(section, models[number], out=place / "it.zarr", std=True)
    else:
        st.tl.predict_many(root / "slides", models[number], place / "out", pitch_um=150, show_progress=False)


def read():
    if what == "model":
        model = st.models.load(place / "it")
        return [(str(model.genes), *(model.arrays[name].tobytes() for name in sorted(model.arrays)))]
    stores = sorted((place / "out").glob("*.zarr")) if what == "slides" else [place / "it.zarr"]
    read = [anndata.read_zarr(path) for path in stores]
    return [(str(list(one.var_names)), one.X.tobytes(), *(one.layers[name].tobytes() for name in one.layers)) for one in read]


whole, seconds = [], []
for number in (0, 1):
    start = time.perf_counter()
    write(number)
    seconds.append(time.perf_counter() - start)
    whole.append(read())
    if what == "slides":
        shutil.rmtree(place / "out")
chance = random.Random(what)
for kill in range(kills):
    if (child := os.fork()) == 0:
        number = kill
        while True:
            write(number % 2)
            number += what != "slides"  # (these are kept, once they are there)
    time.sleep(chance.random() * 1.5 * seconds[1])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if what == "slides":
        own = whole[kill % 2]
        assert all(one in own for one in read() if (place / "out").exists()), kill
        write(kill % 2)
        assert read() == own, kill
        left = [path.name for path in (place / "out").iterdir() if path.name.endswith(".tmp")]
        shutil.rmtree(place / "out")
    else:
        assert read() in whole, kill
        write(0)
        assert read() == whole[0], kill
        left = [path.name for path in place.iterdir() if path.name not in ("it", "it.zarr")]
    assert not left, (kill, left)
print("whole")
"""


@pytest.fixture(scope="module")
def root(_simulated, tmp_path_factory):
    """Two models, and what they are used on."""
    folder = tmp_path_factory.mktemp("kills")
    section = _simulated[0][:60].copy()
    st.pp.tiles(section)
    st.pp.encode(section, show_progress=False)
    for name, n in (("A", 4), ("B", 3)):
        st.tl.train(section, genes=GENES[:n], method="ridge").save(folder / name)
    section.write_h5ad(folder / "section.h5ad")
    pixels = section.uns["spatial"]["sim_1"]["images"]["hires"]
    (folder / "slides").mkdir()
    how = {"photometric": "rgb", "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    for name, corner in (("a", 500), ("b", 900)):
        tifffile.imwrite(folder / "slides" / f"{name}.tif", pixels[corner : corner + 500, corner : corner + 500], **how)
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
@pytest.mark.parametrize(
    ("what", "kills"),
    [
        ("model", 6),
        ("store", 3),
        ("slides", 2),
        *(pytest.param(what, 50, marks=pytest.mark.slow) for what in ("model", "store", "slides")),
    ],
)
def test_a_kill_at_any_moment_leaves_nothing_damaged(root, what, kills):
    (root / "place").mkdir(exist_ok=True)
    shutil.rmtree(root / "place" / what, ignore_errors=True)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, root, what, str(kills)], capture_output=True, text=True, check=False, timeout=600
    )
    assert run.stdout.strip() == "whole", run.stderr[-2000:]
