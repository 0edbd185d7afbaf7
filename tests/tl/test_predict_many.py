"""Many slides: what each run leaves behind, whatever becomes of a slide, a worker, the disk or the run itself."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile

import stpredict as st
from stpredict.tl import _predict_many
from stpredict.tl._batch import job as slide_job
from stpredict.tl._batch.drawn import Drawn, drawn_gene
from stpredict.tl._batch.job import Job
from stpredict.tl._batch.recipe import recipe_of
from stpredict.tl._batch.thumbnails import picture_of

GENES = ["ERBB2", "COL1A1", "CD74", "KRT8"]
SIDE = 700
PICTURE = re.compile(r"data:image/jpeg;base64,[^\"]*")


@pytest.fixture(scope="module")
def pixels(_simulated):
    return _simulated[0].uns["spatial"]["sim_1"]["images"]["hires"]


@pytest.fixture(scope="module")
def model(_simulated):
    section = _simulated[1].copy()
    st.pp.tiles(section)
    st.pp.encode(section, show_progress=False)
    return st.tl.train(section, genes=GENES, method="ridge")


@pytest.fixture
def slides(tmp_path, pixels):
    """A folder with slides a, b and c of 700 × 700 µm."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, name in enumerate("abc"):
        corner = 300 * number + 400
        write(folder / f"{name}.tif", pixels[corner : corner + SIDE, corner : corner + SIDE])
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _quiet():
    with st.settings.override(progress=False):
        yield


def write(path, pixels, mpp=1.0, steps=(1, 2)):
    with tifffile.TiffWriter(path) as tif:
        for step in steps:
            per_cm = 1e4 / (mpp * step)
            options = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", "subfiletype": int(step > 1)}
            tif.write(pixels[::step, ::step], resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", **options)


def status(report):
    return dict(zip(report["slide"], report["status"], strict=True))


def error(report, slide):
    return report.set_index("slide").loc[slide, "error"]


def times(out):
    """When each file of the results was written."""
    files = (path for store in out.glob("*.zarr") for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in files}


def leftovers(out):
    return [path.name for path in out.iterdir() if path.name.endswith(".tmp") or path.name == ".running.json"]


# ---------------------------------------------------------------------- what comes out


def test_a_result_is_what_the_single_steps_give(slides, model, out, assert_same):
    report = st.tl.predict_many(slides, model, out, std=True)
    slide = st.io.grid(st.read_wsi(slides / "a.tif"))
    st.pp.tiles(slide)
    st.pp.encode(slide)
    expected = st.tl.predict_expression(slide, model, std=True, as_anndata=True)
    result = anndata.read_zarr(out / "a.zarr")
    job = result.uns.pop("slide_job")
    for adata in (result, expected):
        del adata.uns["predicted"]["date"]
    assert_same(result, expected)
    line = report.iloc[0]
    assert (line["slide"], line["status"], line["spots"], line["genes"]) == ("a", "done", slide.n_obs, len(GENES))
    assert line["mpp"] == pytest.approx(1.0)
    assert line["result"] == str(out / "a.zarr")
    assert 0 < line["seconds"] < 60
    assert job["path"] == str(slides / "a.tif")
    assert (report["error"] == "").all()


def test_a_scale_for_all_is_for_slides_that_do_not_say_theirs(slides, model, out, pixels):
    tifffile.imwrite(slides / "mute.tif", pixels[400:1100, 400:1100], photometric="rgb")
    report = st.tl.predict_many(slides, model, out, mpp=1.5).set_index("slide")
    assert report["mpp"].to_dict() == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0, "mute": 1.5})
    assert (report["warnings"].drop("mute") == "").all()
    assert report["verdict"]["mute"] == "outside"  # (its cells are half as large again as those of training)


