"""Models that are passed on without the expression of single training spots."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._base.card import model_card
from stpredict.models._base.files import identity
from stpredict.models.cmrcnet import CmrcNet
from stpredict.models.st_align import StAlign

WITH_DECODER = ("cmrcnet", "st_align", "consensus")
WITHOUT_SPOTS = ("mean", "density", "ridge", "align_st")
NEED_SPOTS = ("knn", "mixture")

pytestmark = pytest.mark.filterwarnings("ignore:.*has not left chance", "ignore:Fewer than 20 genes")


@pytest.fixture(scope="module", autouse=True)
def _small_networks():
    with pytest.MonkeyPatch.context() as patch:
        for kind in (CmrcNet, StAlign):
            small = replace(kind.presets["default"], epochs=25, width=32, members=2)
            patch.setattr(kind, "presets", {"default": small})
        yield


@pytest.fixture(scope="module")
def sections(paired):
    return paired(4, n_genes=60)


@pytest.fixture(scope="module")
def trained(sections):
    """Train a model once per method."""
    known = {}

    def of(method):
        if method not in known:
            own = {"epochs": 1, "members": 1, "show_progress": False} if method == "align_st" else {}
            own |= {"show_progress": False} if method in WITH_DECODER else {}
            known[method] = st.tl.train(sections[:3], method=method, genes=list(sections[0].var_names), **own)
        return known[method]

    return of


def centred(values):
    values = values - values.mean(axis=0)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)


def holding_spots(folder, sections):
    """Arrays of a stored model in which, along any axis, lies the expression of a training spot, up to each gene's level."""
    genes = json.loads((folder / "model.json").read_text())["genes"]
    spots = np.concatenate([centred(open_sections(adata)[0].log_expression(genes)) for adata in sections])
    found = set()
    for name, array in load_file(folder / "model.safetensors").items():
        for axis in range(array.ndim):
            if array.shape[axis] == len(genes) and array.ndim > 1:
                rows = np.moveaxis(array, axis, -1).reshape(-1, len(genes)).astype(np.float64)
                if (centred(rows) @ spots.T).max() > 0.99:
                    found.add(name)
    return found


def of_every_spot(folder, n_spots):
    """Arrays with a row for every training spot, but for where their images lie."""
    arrays = load_file(folder / "model.safetensors")
    return {name for name, array in arrays.items() if n_spots in array.shape and not name.startswith("domain_")}


@pytest.mark.parametrize("method", WITH_DECODER)
def test_no_training_spot_is_left_in_the_files(trained, sections, method, tmp_path):
    model = trained(method)
    model.save(tmp_path / "whole")
    model.save(tmp_path / "less", share_bank=False)
    n = model.config["n_spots"]
    assert holding_spots(tmp_path / "whole", sections[:3])  # the search finds them where they are
    assert of_every_spot(tmp_path / "whole", n)
    assert not holding_spots(tmp_path / "less", sections[:3])
    assert not of_every_spot(tmp_path / "less", n)
    text = (tmp_path / "less" / "model.json").read_text()
    assert "s0_17" in (tmp_path / "whole" / "model.json").read_text()
    assert not any(name in text for name in sections[0].obs_names)


@pytest.mark.parametrize("method", WITH_DECODER)
def test_it_predicts_and_says_what_that_costs(trained, sections, method, tmp_path):
    model, new = trained(method), sections[3].copy()
    model.save(tmp_path / "whole")
    whole = st.models.load(tmp_path / "whole")  # a model that was loaded can be passed on, too
    whole.save(tmp_path / "less", share_bank=False)
    less = st.models.load(tmp_path / "less")
    assert identity(whole) == identity(model) != identity(less)
    assert identity(less) == identity(model.without_bank()) == identity(less.without_bank())
    st.tl.predict_expression(new, model, key_added="whole")
    st.tl.predict_expression(new, less, key_added="less", std=True, interval=0.9)
    genes = list(new.var_names)
    reached = {key: st.tl.evaluate(new, predicted=key, panels={"all": genes}) for key in ("whole", "less")}
    pcc = {key: table[table["metric"] == "pcc"]["value"].mean() for key, table in reached.items()}
    assert pcc["less"] > 0.5 * pcc["whole"] > 0.25
    before, after = less.config["without_bank"]["inner_pcc"]
    assert after == pytest.approx(pcc["less"], abs=0.12)
    assert less.history.score == after
    assert f"PCC {after:.3f} on inner held-out spots; with them {before:.3f}" in less.history.notes[-1]
    stated = new.var["less_reliability"]
    assert stated.mean() == pytest.approx(pcc["less"], abs=0.12)
    assert new.uns["less"]["domain"]["verdict"] == new.uns["whole"]["domain"]["verdict"]
    held = reached["less"].set_index(["metric", "gene"])["value"]["interval_coverage"]
    assert held.mean() == pytest.approx(0.9, abs=0.07)
    assert np.isfinite(new.layers["less_std"]).all()
    _, _, card = model_card(less, "lab/x", licence="mit").split("---\n", 2)
    assert "Holds no expression of single training spots" in card
    assert f"{after:.3f} without and {before:.3f} with them" in card
    assert "Holds the expression of" in model_card(model, "lab/x", licence="mit")


