"""Many slides cost what one costs: encoders are built once, results stream, and every slide is told its patient and scale."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

import stpredict as st
from stpredict.pp._encoders import catalogue, network_encoder
from stpredict.tl._batch import recipe
from stpredict.tl._batch.job import Job, advice_for_many
from stpredict.tl._batch.manifest import slides_of
from stpredict.tl._batch.recipe import recipe_of
from stpredict.tl._prediction import record, tables

GENES = ["ERBB2", "COL1A1", "CD74", "KRT8"]
SIDE = 500


@pytest.fixture(scope="module")
def pixels(_simulated):
    return _simulated[0].uns["spatial"]["sim_1"]["images"]["hires"]


@pytest.fixture
def slides(tmp_path, pixels):
    """A folder with slides a, b and c of 500 × 500 µm, without a pyramid."""
    (tmp_path / "slides").mkdir()
    for number, name in enumerate("abc"):
        corner = 300 * number + 400
        write(tmp_path / "slides" / f"{name}.tif", pixels[corner : corner + SIDE, corner : corner + SIDE])
    return tmp_path / "slides"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _quiet():
    with st.settings.override(progress=False, precision="float32"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network as a folder, which a timm name or a hub's id stands for elsewhere."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    path = tmp_path_factory.mktemp("network")
    config = {"architecture": "resnet10t", "num_features": 512, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (path / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def model(_simulated, folder):
    """Learned from the network's features of spots and niches."""
    train = _simulated[1][::8].copy()
    st.pp.tiles(train)
    st.pp.encode(train, folder, key_added="X_net", show_progress=False, precision="float32")
    return st.tl.train(train, genes=GENES, method="ridge")


def write(path, pixels, per_cm=1e4):
    how = {"photometric": "rgb", "tile": (128, 128), "compression": "deflate"}
    tifffile.imwrite(path, pixels, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", **how)


@pytest.fixture
def calls(monkeypatch):
    """How often networks are loaded, hashed and tried, and models hashed."""
    count = dict.fromkeys(("load", "hash", "try", "model"), 0)

    def counting(place, name, what):
        call = getattr(place, name)

        def counted(*args, **kwargs):
            count[what] += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(place, name, counted)

    counting(catalogue, "_load_timm", "load")
    counting(network_encoder, "identity_of", "hash")
    counting(network_encoder.NetworkEncoder, "_try", "try")
    counting(record, "identity", "model")
    return count


def test_the_network_is_built_once_for_all_slides(slides, model, folder, out, calls):
    report = st.tl.predict_many(slides, model, out, encoder=folder)
    assert report["status"].tolist() == ["done"] * 3
    assert calls == {"load": 1, "hash": 1, "try": 1, "model": 0}
    assert recipe.tools_of.cache_info().currsize == 0  # (nothing stays in memory)


def test_a_worker_builds_the_network_once_for_the_slides_it_is_sent(slides, model, folder, out, calls, tmp_path):
    """Dask sends every slide with a job of its own."""
    model.save(tmp_path / "model")
    made = recipe_of(model, folder, only_stores=False)
    assert calls.pop("load") == 1
    job = Job(tmp_path / "model", "id", made, out, grid={"pitch_um": 100.0}, predict={"genes": None, "std": False})
    calls.update(load=0, hash=0)
    for slide in slides_of(slides):
        assert pickle.loads(pickle.dumps(job)).run(slide).status == "done"
    assert calls == {"load": 1, "hash": 1, "try": 1, "model": 0}
    recipe.tools_of.cache_clear()


def test_a_module_goes_back_as_it_came(slides, two_sections, out):
    from torch import nn

    network = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5))
    train = two_sections[0][::8].copy()
    st.pp.tiles(train)
    st.pp.encode(train, network, key_added="X_own", niche=False, input_size=32)
    model = st.tl.train(train, genes=GENES, method="ridge")
    network.train()
    report = st.tl.predict_many(slides, model, out, encoder=network)
    assert report["status"].tolist() == ["done"] * 3
    assert all(part.training for part in network.modules())