def test_the_earlier_result_stays_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    from pathlib import Path

    from stpredict.tl._batch.results import Results

    results, rename = Results(tmp_path), Path.rename
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "kept").touch()

    def refused(self, target):
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr("stpredict._core.files._exchanged", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(KeyboardInterrupt), results.place("a") as path:
        path.mkdir()
    assert (tmp_path / "a.zarr" / "kept").exists()
    (tmp_path / ".b.zarr.abcdefgh.tmp" / "new").mkdir(parents=True)
    results.clear_unfinished()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_report_is_written_as_returned(slides, model, out):
    (slides / "b.tif").write_bytes(b"no image")
    report = st.tl.predict_many(slides, model, out, genes=["CD74", "ERBB2"])
    stored = pd.read_csv(out / "report.csv", keep_default_na=False)
    assert stored["slide"].tolist() == ["a", "b", "c"]
    assert stored["status"].tolist() == report["status"].tolist() == ["done", "failed", "done"]
    assert stored["error"].tolist() == report["error"].tolist()
    assert (out / "report.html").read_text().count("predicted CD74") == 4  # alternative text and caption
    assert stored["spots"].tolist() == [str(n) if n is not pd.NA else "" for n in report["spots"]]


@pytest.mark.parametrize("kind", ["list", "csv", "frame"])
def test_manifests(slides, model, out, kind):
    table = pd.DataFrame(
        {
            "path": ["c.tif", "a.tif"],
            "slide": ["007", None],
            "mpp": [None, 1.01],
            "patient": ["P1", None],
            "age": [61, 7],
        }
    )
    if kind == "csv":
        table.to_csv(slides / "cohort.csv", index=False)
        manifest = slides / "cohort.csv"
    elif kind == "frame":
        manifest = table.assign(path=[slides / name for name in table["path"]])
    else:
        manifest = [slides / "c.tif", str(slides / "a.tif")]
    report = st.tl.predict_many(manifest, model, out, genes=["ERBB2"])
    assert report["status"].tolist() == ["done", "done"]
    assert report["slide"].tolist() == (["c", "a"] if kind == "list" else ["007", "a"])
    assert report["mpp"].tolist() == pytest.approx([1.0, 1.0 if kind == "list" else 1.01])
    if kind != "list":
        first, second = (anndata.read_zarr(path) for path in report["result"])
        assert first.obs["patient"].unique().tolist() == ["P1"]
        assert second.obs["patient"].isna().all()
        assert (first.obs["age"].astype(int) == 61).all()
        assert first.obs["library_id"].unique().tolist() == ["007"]
        assert first.var_names.tolist() == ["ERBB2"]


def test_stores_keep_their_spots(model, out, section, tmp_path):
    bare = section[:40].copy()
    st.pp.tiles(section)
    st.pp.encode(section)
    section[:60].write_h5ad(tmp_path / "encoded.h5ad")
    bare.write_h5ad(tmp_path / "bare.h5ad")
    report = st.tl.predict_many([tmp_path / "encoded.h5ad", tmp_path / "bare.h5ad"], model, out)
    assert report["status"].tolist() == ["done", "done"], report["error"].tolist()
    assert report["spots"].tolist() == [60, 40]
    expected = st.tl.predict_expression(section[:60].copy(), model, as_anndata=True)
    np.testing.assert_allclose(anndata.read_zarr(out / "encoded.zarr").X, expected.X, atol=1e-5)


def test_tumour_map(slides, model, out):
    report = st.tl.predict_many(slides, model, out, markers=["ERBB2", "KRT8"])
    assert report["status"].unique().tolist() == ["done"]
    result = anndata.read_zarr(out / "a.zarr")
    assert result.uns["tumor"]["markers"].tolist() == ["ERBB2", "KRT8"]
    assert 0 < result.obs["tumor"].sum() < result.n_obs
    assert "predicted tumour score" in (out / "report.html").read_text()


def test_maps_show_one_gene_in_colours_that_do_not_depend_on_the_other_slides(slides, model, out, tmp_path):
    st.tl.predict_many(slides, model, out)
    page = (out / "report.html").read_text()
    drawn = drawn_gene(model, None)
    assert page.count(f"predicted {drawn.gene}") == 6  # alternative text and caption of three slides
    assert f"expression of {drawn.gene}, log1p of counts per 10,000, in the same colours on all slides" in page
    assert f">{drawn.gene} {drawn.low:.2f}<i" in page
    assert f"</i>{drawn.high:.2f}<" in page
    assert page.count("#440154") == page.count("#fde724") == 1
    st.tl.predict_many([slides / "c.tif"], model, tmp_path / "alone")
    jobs = [anndata.read_zarr(folder / "c.zarr").uns["slide_job"] for folder in (out, tmp_path / "alone")]
    assert jobs[0]["shown"] == jobs[1]["shown"] == drawn.gene
    np.testing.assert_array_equal(jobs[0]["picture"], jobs[1]["picture"])
    new = anndata.read_zarr(out / "c.zarr")
    values = new[:, drawn.gene].layers["predicted"][:, 0]
    assert picture_of(new, values, (drawn.low, drawn.high)) == jobs[0]["picture"].tobytes()
    assert picture_of(new, values) != jobs[0]["picture"].tobytes()
    st.tl.predict_many(slides, model, out)
    pictures, again = (PICTURE.findall(text) for text in (page, (out / "report.html").read_text()))
    assert len(pictures) == 3
    assert pictures == again


def test_maps_of_a_model_of_an_earlier_version_have_colours_of_their_own(slides, model, out, tmp_path):
    model.save(tmp_path / "model")
    earlier = st.models.load(tmp_path / "model")
    del earlier.arrays["held_out_span_ends"]
    earlier.save(tmp_path / "earlier")
    report = st.tl.predict_many(slides, tmp_path / "earlier", out)
    assert report["status"].unique().tolist() == ["done"]
    assert "from low (violet) to high (yellow) within each slide" in (out / "report.html").read_text()


def test_the_drawn_gene_is_one_that_pathologists_know_or_the_first_asked_for(model):
    ends = dict(zip(model.genes, model.trust.span.ends.T.tolist(), strict=True))
    assert drawn_gene(model, ["CD74", "ERBB2"]) == Drawn("CD74", *ends["CD74"])
    assert drawn_gene(model, ["HER2"]) == Drawn("HER2", *ends["ERBB2"])
    drawn = drawn_gene(model, None)
    assert [drawn.low, drawn.high] == ends[drawn.gene]


@pytest.mark.parametrize(
    ("pcc", "expected"),
    [
        ({"RPL13": 0.9, "KRT8": 0.4, "EPCAM": 0.35, "CD74": 0.6}, "KRT8"),  # known and predicted reliably
        ({"RPL13": 0.9, "KRT8": 0.2, "EPCAM": 0.1, "CD74": 0.6}, "RPL13"),  # no known one is
        ({"RPL13": 0.9, "Krt8": 0.4, "EPCAM": 0.39, "CD74": 0.6}, "Krt8"),  # as mouse genes are written
        ({"A/B": 0.9, "C": 0.1}, "C"),  # (names with a slash cannot be stored)
    ],
)
def test_a_known_gene_is_drawn_where_it_is_predicted_reliably(pcc, expected):
    ends = np.tile(np.float32([[0], [2]]), len(pcc))
    trust = SimpleNamespace(reliability=SimpleNamespace(pcc=np.array([*pcc.values()])), span=SimpleNamespace(ends=ends))
    assert drawn_gene(SimpleNamespace(genes=[*pcc], trust=trust), None) == Drawn(expected, 0, 2)


def test_tissue_on_pale_slides_is_found_by_a_threshold_for_all_or_given_with_the_spots(slides, model, out, pixels):
    (slides / "c.tif").unlink()
    pale = (255 - (255 - pixels[400:1100, 400:1100].astype(float)) / 12).astype(np.uint8)
    write(slides / "b.tif", pale)
    before = st.tl.predict_many(slides, model, out)
    assert status(before) == {"a": "done", "b": "failed"}
    assert "pass tissue=, a lower threshold" in error(before, "b")
    report = st.tl.predict_many(slides, model, out, tissue=0.01)
    assert status(report) == {"a": "done", "b": "done"}
    for name in "ab":
        expected = st.io.grid(st.read_wsi(slides / f"{name}.tif"), tissue=0.01)
        assert anndata.read_zarr(out / f"{name}.zarr").obs_names.tolist() == expected.obs_names.tolist()
    assert "tissue=0.01" in (out / "report.html").read_text()
    assert status(st.tl.predict_many(slides, model, out, tissue=0.01)) == {"a": "kept", "b": "kept"}
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, : SIDE // 2] = True
    with pytest.raises(TypeError, match=r"got ndarray.*pass them to stpredict.io.grid.*list that in the manifest"):
        st.tl.predict_many(slides, model, out, tissue=mask)
    spots = st.io.grid(st.read_wsi(slides / "b.tif"), tissue=mask)  # what the message says
    spots.write_h5ad(slides / "b.h5ad")
    assert status(st.tl.predict_many([slides / "b.h5ad"], model, out)) == {"b": "done"}
    assert anndata.read_zarr(out / "b.zarr").obs_names.tolist() == spots.obs_names.tolist()


@pytest.mark.filterwarnings("ignore:Section .* tile is enlarged")
def test_features_are_made_as_in_training(slides, out, two_sections):
    from torch import nn

    network = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    train = two_sections[0]
    st.pp.tiles(train, spot_um=100, niche_um=400)
    st.pp.niches(train, members="ring", rings=1)
    st.pp.encode(train)
    st.pp.encode(train, network, key_added="X_tiny", niche=False, mpp=1.5)
    model = st.tl.train(train, genes=GENES, method="ridge")
    with pytest.raises(ValueError, match=r"features of the encoder 'Sequential'. Pass encoder="):
        st.tl.predict_many(slides, model, out)
    other = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"weights [0-9a-f]{16}, and Sequential has others"):
        st.tl.predict_many(slides, model, out, encoder=other)
    assert not out.exists()
    report = st.tl.predict_many([slides / "a.tif"], model, out, encoder=network)
    assert report["status"].tolist() == ["done"], report["error"].tolist()
    slide = st.io.grid(st.read_wsi(slides / "a.tif"))
    st.pp.tiles(slide, spot_um=100, niche_um=400)
    st.pp.niches(slide, members="ring", rings=1)
    st.pp.encode(slide)
    st.pp.encode(slide, network, key_added="X_tiny", niche=False, mpp=1.5)
    expected = st.tl.predict_expression(slide, model, as_anndata=True)
    np.testing.assert_allclose(anndata.read_zarr(out / "a.zarr").X, expected.X, atol=1e-5)


