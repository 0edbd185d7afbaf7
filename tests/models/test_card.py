"""The card of a model says what the model knows, and no more."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

import stpredict as st
from stpredict.models._base.card import model_card
from stpredict.pp._encoders.catalogue import KNOWN

GENES = ["GENE1", "GENE4", "GENE9"]


@pytest.fixture
def model(paired):
    return st.tl.train(paired(3), genes=GENES, method="ridge")


def encoded_by(sections, name):
    for adata in sections:
        for key in ("X_fake", "X_fake_niche"):
            adata.uns[key]["encoder"] = name
    return sections


def card_of(model, **how):
    """Metadata and text."""
    _, head, text = model_card(model, "lab/breast", **({"licence": "CC-BY-4.0"} | how)).split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_card_says_what_the_model_knows(paired):
    sections = paired(4, patients=["P0", "P0", "P1", "P2"])
    model = st.tl.train(encoded_by(sections, "efficientnet_lite0"), genes=GENES, method="ridge")
    head, text = card_of(model, tissue="human breast", cite="Doe et al. 2026")
    assert head == {
        "license": "cc-by-4.0",
        "library_name": "stpredict",
        "tags": ["spatial-transcriptomics", "histology", "gene-expression", "human breast"],
    }
    spots = f"{model.config['n_spots']:,}"
    for row in (
        "| sections | 4 |",
        "| patients | 3 |",
        f"| spots | {spots} |",
        "| genes | 3 (`model.genes`) |",
        "| encoder efficientnet_lite0 | weights `f00d`; windows of 112 µm, 560 µm; 1 µm per pixel; licence Apache-2.0 |",
    ):
        assert row in text
    assert 'predict_many("slides", model, "predicted", encoder="efficientnet_lite0")' in text
    assert text.rstrip().endswith("Doe et al. 2026")
    pcc = model.trust.reliability.pcc.clip(0, 1)
    low = (pcc - 1.6448536 * model.trust.reliability.pcc_sd).clip(0).mean()
    assert f"on patients held out of training: {pcc.mean():.2f} on average" in text
    assert f"is {low:.2f} to" in text
    assert "names the sections and patients of training" in text
    assert "Only" not in text


def test_the_card_does_not_say_more_than_is_known(paired):
    for sections, patients, held in (
        (paired(2), ["P0", "P1"], "on sections held out"),
        (paired(3), None, "on sections held out"),
        ([paired()], None, "on strips of the only section held out"),
    ):
        alone = st.tl.train(sections, genes=GENES, group_key=None if patients is None else "patient", method="ridge")
        _, text = card_of(alone)
        assert held in text
        assert ("Only 2 patients" if patients else "Not told how many patients") in text
        assert "| tissue | not told |" in text
        assert "licence not known to stpredict" in text
        assert "encoder=network" in text
    mean = st.tl.train(paired(2), method="mean", genes=GENES)
    mean.trust = type(mean.trust)()
    assert "Nothing is known" in card_of(mean)[1]


def test_features_of_ones_own_are_named(paired):
    sections = paired(3)
    for adata in sections:
        adata.obsm["mine"] = adata.obsm["X_fake"]
    _, text = card_of(st.tl.train(sections, genes=GENES, features=["mine", "X_fake"], method="ridge"))
    assert "`adata.obsm` needs `mine`, `X_fake`" in text
    assert "predict_many" not in text


SMALL = {"epochs": 1, "members": 1, "show_progress": False}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["mean", "density", "ridge", "knn", "mixture", "cmrcnet", "st_align", "align_st"])
def test_the_card_says_whether_training_expression_is_in_the_model(paired, method):
    """Looked for in every array that has a row for every training spot; sections may have been brought to one level."""
    sections = paired(2)
    options = SMALL if method in ("cmrcnet", "st_align", "align_st") else {}
    model = st.tl.train(sections, method=method, genes=list(sections[0].var_names), **options)
    counts = sections[0].X
    spots = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    n, shape = len(spots), (2 * len(spots), len(model.genes))
    found = [array[:n] - array[:n].mean(axis=0) for array in model.arrays.values() if array.shape == shape]
    holds = any(np.allclose(array, spots - spots.mean(axis=0), atol=1e-3) for array in found)
    assert holds == (method in ("knn", "mixture", "cmrcnet", "st_align"))
    assert ("Holds the expression of 162 training spots" in card_of(model)[1]) == holds


def test_the_card_of_an_adapted_model_tells_of_both(paired):
    sections = paired(4)
    model = st.tl.adapt(sections[3], st.tl.train(sections[:3], method="knn", genes=GENES))
    _, text = card_of(model)
    assert "| patients | 3 |" in text
    assert "| adapted to | 81 measured spots of 1 section |" in text
    assert "Holds what was measured on 81 spots" in text
    assert "Holds the expression of 243 training spots" in text


def test_an_encoder_that_is_trained_along_counts_too(model):
    model.config["options"] = {"image_encoder": "hf-hub:MahmoodLab/UNI2-h", "pretrained": True}
    with pytest.raises(ValueError, match="forbids derivatives"):
        model_card(model, "lab/x", licence="mit")
    model.config["options"]["pretrained"] = False
    assert "began as" not in model_card(model, "lab/x", licence="mit")
    model.config["options"] = {"image_encoder": "resnet50"}
    assert "began as `resnet50`: see the licence of these" in model_card(model, "lab/x", licence="mit")


def test_all_known_licences_that_forbid_derivatives_say_so():
    assert {name for name, spec in KNOWN.items() if "-ND" in spec.licence} == {
        "uni",
        "uni2-h",
        "h-optimus-1",
        "h0-mini",
        "virchow2",
    }