def test_what_decoders_say_is_brought_to_the_level_of_expression(trained, sections):
    """The mean of both members' decoders, at mean and spread of genes in training."""
    import torch

    model, section = trained("cmrcnet"), open_sections(sections[3])[0]
    less = model.without_bank()
    images = [torch.from_numpy(array) for array in model.design(section)]
    with torch.inference_mode():
        each = [network.decoder(network.image(*images)).numpy() for network in model._networks()]
    expected = np.mean(each, axis=0) * model.arrays["gene_sd"] + model.arrays["gene_level"]
    np.testing.assert_allclose(less.predict(section).mean, expected, rtol=1e-4, atol=1e-4)
    measured = section.log_expression(model.genes)
    assert abs(less.predict(section).mean.mean() - measured.mean()) < 0.3


def test_the_consensus_keeps_ridge_and_decoders_and_weighs_them_anew(trained):
    model = trained("consensus")
    less = model.without_bank()
    assert list(model.parts) == ["ridge", "knn", "cmrcnet"]
    assert list(less.parts) == ["ridge", "cmrcnet"]
    assert less.arrays["weights"].shape == (2,)
    assert less.arrays["weights"].sum() == pytest.approx(1)
    assert list(model.parts) == ["ridge", "knn", "cmrcnet"]  # the model itself stays as it was
    assert "bank" in model.config


@pytest.mark.parametrize("method", WITHOUT_SPOTS)
def test_methods_that_hold_no_spots_stay_as_they_are(trained, sections, method, tmp_path):
    model = trained(method)
    model.save(tmp_path / "less", share_bank=False)
    assert identity(st.models.load(tmp_path / "less")) == identity(model)
    assert not holding_spots(tmp_path / "less", sections[:3])


@pytest.mark.parametrize("method", NEED_SPOTS)
def test_methods_that_cannot_do_without_name_those_that_can(trained, method, tmp_path):
    with pytest.raises(
        ValueError, match=rf"method '{method}' predicts from .* 'consensus', .*'ridge', 'mean', 'density'"
    ):
        trained(method).save(tmp_path / "less", share_bank=False)
    assert not (tmp_path / "less").exists()


def test_networks_without_decoder_and_adapted_models_are_refused_alike(trained, sections, tmp_path):
    bare = st.tl.train(
        sections[:2], method="cmrcnet", genes=["GENE1", "GENE2"], decoder=0.0, epochs=1, members=1, show_progress=False
    )
    adapted = st.tl.adapt(sections[3], trained("ridge"))
    for model in (bare, adapted):
        with pytest.raises(ValueError, match=r"cannot do without \(share_bank=False\)"):
            model.save(tmp_path / "less", share_bank=False)
        with pytest.raises(ValueError, match=r"cannot do without \(share_bank=False\)"):
            model.push_to_hub("lab/x", licence="mit", share_bank=False)  # before the hub is asked


def test_there_is_nothing_to_retrieve(trained, sections):
    for method in WITH_DECODER:
        with pytest.raises(TypeError, match="saved without its reference spots"):
            st.tl.retrieve(sections[3], trained(method).without_bank())


def test_files_that_claim_otherwise_are_refused(trained, tmp_path):
    from stpredict.models._base import files

    model = trained("cmrcnet").without_bank()
    files.write(
        tmp_path / "odd", files.Stored(model.method, model.genes, model.config | {"has_bank": True}, model.arrays)
    )
    with pytest.raises(ValueError, match="damaged"):
        st.models.load(tmp_path / "odd")
