"""What every process of ``torchrun`` does in test_processes.py: python train_in_processes.py STORES OUT [METHOD …]."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from torch import nn

import stpredict as st
from stpredict.models._aligned.hard_negatives import HardNegatives
from stpredict.models._training import callbacks, ensemble

FAST = {"epochs": 2, "width": 16, "members": 1, "batch_size": 64, "show_progress": False}
EXACT = {
    "cmrcnet": {"method": "cmrcnet", "feature_dropout": 0.0, "mask_share": 0.0, "rebuilt": 31},
    "st_align": {
        "method": "st_align",
        "feature_dropout": 0.0,
        "hidden_expression": 0.0,
        "clusters": 3,
        "companions": 1,
    },
    "align_st": {
        "method": "align_st",
        "feature_dropout": 0.0,
        "dropout": 0.0,
        "text_layers": 1,
        "gene_neighbours": 2,
        "axes": 4,
        "batch_size": None,
    },
}
OTHERS = {"align_st_few": {"method": "align_st", "axes": 4, "batch_size": None, "genes_per_step": 7, "epochs": 1}}


def train(stores, name, checkpoint=None):
    """A model; those in `EXACT` draw nothing at random but the order of spots."""
    seeded, companions = ensemble.seeded, HardNegatives.__call__
    if name in EXACT:
        ensemble.seeded = lambda *args: without_dropout(seeded(*args))
        HardNegatives.__call__ = lambda self, rows: (rows + 1) % len(self.stratum)
    own = FAST | (EXACT | OTHERS)[name]
    own = {option: value for option, value in own.items() if value is not None}
    sections = stores
    if own["method"] == "align_st":
        sections = [anndata.read_h5ad(path) for path in sorted(Path(stores).iterdir())]
    if own.get("text_layers"):
        names = sections[0].var_names
        own["gene_embeddings"] = pd.DataFrame(np.random.default_rng(0).standard_normal((len(names), 8)), names)
    try:
        return st.tl.train(sections, checkpoint=checkpoint, **own)
    finally:
        ensemble.seeded, HardNegatives.__call__ = seeded, companions


def without_dropout(network):
    for module in network.modules():
        if isinstance(module, (nn.Dropout, nn.AlphaDropout)):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return network


if __name__ == "__main__":
    stores, out, *names = sys.argv[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    st.settings.cache_dir = Path(out) / "cache"
    for name in names:
        callbacks.SECONDS = 0 if name == "cmrcnet" else 300
        model = train(stores, name, checkpoint=Path(out) / name)
        to = Path(out) / f"{name}{os.environ['RANK']}"
        np.savez(to.with_suffix(".npz"), **model.arrays)
        to.with_suffix(".json").write_text(json.dumps(model.history.values))
