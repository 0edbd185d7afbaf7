from __future__ import annotations

import json
import warnings

import anndata as ad
import numpy as np
import pytest

import stpredict as st
from stpredict.pp._encoders import catalogue, modules, network_encoder


def slide(width=1200, height=1000, seed=0):
    """Random coloured squares of 8 px: every tile differs from every other."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return small.repeat(8, 0).repeat(8, 1)


def section(image=None, centres=None, *, mpp=0.5, library="s1"):
    image = slide() if image is None else image
    if centres is None:
        x, y = np.meshgrid(np.arange(300, 900, 100.0), np.arange(300, 700, 100.0))
        centres = np.stack([x.ravel(), y.ravel()], axis=1)
    adata = ad.AnnData(np.ones((len(centres), 2), dtype=np.float32))
    adata.var_names = ["A", "B"]
    adata.obsm["spatial"] = np.asarray(centres, dtype=float)
    adata.uns["spatial"] = {
        library: {
            "images": {"hires": image},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": mpp},
            "metadata": {},
        }
    }
    return adata


def tiny_network(seed=0):
    timm = pytest.importorskip("timm")
    import torch

    torch.manual_seed(seed)
    return timm.create_model("resnet10t", pretrained=False, num_classes=0)


# ---------------------------------------------------------------------------------------------- tiles


def test_tiles_record_geometry_and_scale():
    adata = section()
    assert st.pp.tiles(adata, spot_um=100, niche_um=300) is None
    record = adata.uns["tiles"]["s1"]
    assert record["mpp"] == 0.5
    assert record["mpp_source"] == "scalefactors['microns_per_pixel']"
    assert (record["spot_um"], record["niche_um"]) == (100.0, 300.0)
    assert (record["image_width"], record["image_height"]) == (1200, 1000)


def test_tiles_argument_beats_metadata_and_is_remembered_by_encode():
    adata = section(mpp=0.5)
    st.pp.tiles(adata, mpp=0.6)
    assert adata.uns["tiles"]["s1"]["mpp"] == 0.6
    st.pp.encode(adata, mpp=3.0, niche=False, show_progress=False)
    assert adata.uns["X_morphology"]["mpp"] == pytest.approx(3.0, rel=0.02)


def test_tiles_copy_leaves_the_input_alone():
    adata = section()
    changed = st.pp.tiles(adata, copy=True)
    assert "tiles" not in adata.uns
    assert "tiles" in changed.uns


@pytest.mark.parametrize(("spot", "niche"), [(0, 100), (-1, 100), (200, 100)])
def test_tiles_refuse_impossible_windows(spot, niche):
    with pytest.raises(ValueError, match="positive"):
        st.pp.tiles(section(), spot_um=spot, niche_um=niche)


def test_tiles_need_an_image_and_a_scale():
    adata = section()
    adata.uns["spatial"]["s1"]["images"] = {}
    with pytest.raises(ValueError, match="no H&E image"):
        st.pp.tiles(adata)
    adata = section()
    del adata.uns["spatial"]["s1"]["scalefactors"]["microns_per_pixel"]
    with pytest.raises(ValueError, match="Pass mpp="):
        st.pp.tiles(adata)
    assert "tiles" not in adata.uns


def test_spots_off_the_image_are_refused():
    adata = section()
    adata.obsm["spatial"] = adata.obsm["spatial"] * 3
    with pytest.raises(ValueError, match="outside the image of 1200 × 1000 px"):
        st.pp.tiles(adata)


# ---------------------------------------------------------------------------------------------- networks


def test_network_sees_exactly_the_tile_around_each_spot():
    """With 0.5 µm pixels and 112 µm tiles nothing is resized: features equal the network's own on hand-cut tiles."""
    import torch

    adata, network = section(), tiny_network()
    st.pp.tiles(adata, spot_um=112)
    st.pp.encode(adata, network, niche=False, key_added="X_r", precision="float32", show_progress=False)
    size, mean, std = modules.input_of(network)
    image = slide()
    adata_size = round(112 / 0.5)
    crops = [
        image[int(y) - adata_size // 2 : int(y) + adata_size // 2, int(x) - adata_size // 2 : int(x) + adata_size // 2]
        for x, y in adata.obsm["spatial"]
    ]
    tiles = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    if size != adata_size:
        tiles = torch.nn.functional.interpolate(tiles, size=(size, size), mode="bilinear", antialias=True)
    tiles = (tiles.float() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = network.eval()(tiles).numpy()
    np.testing.assert_allclose(adata.obsm["X_r"], expected, atol=1e-4)
    assert adata.obsm["X_r"].dtype == np.float32


def test_batch_size_does_not_change_features():
    adata, network = section(), tiny_network()
    st.pp.tiles(adata)
    st.pp.encode(adata, network, key_added="X_a", batch_size=5, show_progress=False)
    st.pp.encode(adata, network, key_added="X_b", batch_size=64, show_progress=False)
    np.testing.assert_allclose(adata.obsm["X_a"], adata.obsm["X_b"], atol=1e-5)
    np.testing.assert_allclose(adata.obsm["X_a_niche"], adata.obsm["X_b_niche"], atol=1e-5)


def test_batch_normalisation_is_folded_only_where_nothing_changes():
    import torch

    class Wayward(torch.nn.Module):
        """Has batch normalisation, but what it does depends on the pixels, so it cannot be traced."""

        def __init__(self):
            super().__init__()
            self.convolution, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

        def forward(self, tiles):
            out = self.norm(self.convolution(tiles))
            return out.mean(dim=(2, 3)) if tiles.mean() > 0 else -out.mean(dim=(2, 3))

    network = tiny_network().eval()
    folded = network_encoder._folded(network, 64)
    tiles = torch.randn(4, 3, 64, 64)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    with torch.inference_mode():
        np.testing.assert_allclose(folded(tiles).numpy(), network(tiles).numpy(), atol=1e-4)
    wayward = Wayward().eval()
    assert network_encoder._folded(wayward, 64) is wayward


def test_record_tells_weights_apart():
    adata = section()
    st.pp.tiles(adata)
    st.pp.encode(adata, tiny_network(0), niche=False, key_added="X_a", show_progress=False)
    st.pp.encode(adata, tiny_network(0), niche=False, key_added="X_b", show_progress=False)
    st.pp.encode(adata, tiny_network(1), niche=False, key_added="X_c", show_progress=False)
    assert adata.uns["X_a"]["encoder_hash"] == adata.uns["X_b"]["encoder_hash"] != adata.uns["X_c"]["encoder_hash"]
    assert adata.uns["X_a"]["spot_um"] == 112.0


def test_interrupted_encoding_resumes_to_the_same_features(tmp_path, monkeypatch):
    monkeypatch.setattr(network_encoder, "SPOTS_PER_PART", 6)
    adata, network = section(), tiny_network()
    st.pp.tiles(adata)
    with st.settings.override(cache_dir=tmp_path, batch_size=12):
        st.pp.encode(adata, network, key_added="X_whole", show_progress=False)
        assert not list((tmp_path / "encode").iterdir())

        forward, calls = network_encoder.NetworkEncoder._forward, []

        def counted(self, tiles, which):
            calls.append(len(tiles))
            if fail and sum(calls) > 24:
                raise KeyboardInterrupt
            return forward(self, tiles, which)

        monkeypatch.setattr(network_encoder.NetworkEncoder, "_forward", counted)
        fail = True
        with pytest.raises(KeyboardInterrupt):
            st.pp.encode(adata, network, key_added="X_again", show_progress=False)
        assert "X_again" not in adata.obsm
        done = len(list((tmp_path / "encode").rglob("*.npy")))
        assert done == 2
        calls.clear()
        fail = False
        st.pp.encode(adata, network, key_added="X_again", show_progress=False)
        assert sum(calls) == 2 * (adata.n_obs - 6 * done)
        assert not list((tmp_path / "encode").iterdir())
    np.testing.assert_array_equal(adata.obsm["X_again"], adata.obsm["X_whole"])
    np.testing.assert_array_equal(adata.obsm["X_again_niche"], adata.obsm["X_whole_niche"])


@pytest.mark.parametrize("damage", ["cut", "swapped"])
def test_a_damaged_resume_file_is_done_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(network_encoder, "SPOTS_PER_PART", 10)
    adata, network = section(), tiny_network()
    st.pp.tiles(adata)
    with st.settings.override(cache_dir=tmp_path):
        st.pp.encode(adata, network, key_added="X_a", niche=False, show_progress=False)
        monkeypatch.setattr("shutil.rmtree", lambda *a, **k: None)
        st.pp.encode(adata, network, key_added="X_a", niche=False, show_progress=False)
        parts = sorted((tmp_path / "encode").rglob("*.npy"))
        whole = [file.read_bytes() for file in parts]
        if damage == "swapped":
            whole = [whole[1], whole[0], *whole[2:]]
            assert len(whole[0]) == len(whole[1])
        for file, content in zip(parts, whole, strict=True):
            file.write_bytes(content[:100] if damage == "cut" else content)
        with pytest.warns(UserWarning, match="of an encoding that was cut short is damaged"):
            st.pp.encode(adata, network, key_added="X_b", niche=False, show_progress=False)
    np.testing.assert_array_equal(adata.obsm["X_a"], adata.obsm["X_b"])


def test_hub_model_comes_with_its_own_preprocessing(tmp_path, monkeypatch):
    """The hub is stubbed by its files: a repository with config.json and model.safetensors."""
    import torch
    from huggingface_hub import constants
    from safetensors.torch import save_file

    network = tiny_network(3)
    folder = tmp_path / "models--lab--tiny" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    config = {
        "architecture": "resnet10t",
        "num_classes": 0,
        "num_features": 512,
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "mean": [0.7, 0.6, 0.5],
            "std": [0.2, 0.2, 0.3],
            "num_classes": 0,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))

    built = catalogue.network_encoder(
        "hf-hub:lab/tiny", devices=[torch.device("cpu")], precision="float32", batch_size=4, mpp=None
    )
    assert (built.name, built.size, built.mean, built.std) == ("tiny", 64, (0.7, 0.6, 0.5), (0.2, 0.2, 0.3))

    spec = catalogue.KnownEncoder("lab/tiny", "test", True, catalogue.BIOPTIMUS, mpp=0.25)
    monkeypatch.setitem(catalogue.KNOWN, "tiny-pathology", spec)
    adata = section()
    st.pp.tiles(adata, spot_um=56)
    st.pp.encode(adata, "tiny-pathology", niche=False, show_progress=False)
    record = adata.uns["X_tiny-pathology"]
    assert record["encoder"] == "tiny-pathology"
    known = catalogue.network_encoder(
        "hf-hub:lab/tiny", devices=[torch.device("cpu")], precision="float32", batch_size=4, mpp=None
    )
    assert (known.size, known.mean, known.trained_mpp) == (224, catalogue.BIOPTIMUS[0], 0.25)

    assert record["revision"] == "abc"
    other = folder.with_name("def")
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in tiny_network(4).state_dict().items()}, other / "model.safetensors")
    (folder.parents[1] / "refs" / "v2").write_text("def")
    for encoder, revision in (("tiny-pathology", "v2"), ("hf-hub:lab/tiny@v2", None), ("tiny-pathology@v2", "v2")):
        st.pp.encode(adata, encoder, revision=revision, key_added="X_def", niche=False, show_progress=False)
        assert adata.uns["X_def"]["revision"] == "def"
        assert adata.uns["X_def"]["encoder_hash"] != record["encoder_hash"]
    refused = [("hf-hub:lab/tiny@v2", "v1", "and revision='v1' another"), ("resnet10t", "v2", "is of a repository")]
    refused += [(None, "v2", "revision= are for networks"), ("tiny-pathology", "gone", "lab/tiny@gone, licence")]
    for encoder, revision, told in refused:
        with pytest.raises(ValueError, match=told):
            st.pp.encode(adata, encoder, revision=revision, key_added="X_no", show_progress=False)

    with pytest.raises(ValueError, match=r"Ask for access at huggingface.co/MahmoodLab/UNI2-h"):
        st.pp.encode(adata, "uni2-h", show_progress=False)
    with pytest.raises(ValueError, match="could not be loaded"):
        st.pp.encode(adata, "hf-hub:lab/absent", show_progress=False)


