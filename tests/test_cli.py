"""The command line: the demo leaves what it promises, and refuses what it cannot do."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
from matplotlib import pyplot as plt

import stpredict as st
from stpredict import cli


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder, printed lines and seed."""
    out = tmp_path_factory.mktemp("demo") / "a" / "b"
    code = "import sys; from stpredict.cli import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-c", code, "demo", "--out", str(out), "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return out, run.stdout.splitlines()


def test_demo_leaves_data_model_and_figures(demo):
    out, _ = demo
    assert {path.name for path in out.iterdir()} == {"predicted.h5ad", "model", "compare.png", "tumor.png"}
    adata = ad.read_h5ad(out / "predicted.h5ad")
    assert {"predicted", "predicted_std"} <= set(adata.layers)
    assert {"tumor", "tumor_score"} <= set(adata.obs)
    for name in ("compare.png", "tumor.png"):
        height, width, _ = plt.imread(out / name).shape
        assert min(height, width) > 200


def test_demo_leaves_a_model_that_predicts_the_same_again(demo):
    out, _ = demo
    adata = ad.read_h5ad(out / "predicted.h5ad")
    before = adata.layers["predicted"].copy()
    st.tl.predict_expression(adata, st.models.load(out / "model"))
    np.testing.assert_allclose(adata.layers["predicted"], before, atol=1e-5)


def test_demo_says_in_five_lines_what_it_did_and_it_worked(demo):
    out, lines = demo
    assert len(lines) == 5
    assert lines[0].startswith("Trained ridge on 3 simulated sections")
    assert float(lines[2].split("mean PCC ")[1][:4]) > 0.3
    assert float(lines[3].split("AUROC ")[1][:4]) > 0.8
    assert str(out) in lines[4]


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == f"stpredict {st.__version__}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: command"),
        (["demo"], "required: --out"),
        (["demo", "--out", "FILE"], "is a file; name a folder"),
        (["demo", "--out", "x", "--seed", "-1"], "0 or more, not -1"),
        (["demo", "--out", "x", "--seed", "one"], "invalid"),
    ],
)
def test_bad_arguments_end_in_one_clear_line(arguments, words, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit) as end:
        cli.main([str(file) if word == "FILE" else word for word in arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert file.read_text() == ""
