"""From a slide without spots to predicted genes, by the calls that the model names; the encoder is a stand-in too."""

from __future__ import annotations

import json
import re

import anndata
import huggingface_hub.constants as hub
import numpy as np
import pytest
import tifffile
import timm
import torch
from safetensors.torch import save_file

import stpredict as st
from stpredict.pp._encoders.conv_stem import ConvStem


@pytest.fixture
def ctranspath_on_hub(tmp_path, monkeypatch):
    """A network of CTransPath's kind with one block per stage, as the hub's client keeps it."""
    torch.manual_seed(0)
    arguments = {"depths": [1, 1, 1, 1], "num_classes": 0}
    network = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, embed_layer=ConvStem, **arguments)
    repository = tmp_path / "models--1aurent--swin_tiny_patch4_window7_224.CTransPath"
    folder = repository / "snapshots" / "abc"
    folder.mkdir(parents=True)
    config = {"architecture": "swin_tiny_patch4_window7_224", "num_classes": 0, "model_args": {"depths": [1, 1, 1, 1]}}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"input_size": [3, 224, 224]}}))
    named = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", k): v
        for k, v in network.state_dict().items()
    }
    save_file({name: value.contiguous() for name, value in named.items()}, folder / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    return network.eval()


@pytest.fixture
def slide(section, tmp_path):
    """A slide of 0.5 µm per pixel without measured spots."""
    image = section.uns["spatial"]["sim_1"]["images"]["hires"][700:1300, 700:1300]
    tifffile.imwrite(tmp_path / "slide.tif", image.repeat(2, axis=0).repeat(2, axis=1), photometric="rgb")
    return st.io.grid(st.read_wsi(tmp_path / "slide.tif", 0.5), pitch_um=150)


def test_from_a_slide_to_genes_by_one_call(slide, path2space, ctranspath_on_hub):
    before = slide.copy()
    st.tl.predict_expression(slide, path2space)
    predicted = slide.obsm["predicted_genes"]
    assert predicted.shape == (slide.n_obs, 8)
    assert np.isfinite(predicted).all(axis=None)
    assert (predicted.std() > 0).all()
    assert slide.uns["predicted"]["mpp"] == pytest.approx(0.5, abs=0.06)
    assert "X_ctranspath" not in slide.obsm
    assert list(slide.uns) == [*before.uns, "predicted"]  # (tiles and features are not kept)


def test_the_calls_that_keep_the_features_predict_the_same(slide, path2space, ctranspath_on_hub, tmp_path):
    st.tl.predict_expression(slide, path2space)
    with pytest.raises(ValueError, match="has no obsm") as refused:
        st.tl.embed(slide, path2space)
    calls = re.search(r"Run stpredict\.(pp\.tiles\(.*?\)) and stpredict\.(pp\.encode\(.*?)\) on it", str(refused.value))
    for call in (calls[1], f"{calls[2]}, show_progress=False)"):
        eval(f"st.{call}", {"st": st, "adata": slide})
    assert slide.uns["X_ctranspath"]["revision"] == "abc"
    st.tl.predict_expression(slide, path2space, key_added="again", out=tmp_path / "again.zarr")
    again = anndata.read_zarr(tmp_path / "again.zarr")
    np.testing.assert_allclose(again.X, slide.obsm["predicted_genes"][list(again.var_names)], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Section .* is enlarged")
def test_tiles_of_another_size_stay_and_sections_of_one_table_are_told_apart(
    two_sections, path2space, ctranspath_on_hub
):
    few = [adata[::40].copy() for adata in two_sections]
    both = anndata.concat(few, uns_merge="unique", label="library", keys=["sim_1", "sim_2"])
    st.pp.tiles(both, library_key="library")
    st.tl.predict_expression(both, path2space, library_key="library")
    assert both.uns["tiles"]["sim_1"]["spot_um"] == 112
    for adata, name in zip(few, ("sim_1", "sim_2"), strict=True):
        st.tl.predict_expression(adata, path2space)
        own = both[both.obs["library"] == name].layers["predicted"]
        np.testing.assert_allclose(own, adata.layers["predicted"], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Encoder .* was trained at")
def test_the_encoder_by_name_is_the_network_on_the_hub(section, ctranspath_on_hub):
    few = section[::40].copy()
    st.pp.tiles(few, spot_um=224)
    for encoder in ("ctranspath", ctranspath_on_hub):
        st.pp.encode(
            few,
            encoder,
            key_added=f"X_{encoder if isinstance(encoder, str) else 'own'}",
            niche=False,
            show_progress=False,
        )
    assert few.obsm["X_ctranspath"].shape[1] == 768
    np.testing.assert_allclose(few.obsm["X_ctranspath"], few.obsm["X_own"], rtol=1e-3, atol=1e-4)


def test_a_spatialdata_is_predicted_by_one_call_too(slide, path2space, ctranspath_on_hub):
    sdata = st.io.to_spatialdata(slide)
    (table,) = sdata.tables.values()
    st.tl.predict_expression(sdata, path2space)
    assert "X_ctranspath" not in table.obsm
    st.pp.tiles(sdata, spot_um=100)
    st.pp.encode(sdata, "ctranspath", niche=False, stain_norm="macenko", show_progress=False)
    st.tl.predict_expression(sdata, path2space, key_added="again")
    np.testing.assert_allclose(table.obsm["predicted_genes"], table.obsm["again_genes"], rtol=1e-5)