def test_networks_get_the_input_that_was_given_in_training(slides, out, two_sections, tmp_path):
    from torch import nn

    network = nn.Sequential(
        nn.Flatten(2), nn.Linear(32 * 32, 2, bias=False), nn.Flatten()
    )  # takes tiles of 32 × 32 alone
    given = {"input_size": 32, "mean": (0.7, 0.5, 0.6), "std": (0.25, 0.5, 1.0)}
    st.pp.tiles(two_sections[0])
    st.pp.encode(two_sections[0], network, key_added="X_own", niche=False, **given)
    two_sections[0].write_h5ad(tmp_path / "train.h5ad")
    train = anndata.read_h5ad(tmp_path / "train.h5ad")
    assert train.uns["X_own"]["input_size"] == 32
    assert train.uns["X_own"]["mean"].tolist() == [0.7, 0.5, 0.6]
    st.tl.train(train, genes=GENES, method="ridge").save(tmp_path / "model")
    report = st.tl.predict_many([slides / "a.tif"], tmp_path / "model", out, encoder=["morphology", network])
    assert report["status"].tolist() == ["done"], report["error"].tolist()
    slide = st.io.grid(st.read_wsi(slides / "a.tif"))
    st.pp.tiles(slide)
    st.pp.encode(slide, network, key_added="X_own", niche=False, **given)
    expected = st.tl.predict_expression(slide, tmp_path / "model", as_anndata=True)
    np.testing.assert_allclose(anndata.read_zarr(out / "a.zarr").X, expected.X, atol=1e-5)


