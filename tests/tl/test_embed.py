from __future__ import annotations

import anndata
import numpy as np
import pytest

import stpredict as st


@pytest.fixture
def model(paired):
    return st.tl.train(paired(2), method="st_align", epochs=2, members=1, width=32, show_progress=False)


@pytest.fixture
def new(paired):
    return paired(3)[2]


@pytest.mark.parametrize("use", ["image", "expression", "fused"])
def test_the_space_is_written_with_its_record(model, new, use, tmp_path):
    assert st.tl.embed(new, model, use=use) is None
    assert new.obsm["X_st_align"].shape == (81, 36 if use == "fused" else 64)
    assert new.obsm["X_st_align"].dtype == np.float32
    record = new.uns["X_st_align"]
    assert record["method"] == "st_align"
    assert record["parameters"]["use"] == use
    new.write_h5ad(tmp_path / "new.h5ad")
    again = anndata.read_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(again.obsm["X_st_align"], new.obsm["X_st_align"])


def test_a_copy_leaves_the_data_alone(model, new, assert_same):
    before = new.copy()
    changed = st.tl.embed(new, model, copy=True, key_added="joint")
    assert_same(before, new)
    assert "joint" in changed.obsm
    assert "X_st_align" not in changed.obsm


def test_the_embedding_is_not_taken_for_image_features(model, new):
    st.tl.embed(new, model)
    again = st.tl.train(new, method="ridge", genes=["GENE0", "GENE1"])
    assert "X_st_align" not in again.config["features"]


def test_several_sections_land_in_one_space(model, paired):
    one, two = paired(4)[2:]
    both = anndata.concat([one, two], uns_merge="unique", label="library_id", keys=["section2", "section3"])
    both.obs_names_make_unique()
    st.tl.embed(both, model, use="fused")
    st.tl.embed(two, model, use="fused")
    np.testing.assert_allclose(both.obsm["X_st_align"][81:], two.obsm["X_st_align"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"use": "text"}, ValueError, "use must be one of 'image', 'expression', 'fused'"),
        ({"key_added": "a/b"}, ValueError, "key_added"),
    ],
)
def test_bad_input_changes_nothing(model, new, assert_same, kwargs, error, message):
    before = new.copy()
    with pytest.raises(error, match=message):
        st.tl.embed(new, model, **kwargs)
    assert_same(before, new)


def test_features_made_differently_are_refused(model, new):
    new.uns["X_fake"]["encoder_hash"] = "other"
    with pytest.raises(ValueError, match="encoder_hash"):
        st.tl.embed(new, model)


def test_an_adapted_model_embeds_in_the_space_of_its_base(paired):
    sections = paired(3)
    base = st.tl.train(sections[:2], method="ridge")
    sections[2].obs["measured"] = np.arange(sections[2].n_obs) % 4 == 0
    model = st.tl.adapt(sections[2], base, measured="measured")
    st.tl.embed(sections[2], base, key_added="base")
    st.tl.embed(sections[2], model, key_added="adapted")
    np.testing.assert_array_equal(sections[2].obsm["adapted"], sections[2].obsm["base"])
    with pytest.raises(ValueError, match="use, for a model of method 'ridge'"):
        st.tl.embed(sections[2], model, use="fused")