def test_niches_are_shrunk_in_one_step_as_by_the_single_steps(slides, model, folder, out):
    st.tl.predict_many([slides / "a.tif"], model, out, encoder=folder)
    slide = st.io.grid(st.read_wsi(slides / "a.tif"))
    st.pp.tiles(slide)
    st.pp.encode(slide, folder, key_added="X_net")
    scale = slide.uns["X_net"]["mpp"]
    expected = st.tl.predict_expression(slide, model, as_anndata=True)
    np.testing.assert_allclose(anndata.read_zarr(out / "a.zarr").X, expected.X, atol=1e-6)
    st.pp.encode(slide, folder, key_added="X_scaled", mpp=scale)
    np.testing.assert_array_equal(slide.obsm["X_scaled_niche"], slide.obsm["X_net_niche"])


def test_maps_of_a_result_load_the_genes_that_they_draw(slides, model, folder, out):
    st.tl.predict_many([slides / "a.tif"], model, out, encoder=folder)
    lazy = anndata.experimental.read_lazy(zarr.open_group(out / "a.zarr", mode="r"))
    panel = st.pl.expression(lazy, "CD74", show=False)
    drawn = st.pl.expression(anndata.read_zarr(out / "a.zarr"), "CD74", show=False)
    np.testing.assert_array_equal(panel.collections[0].get_array(), drawn.collections[0].get_array())
    np.testing.assert_array_equal(panel.images[0].get_array(), drawn.images[0].get_array())
    assert hasattr(lazy.layers["predicted"], "dask")


def test_the_bar_counts_all_slides_and_tells_the_time_left(slides, model, folder, out, capsys):
    st.tl.predict_many([slides / "a.tif"], model, out, encoder=folder)
    capsys.readouterr()
    st.tl.predict_many(slides, model, out, encoder=folder, show_progress=True)
    told = capsys.readouterr().err
    assert re.search(r"predict: +33%.* 1/3 \[00:0\d<\?", told)  # (one is kept, of which no time is known)
    assert re.search(r"predict: +67%.* 2/3 \[00:\d\d<00:\d\d", told)
    assert "3/3" in told


# ---------------------------------------------------------------------- results stream


def test_results_stream_and_take_their_room_once(paired, tmp_path, monkeypatch):
    """20,000 spots × 500 genes, mean and standard deviation, would take 80 MB."""
    import tracemalloc

    monkeypatch.setattr(tables, "rows_of", lambda _: 500)
    monkeypatch.setattr("stpredict.models._base.spotwise.rows_of", lambda _: 500)
    model = st.tl.train(paired(3), genes=["GENE0", "GENE5"], method="ridge")
    small, n, rng = paired(4)[3], 20_000, np.random.default_rng(0)
    big = anndata.AnnData(obs=pd.DataFrame(index=np.arange(n).astype(str)))
    big.obsm["spatial"] = np.column_stack(np.divmod(np.arange(n), 200)).astype(float) * 100
    big.uns["spatial"] = small.uns["spatial"]
    for key in ("X_fake", "X_fake_niche"):
        big.uns[key] = small.uns[key]
        big.obsm[key] = rng.standard_normal((n, small.obsm[key].shape[1])).astype(np.float32)
    big.write_h5ad(tmp_path / "big.h5ad")
    model.genes = [f"G{i}" for i in range(500)]
    model.trust = type(model.trust)()
    model.arrays["weights"] = rng.standard_normal((len(model.arrays["weights"]), 500)).astype(np.float32)
    model.arrays |= {name: np.ones(500, dtype=np.float32) for name in ("intercept", "residual_sd")}
    big[:100].copy().write_h5ad(tmp_path / "small.h5ad")
    st.tl.predict_many([tmp_path / "small.h5ad"], model, tmp_path / "first", std=True)  # (libraries are loaded)
    tracemalloc.start()
    report = st.tl.predict_many([tmp_path / "big.h5ad"], model, tmp_path / "out", std=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report["status"].tolist() == ["done"], report["error"].tolist()
    assert peak < 40 * 2**20
    store = tmp_path / "out" / "big.zarr"
    result = anndata.read_zarr(store)
    expected = st.tl.predict_expression(big, model, std=True, as_anndata=True)
    np.testing.assert_allclose(result.layers["predicted"], expected.X, atol=1e-5)
    np.testing.assert_array_equal(result.X, result.layers["predicted"])
    chunks = [path for path in (store / "X").rglob("*") if path.is_file()]
    assert len(chunks) > 40
    assert all(path.samefile(store / "layers" / "predicted" / path.relative_to(store / "X")) for path in chunks)


# ---------------------------------------------------------------------- what the manifest says of a slide


def test_the_patient_of_the_manifest_is_there_before_the_prediction(slides, two_sections, out):
    train = two_sections[1]
    st.pp.tiles(train)
    st.pp.encode(train)
    model = st.tl.train(train, genes=GENES, method="ridge", group_key="patient")
    own = train.obs["patient"].iloc[0]
    table = pd.DataFrame({"path": [slides / "a.tif"] * 2, "slide": ["own", "new"], "patient": [own, "somebody"]})
    report = st.tl.predict_many(table, model, out)
    assert report["status"].tolist() == ["done", "done"]
    known, new = (anndata.read_zarr(path) for path in report["result"])
    assert "another patient" not in known.uns["predicted"]["domain"]["why"]
    assert "it is of another patient than that of training" in new.uns["predicted"]["domain"]["why"]
    assert new.uns["predicted"]["domain"]["verdict"] != "inside"
    assert new.obs["patient"].unique().tolist() == ["somebody"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "If that scale is wrong, pass mpp=; if not, pass tissue=.",
            "If that scale is wrong, give the right one in a column 'mpp' of a CSV with the slides; if not, pass tissue=.",
        ),
        (
            "Pass the right mpp=; a scanner at 20× gives about 0.5.",
            "Give the right one in a column 'mpp' of a CSV with the slides; a scanner at 20× gives about 0.5.",
        ),
        ("Pass mpp=, the microns per pixel at full resolution: 0.5.", None),
        ("Pass mpp= (microns per full-resolution pixel) to stpredict.pp.tiles.", None),
    ],
)
def test_advice_names_what_helps_where_there_are_many_slides(message, told):
    assert advice_for_many(message) == (told or message)


