from __future__ import annotations

import anndata
import numpy as np
import pytest
from anndata import AnnData

import stpredict as st
from stpredict._sections.open import open_sections


@pytest.fixture
def train(paired):
    return paired(3)


@pytest.fixture
def model(train):
    return st.tl.train(train, method="knn", genes=["GENE0", "GENE5"])


@pytest.fixture
def new(paired):
    """A section that the model has not seen."""
    return paired(4)[3]


def test_a_training_spot_finds_itself_by_section_and_name(train, model):
    adata = train[1]
    st.tl.retrieve(adata, model, n_neighbors=3)
    rows, found = adata.obsm["retrieved"], adata.uns["retrieved"]
    assert (found["bank_spot"][rows[:, 0]] == adata.obs_names).all()
    assert (found["sections"][found["bank_section"][rows[:, 0]]] == "section1").all()
    np.testing.assert_allclose(adata.obsm["retrieved_similarity"][:, 0], 1, atol=1e-5)


def test_what_is_written(model, new):
    st.tl.retrieve(new, model)
    rows, similarity, found = new.obsm["retrieved"], new.obsm["retrieved_similarity"], new.uns["retrieved"]
    assert rows.shape == similarity.shape == (new.n_obs, 10)
    assert (rows.dtype, similarity.dtype) == (np.int64, np.float32)
    assert (np.diff(similarity, axis=1) <= 0).all()
    assert len(found["bank_spot"]) == len(found["bank_section"]) == len(model.arrays["bank"]) == 243
    assert found["sections"].tolist() == ["section0", "section1", "section2"]
    assert (found["method"], found["encoder"], found["mpp"]) == ("knn", "fake", 1.0)
    assert found["parameters"] == {"features": ["X_fake", "X_fake_niche"], "k": 10}
    assert found.keys() == {
        *("sections", "bank_section", "bank_spot", "model_id", "method", "encoder", "mpp", "versions"),
        *("parameters", "date"),
    }


def test_the_prediction_can_be_rebuilt_from_what_was_retrieved(model, new):
    k = int(model.config["k"])
    st.tl.predict_expression(new, model)
    st.tl.retrieve(new, model, n_neighbors=k)
    rebuilt = model.arrays["expression"][new.obsm["retrieved"]].mean(axis=1)
    np.testing.assert_allclose(rebuilt, new[:, model.genes].layers["predicted"], atol=1e-5)
    assert new.uns["retrieved"]["model_id"] == new.uns["predicted"]["model_id"]


def test_h5ad_round_trip(model, new, tmp_path):
    st.tl.retrieve(new, model, key_added="like")
    new.write_h5ad(tmp_path / "new.h5ad")
    again = anndata.read_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(again.obsm["like"], new.obsm["like"])
    np.testing.assert_array_equal(again.obsm["like_similarity"], new.obsm["like_similarity"])
    for name in ("sections", "bank_section", "bank_spot"):
        assert again.uns["like"][name].tolist() == new.uns["like"][name].tolist()


def test_several_sections_are_searched_each_on_their_own(model, paired):
    parts = paired(5)[3:]
    both = anndata.concat(parts, uns_merge="unique", label="library_id", keys=["section3", "section4"])
    for key in ("X_fake", "X_fake_niche"):
        both.uns[key] = dict(parts[0].uns[key])
    order = np.random.default_rng(0).permutation(both.n_obs)
    both = both[order].copy()
    st.tl.retrieve(both, model, n_neighbors=4)
    for part in parts:
        st.tl.retrieve(part, model, n_neighbors=4)
        same = both[part.obs_names]
        np.testing.assert_allclose(same.obsm["retrieved_similarity"], part.obsm["retrieved_similarity"], atol=1e-5)
        np.testing.assert_array_equal(same.obsm["retrieved"], part.obsm["retrieved"])


def test_copy_and_no_counts(model, new, assert_same):
    before = new.copy()
    out = st.tl.retrieve(new, model, copy=True)
    assert_same(new, before)
    bare = AnnData(obs=new.obs[[]].copy(), obsm=dict(new.obsm), uns=new.uns)
    assert st.tl.retrieve(bare, model) is None
    np.testing.assert_array_equal(bare.obsm["retrieved"], out.obsm["retrieved"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"n_neighbors": 244}, "between 1 and the 243 spots of the reference bank, got 244"),
        (None, {"n_neighbors": 0}, "got 0"),
        (None, {"key_added": "a/b"}, "without '/'"),
        (lambda a: a.uns["X_fake"].update(encoder="other"), {}, "encoder=other, where the model was trained on fake"),
        (lambda a: a.obsm.pop("X_fake"), {}, "Run stpredict.pp.tiles"),
    ],
)
def test_bad_input_changes_nothing(model, new, assert_same, change, options, message):
    if change:
        change(new)
    before = new.copy()
    with pytest.raises(ValueError, match=message):
        st.tl.retrieve(new, model, **options)
    assert_same(new, before)


def test_a_model_without_a_bank_names_those_with_one(train, new):
    with pytest.raises(TypeError, match=r"'ridge' keeps no reference spots.*'knn'"):
        st.tl.retrieve(new, st.tl.train(train, genes=["GENE0"], method="ridge"))


def test_spatialdata_in_place(train, model, new):
    sdata = st.io.to_spatialdata(new)
    st.tl.retrieve(new, model, n_neighbors=3)
    st.tl.retrieve(sdata, model, n_neighbors=3)
    table = next(iter(sdata.tables.values()))
    np.testing.assert_array_equal(table.obsm["retrieved"], new.obsm["retrieved"])
    assert table.uns["retrieved"]["model_id"] == new.uns["retrieved"]["model_id"]


def test_real_look_alikes_express_alike(real):
    """her2st: the mean of ten C3 spots found for a C2 spot goes with its expression, that of random ones does not."""
    train, new = real("her2st", "C3"), real("her2st", "C2")
    for adata in (train, new):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    model = st.tl.train(train, method="knn")
    st.tl.retrieve(new, model)
    standard = [
        (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)
        for values in (open_sections(new)[0].log_expression(model.genes), model.arrays["expression"])
    ]

    def agreement(rows):
        return np.mean(
            [np.corrcoef(own, standard[1][r].mean(axis=0))[0, 1] for own, r in zip(standard[0], rows, strict=True)]
        )

    random = np.random.default_rng(0).integers(0, len(standard[1]), (new.n_obs, 10))
    assert agreement(new.obsm["retrieved"]) > 0.12
    assert abs(agreement(random)) < 0.03


def test_retrieved_spots_are_not_taken_for_image_features(paired):
    first, second = paired(2)
    genes = list(first.var_names)
    model = st.tl.train(first, method="knn", genes=genes)
    st.tl.retrieve(second, model, n_neighbors=3)
    assert list(st.tl.train([first, second], method="ridge", genes=genes).config["features"]) == [
        "X_fake",
        "X_fake_niche",
    ]
