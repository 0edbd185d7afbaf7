"""Stand-ins of published models: their architecture, small, with random weights, in the layout of their own files."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import stpredict as st
from stpredict.datasets import genes as gene_table

GENES = ["ERBB2", "KRT8", "COL1A1", "EPCAM", "CD3D", "PTPRC", "VIM", "KRT6A"]
"""Genes of the stand-ins; the simulated sections lack the last."""

HIDDEN = 5


def random_members(n, n_genes, seed=0):
    """Weights of `n` members of Path2Space."""
    rng = np.random.default_rng(seed)

    def values(*shape):
        return rng.normal(0.1, 0.2, shape).astype(np.float32)

    return {
        f"members.{i}.{name}": values(*shape)
        for i in range(n)
        for name, shape in {
            "layer0.0.weight": (HIDDEN, 768),
            "layer0.0.bias": (HIDDEN,),
            "layer1.0.weight": (n_genes, HIDDEN),
            "layer1.0.bias": (n_genes,),
        }.items()
    }


def as_exported(path, tensors):
    """Write an archive as ``torch.export.save`` does, without the program."""
    with zipfile.ZipFile(path, "w") as archive:
        index = {}
        for number, (name, values) in enumerate(tensors.items()):
            archive.writestr(f"model/data/weights/weight_{number}", values.tobytes())
            strides = [s // values.itemsize for s in values.strides]
            index[name] = {
                "path_name": f"weight_{number}",
                "is_param": True,
                "use_pickle": False,
                "tensor_meta": {
                    "dtype": 7,
                    "sizes": [{"as_int": n} for n in values.shape],
                    "strides": [{"as_int": n} for n in strides],
                    "storage_offset": {"as_int": 0},
                },
            }
        archive.writestr("model/data/weights/model_weights_config.json", json.dumps({"config": index}))


def with_features(adata, key, width, **record):
    """Give a section features of `width` that follow its true expression, and a record of how they were made."""
    truth = np.asarray(adata[:, GENES[:7]].layers["truth"])
    mixing = np.random.default_rng(1).normal(size=(truth.shape[1], width))
    adata.obsm[key] = ((truth - truth.mean(axis=0)) @ mixing).astype(np.float32)
    adata.uns[key] = record
    return adata


@pytest.fixture
def ctranspath():
    """Give a section what `pp.encode` leaves for Path2Space; arguments change its record."""

    def give(adata, key="X_ctranspath", width=768, **changed):
        record = {"encoder": "ctranspath", "encoder_hash": "0", "spot_um": 100.0, "mpp": 100 / 224}
        return with_features(adata, key, width, **record | {"stain_norm": "macenko"} | changed)

    return give


@pytest.fixture
def write_exported():
    return as_exported


@pytest.fixture
def path2space_tensors():
    return random_members(3, len(GENES))


@pytest.fixture
def path2space_folder(tmp_path, path2space_tensors):
    """A folder with the files of Path2Space as the hub has them."""
    folder = tmp_path / "hub" / "Path2Space"
    folder.mkdir(parents=True)
    as_exported(folder / "Path2Space_exported.pt2", path2space_tensors)
    (folder / "Path2Space_genes.txt").write_text("\n".join(GENES) + "\n")
    return folder


@pytest.fixture
def path2space(path2space_folder):
    return st.models.pretrained("path2space", path=path2space_folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Keep what is converted in a folder of the test's own."""
    with st.settings.override(cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache"


def random_stpath(n_genes, d=16, heads=2, blocks=2, seed=0):
    """Weights of STPath."""
    rng = np.random.default_rng(seed)
    shapes = {
        "input_encoder.image_embed.weight": (d, 1536),
        "input_encoder.image_embed.bias": (d,),
        "input_encoder.gene_embed.weight": (d, n_genes + 2),
        "input_encoder.tech_embed.weight": (5, d),
        "input_encoder.organ_embed.weight": (25, d),
        "gene_exp_head.0.weight": (d,),
        "gene_exp_head.0.bias": (d,),
        "gene_exp_head.1.weight": (n_genes + 2, d),
        "gene_exp_head.1.bias": (n_genes + 2,),
    }
    for i in range(blocks):
        shapes |= {
            f"model.blks.{i}.attn.layernorm_qkv.0.weight": (d,),
            f"model.blks.{i}.attn.layernorm_qkv.0.bias": (d,),
            f"model.blks.{i}.attn.layernorm_qkv.1.weight": (3 * d, d),
            f"model.blks.{i}.attn.layernorm_qkv.1.bias": (3 * d,),
            f"model.blks.{i}.attn.W_output.0.weight": (d, d),
            f"model.blks.{i}.attn.W_output.0.bias": (d,),
            f"model.blks.{i}.attn.edge_bias.0.weight": (heads, 3),
            f"model.blks.{i}.mlp.fc1.weight": (2 * d, d),
            f"model.blks.{i}.mlp.fc1.bias": (2 * d,),
            f"model.blks.{i}.mlp.norm.weight": (2 * d,),
            f"model.blks.{i}.mlp.norm.bias": (2 * d,),
            f"model.blks.{i}.mlp.fc2.weight": (d, 2 * d),
            f"model.blks.{i}.mlp.fc2.bias": (d,),
        }
    return {name: torch.from_numpy(rng.normal(0, 0.2, shape).astype(np.float32)) for name, shape in shapes.items()}


@pytest.fixture
def gigapath():
    """Give a section what `pp.encode` leaves for STPath; arguments change its record."""

    def give(adata, key="X_prov-gigapath", width=1536, **changed):
        record = {"encoder": "prov-gigapath", "encoder_hash": "0", "spot_um": 112.0, "mpp": 0.5}
        return with_features(adata, key, width, **record | changed)

    return give


@pytest.fixture
def stpath_tensors():
    return random_stpath(len(GENES) + 1)


@pytest.fixture
def stpath_folder(tmp_path, stpath_tensors, cache):
    """A folder with the files of STPath: the checkpoint, and symbols and aliases of the genes with their Ensembl ids."""
    folder = tmp_path / "STPath"
    folder.mkdir()
    torch.save(stpath_tensors, folder / "stfm.pth")
    ids = gene_table().set_index("symbol")["ensembl_id"].str.split("|").str[0]
    known = {"HER2": ids["ERBB2"], **{gene: ids[gene] for gene in GENES}, "LOCAL1": "ENSG99999999999"}
    (folder / "symbol2ensembl.json").write_text(json.dumps(known))
    return folder


@pytest.fixture
def stpath(stpath_folder):
    return st.models.pretrained("stpath", path=stpath_folder, organ="Breast", technology="Visium")


def random_deepspotm(n_genes, d=64, width=8, blocks=2, layers=2, seed=0):
    """Weights of DeepSpot-M, with low-rank changes to its vision transformer and two gene embeddings."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embeddings.cls_token": (1, 1, d),
        "embeddings.mask_token": (1, d),
        "embeddings.position_embeddings": (1, 26, d),
        "embeddings.patch_embeddings.projection.weight": (d, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (d,),
        "layernorm.weight": (d,),
        "layernorm.bias": (d,),
    }
    for i in range(blocks):
        at = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            shapes |= {
                f"{at}.attention.attention.{name}.base_layer.weight": (d, d),
                f"{at}.attention.attention.{name}.base_layer.bias": (d,),
                f"{at}.attention.attention.{name}.lora_A.default.weight": (2, d),
                f"{at}.attention.attention.{name}.lora_B.default.weight": (d, 2),
            }
        shapes |= {f"{at}.attention.output.dense.weight": (d, d), f"{at}.attention.output.dense.bias": (d,)}
        shapes |= {f"{at}.mlp.weights_in.weight": (48, d), f"{at}.mlp.weights_in.bias": (48,)}
        shapes |= {f"{at}.mlp.weights_out.weight": (d, 24), f"{at}.mlp.weights_out.bias": (d,)}
        names = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "layer_scale1.lambda1")
        shapes |= {f"{at}.{name}": (d,) for name in (*names, "layer_scale2.lambda1")}
    named = {f"backbone.base_model.model.model.{name}": shape for name, shape in shapes.items()}
    shapes = {"patch_proj.weight": (width, d), "patch_proj.bias": (width,), "multi_source.modality_emb": (5, width)}
    for i in range(layers):
        at = f"layers.{i}"
        shapes |= {f"{at}.cross_attn.in_proj_weight": (3 * width, width), f"{at}.cross_attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{at}.cross_attn.out_proj.weight": (width, width), f"{at}.cross_attn.out_proj.bias": (width,)}
        shapes |= {f"{at}.{name}.{what}": (width,) for name in ("norm1", "norm2") for what in ("weight", "bias")}
        shapes |= {f"{at}.ffn.0.weight": (4 * width, width), f"{at}.ffn.0.bias": (4 * width,)}
        shapes |= {f"{at}.ffn.3.weight": (width, 4 * width), f"{at}.ffn.3.bias": (width,)}
    for source, known in (("evo2", 6), ("scgpt", 5)):
        shapes |= {f"multi_source.bio_{source}": (n_genes, known)}
        shapes |= {
            f"multi_source.adapters.{source}.0.weight": (width, known),
            f"multi_source.adapters.{source}.0.bias": (width,),
            f"multi_source.adapters.{source}.1.weight": (width,),
            f"multi_source.adapters.{source}.1.bias": (width,),
        }
        for net, out in (("weight_net", width), ("bias_net", 1)):
            at = f"routers.{source}.{net}"
            shapes |= {f"{at}.0.weight": (16, known), f"{at}.0.bias": (16,)}
            shapes |= {f"{at}.2.weight": (out, 16), f"{at}.2.bias": (out,)}
    named |= {f"gene_decoder.{name}": shape for name, shape in shapes.items()}
    return {name: torch.from_numpy(rng.normal(0, 0.3, shape).astype(np.float32)) for name, shape in named.items()}


@pytest.fixture
def deepspotm_tensors():
    return random_deepspotm(len(GENES))


@pytest.fixture
def deepspotm_folder(tmp_path, deepspotm_tensors):
    """A folder with the files of DeepSpot-M."""
    folder = tmp_path / "DeepSpotM"
    folder.mkdir()
    save_file(deepspotm_tensors, folder / "model.safetensors")
    rows = [f"{gene},gene,{i}" for i, gene in enumerate(GENES)]
    (folder / "tokens.csv").write_text("\n".join(["token,token_type,token_id", *rows, "melanoma,disease,99"]))
    told = {"encoder_model": "MidnightEncoder", "init_gene_embeddings": ["evo2", "scgpt"], "cross_attn_heads": 2}
    (folder / "config.json").write_text(json.dumps(told | {"use_router": True, "use_lora": True, "r": 2}))
    return folder


@pytest.fixture
def deepspotm(deepspotm_folder):
    return st.models.pretrained("deepspotm", path=deepspotm_folder)
