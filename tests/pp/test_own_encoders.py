"""Modules of the user's own: wrapped, compiled, of half precision; what goes into them, who they are, how they come back."""

from __future__ import annotations

import copy
import time

import anndata as ad
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import stpredict as st
from stpredict.pp._encoders import catalogue, modules

SIDE = 600


@pytest.fixture(scope="module")
def slide():
    pixels = np.random.default_rng(0).integers(60, 220, (SIDE // 20, SIDE // 20, 3), dtype=np.uint8)
    pixels = pixels.repeat(20, 0).repeat(20, 1)
    x, y = np.meshgrid([150.0, 300.0, 450.0], [150.0, 300.0, 450.0])
    adata = ad.AnnData(np.ones((9, 1), np.float32), obsm={"spatial": np.column_stack([x.ravel(), y.ravel()])})
    library = {"images": {"hires": pixels}, "scalefactors": {"microns_per_pixel": 0.5, "tissue_hires_scalef": 1.0}}
    adata.uns["spatial"] = {"s": library}
    st.pp.tiles(adata)
    return adata


def encode(slide, encoder, key_added="X", **options):
    adata = slide.copy()
    options = {"niche": False, "show_progress": False, "precision": "float32"} | options
    st.pp.encode(adata, encoder, key_added=key_added, **options)
    return adata.obsm[key_added], adata.uns[key_added]["encoder_hash"]


def vit(**options):
    torch.manual_seed(0)
    return timm.create_model("test_vit", pretrained=False, num_classes=0, **options).eval()


def resnet(**options):
    torch.manual_seed(0)
    return timm.create_model("resnet10t", pretrained=False, num_classes=0, **options).eval()


class Mean(nn.Module):
    """Mean colour of what goes in; `size` is what it insists on."""

    def __init__(self, size=None):
        super().__init__()
        self.size = size

    def forward(self, tiles):
        assert self.size in (None, tiles.shape[-1]), f"{tiles.shape[-1]} is not {self.size}"
        return tiles.mean(dim=(2, 3))


class Pooled(nn.Module):
    """A wrapper as the documentation asks for where a network gives tokens."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, tiles):
        return self.net(tiles)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compile": lambda net: torch.compile(net, backend="eager"),
    "compiled DataParallel": lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
    "own": Pooled,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("network", [vit, resnet])
def test_wrapped_networks_see_what_the_network_would(slide, network, wrapper):
    net = network()
    net.pretrained_cfg = dict(net.pretrained_cfg, mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.1))
    features, name = encode(slide, copy.deepcopy(net))
    wrapped, same_name = encode(slide, WRAPPERS[wrapper](net))
    np.testing.assert_allclose(wrapped, features, rtol=1e-3, atol=1e-4)
    assert wrapper == "own" or same_name == name


def test_size_is_that_of_the_module_and_not_of_its_weights():
    def vit(**options):
        return timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=1, **options)

    assert modules.input_of(vit()).size == 224
    assert modules.input_of(vit(img_size=96)).size == 96
    for given in (None, 96):
        with pytest.raises(
            ValueError, match=r"tiles of 96 × 64 px, .* takes no others: .* img_size= of timm\.create_model"
        ):
            modules.input_of(vit(img_size=(96, 64)), given)


def test_a_network_made_for_oblong_tiles_takes_the_square_ones_that_its_message_asks_for(slide):
    net = resnet()
    net.pretrained_cfg = dict(net.pretrained_cfg, input_size=(3, 96, 64), mean=(0.3, 0.4, 0.5))
    with pytest.raises(ValueError, match=r"ResNet is made for tiles of 96 × 64 px, .* Pass input_size="):
        encode(slide, net)
    features, _ = encode(slide, net, input_size=64)
    square = resnet()
    square.load_state_dict(net.state_dict())
    square.pretrained_cfg = dict(net.pretrained_cfg, input_size=(3, 64, 64))
    np.testing.assert_array_equal(features, encode(slide, square)[0])


def test_features_that_are_the_same_everywhere_are_told(slide):
    class Dead(Mean):
        def forward(self, tiles):
            return 0 * super().forward(tiles)

    with pytest.warns(UserWarning, match=r"'Dead' gives all spots the same features, .* Check its weights"):
        encode(slide, Dead())


def test_layers_without_weights_are_refused(slide):
    with pytest.raises(ValueError, match=r"Sequential has lazy layers, .* Load its weights first"):
        encode(slide, nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.LazyLinear(8)))


def test_size_and_normalisation_can_be_given(slide):
    with pytest.raises(
        ValueError, match=r"'Mean' does not take tiles of 224 × 224 px \(224 is not 64\)\. Pass input_size="
    ):
        encode(slide, Mean(64))
    plain, name = encode(slide, Mean(64), input_size=64, mean=(0, 0, 0), std=(1, 1, 1))
    other, other_name = encode(slide, Mean(64), input_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1))
    np.testing.assert_allclose(other, (plain - 0.5) / [0.25, 0.5, 1], atol=1e-5)
    assert name != other_name
    assert (plain > 0).all()
    assert (plain < 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 0}, "input_size=0"),
        ({"input_size": 22.5}, r"input_size=22\.5"),
        ({"mean": (0.5,)}, "three numbers"),
        ({"mean": (124, 116, 104)}, "between 0 and 1"),
        ({"std": (0.2, 0.0, 0.2)}, "must not be 0"),
    ],
)
def test_impossible_input_is_refused(slide, options, message):
    with pytest.raises(ValueError, match=message):
        encode(slide, Mean(), **options)


def test_the_morphology_descriptor_has_no_input_to_choose(slide):
    with pytest.raises(ValueError, match="are for networks"):
        encode(slide, None, input_size=64)


# ---------------------------------------------------------------------- identity


def test_hash_covers_all_that_changes_features():
    net = resnet()
    given = modules.input_of(net)

    def name(network, given=given):
        return modules.identity_of(network, given)

    others = [resnet(global_pool="max"), copy.deepcopy(net).half(), copy.deepcopy(net).bfloat16()]
    others[0].load_state_dict(net.state_dict())
    tokens, averaged = vit(), vit(global_pool="avg", fc_norm=False)
    names = [name(net), name(net, given._replace(size=96)), *map(name, others), name(tokens), name(averaged)]
    assert len(set(names)) == len(names)
    assert name(copy.deepcopy(net).train()) == name(net)
    assert name(torch.compile(net, backend="eager")) == name(net) == name(nn.DataParallel(net))


def test_features_of_another_encoder_of_the_same_name_are_kept(slide):
    adata = slide.copy()
    options = {"niche": False, "show_progress": False}
    st.pp.encode(adata, resnet(), **options)
    first = adata.obsm["X_ResNet"].copy()
    st.pp.encode(adata, resnet(), **options)
    with pytest.raises(ValueError, match=r"obsm\['X_ResNet'\] holds features of another encoder.*Pass key_added="):
        st.pp.encode(adata, resnet(global_pool="max"), **options)
    np.testing.assert_array_equal(adata.obsm["X_ResNet"], first)
    st.pp.encode(adata, resnet(global_pool="max"), key_added="X_max", **options)
    assert np.abs(adata.obsm["X_max"] - first).max() > 0.1


# ---------------------------------------------------------------------- the same twice


class Random(Mean):
    def forward(self, tiles):
        return nn.functional.dropout(super().forward(tiles) + 5, 0.5, training=True)


class AmongOthers(Mean):
    """Batch normalisation that stays in training."""

    def forward(self, tiles):
        return super().forward(tiles) - super().forward(tiles).mean(dim=0)


@pytest.mark.parametrize("network", [Random, AmongOthers])
def test_an_encoder_that_gives_other_features_twice_is_refused(slide, network):
    with pytest.raises(ValueError, match=r"gives one tile other features the second time.*dropout"):
        encode(slide, network())


# ---------------------------------------------------------------------- half precision, and back to the owner


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_networks_of_half_precision(slide, kind):
    whole, _ = encode(slide, resnet())
    half, _ = encode(slide, resnet().to(kind))
    assert half.dtype == np.float32
    assert np.abs(half - whole).max() < 0.05 * np.abs(whole).max()


def test_a_module_goes_back_as_it_came(slide, tmp_path):
    net = resnet().train()
    net.layer1.eval()
    modes = [part.training for part in net.modules()]
    strides = [value.stride() for value in net.state_dict().values()]
    before = copy.deepcopy(net.state_dict())
    encode(slide, net)
    assert [part.training for part in net.modules()] == modes
    assert [value.stride() for value in net.state_dict().values()] == strides
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    save_file(net.state_dict(), tmp_path / "model.safetensors")


def test_a_module_goes_back_after_an_error_too(slide):
    net = Random().train()
    with pytest.raises(ValueError, match="second time"):
        encode(slide, net)
    assert net.training


# ---------------------------------------------------------------------- weights that are damaged or out of reach


@pytest.mark.parametrize("damage", ["cut", "pointer", "foreign", "no json", "empty"])
def test_damaged_folders_are_one_error(slide, tmp_path, damage):
    from timm.models import save_for_hf

    save_for_hf(resnet(), str(tmp_path), model_config={}, safe_serialization=True)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    (tmp_path / "pytorch_model.bin").unlink(missing_ok=True)
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:50_000])
    elif damage == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif damage == "foreign":
        config.write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    elif damage == "no json":
        config.write_text("{")
    else:
        weights.write_bytes(b"")
    with pytest.raises(ValueError, match=r"could not be loaded: .*Get the folder's files again, whole"):
        encode(slide, tmp_path)


def test_a_hub_out_of_reach_is_told_within_seconds(slide, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("hf-hub:nobody/nothing", "resnet10t.c3_in1k", "uni2-h"):
        start = time.perf_counter()
        with pytest.raises(ValueError, match=r"127\.0\.0\.1:9 cannot be reached"):
            catalogue.network_encoder(
                name, devices=[torch.device("cpu")], precision="float32", batch_size=None, mpp=None
            )
        assert time.perf_counter() - start < 10
