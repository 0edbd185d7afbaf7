"""Full and read-only disks: a real one of 24 KiB, where the system lets a user mount it. One clear error, nothing left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import sys, warnings
from pathlib import Path
import matplotlib; matplotlib.use("Agg")
import numpy as np
import stpredict as st

warnings.simplefilter("ignore")
st.settings.progress = False
disk = Path(sys.argv[1])
adata = st.datasets.simulate()
rng = np.random.default_rng(0)
adata.obsm["X_f"] = rng.normal(size=(adata.n_obs, 8)).astype("float32")
genes = list(adata.var_names[:30])
options = dict(features="X_f", genes=genes)
model = st.tl.train(adata, method="knn", **options)
st.tl.predict_expression(adata, model)
how = dict(method="cmrcnet", epochs=1, members=1, **options)


def attempt(name, call):
    try:
        call()
        told = "went well"
    except Exception as error:
        told = f"{type(error).__name__} {getattr(error, 'errno', None)}: {error}"
    left = [p for p in disk.rglob("*") if p.is_file()]
    print(name, "|", told, "|", [p.name for p in left])


attempt("model", lambda: model.save(disk / "model"))
attempt("figure", lambda: st.pl.expression(adata, genes[:4], show=False, save=disk / "figure.png"))
attempt("store", lambda: st.tl.predict_expression(adata, model, out=disk / "out.zarr", std=True))
attempt("checkpoint", lambda: st.tl.train(adata, checkpoint=disk / "run", **how))
"""

MOUNT = """
set -e
mount -t tmpfs -o size=24k tmpfs "$1"
if [ "$2" = "read-only" ]; then mount -o remount,ro "$1"; fi
exec "${@:3}"
"""

NUMBER = {"full": 28, "read-only": 30}


@pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no unshare")
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_nothing_is_left_on_a_disk_that_is_full_or_read_only(tmp_path, kind):
    disk, script = tmp_path / "disk", tmp_path / "script.py"
    disk.mkdir()
    script.write_text(textwrap.dedent(SCRIPT))
    mounted = ["unshare", "-rm", "bash", "-c", MOUNT, "mounted", str(disk), kind]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may mount nothing")
    done = subprocess.run(
        [*mounted, sys.executable, script, disk], capture_output=True, text=True, check=False, env=os.environ
    )
    lines = [line.split(" | ") for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["model", "figure", "store", "checkpoint"], done.stderr
    for name, told, left in lines:
        assert told.startswith(f"OSError {NUMBER[kind]}: "), (name, told)
        assert str(disk) in told
        assert left == "[]", name
