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


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("mpp=50 µm per pixel is outside of 0.05–20.", "--mpp 50 µm per pixel is outside of 0.05–20."),
        ("pitch_um must be positive, got -1.0.", "--pitch-um must be positive, got -1.0."),
        ("tissue= is one threshold.", "--tissue is one threshold."),
        ("If wrong, pass mpp=; if not, pass tissue=, a mask.", "If wrong, pass --mpp; if not, pass --tissue, a mask."),
        ("Pass encoder= the network of training.", "Pass --encoder the network of training."),
        ("Move it, or choose another out=.", "Move it, or choose another --out."),
    ],
)
def test_messages_name_options(message, told):
    assert cli.in_options(message) == told


@pytest.mark.parametrize(
    "message",
    [
        "train on images read as coarsely, stpredict.pp.encode(mpp=).",
        "Pass mpp= (microns per pixel) to stpredict.pp.tiles, or set it.",
        "slides.csv has mpp='a', which is no number.",
        "slides.csv: mpp=99 µm per pixel is outside.",
        "Out of memory: model weights, min_mpp=, niche_um=, x.genes=.",
        "out of memory",
    ],
)
def test_what_is_no_option_stays_as_it_is(message):
    assert cli.in_options(message) == message


def test_every_option_that_messages_name_exists(capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    told = capsys.readouterr().out
    assert all(f"{option} " in told or f"{option}]" in told for option in cli.OPTIONS.values())


def test_errors_of_slides_and_of_arguments_name_options(demo, slides, tmp_path, capsys):
    white = np.full((700, 700, 3), 245, np.uint8)
    tifffile.imwrite(slides / "b.tif", white, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    tifffile.imwrite(slides / "c.tif", white, photometric="rgb")
    command = ["predict", str(slides), "--model", str(demo[0] / "model"), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 1
    blank, mute, _ = capsys.readouterr().out.splitlines()
    assert "pass --tissue, a lower threshold" in blank
    assert "Pass --mpp, the microns per pixel" in mute
    for given, told in {"3": "--tissue 3.0 is no threshold", "mask.png": "argument --tissue: a threshold"}.items():
        with pytest.raises(SystemExit) as end:
            cli.main([*command, "--tissue", given])
        assert end.value.code == 2
        assert told in capsys.readouterr().err.splitlines()[-1]
    assert cli.main([*command, "--tissue", "0.2", "--mpp", "1"]) == 1
    assert ad.read_zarr(tmp_path / "out" / "a.zarr").uns["slide_job"]["parameters"].count('"tissue": 0.2') == 1


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
        lines[1] == f"2 slides: 1 done, 1 failed; compared with the training data: 1 inside. See {out / 'report.html'}."
    )
    (slides / "b.tif").unlink()
    assert cli.main(["predict", str(slides), *options]) == 0
    assert (
        capsys.readouterr().out
        == f"1 slide: 1 kept; compared with the training data: 1 inside. See {out / 'report.html'}.\n"
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
