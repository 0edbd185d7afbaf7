"""STPath: from files to layers."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import stpredict as st
from stpredict._sections.open import Where, open_all
from stpredict._sections.spread import spread_record
from stpredict.models.published import stpath as module

GENES = ["ERBB2", "KRT8", "COL1A1", "EPCAM", "CD3D", "PTPRC", "VIM"]


def by_hand(weights, features, xy, organ, technology):
    """The network as its paper tells it: offsets of all pairs, brought to all four frames of every spot, and averaged."""
    xy = torch.tensor(xy - xy.min(axis=0))
    xy = (xy / xy.max(dim=0).values * 100).float()
    x = F.linear(features, weights["input_encoder.image_embed.weight"], weights["input_encoder.image_embed.bias"])
    x = x + F.linear(torch.eye(len(weights["gene_exp_head.1.bias"]))[1], weights["input_encoder.gene_embed.weight"])
    x = x + weights["input_encoder.tech_embed.weight"][technology] + weights["input_encoder.organ_embed.weight"][organ]
    offsets = xy[:, None] - xy[None]
    centred = offsets - offsets.mean(dim=1, keepdim=True)
    _, axes = torch.linalg.eigh(centred.transpose(1, 2) @ centred)
    frames = [torch.tensor(signs)[None, None] * axes for signs in product((-1.0, 1.0), repeat=2)]
    for i in range(2):
        w = {name.removeprefix(f"model.blks.{i}."): value for name, value in weights.items()}
        heads, d = len(w["attn.edge_bias.0.weight"]), x.shape[1]
        normed = F.layer_norm(x, (d,), w["attn.layernorm_qkv.0.weight"], w["attn.layernorm_qkv.0.bias"])
        qkv = F.linear(normed, w["attn.layernorm_qkv.1.weight"], w["attn.layernorm_qkv.1.bias"]).chunk(3, dim=1)
        q, k, v = (part.reshape(len(x), heads, d // heads) for part in qkv)
        pairs = [torch.cat([centred @ frame, offsets.norm(dim=-1, keepdim=True)], dim=-1) for frame in frames]
        bias = torch.stack([F.linear(pair, w["attn.edge_bias.0.weight"]) for pair in pairs]).mean(dim=0)
        score = torch.einsum("nhd,mhd->nmh", q, k) * (d // heads) ** -0.5 + bias
        taken = torch.einsum("nmh,mhd->nhd", score.softmax(dim=1), v).reshape(len(x), d)
        x = x + F.linear(taken, w["attn.W_output.0.weight"], w["attn.W_output.0.bias"])
        h = F.gelu(F.linear(x, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
        h = F.layer_norm(h, h.shape[1:], w["mlp.norm.weight"], w["mlp.norm.bias"])
        x = x + F.linear(h, w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    x = F.layer_norm(x, x.shape[1:], weights["gene_exp_head.0.weight"], weights["gene_exp_head.0.bias"])
    return F.linear(x, weights["gene_exp_head.1.weight"], weights["gene_exp_head.1.bias"])


def test_the_prediction_is_that_of_the_network_as_it_was_published(
    section, gigapath, stpath, stpath_tensors, stpath_folder, monkeypatch
):
    monkeypatch.setattr(module, "PAIRS", 2 * section.n_obs * 50)  # more than one part
    gigapath(section)
    st.tl.predict_expression(section, stpath)
    features = torch.from_numpy(section.obsm["X_prov-gigapath"])
    outputs = by_hand(stpath_tensors, features, section.obsm["spatial"], organ=5, technology=2).numpy()
    ids = json.loads((stpath_folder / "symbol2ensembl.json").read_text())
    ordered = sorted(set(ids.values()))
    for gene in GENES:
        got = section[:, gene].layers["predicted"][:, 0]
        np.testing.assert_allclose(got, outputs[:, 2 + ordered.index(ids[gene])], rtol=1e-3, atol=1e-4)
        assert got.std() > 1e-3
    extra = section.obsm["predicted_genes"]
    assert sorted(extra) == ["KRT6A", "LOCAL1"]
    np.testing.assert_allclose(extra["LOCAL1"], outputs[:, 2 + len(ordered) - 1], rtol=1e-3, atol=1e-4)


def test_uns_tells_what_it_was_told(section, gigapath, stpath):
    gigapath(section)
    st.tl.predict_expression(section, stpath)
    record = section.uns["predicted"]
    assert record["units"] == "log1p counts"
    assert record["published"]["organ"] == "breast"
    assert record["published"]["technology"] == "visium"
    assert record["published"]["licence"] == "none stated"


def test_organ_and_technology_matter_and_unknown_ones_are_refused(section, gigapath, stpath_folder):
    gigapath(section)
    (opened,) = open_all(section, Where(None, None))

    def predicted(**choices):
        return st.models.pretrained("stpath", path=stpath_folder, **choices).predict(opened).mean

    breast = predicted(organ="breast")
    assert not np.allclose(breast, predicted(organ="colon"))
    assert not np.allclose(breast, predicted())
    assert not np.allclose(breast, predicted(organ="breast", technology="Visium_HD"))
    with pytest.raises(ValueError, match="'breast'"):
        predicted(organ="left foot")
    with pytest.raises(ValueError, match="'visium hd'"):
        predicted(technology="microarray")


def test_genes_are_found_by_symbol_alias_and_ensembl_id(stpath_folder):
    model = st.models.pretrained("stpath", path=stpath_folder, genes=["ENSG00000141736", "CD45", "LOCAL1"])
    assert model.genes == ["ERBB2", "PTPRC", "LOCAL1"]


def test_few_spots_of_the_section_are_told_from_the_whole(section, gigapath, stpath):
    gigapath(section)
    section.uns["X_prov-gigapath"]["sections"] = {"sim_1": spread_record(section.obsm["X_prov-gigapath"])}
    whole = st.tl.predict_expression(section, stpath, as_anndata=True)
    with pytest.warns(UserWarning, match="Only a part of the spots of sim_1 is here"):
        half = st.tl.predict_expression(section[:200].copy(), stpath, as_anndata=True)
    assert not np.allclose(half.X, whole.X[:200], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.blks.1.mlp.fc2.bias", "missing or not known"),
        ("gene_exp_head.1.weight", r"gene_exp_head.1.weight is \(3, 16\), which does not fit 9 genes"),
        ("input_encoder.organ_embed.weight", r"input_encoder.organ_embed.weight is \(3, 16\)"),
    ],
)
def test_other_networks_are_refused(name, told, section, gigapath, stpath_folder, stpath_tensors):
    if told.startswith("missing"):
        del stpath_tensors[name]
    else:
        stpath_tensors[name] = stpath_tensors[name][:3]
    torch.save(stpath_tensors, stpath_folder / "stfm.pth")
    gigapath(section)
    with pytest.raises(ValueError, match=told):
        st.tl.predict_expression(section, st.models.pretrained("stpath", path=stpath_folder))


def test_a_list_of_genes_that_is_none_is_refused(stpath_folder):
    (stpath_folder / "symbol2ensembl.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"symbol2ensembl.json is damaged \(it maps no symbols to ids\)"):
        st.models.pretrained("stpath", path=stpath_folder)


@pytest.mark.filterwarnings("ignore:1 of the model's genes are not measured", "ignore:2 of the model's genes are not")
def test_it_is_adapted(section, gigapath, stpath, tmp_path):
    gigapath(section)
    section.obs["measured"] = np.random.default_rng(0).random(section.n_obs) < 0.2
    adapted = st.tl.adapt(section, stpath, measured="measured")
    adapted.save(tmp_path / "adapted")
    st.tl.predict_expression(section, adapted)
    st.tl.predict_expression(section, st.models.load(tmp_path / "adapted"), key_added="again")
    np.testing.assert_allclose(
        section[:, GENES].layers["predicted"], section[:, GENES].layers["again"], rtol=1e-4, atol=1e-5
    )
    assert section.uns["predicted"]["published"]["organ"] == "breast"