def test_the_advice_on_a_wrong_scale_followed_to_the_letter(slides, pixels, two_sections, out):
    train = two_sections[1][::4].copy()
    st.pp.tiles(train)
    st.pp.encode(train)
    model = st.tl.train(train, genes=GENES, method="ridge")
    write(slides / "a.tif", pixels[400:900, 400:900], per_cm=1e3)  # (10 µm per pixel, of which it has 1)
    report = st.tl.predict_many([slides / "a.tif"], model, out, mpp=1)
    assert (
        "it is too coarse. If that scale is wrong, give the right one in a column 'mpp' of a CSV with"
        in report["error"][0]
    )
    (slides / "cohort.csv").write_text("path,mpp\na.tif,1\n")
    report = st.tl.predict_many(slides / "cohort.csv", model, out)
    assert report["status"].tolist() == ["done"], report["error"].tolist()
    assert report["mpp"].tolist() == [1.0]


def test_the_manifest_tells_the_scale_of_a_store(slides, pixels, two_sections, out, tmp_path):
    train = two_sections[1][::4].copy()
    st.pp.tiles(train)
    st.pp.encode(train)
    model = st.tl.train(train, genes=GENES, method="ridge")
    spots = st.io.grid(st.read_wsi(slides / "a.tif"), layout="square")
    entry = spots.uns["spatial"]["a"]
    del entry["scalefactors"]["microns_per_pixel"], entry["metadata"]["spot_pitch_um"]
    tifffile.imwrite(slides / "mute.tif", pixels[400:900, 400:900], photometric="rgb")
    entry["metadata"]["source_image_path"] = str(slides / "mute.tif")
    spots.write_h5ad(tmp_path / "mute.h5ad")
    table = pd.DataFrame({"path": [tmp_path / "mute.h5ad"], "mpp": [None]})
    report = st.tl.predict_many(table, model, out)
    assert "scale of section 'a' is unknown" in report["error"][0]
    report = st.tl.predict_many(table.assign(mpp=1.0), model, out)
    assert report["status"].tolist() == ["done"], report["error"].tolist()
    assert report["mpp"].tolist() == [1.0]
    whole = st.io.grid(st.read_wsi(slides / "a.tif"), layout="square")
    st.pp.tiles(whole)
    st.pp.encode(whole)
    expected = st.tl.predict_expression(whole, model, as_anndata=True)
    np.testing.assert_allclose(anndata.read_zarr(out / "mute.zarr").X, expected.X, atol=1e-5)

    whole.write_h5ad(tmp_path / "laid.h5ad")
    report = st.tl.predict_many(pd.DataFrame({"path": [tmp_path / "laid.h5ad"], "mpp": [2.0]}), model, out)
    assert "manifest says 2 µm per pixel, and stpredict.pp.tiles was run on this section at 1" in report["error"][0]
    assert not Path(out / "laid.zarr").exists()
