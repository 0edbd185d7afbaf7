"""Options of the networks, all of them: published presets are the papers', defaults those of docs/methods.md."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from stpredict.models.align_st import _options as align_st
from stpredict.models.cmrcnet import _options as cmrcnet
from stpredict.models.st_align import _options as st_align

ALIGNED = {
    "image_encoder": None,
    "depth": None,
    "pretrained": False,
    "width": 256,
    "epochs": 40,
    "patience": 8,
    "batch_size": 128,
    "learning_rate": 5e-4,
    "weight_decay": 0.01,
    "warm_up": 0,
    "final_rate": 0.1,
    "final_weight_decay": None,
    "feature_dropout": 0.5,
    "standardise_genes": True,
    "level_sections": True,
    "temperature": 0.1,
    "decoder": 1.0,
    "neighbours": 200,
    "weighted": True,
    "members": 3,
    "bank_spots": 20_000,
}
"""Of CMRCNet and ST-Align both."""

CMRCNET = ALIGNED | {
    "heads": None,
    "normalise": True,
    "detach_targets": True,
    "log_each": False,
    "mask": "tokens",
    "mask_share": 0.5,
    "shared_fusion": False,
    "released_fusion": False,
    "rebuilt": 32,
    "reconstruction": 1.0,
}
ST_ALIGN = ALIGNED | {
    "expression_key": None,
    "spot": 0.4,
    "niche": 0.3,
    "fusion": "attention",
    "hidden_expression": 0.3,
    "rebuild": 3.0,
    "gene_tokens": 4,
    "niche_layers": 0,
    "train_encoders": True,
    "soft_targets": True,
    "clusters": 6,
    "companions": 0,
    "negatives": "batch",
    "decay_vectors": True,
}
ALIGN_ST = {
    "width": 128,
    "epochs": 15,
    "patience": 15,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "genes_per_step": None,
    "feature_dropout": 0.2,
    "dropout": 0.3,
    "nuclei": False,
    "refinement": 1,
    "feature_neighbours": 5,
    "coordinates": True,
    "text_layers": 0,
    "prompts": 4,
    "interaction": True,
    "alpha": 0.5,
    "gene_neighbours": 0,
    "axes": 50,
    "as_unseen": 0.5,
    "members": 3,
}
PUBLISHED = {
    cmrcnet: {
        "image_encoder": "vit_base_patch32_224",
        "depth": 8,
        "heads": 8,
        "epochs": 60,
        "patience": 60,
        "batch_size": 64,
        "learning_rate": 1e-4,
        "weight_decay": 1e-3,
        "feature_dropout": 0.0,
        "standardise_genes": False,
        "level_sections": False,
        "normalise": False,
        "temperature": 1.0,
        "detach_targets": False,
        "log_each": True,
        "mask": "elements",
        "shared_fusion": True,
        "released_fusion": True,
        "rebuilt": None,
        "decoder": 0.0,
        "neighbours": 50,
        "weighted": False,
        "members": 1,
    },
    st_align: {
        "image_encoder": "resnet50",
        "width": 512,
        "epochs": 100,
        "patience": 100,
        "batch_size": 64,
        "learning_rate": 1.25e-4,
        "weight_decay": 0.04,
        "warm_up": 2,
        "final_rate": 0.008,
        "final_weight_decay": 0.4,
        "feature_dropout": 0.0,
        "standardise_genes": False,
        "level_sections": False,
        "decoder": 0.0,
        "members": 1,
        "fusion": "released",
        "hidden_expression": 0.0,
        "rebuild": 0.0,
        "gene_tokens": 8,
        "niche_layers": 6,
        "soft_targets": False,
        "companions": 5,
        "negatives": "companions",
        "decay_vectors": False,
    },
    align_st: {
        "width": 256,
        "epochs": 300,
        "patience": 300,
        "learning_rate": 5e-4,
        "weight_decay": 1e-4,
        "genes_per_step": 64,
        "feature_dropout": 0.0,
        "dropout": 0.1,
        "nuclei": True,
        "refinement": 4,
        "coordinates": False,
        "text_layers": 4,
        "gene_neighbours": 8,
        "members": 1,
    },
}
DEFAULTS = {cmrcnet: CMRCNET, st_align: ST_ALIGN, align_st: ALIGN_ST}


@pytest.mark.parametrize("method", DEFAULTS, ids=lambda method: method.__name__.split(".")[-2])
def test_every_option_is_what_the_methods_page_says(method):
    assert asdict(method.PRESETS["default"]) == DEFAULTS[method]
    published = DEFAULTS[method] | PUBLISHED[method]
    assert asdict(method.PRESETS["published"]) == published


def test_whole_sections_are_a_batch_of_align_st_and_its_rate_falls_to_a_tenth():
    options = align_st.PRESETS["published"]
    assert (options.batch_size, options.warm_up, options.final_rate, options.final_weight_decay) == (1, 1, 0.1, None)