def test_an_encoder_of_transformers_names_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    adata = section()
    st.pp.tiles(adata)
    with pytest.raises(ValueError, match=r"pip install 'stpredict\[encoders\]'"):
        st.pp.encode(adata, "phikon-v2", show_progress=False)


def test_virchow_pools_class_token_and_mean_of_patches():
    import torch

    class Tokens(torch.nn.Module):
        num_prefix_tokens = 5

        def forward_features(self, tiles):
            return torch.arange(7.0).view(1, 7, 1).expand(len(tiles), 7, 2)

    tiles = torch.zeros(3, 3, 8, 8)
    assert catalogue._class_token_and_mean(Tokens(), tiles)[0].tolist() == [0, 0, 5.5, 5.5]
    assert catalogue._class_token(Tokens(), tiles).shape == (3, 2)


def test_local_folder_is_an_encoder(tmp_path):
    from safetensors.torch import save_file

    network = tiny_network(5)
    config = {"architecture": "resnet10t", "num_features": 512, "pretrained_cfg": {"input_size": [3, 176, 176]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "model.safetensors")
    adata = section()
    st.pp.tiles(adata)
    st.pp.encode(adata, str(tmp_path), key_added="X_folder", niche=False, show_progress=False)
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, 176, 176)}
    st.pp.encode(adata, network, key_added="X_module", niche=False, show_progress=False)
    np.testing.assert_allclose(adata.obsm["X_folder"], adata.obsm["X_module"], atol=1e-5)


