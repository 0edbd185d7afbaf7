"""The same random weights through lazyslide-models, which runs the same published models: the numbers are the same.

``pip install lazyslide-models==0.1.0 transformers einops`` beside the package runs these tests; it is no dependency of ours.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import stpredict as st
from stpredict._sections.open import open_sections

theirs = pytest.importorskip(
    "lazyslide_models.feature_prediction", reason="lazyslide-models is not installed; its numbers are not compared"
)


class Ensemble(torch.nn.Module):
    """Members of two layers, by the names of the published archive; the mean of all."""

    def __init__(self, n_members, n_genes):
        super().__init__()
        self.members = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    "layer0": torch.nn.Sequential(torch.nn.Linear(768, 32), torch.nn.ReLU()),
                    "layer1": torch.nn.Sequential(torch.nn.Linear(32, n_genes), torch.nn.ReLU()),
                }
            )
            for _ in range(n_members)
        )

    def forward(self, x):
        return torch.stack([member["layer1"](member["layer0"](x)) for member in self.members]).mean(dim=0)


def test_path2space(section, ctranspath, path2space_folder, monkeypatch):
    """From an archive that ``torch.export`` itself writes."""
    genes = (path2space_folder / "Path2Space_genes.txt").read_text().split()
    torch.manual_seed(0)
    network = Ensemble(3, len(genes)).eval()
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(network, (torch.zeros(4, 768),), dynamic_shapes={"x": {0: rows}})
    torch.export.save(program, path2space_folder / "Path2Space_exported.pt2")
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda _, name, token=None: str(path2space_folder / name.split("/")[1])
    )
    spots = open_sections(ctranspath(section))[0]
    ours = st.models.pretrained("path2space", path=path2space_folder).predict(spots, genes).mean
    known = theirs.Path2Space().predict(spots.features("X_ctranspath"))
    np.testing.assert_allclose(ours, np.stack([known[gene] for gene in genes], axis=1), atol=1e-5)
    assert ours.std() > 1e-3


@pytest.mark.parametrize(
    ("organ", "technology"), [("Breast", "Visium"), (None, None), ("Kidney", "Spatial Transcriptomics")]
)
def test_stpath(section, gigapath, stpath_folder, organ, technology, monkeypatch):
    """Whole sections: every spot looks at all others."""
    from lazyslide_models.feature_prediction.stpath import N_ORGANS, N_TECH
    from lazyslide_models.feature_prediction.stpath._model import STFM

    ids = json.loads((stpath_folder / "symbol2ensembl.json").read_text())
    monkeypatch.setattr("lazyslide_models.feature_prediction.stpath._vocab.N_UNIQUE_GENES", len(set(ids.values())))
    torch.manual_seed(1)
    torch.save(STFM(len(set(ids.values())) + 2, N_TECH, N_ORGANS).state_dict(), stpath_folder / "stfm.pth")
    spots = open_sections(gigapath(section))[0]
    genes = [gene for gene in ids if not re.match("HER2|LOCAL", gene)]
    ours = st.models.pretrained("stpath", path=stpath_folder, organ=organ, technology=technology)
    files = {"model_path": stpath_folder / "stfm.pth", "gene_voc_path": stpath_folder / "symbol2ensembl.json"}
    other = theirs.STPath(organ_type=organ, tech_type=technology, genes=genes, **files)
    known = other.predict(spots.features("X_prov-gigapath"), spots.centres)
    predicted = ours.predict(spots, genes).mean
    np.testing.assert_allclose(predicted, np.stack([known[gene] for gene in genes], axis=1), atol=1e-5)
    assert predicted.std() > 1e-3