@pytest.mark.parametrize("config", [{"nuclei": "watershed"}, {"base": {"config": {"nuclei": "watershed"}}}])
def test_a_model_that_looks_at_nuclei_gets_them(slides, config):
    recipe = recipe_of(SimpleNamespace(config=config), None, only_stores=False)
    slide = st.io.grid(st.read_wsi(slides / "a.tif"))
    recipe.apply(slide)
    assert slide.uns["nuclei"]["a"]["method"] == "watershed"
    assert slide.obs["nuclei_count"].sum() > 100


# ---------------------------------------------------------------------- what goes wrong with a slide


def test_bad_slides_are_a_line_each_and_the_others_are_done(slides, model, out, pixels):
    whole = (slides / "b.tif").read_bytes()
    (slides / "truncated.tif").write_bytes(whole[: int(0.6 * len(whole))])
    (slides / "empty.tif").write_bytes(b"")
    (slides / "text.png").write_text("not an image")
    write(slides / "blank.tif", np.full((SIDE, SIDE, 3), 245, np.uint8))
    tifffile.imwrite(slides / "unscaled.tif", pixels[:SIDE, :SIDE], photometric="rgb")
    names = ["a", "truncated", "empty", "text", "blank", "unscaled", "gone", "coarse", "c"]
    files = {"text": "text.png", "coarse": "b.tif"}
    table = pd.DataFrame({"slide": names, "path": [slides / files.get(name, f"{name}.tif") for name in names]})
    table["mpp"] = table["slide"].map({"coarse": 10})
    report = st.tl.predict_many(table, model, out)
    assert status(report) == {name: "done" if name in "ac" else "failed" for name in names}
    for name, words in {
        "truncated": "is truncated: it should have",
        "empty": "cannot be read as a TIFF",
        "text": "cannot be read as an image",
        "blank": "No tissue was found on slide 'blank'",
        "unscaled": "does not say how large its pixels are",
        "gone": "There is no image at",
        "coarse": "has 10 µm per pixel, and the model learned from images described at 2: it is too coarse",
    }.items():
        assert words in error(report, name), name
        assert "\n" not in error(report, name)
    assert "mpp=10 µm per pixel is used" in report.set_index("slide").loc["coarse", "warnings"]
    assert sorted(path.name for path in out.iterdir()) == [".lock", "a.zarr", "c.zarr", "report.csv", "report.html"]