# ---------------------------------------------------------------------------------------------- scale


def test_enlarged_tiles_warn_with_both_scales():
    adata = section(mpp=3.0)
    st.pp.tiles(adata)
    with pytest.warns(UserWarning, match=r"3 µm per pixel.*enlarged 4.7×.*0.636 µm per pixel"):
        st.pp.encode(adata, tiny_network(), niche=False, show_progress=False)


def test_sections_of_different_scale_need_a_common_one():
    import anndata

    fine, coarse = section(library="fine"), section(mpp=4.0, library="coarse")
    both = anndata.concat({"fine": fine, "coarse": coarse}, label="library_id", uns_merge="unique", index_unique="-")
    st.pp.tiles(both)
    with pytest.raises(ValueError, match=r"Pass mpp=4"):
        st.pp.encode(both, show_progress=False)
    st.pp.encode(both, mpp=4.0, show_progress=False)
    assert both.obsm["X_morphology"].shape[0] == both.n_obs


def test_concatenated_sections_are_encoded_each_on_its_own_image():
    import anndata

    first, second = section(library="a"), section(slide(seed=9), library="b")
    both = anndata.concat({"a": first, "b": second}, label="library_id", uns_merge="unique", index_unique="-")
    for adata in (first, second, both):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    expected = np.concatenate([first.obsm["X_morphology"], second.obsm["X_morphology"]])
    np.testing.assert_allclose(both.obsm["X_morphology"], expected, atol=1e-5)


