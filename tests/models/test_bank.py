"""The reference bank: what a query finds in it, and where its spots came from."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import stpredict as st
from stpredict._section import open_sections
from stpredict.models import _retrieval, _store


@pytest.fixture
def unit():
    rng = np.random.default_rng(0)
    return lambda n: _retrieval.normalise(rng.standard_normal((n, 12)))


@pytest.mark.parametrize(("queries_at_once", "references_at_once"), [(1024, 65_536), (16, 7), (1, 500), (70, 1)])
def test_rows_and_similarities_are_those_of_brute_force(unit, monkeypatch, queries_at_once, references_at_once):
    monkeypatch.setattr(_retrieval, "QUERIES", queries_at_once)
    monkeypatch.setattr(_retrieval, "REFERENCES", references_at_once)
    bank, queries = unit(500), unit(70)
    rows, similarity = _retrieval.nearest(queries, bank, 9)
    distance, expected = (
        NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute").fit(bank).kneighbors(queries)
    )
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)
    assert (rows.dtype, similarity.dtype) == (np.int64, np.float32)


def test_the_whole_bank_can_be_asked_for_and_no_more(unit):
    bank = unit(6)
    rows, similarity = _retrieval.nearest(bank, bank, 6)
    assert (np.sort(rows, axis=1) == np.arange(6)).all()
    assert (np.diff(similarity, axis=1) <= 0).all()
    for k in (7, 0):
        with pytest.raises(ValueError, match=f"between 1 and the 6 spots of the reference bank, got {k}"):
            _retrieval.nearest(bank, bank, k)


def test_a_spot_of_the_bank_finds_itself_first(paired):
    sections = paired(3)
    model = st.tl.train(sections, method="knn")
    record = model.config["bank"]
    for number, adata in enumerate(sections):
        rows, similarity = model.neighbours(open_sections(adata)[0], 4)
        assert rows.shape == similarity.shape == (adata.n_obs, 4)
        np.testing.assert_allclose(similarity[:, 0], 1, atol=1e-5)
        assert [record["spots"][row] for row in rows[:, 0]] == list(adata.obs_names)
        assert {record["section"][row] for row in rows[:, 0]} == {number}


def test_the_record_leaves_out_spots_that_were_not_learned_from(paired):
    sections = paired(2)
    sections[0].X[[3, 40]] = 0
    model = st.tl.train(sections, method="knn")
    record = model.config["bank"]
    assert record["sections"] == ["section0", "section1"]
    assert record["section"] == [0] * 79 + [1] * 81
    assert record["spots"] == [*np.delete(sections[0].obs_names, [3, 40]), *sections[1].obs_names]
    assert len(model.arrays["bank"]) == 160


def test_spots_keep_their_names_where_sections_share_one_object(paired):
    import anndata

    first, second = paired(2)
    both = anndata.concat([first, second], uns_merge="unique", label="library_id", keys=["section0", "section1"])
    order = np.random.default_rng(0).permutation(both.n_obs)
    record = st.tl.train(both[order].copy(), method="knn").config["bank"]
    home = {name: 0 if name.startswith("s0") else 1 for name in both.obs_names}
    assert record["section"] == [home[name] for name in record["spots"]]
    assert sorted(record["spots"]) == sorted(both.obs_names)


def test_the_prediction_is_the_mean_of_the_neighbours(paired):
    train, new = paired(3)[:2], open_sections(paired(3)[2])[0]
    model = st.tl.train(train, method="knn")
    rows, _ = model.neighbours(new, int(model.config["k"]))
    np.testing.assert_allclose(model.predict(new).mean, model.arrays["expression"][rows].mean(axis=1), atol=1e-5)


def test_a_loaded_model_finds_the_same(paired, tmp_path):
    train, new = paired(3)[:2], open_sections(paired(3)[2])[0]
    model = st.tl.train(train, method="knn")
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    for before, after in zip(model.neighbours(new, 5), again.neighbours(new, 5), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "damage",
    [
        lambda config: config.pop("bank"),
        lambda config: config["bank"]["spots"].pop(),
        lambda config: config["bank"]["section"].__setitem__(0, 2),
    ],
)
def test_a_bank_of_unknown_origin_is_not_loaded(paired, tmp_path, damage):
    model = st.tl.train(paired(2), method="knn")
    damage(model.config)
    _store.write(tmp_path / "model", _store.Stored("knn", model.genes, model.config, model.arrays))
    with pytest.raises(ValueError, match="does not tell where its reference spots came from"):
        st.models.load(tmp_path / "model")