def test_a_slide_that_vanishes_while_it_is_read(slides, model, out, monkeypatch):
    grid = st.io.grid

    def vanish(slide, **options):
        if "b" in slide.uns["spatial"]:
            (slides / "b.tif").unlink()
        return grid(slide, **options)

    monkeypatch.setattr("stpredict.tl._batch.job.grid", vanish)
    report = st.tl.predict_many(slides, model, out)
    assert status(report) == {"a": "done", "b": "failed", "c": "done"}
    assert "There is no image at" in error(report, "b")
    assert leftovers(out) == []


def test_full_disk_is_a_line_and_spares_what_was_there(slides, model, out, monkeypatch):
    st.tl.predict_many(slides, model, out)
    before = times(out)

    def full(path):
        (path / "X").mkdir(parents=True)
        (path / "X" / "0").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(slide_job, "begin_store", full)
        report = st.tl.predict_many(slides, model, out, pitch_um=150)
    assert report["status"].tolist() == ["failed"] * 3
    assert "No space left on device" in error(report, "a")
    assert leftovers(out) == []
    assert times(out) == before
    assert st.tl.predict_many(slides, model, out)["status"].tolist() == ["kept"] * 3


def test_report_that_cannot_be_written_is_returned(slides, model, out, monkeypatch):
    from stpredict.tl._batch import report

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(report, "write_text", full)
    with pytest.warns(UserWarning, match="report could not be written .*No space left"):
        report = st.tl.predict_many([slides / "a.tif"], model, out)
    assert report["status"].tolist() == ["done"]


# ---------------------------------------------------------------------- runs after runs


