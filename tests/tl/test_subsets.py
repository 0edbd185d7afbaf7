"""A part of a section is predicted, and learned from, as the whole: features are standardised as they were encoded."""

from __future__ import annotations

import copy
import warnings

import anndata as ad
import numpy as np
import pytest

import stpredict as st
from stpredict._core.warning import StpredictWarning
from stpredict._sections.open import open_sections
from stpredict.models._data.features import design, raw_features, standardise

GENES = ["ERBB2", "KRT8", "COL1A1"]
KEYS = ["X_morphology", "X_morphology_niche"]
NETWORK = {"epochs": 1, "members": 1, "show_progress": False}


@pytest.fixture(scope="module")
def _encoded():
    sections = st.datasets.simulate(2)
    for adata in sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    return sections


@pytest.fixture
def encoded(_encoded):
    return [adata.copy() for adata in _encoded]


@pytest.fixture(scope="module")
def ridge(_encoded):
    return st.tl.train(_encoded[0], genes=GENES, method="ridge")


def tumour(adata):
    return (adata.obs["region"] == "tumor").to_numpy()


def predicted(data, model):
    found = st.tl.predict_expression(data, model, copy=True)
    return np.asarray(found[:, GENES].layers["predicted"])


def whole_sections_are_quiet(data, model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        return predicted(data, model)


def test_whole_sections_are_standardised_by_their_own_spots(encoded):
    """To the bit as without what is kept, so nothing of theirs changes."""
    (section,) = open_sections(encoded[0])
    np.testing.assert_array_equal(design(section, KEYS), standardise(raw_features(section, KEYS)))
    for key in KEYS:
        kept = encoded[0].uns[key]["sections"]["sim_1"]
        values = encoded[0].obsm[key]
        assert kept["n_spots"] == len(values)
        np.testing.assert_allclose(kept["mean"], values.mean(axis=0, dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(kept["sd"], values.std(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["ridge", "knn", "density", "cmrcnet", "st_align"])
def test_a_part_is_predicted_as_the_whole(encoded, method):
    first, second = encoded
    options = NETWORK if method in ("cmrcnet", "st_align") else {}
    model = st.tl.train(first, method=method, genes=GENES, **options)
    for rows in (tumour(second), np.arange(7), np.arange(second.n_obs)[::-3]):
        np.testing.assert_allclose(predicted(second[rows], model), predicted(second, model)[rows], atol=1e-5)


@pytest.mark.parametrize("method", ["mixture", "ridge", "align_st", "adapted"])
def test_models_that_compare_spots_say_so_of_a_part(encoded, method):
    """And what they say to do gives the values of the whole."""
    first, second = encoded
    options = NETWORK if method == "align_st" else {}
    if method in ("ridge", "adapted"):
        options["reference"] = second[:, :].copy()
    model = st.tl.train(first, method="ridge" if method == "adapted" else method, genes=GENES, **options)
    if method == "adapted":
        model = st.tl.adapt(first, model)
    whole, rows = whole_sections_are_quiet(second, model), tumour(second)
    with pytest.warns(StpredictWarning, match="Only a part of the spots of sim_2 is here, .* Predict the whole"):
        part = predicted(second[rows], model)
    assert np.abs(part - whole[rows]).max() > 1e-3


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_what_is_kept_is_written_and_read(encoded, ridge, tmp_path, ending):
    second = encoded[1]
    part, path = second[tumour(second)].copy(), tmp_path / f"part{ending}"
    (part.write_h5ad if ending == ".h5ad" else part.write_zarr)(path)
    again = ad.read_h5ad(path) if ending == ".h5ad" else ad.read_zarr(path)
    np.testing.assert_array_equal(predicted(again, ridge), predicted(second, ridge)[tumour(second)])


def test_parts_of_a_spatialdata_and_of_joined_sections(encoded, ridge):
    second = encoded[1]
    whole = predicted(second, ridge)[tumour(second)]
    sdata = st.io.to_spatialdata(second)
    name = next(iter(sdata.tables))
    sdata.tables[name] = sdata.tables[name][tumour(second)].copy()
    st.tl.predict_expression(sdata, ridge)
    np.testing.assert_array_equal(sdata.tables[name][:, GENES].layers["predicted"], whole)
    named = {adata.obs["section"].iloc[0]: adata for adata in encoded}
    joined = ad.concat(named, label="library_id", uns_merge="unique", index_unique="-")
    part = joined[(joined.obs["library_id"] == "sim_1") | (joined.obs["region"] == "tumor")].copy()
    np.testing.assert_array_equal(predicted(part, ridge)[-len(whole) :], whole)


def test_a_part_is_learned_from_as_of_the_whole(encoded, tmp_path):
    """In memory and from disk."""
    first = encoded[0]
    part = first[tumour(first)].copy()
    (section,) = open_sections(part)
    np.testing.assert_array_equal(design(section, KEYS), design(open_sections(first)[0], KEYS)[tumour(first)])
    part.write_h5ad(tmp_path / "part.h5ad")
    models = [
        st.tl.train(data, method="cmrcnet", genes=GENES, seed=1, **NETWORK) for data in (part, tmp_path / "part.h5ad")
    ]
    for name, values in models[0].arrays.items():
        np.testing.assert_array_equal(models[1].arrays[name], values)


def test_encoding_a_part_makes_it_a_whole(encoded, ridge):
    part = encoded[1][tumour(encoded[1])].copy()
    st.pp.encode(part, show_progress=False)
    (section,) = open_sections(part)
    np.testing.assert_array_equal(design(section, KEYS), standardise(raw_features(section, KEYS)))
    whole_sections_are_quiet(part, ridge)


def test_what_is_kept_of_others_is_not_used_and_told(encoded, ridge):
    second = encoded[1]
    part = second[tumour(second)].copy()
    own = standardise(raw_features(open_sections(part)[0], KEYS))

    changed = part.copy()
    changed.obsm[KEYS[0]] = changed.obsm[KEYS[0]] + 3 * changed.obsm[KEYS[0]].std(axis=0) + 1
    with pytest.warns(UserWarning, match="of other features"):
        found = design(open_sections(changed)[0], KEYS[:1])
    np.testing.assert_allclose(found, own[:, : found.shape[1]], atol=1e-2)

    renamed = part.copy()
    renamed.uns["spatial"] = {"other": renamed.uns["spatial"].pop("sim_2")}
    with pytest.warns(UserWarning, match="nothing is kept of this section"):
        np.testing.assert_array_equal(design(open_sections(renamed)[0], KEYS), own)

    more = ad.concat([second, part], uns_merge="first", index_unique="-")
    more.obs = more.obs.drop(columns=["array_row", "array_col"])  # (the same places twice would be refused)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        (section,) = open_sections(more)
        np.testing.assert_array_equal(design(section, KEYS), standardise(raw_features(section, KEYS)))


@pytest.mark.parametrize(
    ("where", "value"),
    [(("sections", "sim_2", "n_spots"), {"a": 1}), (("sections", "sim_2", "mean"), "x"), (("mpp",), {"a": 1})],
)
def test_a_damaged_record_of_features_is_refused_by_name(encoded, ridge, where, value):
    part = encoded[1][tumour(encoded[1])].copy()
    part.uns[KEYS[0]] = copy.deepcopy(part.uns[KEYS[0]])
    entry = part.uns[KEYS[0]]
    for name in where[:-1]:
        entry = entry[name]
    entry[where[-1]] = value
    with pytest.raises(ValueError, match=r"uns\['X_morphology'\].* is damaged .* run stpredict\.pp\.encode again"):
        st.tl.predict_expression(part, ridge)


def test_cross_validation_tells_parts_of_different_wholes_apart(encoded, tmp_path):
    from stpredict._benchmark.study import _digests

    part = encoded[0][tumour(encoded[0])].copy()
    before = _digests(open_sections(part), ["a"], [], None, {})
    part.uns[KEYS[0]]["sections"]["sim_1"]["mean"] += 1
    assert _digests(open_sections(part), ["a"], [], None, {}) != before
