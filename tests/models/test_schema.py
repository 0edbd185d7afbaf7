"""A configuration that was tampered with, and signed again, is refused when the model is read: file and field are named."""

from __future__ import annotations

import copy
import json

import pytest

import stpredict as st
from stpredict.models._base import files
from stpredict.models._base.schema import check_options
from stpredict.models.st_align._options import Options

GENES = [f"GENE{i}" for i in range(15)]
NETWORK = {"epochs": 1, "members": 1, "show_progress": False}
WRONG = [None, "x", -1.5, [], {}, [None], {"a": None}, True]


@pytest.fixture(scope="module")
def encoded():
    adata = st.datasets.simulate()
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    return adata


@pytest.fixture(scope="module")
def saved(tmp_path_factory, encoded):
    folder = tmp_path_factory.mktemp("models")
    adata = encoded.copy()
    genes = list(adata.var_names[:12])
    for method, options in (
        ("ridge", {}),
        ("knn", {}),
        ("cmrcnet", NETWORK),
        ("st_align", NETWORK),
        ("align_st", NETWORK),
    ):
        model = st.tl.train(adata, method=method, genes=genes, **options)
        model.save(folder / method)
    adata.obs["measured"] = adata.obs["array_row"] % 3 == 0
    st.tl.adapt(adata, folder / "ridge", measured="measured").save(folder / "adapted")
    return folder


def signed(path, rest):
    stored = files.Stored(rest["method"], rest["genes"], rest["config"], files.read(path).arrays)
    return rest | {"id": files.identity(stored)}


def places(config, depth=3):
    """Every field, and those within, as lists of keys."""
    for key, value in config.items():
        yield [key]
        if isinstance(value, dict) and depth > 1:
            yield from ([key, *inner] for inner in places(value, depth - 1))


@pytest.mark.parametrize("method", ["ridge", "knn", "cmrcnet", "st_align", "align_st", "adapted"])
def test_no_field_of_the_wrong_kind_ends_inside(saved, encoded, method):
    """ValueError, or a model that works all the same, whatever stands in whichever field."""
    folder = saved
    file = folder / method / "model.json"
    original = file.read_text()
    rest = json.loads(original)
    refused, n = [], 0
    try:
        for number, place in enumerate(places(rest["config"])):
            for wrong in (
                WRONG if method in ("ridge", "knn", "adapted") else WRONG[number % 4 :: 4]
            ):  # (networks are built)
                n += 1
                changed = copy.deepcopy(rest)
                within = changed["config"]
                for key in place[:-1]:
                    within = within[key]
                within[place[-1]] = wrong
                file.write_text(original)
                file.write_text(json.dumps(signed(folder / method, changed)))
                try:
                    model = st.models.load(folder / method)
                    assert model.history is not None
                    if method in ("ridge", "adapted"):
                        st.tl.predict_expression(encoded, model, key_added="of_damaged")
                except ValueError as error:
                    refused.append(str(error))
    finally:
        file.write_text(original)
    named = (f"The model at {folder / method} ", "Section 'sim_1': obsm")
    assert all(told.startswith(named) for told in refused)
    assert len(refused) > 0.5 * n
    st.models.load(folder / method)


@pytest.mark.parametrize(
    ("method", "place", "wrong", "told"),
    [
        ("ridge", ["features"], ["X_morphology"], "config.features must be an object of objects"),
        (
            "ridge",
            ["features", "X_morphology", "mpp"],
            "fine",
            r"config.features\['X_morphology'\].mpp must be a number",
        ),
        ("ridge", ["features"], {}, "config.features must be of 154 columns in all"),
        (
            "ridge",
            ["features", "X_morphology", "stain_norm"],
            [1],
            r"config.features\['X_morphology'\].stain_norm must be text",
        ),
        ("ridge", ["sections"], [], "config.sections must name the sections of all training spots"),
        ("ridge", ["history", "notes"], 3, "config.history.notes must be a list of texts"),
        ("cmrcnet", ["options", "width"], "wide", "config.options.width must be int"),
        (
            "cmrcnet",
            ["options", "depth_of_the_sea"],
            3,
            "config.options.depth_of_the_sea must be an option of this method",
        ),
        ("cmrcnet", ["bank", "spots"], None, "config.bank.spots must be a list of texts"),
        ("align_st", ["vocabulary"], 7, "config.vocabulary must be a list of texts"),
        ("adapted", ["pitches"], [0], "config.pitches must be a list of positive numbers"),
        ("adapted", ["base", "config", "features"], None, "config.features must be an object"),
    ],
)
def test_the_file_and_the_field_are_named(saved, method, place, wrong, told):
    folder = saved
    file = folder / method / "model.json"
    original = file.read_text()
    rest = json.loads(original)
    within = rest["config"]
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = wrong
    try:
        file.write_text(json.dumps(signed(folder / method, rest)))
        for load in (st.models.load, st.models.METHODS.get(rest["method"], st.models).load):
            with pytest.raises(ValueError, match=rf"model.json describes no model of method .*{told}"):
                load(folder / method)
    finally:
        file.write_text(original)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("image_encoder", 3, "vit_tiny_patch16_224"),  # text or nothing, by default nothing
        ("image_encoder", ["x"], None),
        ("negatives", None, "batch"),
        ("members", 2.5, 2),
        ("members", True, 1),
        ("learning_rate", "fast", 1e-3),
        ("learning_rate", float("nan"), 1),
        ("pretrained", 1, True),
        ("members", 0, 3),
    ],
)
def test_options_are_of_their_kinds(name, wrong, right):
    def check(value):
        check_options(files.Stored("st_align", [], {"options": {name: value}}, {}), Options(), "here")

    check(right)
    with pytest.raises(ValueError, match=rf"The model at here is damaged: .*config\.options.*{name} must be"):
        check(wrong)
