"""The command line: the demo leaves what it promises, and refuses what it cannot do."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
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
        (["predict", "x"], "required: --model, --out"),
        (["predict", "x", "--model", "m", "--out", "FILE"], "is a file; name a folder"),
        (["predict", "x", "--model", "m", "--out", "o", "--jobs", "0"], "--jobs is 1 or more, not 0"),
        (["predict", "nowhere", "--model", "m", "--out", "o"], "There is no nowhere"),
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


@pytest.fixture
def slides(tmp_path, section):
    """A folder with a slide and a file that is none."""
    folder = tmp_path / "slides"
    folder.mkdir()
    pixels = section.uns["spatial"]["sim_1"]["images"]["hires"][400:1100, 400:1100]
    tifffile.imwrite(folder / "a.tif", pixels, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    (folder / "b.tif").write_text("no slide")
    return folder


def test_predict_tells_what_failed_and_ends_in_1_until_all_is_done(demo, slides, tmp_path, capsys):
    (tmp_path / "genes.txt").write_text("ERBB2\nCD74\n")
    model, out = str(demo[0] / "model"), tmp_path / "out"
    options = ["--model", model, "--out", str(out), "--genes", str(tmp_path / "genes.txt"), "--pitch-um", "80"]
    options += ["--std", "--markers", "breast"]
    assert cli.main(["predict", str(slides), *options]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("b: ")
    assert "cannot be read as a TIFF" in lines[0]
    assert (
        lines[1]
        == f"2 slides: 1 done, 1 failed; of what the model was trained on, 1 inside. See {out / 'report.html'}."
    )
    (slides / "b.tif").unlink()
    assert cli.main(["predict", str(slides), *options]) == 0
    assert (
        capsys.readouterr().out
        == f"1 slide: 1 kept; of what the model was trained on, 1 inside. See {out / 'report.html'}.\n"
    )
    assert pd.read_csv(out / "report.csv")["status"].tolist() == ["kept"]
    result = ad.read_zarr(out / "a.zarr")
    assert result.var_names.tolist() == ["ERBB2", "CD74"]
    assert result.uns["spatial"]["a"]["metadata"]["spot_pitch_um"] == 80
    assert "predicted_std" in result.layers
    assert "tumor" in result.obs


def test_predict_with_arguments_that_do_not_fit_the_model_ends_in_2(demo, slides, tmp_path, capsys):
    (tmp_path / "genes.txt").write_text("NOSUCH")
    model, out = str(demo[0] / "model"), tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", str(slides), "--model", model, "--out", str(out), "--genes", str(tmp_path / "genes.txt")])
    assert end.value.code == 2
    assert "does not know all of the genes (NOSUCH" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
