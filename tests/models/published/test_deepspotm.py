"""DeepSpot-M: from files and the image to layers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import stpredict as st

GENES = ["ERBB2", "KRT8", "COL1A1", "EPCAM", "CD3D", "PTPRC", "VIM"]


@pytest.fixture
def few(section):
    """A tenth of the spots."""
    return section[::10].copy()


def by_hand(tensors, tiles):
    """The network as its paper tells it, with low-rank changes beside what they change, and torch's own attention."""
    prefix = "backbone.base_model.model.model."
    v = {name.removeprefix(prefix): value for name, value in tensors.items()}
    g = {name.removeprefix("gene_decoder."): value for name, value in tensors.items()}

    def linear(x, w, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, w, name, eps):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def changed(x, name):
        low = F.linear(F.linear(x, v[f"{name}.lora_A.default.weight"]), v[f"{name}.lora_B.default.weight"])
        return linear(x, v, f"{name}.base_layer") + 2 * low

    patches = "embeddings.patch_embeddings.projection"
    x = F.conv2d(tiles, v[f"{patches}.weight"], v[f"{patches}.bias"], stride=14).flatten(2).mT
    places = v["embeddings.position_embeddings"]
    grid = F.interpolate(places[:, 1:].reshape(1, 5, 5, -1).permute(0, 3, 1, 2), size=(16, 16), mode="bicubic")
    x = torch.cat([v["embeddings.cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = x + torch.cat([places[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, -1)], dim=1)
    for i in range(2):
        at = f"encoder.layer.{i}"
        normed = norm(x, v, f"{at}.norm1", 1e-6)
        q, k, w = (changed(normed, f"{at}.attention.attention.{name}") for name in ("query", "key", "value"))
        looked = (q @ k.mT / 8).softmax(dim=-1) @ w
        x = x + v[f"{at}.layer_scale1.lambda1"] * linear(looked, v, f"{at}.attention.output.dense")
        left, right = linear(norm(x, v, f"{at}.norm2", 1e-6), v, f"{at}.mlp.weights_in").chunk(2, dim=-1)
        x = x + v[f"{at}.layer_scale2.lambda1"] * linear(F.silu(left) * right, v, f"{at}.mlp.weights_out")
    seen = linear(norm(x, v, "layernorm", 1e-6)[:, 1:], g, "patch_proj")
    known = g["multi_source.bio_scgpt"]
    genes = norm(linear(known, g, "multi_source.adapters.scgpt.0"), g, "multi_source.adapters.scgpt.1", 1e-5)
    genes = (genes + g["multi_source.modality_emb"][3]).expand(len(x), -1, -1)
    for i in range(2):
        attention = nn.MultiheadAttention(8, 2, batch_first=True)
        at = f"layers.{i}.cross_attn."
        attention.load_state_dict({name.removeprefix(at): value for name, value in g.items() if name.startswith(at)})
        genes = norm(genes + attention(genes, seen, seen)[0], g, f"layers.{i}.norm1", 1e-5)
        hidden = linear(F.gelu(linear(genes, g, f"layers.{i}.ffn.0")), g, f"layers.{i}.ffn.3")
        genes = norm(genes + hidden, g, f"layers.{i}.norm2", 1e-5)
    away, level = (
        linear(F.gelu(linear(known, g, f"routers.scgpt.{net}.0")), g, f"routers.scgpt.{net}.2")
        for net in ("weight_net", "bias_net")
    )
    return torch.einsum("bgd,gd->bg", genes, away) + level[:, 0]


def test_the_network_is_the_published_one(deepspotm, deepspotm_tensors):
    tiles = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = by_hand(deepspotm_tensors, tiles)
        got = deepspotm._network(np.array([6, 0, 3]))(tiles)
    assert expected.std(dim=0).min() > 1e-3
    torch.testing.assert_close(got, expected[:, [6, 0, 3]], rtol=1e-3, atol=1e-4)


def test_a_network_of_another_gene_embedding_has_its_name_and_modality(deepspotm, deepspotm_folder, deepspotm_tensors):
    """What scGPT is to one network Evo 2 is to another: the same weights by its name, and its row of modalities."""
    tiles = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = deepspotm._network(np.arange(7))(tiles)
    named = {name: value for name, value in deepspotm_tensors.items() if "evo2" not in name}
    named = {name.replace("scgpt", "evo2"): value for name, value in named.items()}
    named["gene_decoder.multi_source.modality_emb"] = named["gene_decoder.multi_source.modality_emb"].roll(-3, dims=0)
    save_file(named, deepspotm_folder / "model.safetensors")
    told = json.loads((deepspotm_folder / "config.json").read_text()) | {"init_gene_embeddings": ["evo2"]}
    (deepspotm_folder / "config.json").write_text(json.dumps(told))
    other = st.models.pretrained("deepspotm", path=deepspotm_folder)
    with torch.inference_mode():
        torch.testing.assert_close(other._network(np.arange(7))(tiles), expected)


def test_it_predicts_from_the_image_at_its_own_scale(few, deepspotm):
    st.tl.predict_expression(few, deepspotm)
    network = deepspotm._network(np.arange(7))
    st.pp.tiles(few, spot_um=112)
    half = (0.5, 0.5, 0.5)
    given = {"mean": half, "std": half, "input_size": 224, "niche": False, "show_progress": False}
    st.pp.encode(few, network, key_added="X_genes", **given)
    np.testing.assert_allclose(few[:, GENES].layers["predicted"], few.obsm["X_genes"], rtol=1e-3, atol=1e-3)
    record = few.uns["predicted"]
    assert record["units"] == "log1p CPM"
    assert record["published"]["licence"] == "CC-BY-NC-SA-4.0"
    assert not record["published"]["commercial"]
    assert "midnight" in record["encoder"]


def test_few_genes_are_those_of_all(few, deepspotm, deepspotm_folder):
    one = st.models.pretrained("deepspotm", path=deepspotm_folder, genes=["VIM"])
    whole = st.tl.predict_expression(few, deepspotm, as_anndata=True)
    np.testing.assert_allclose(
        st.tl.predict_expression(few, one, as_anndata=True).X[:, 0], whole[:, "VIM"].X[:, 0], rtol=1e-3, atol=1e-4
    )


def test_what_it_cannot_use_is_refused(few, deepspotm, deepspotm_folder):
    with pytest.raises(ValueError, match="reads the image itself and takes no features="):
        st.models.pretrained("deepspotm", path=deepspotm_folder, features="X_mine")
    coarse = few.copy()
    coarse.uns["spatial"]["sim_1"]["scalefactors"]["microns_per_pixel"] = 1.9
    with pytest.raises(ValueError, match=r"the image has 1.9 µm per pixel, and the model needs 0.5 or finer"):
        st.tl.predict_expression(coarse, deepspotm)
    del few.uns["spatial"]["sim_1"]["images"]
    with pytest.raises(ValueError, match="image"):
        st.tl.predict_expression(few, deepspotm)


@pytest.mark.parametrize("damage", ["other network", "other genes", "no adapter"])
def test_other_files_are_refused(damage, few, deepspotm_folder, deepspotm_tensors):
    told = {
        "other network": r"config.json does not describe DeepSpot-M \(it is of another network\)",
        "other genes": "it knows 3 genes, where its list has 8",
        "no adapter": "adapters.scgpt.0.weight",
    }[damage]
    if damage == "other network":
        (deepspotm_folder / "config.json").write_text(json.dumps({"init_gene_embeddings": "xavier"}))
    elif damage == "other genes":
        name = "gene_decoder.multi_source.bio_scgpt"
        deepspotm_tensors[name] = deepspotm_tensors[name][:3]
    else:
        del deepspotm_tensors["gene_decoder.multi_source.adapters.scgpt.0.weight"]
    save_file(deepspotm_tensors, deepspotm_folder / "model.safetensors")
    with pytest.raises(ValueError, match=told):
        st.tl.predict_expression(few, st.models.pretrained("deepspotm", path=deepspotm_folder))
    assert "predicted" not in few.layers


@pytest.mark.filterwarnings("ignore:1 of the model's genes are not measured", "ignore:.* genes have no counts")
def test_it_is_adapted_and_kept(few, deepspotm, tmp_path):
    adapted = st.tl.adapt(few, deepspotm)
    adapted.save(tmp_path / "adapted")
    st.tl.predict_expression(few, adapted)
    st.tl.predict_expression(few, st.models.load(tmp_path / "adapted"), key_added="again")
    np.testing.assert_allclose(few[:, GENES].layers["again"], few[:, GENES].layers["predicted"], rtol=1e-3, atol=1e-3)