def test_rerun_does_only_what_is_missing(slides, model, out, pixels):
    good = (slides / "b.tif").read_bytes()
    (slides / "b.tif").write_bytes(b"")
    st.tl.predict_many(slides, model, out)
    before = times(out)
    (slides / "b.tif").write_bytes(good)
    write(slides / "d.tif", pixels[:SIDE, :SIDE])
    report = st.tl.predict_many(slides, model, out)
    assert status(report) == {"a": "kept", "b": "done", "c": "kept", "d": "done"}
    assert before.items() <= times(out).items()
    assert report["spots"].notna().all()
    assert (out / "report.html").read_text().count("data:image/jpeg") == 4


def test_results_count_only_if_made_in_the_same_way_of_the_same_file(slides, model, out, pixels, tmp_path):
    paths = [slides / "a.tif", slides / "b.tif"]
    st.tl.predict_many(paths, model, out)
    (slides / "a.tif").unlink()
    assert st.tl.predict_many(paths, model, out)["status"].tolist() == ["kept", "kept"]
    write(slides / "a.tif", pixels[500 : 500 + SIDE, :SIDE])
    assert st.tl.predict_many(paths, model, out)["status"].tolist() == ["done", "kept"]
    assert st.tl.predict_many(paths, model, out, genes=GENES[:2])["status"].tolist() == ["done", "done"]
    assert anndata.read_zarr(out / "a.zarr").var_names.tolist() == GENES[:2]
    model.save(tmp_path / "model")
    assert st.tl.predict_many(paths, tmp_path / "model", out, genes=GENES[:2])["status"].tolist() == ["kept", "kept"]


def test_an_interrupted_run_reports_what_it_did(slides, model, out, monkeypatch):
    run = Job.run

    def interrupted(job, slide):
        if slide.name == "b":
            raise KeyboardInterrupt
        return run(job, slide)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            st.tl.predict_many(slides, model, out)
    assert pd.read_csv(out / "report.csv")["status"].tolist() == ["done", "not done", "not done"]
    assert leftovers(out) == []
    assert st.tl.predict_many(slides, model, out)["status"].tolist() == ["kept", "done", "done"]


KILLED = """
import sys, time
import stpredict as st
from stpredict.tl._batch import job as slide_job

seal = slide_job.seal_store
def stuck(path):
    seal(path)
    if ".b.zarr." in str(path):
        (path / "X" / "zarr.json").unlink()
        print("half", flush=True)
        time.sleep(120)
slide_job.seal_store = stuck
st.tl.predict_many(*sys.argv[1:], show_progress=False)
"""


