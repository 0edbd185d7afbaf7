"""The reference bank: what a query finds in it, and where its spots came from."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._base import files
from stpredict.models._retrieval import bank, faiss, search


@pytest.fixture
def unit():
    rng = np.random.default_rng(0)
    return lambda n: search.normalise(rng.standard_normal((n, 12)))


@pytest.mark.parametrize(("queries_at_once", "references_at_once"), [(1024, 65_536), (16, 7), (1, 500), (70, 1)])
def test_rows_and_similarities_are_those_of_brute_force(unit, monkeypatch, queries_at_once, references_at_once):
    monkeypatch.setattr(search, "QUERIES", queries_at_once)
    monkeypatch.setattr(search, "REFERENCES", references_at_once)
    bank, queries = unit(500), unit(70)
    rows, similarity = search.nearest(queries, bank, 9)
    distance, expected = (
        NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute").fit(bank).kneighbors(queries)
    )
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)
    assert (rows.dtype, similarity.dtype) == (np.int64, np.float32)


def test_the_whole_bank_can_be_asked_for_and_no_more(unit):
    bank = unit(6)
    rows, similarity = search.nearest(bank, bank, 6)
    assert (np.sort(rows, axis=1) == np.arange(6)).all()
    assert (np.diff(similarity, axis=1) <= 0).all()
    for k in (7, 0):
        with pytest.raises(ValueError, match=f"between 1 and the 6 spots of the reference bank, got {k}"):
            search.nearest(bank, bank, k)


def in_order(queries, bank, k):
    """Brute force: of equally similar vectors, the first."""
    similarity = queries.astype(np.float64) @ bank.T.astype(np.float64)
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(similarity, rows, axis=1)


@pytest.mark.parametrize("k", [1, 2, 7, 40])
@pytest.mark.parametrize("references_at_once", [65_536, 16, 3])
@pytest.mark.parametrize("distinct", [1, 3, 1000])
def test_of_equal_spots_the_first_is_found(monkeypatch, k, references_at_once, distinct):
    monkeypatch.setattr(search, "REFERENCES", references_at_once)
    monkeypatch.setattr(search, "QUERIES", 4)
    rng = np.random.default_rng(0)
    exact = rng.choice([-0.5, 0, 0.5], (distinct, 4)).astype(np.float32)  # products without rounding
    bank, queries = exact[rng.integers(distinct, size=40)], rng.choice([-0.5, 0, 0.5], (9, 4)).astype(np.float32)
    rows, similarity = search.nearest(queries, bank, k)
    expected = in_order(queries, bank, k)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(similarity, expected[1])


def test_a_bank_in_half_precision_is_searched_exactly(unit, monkeypatch):
    monkeypatch.setattr(search, "REFERENCES", 128)
    fine, queries = unit(3000), unit(50)
    bank = fine.astype(np.float16)
    rows, similarity = search.nearest(queries, bank, 20)
    expected = in_order(queries, bank, 20)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_allclose(similarity, expected[1], atol=1e-6)
    np.testing.assert_allclose(similarity, search.nearest(queries, fine, 20)[1], atol=1e-3)


def test_a_vector_of_zeros_is_like_no_other(unit):
    bank, queries = unit(30), unit(3)
    bank[4] = queries[1] = 0
    _, similarity = search.nearest(queries, bank, 30)
    assert (similarity[1] == 0).all()
    rows, similarity = search.nearest(queries, bank, 5)
    assert 4 not in rows[[0, 2]]
    assert rows[1].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("wrong", ["bank", "queries"])
def test_vectors_that_are_not_finite_are_refused(unit, wrong):
    vectors = {"bank": unit(30), "queries": unit(3)}
    vectors[wrong][2, 1] = np.nan
    with pytest.raises(ValueError, match="not finite; check the image features for NaN"):
        search.nearest(vectors["queries"], vectors["bank"], 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("temperature", [None, 0.1])
def test_mean_and_spread_are_those_of_the_neighbours_however_many_are_gathered(unit, monkeypatch, dtype, temperature):
    bank, queries = unit(2000), unit(40)
    expression = np.random.default_rng(1).gamma(2, 1, (2000, 6)).astype(dtype)
    rows, similarity = in_order(queries, bank, 30)
    weights = np.ones_like(similarity) if temperature is None else np.exp(similarity / temperature)
    weights = (weights / weights.sum(axis=1, keepdims=True))[..., None]
    chosen = expression[rows].astype(np.float64)
    mean = (weights * chosen).sum(axis=1)
    spread = np.sqrt((weights * np.square(chosen - mean[:, None])).sum(axis=1))
    whole = search.retrieve(queries, bank, expression, k=30, temperature=temperature)
    monkeypatch.setattr(search, "GATHERED", 30 * 6 * 7)
    parts = search.retrieve(queries, bank, expression, k=30, temperature=temperature)
    for found, again, expected in zip(whole, parts, (mean, spread), strict=True):
        np.testing.assert_array_equal(found, again)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_few_rows_of_the_expression_are_gathered_at_once(unit, monkeypatch):
    class Watched(np.ndarray):
        most = 0

        def __getitem__(self, rows):
            found = super().__getitem__(rows)
            if isinstance(rows, np.ndarray):
                Watched.most = max(Watched.most, len(rows))
            return np.asarray(found)

    monkeypatch.setattr(search, "GATHERED", 10_000)
    expression = np.ones((20_000, 10), dtype=np.float16).view(Watched)
    mean, spread = search.retrieve(unit(300), unit(20_000), expression, k=50, temperature=None)
    assert 500 < Watched.most <= 1000
    np.testing.assert_allclose(mean, 1, atol=1e-6)
    np.testing.assert_allclose(spread, 0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_approximate_search_finds_most_and_only_where_it_is_asked_for(monkeypatch, dtype):
    pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.setattr(faiss, "LEAST", 5000)
    monkeypatch.setattr(faiss, "PROBED", 16)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((8, 32))
    bank, queries = (search.normalise(rng.standard_normal((n, 8)) @ latent) for n in (5000, 60))
    bank = bank.astype(dtype)
    exact = search.nearest(queries, bank, 20)
    with st.settings.override(search="approximate"):
        found = search.nearest(queries, bank, 20)
        small = search.nearest(queries, bank[:4000], 20)
        all_of_them = search.nearest(queries[:2], bank, 5000)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(exact[0], found[0], strict=True)])
    assert recall > 0.8
    assert (np.diff(found[1], axis=1) <= 0).all()
    cosines = np.einsum("qd,qkd->qk", queries, bank[found[0]].astype(np.float32))
    np.testing.assert_allclose(found[1], cosines, atol=1e-3)
    np.testing.assert_array_equal(small[0], search.nearest(queries, bank[:4000], 20)[0])
    np.testing.assert_array_equal(np.sort(all_of_them[0]), [np.arange(5000)] * 2)
    assert len(faiss._indices) == 1
    del bank
    assert not faiss._indices


def test_approximate_search_without_faiss_says_what_to_install(unit, monkeypatch):
    monkeypatch.setattr(faiss, "LEAST", 10)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with st.settings.override(search="approximate"), pytest.raises(ImportError, match=r"stpredict\[faiss\]"):
        search.nearest(unit(3), unit(20), 2)
    with pytest.raises(ValueError, match=r"settings\.search must be 'exact' or 'approximate', got 'fast'"):
        st.settings.search = "fast"


@pytest.mark.filterwarnings("ignore:.*has not left chance")
def test_a_large_bank_is_kept_in_half_precision(paired, tmp_path, monkeypatch):
    train, new = paired(3)[:2], open_sections(paired(3)[2])[0]
    how = {"method": "cmrcnet", "epochs": 1, "width": 16, "members": 1, "show_progress": False}
    for method in ({"method": "knn"}, how):
        small = st.tl.train(train, **method)
        monkeypatch.setattr(bank, "LARGE", 161)
        large = st.tl.train(train, **method)
        monkeypatch.undo()
        assert [small.arrays[name].dtype for name in ("bank", "expression")] == [np.float32] * 2
        assert [large.arrays[name].dtype for name in ("bank", "expression")] == [np.float16] * 2
        large.save(tmp_path / "model")
        found, expected = large.predict(new), small.predict(new)
        assert found.mean.dtype == found.std.dtype == np.float32
        np.testing.assert_allclose(found.mean, expected.mean, atol=0.02)
        np.testing.assert_allclose(found.std, expected.std, atol=0.02)
        again = st.models.load(tmp_path / "model")
        np.testing.assert_array_equal(again.predict(new).mean, large.predict(new).mean)


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
    files.write(tmp_path / "model", files.Stored("knn", model.genes, model.config, model.arrays))
    with pytest.raises(ValueError, match="does not tell where its reference spots came from"):
        st.models.load(tmp_path / "model")
