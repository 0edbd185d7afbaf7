"""Look-alikes and what is read off them, on vectors that can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import stpredict as st
from stpredict.models._base.files import Stored
from stpredict.models._data import rows
from stpredict.models._retrieval import bank, faiss, search

BANK = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0], [0.6, 0.8]], dtype=np.float32)
EAST_AND_NORTH = np.array([[1, 0], [0, 1]], dtype=np.float32)


def test_vectors_are_brought_to_length_1_and_nothing_stays_nothing():
    found = search.normalise(np.array([[3.0, 4], [0, 0], [3e-4, -4e-4]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [0.6, -0.8]], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("k", "east", "north"), [(1, [0], [2]), (2, [0, 1], [2, 1]), (4, [0, 1, 4, 2], [2, 1, 4, 0])])
def test_the_most_similar_come_first_and_of_equal_ones_the_first(k, east, north):
    found, similarity = search.nearest(EAST_AND_NORTH, BANK, k)
    np.testing.assert_array_equal(found, [east, north])
    np.testing.assert_allclose(similarity, [BANK[east, 0], BANK[north, 1]], rtol=1e-6)


@pytest.mark.parametrize("tied", [[0, 0, 0, 0, 0], [0.5, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5], [0.5, 0, 0.25, 0, 0]])
def test_equal_ones_at_the_end_of_the_list_are_the_first_of_their_kind(tied):
    many = np.column_stack([np.tile(tied, 40), np.zeros(200)]).astype(np.float32)
    for k in (1, 2, 40, 41, 79, 80, 199, 200):
        found, _ = search.nearest(EAST_AND_NORTH[:1], many, k)
        np.testing.assert_array_equal(found[0], np.argsort(-many[:, 0], kind="stable")[:k])


def test_what_is_held_at_once_takes_64_mib_at_most():
    """As the description of memory promises."""
    assert 4 * search.QUERIES * search.REFERENCES <= 64 * 2**20
    assert 4 * search.GATHERED <= 64 * 2**20


def test_queries_that_an_approximate_search_finds_too_few_for_are_searched_exactly(monkeypatch):
    few = (np.array([[3, 0], [1, -1]]), np.array([[0.9, 0.8], [0.7, 0]], dtype=np.float32))
    monkeypatch.setattr(faiss, "LEAST", 5)
    monkeypatch.setattr(faiss, "search", lambda *_: tuple(values.copy() for values in few))
    np.testing.assert_array_equal(search.nearest(EAST_AND_NORTH, BANK, 2)[0], [[0, 1], [2, 1]])
    with st.settings.override(search="approximate"):
        found, similarity = search.nearest(EAST_AND_NORTH, BANK, 2)
        np.testing.assert_array_equal(search.nearest(EAST_AND_NORTH, BANK[:4], 2)[0], [[0, 1], [2, 1]])
    np.testing.assert_array_equal(found, [[3, 0], [2, 1]])
    np.testing.assert_allclose(similarity, [[0.9, 0.8], [1, 0.8]], rtol=1e-6)


EXPRESSION = np.array([[1.0, 0], [3, 0], [8, 0], [9, 9], [3, 6]], dtype=np.float32)


def test_expression_is_read_off_look_alikes():
    mean, spread = search.retrieve(EAST_AND_NORTH, BANK, EXPRESSION, k=2, temperature=None)
    np.testing.assert_allclose(mean, [[2, 0], [5.5, 0]], atol=1e-6)
    np.testing.assert_allclose(spread, [[1, 0], [2.5, 0]], atol=1e-6)
    mean, spread = search.retrieve(EAST_AND_NORTH, BANK, EXPRESSION, k=2, temperature=0.4 / np.log(3))
    np.testing.assert_allclose(mean[0], [1.5, 0], atol=1e-6)  # the second is less similar by 0.4, and counts a third
    np.testing.assert_allclose(spread[0], [np.sqrt(0.75), 0], atol=1e-6)
    sharp, _ = search.retrieve(EAST_AND_NORTH, BANK, EXPRESSION, k=2, temperature=1e-3)
    np.testing.assert_allclose(sharp, EXPRESSION[[0, 2]], atol=1e-6)
    whole, spread = search.retrieve(EAST_AND_NORTH, BANK, EXPRESSION, k=9, temperature=None)
    np.testing.assert_allclose(whole, [[4.8, 3]] * 2, rtol=1e-6)
    np.testing.assert_allclose(spread, [EXPRESSION.std(axis=0)] * 2, rtol=1e-5)
    assert [values.shape for values in search.retrieve(BANK[:0], BANK, EXPRESSION, k=2, temperature=None)] == [
        (0, 2)
    ] * 2


@pytest.mark.parametrize(
    ("at_once", "times"), [(1, (3, 3, 3)), (4, (2, 3, 3)), (9, (1, 2, 3)), (10, (1, 1, 1)), (100, (1, 1, 1))]
)
def test_rows_are_averaged_however_few_are_gathered_at_once(monkeypatch, at_once, times):
    """Three spots with one, two and three neighbours of two genes; all ten values there are may be held, or fewer."""
    monkeypatch.setattr(search, "GATHERED", at_once)
    for neighbours, expected, n in zip(
        ([[0], [4], [4]], [[0, 1], [2, 3], [1, 1]], [[0, 1, 4], [2, 3, 4], [3, 1, 1]]),
        ([[1, 0], [3, 6], [3, 6]], [[2, 0], [8.5, 4.5], [3, 0]], [[7 / 3, 2], [20 / 3, 5], [5, 3]]),
        times,
        strict=True,
    ):
        gathered = []

        class Values(np.ndarray):
            def __getitem__(self, which, gathered=gathered):
                gathered.append(len(which))
                return np.asarray(self)[which]

        found = search.average(np.array(neighbours), EXPRESSION.view(Values))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert len(gathered) == n


# ---------------------------------------------------------------------- the bank


def test_banks_of_more_than_fifty_thousand_spots_are_kept_in_half_precision(monkeypatch):
    values = np.arange(50_001, dtype=np.float32)[:, None] / 64
    assert bank.compact(values[:50_000]).dtype == np.float32
    large = bank.compact(values)
    assert large.dtype == np.float16
    np.testing.assert_array_equal(large, values.astype(np.float16))
    monkeypatch.setattr(bank, "LARGE", 4)
    monkeypatch.setattr(rows, "CHUNK", 2)
    np.testing.assert_array_equal(bank.compact(values[:5]), np.float16(values[:5]))
    np.testing.assert_array_equal(bank.compact(values[:4]), values[:4])


def test_the_record_of_a_bank_names_section_and_spot_of_every_row():
    table = SimpleNamespace(section=np.array([0, 0, 1]), row=np.array([2, 0, 1]))
    table.of_sections = lambda: [(0, np.array([0, 1])), (1, np.array([2]))]
    sections = [SimpleNamespace(name=name, obs_names=np.array([f"{name}{i}" for i in range(3)])) for name in "st"]
    record = bank.bank_record(table, sections)
    assert record == {"sections": ["s", "t"], "section": [0, 0, 1], "spots": ["s2", "s0", "t1"]}
    arrays = {"bank": np.zeros((3, 2))}
    bank.check_bank(Stored("knn", [], {"bank": record}, arrays), "here")
    wrong = [record | {"section": [0, 1]}, record | {"spots": ["s2"]}, record | {"sections": ["s"]}, {}]
    wrong += [record | {"section": [0, 0, 0, 1], "spots": list("abcd")}, record | {"section": [0, -1, 1]}]
    for one in wrong:
        with pytest.raises(ValueError, match="The model at here does not tell where its reference spots came from"):
            bank.check_bank(Stored("knn", [], {"bank": one}, arrays), "here")
    with pytest.raises(ValueError, match="does not tell where"):
        bank.check_bank(Stored("knn", [], {}, arrays), "here")