# ---------------------------------------------------------------------------------------------- bad input


def test_encode_before_tiles_says_so():
    with pytest.raises(ValueError, match=r"run stpredict.pp.tiles first"):
        st.pp.encode(section())


@pytest.mark.parametrize(
    ("encoder", "error", "match"),
    [
        ("no_such_network", ValueError, "No encoder is called"),
        (3, TypeError, "a name, a path or a torch module"),
    ],
)
def test_unknown_encoders(encoder, error, match):
    adata = section()
    st.pp.tiles(adata)
    with pytest.raises(error, match=match):
        st.pp.encode(adata, encoder)
    assert not list(adata.obsm.keys() - {"spatial"})


def test_networks_that_do_not_give_one_finite_vector_per_tile_are_refused():
    import torch

    class Scalar(torch.nn.Module):
        def forward(self, tiles):
            return tiles.mean()

    class Nan(torch.nn.Module):
        def forward(self, tiles):
            return tiles.mean(dim=(2, 3)) * float("nan")

    adata = section()
    st.pp.tiles(adata)
    with pytest.raises(ValueError, match="one vector per tile"):
        st.pp.encode(adata, Scalar(), show_progress=False)
    with pytest.raises(ValueError, match="NaN or infinite"):
        st.pp.encode(adata, Nan(), show_progress=False)
    assert list(adata.obsm) == ["spatial"]


def test_missing_gpu_and_absurd_scale_are_refused():
    import torch

    adata = section()
    st.pp.tiles(adata)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA GPU is visible"):
            st.pp.encode(adata, device="cuda")
    with pytest.raises(ValueError, match="no device"):
        st.pp.encode(adata, device="abacus")
    with pytest.raises(ValueError, match="not a scale"):
        st.pp.encode(adata, mpp=500)


def test_wrong_container_is_a_type_error():
    for function in (st.pp.tiles, st.pp.encode):
        with pytest.raises(TypeError, match="AnnData or a SpatialData"):
            function("slide.tif")


def test_default_encoder_does_not_warn_on_coarse_images():
    adata = section(mpp=3.0)
    st.pp.tiles(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        st.pp.encode(adata, show_progress=False)