def test_a_killed_run_leaves_nothing_half_written_and_no_lock(slides, model, out, tmp_path):
    model.save(tmp_path / "model")
    command = [sys.executable, "-c", KILLED, slides, tmp_path / "model", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "half\n"
        before = times(out)
        with pytest.raises(FileExistsError, match=rf"in use by another run \(process {run.pid} on .*Wait until"):
            st.tl.predict_many(slides, model, out)
        assert times(out) == before
        run.send_signal(signal.SIGKILL)
    assert (out / "a.zarr").exists()
    assert not (out / "b.zarr").exists()
    assert len(leftovers(out)) == 2
    report = st.tl.predict_many(slides, model, out)
    assert status(report) == {"a": "kept", "b": "done", "c": "done"}
    assert leftovers(out) == []
    assert before.items() <= times(out).items()
    assert all(np.isfinite(anndata.read_zarr(path).X).all() for path in report["result"])


def test_processes_give_what_one_gives(slides, model, out, tmp_path, assert_same):
    (slides / "b.tif").write_text("no slide")
    alone = st.tl.predict_many(slides, model, out)
    report = st.tl.predict_many(slides, model, tmp_path / "two", n_jobs=2)
    columns = ["slide", "status", "spots", "genes", "mpp", "error", "warnings"]
    pd.testing.assert_frame_equal(report[columns], alone[columns])
    assert status(report) == {"a": "done", "b": "failed", "c": "done"}
    for name in "ac":
        one, other = (anndata.read_zarr(folder / f"{name}.zarr") for folder in (out, tmp_path / "two"))
        for adata in (one, other):
            del adata.uns["predicted"]["date"], adata.uns["slide_job"]["date"], adata.uns["slide_job"]["seconds"]
            del adata.uns["slide_job"]["picture"]
        assert_same(one, other)
    assert leftovers(tmp_path / "two") == []
    assert status(st.tl.predict_many(slides, model, tmp_path / "two", n_jobs=2)) == {
        "a": "kept",
        "b": "failed",
        "c": "kept",
    }
    with pytest.raises(TypeError, match="With n_jobs above 1, pass encoder= as a name"):
        st.tl.predict_many(slides, model, out, encoder=__import__("torch").nn.Identity(), n_jobs=2)


def test_dask_workers_share_the_slides_and_a_killed_one_is_a_line(slides, model, out):
    import dask
    from distributed import Client, LocalCluster

    class Deadly(Job):
        def run(self, slide):
            if slide.name == "b":
                os.kill(os.getpid(), signal.SIGKILL)
            return super().run(slide)

    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with (
        pytest.MonkeyPatch.context() as patch,
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, **options) as cluster,
        Client(cluster),
    ):
        patch.setattr(_predict_many, "Job", Deadly)
        report = st.tl.predict_many([slides / "a.tif", slides / "b.tif"], model, out)
        with pytest.raises(TypeError, match="On a Dask cluster, pass encoder= as a name"):
            st.tl.predict_many(slides, model, out, encoder=__import__("torch").nn.Identity())
        with pytest.raises(ValueError, match="A Dask client is active, whose workers do the slides; leave n_jobs out"):
            st.tl.predict_many(slides, model, out, n_jobs=2)
    assert status(report) == {"a": "done", "b": "failed"}
    assert "KilledWorker" in error(report, "b")
    assert leftovers(out) == []
    assert status(st.tl.predict_many(slides, model, out)) == {"a": "kept", "b": "done", "c": "done"}


# ---------------------------------------------------------------------- refused before anything is done


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"genes": ["ERBB2", "NOSUCH"]}, ValueError, r"does not know all of the genes \(NOSUCH"),
        ({"genes": []}, ValueError, "none is given"),
        ({"markers": ["NOSUCH"]}, ValueError, "None of the markers is among the predicted genes: NOSUCH"),
        ({"markers": "colon"}, ValueError, "no marker set 'colon'"),
        ({"pitch_um": 0}, ValueError, "pitch_um must be positive"),
        ({"layout": "round"}, ValueError, "layout must be one of"),
        ({"mpp": 50}, ValueError, "outside of 0.05–20"),
        ({"tissue": 3}, ValueError, "tissue=3 is no threshold of the stain"),
        ({"tissue": "0.1"}, TypeError, "for all slides, a number; got str"),
        ({"n_jobs": 0}, ValueError, "n_jobs must be a positive integer; got 0"),
        ({"n_jobs": True}, ValueError, "n_jobs must be a positive integer; got True"),
        ({"model": "NOWHERE"}, FileNotFoundError, "There is no model at"),
        ({"model": 3}, TypeError, "model must be a trained model"),
        ({"out": "FILE"}, FileExistsError, "is a file; name a folder"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_done(slides, model, tmp_path, arguments, kind, message):
    (tmp_path / "FILE").write_text("mine")
    given = {"model": model, "out": tmp_path / "out"} | arguments
    paths = {
        key: tmp_path / value for key, value in given.items() if isinstance(value, str) and key in ("model", "out")
    }
    with pytest.raises(kind, match=message):
        st.tl.predict_many(slides, **given | paths)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "FILE").read_text() == "mine"


def test_what_is_no_result_is_never_overwritten(slides, model, out, section):
    out.mkdir()
    section.write_zarr(out / "b.zarr")
    with pytest.raises(FileExistsError, match=r"b\.zarr is no result of stpredict\.tl\.predict_many"):
        st.tl.predict_many(slides, model, out)
    assert anndata.read_zarr(out / "b.zarr").n_vars == section.n_vars
    assert not (out / "a.zarr").exists()
