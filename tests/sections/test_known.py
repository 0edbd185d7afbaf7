"""What is kept beside the counts: totals, patients, places, features of the whole, and genes that were not measured."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stpredict._core.warning import StpredictWarning
from stpredict._sections.groups import group_name, section_groups
from stpredict._sections.measured import measured_everywhere, not_measured
from stpredict._sections.places import places_record, warn_if_moved
from stpredict._sections.spread import (
    ROWS,
    _can_be_part,
    is_kept,
    kept_of_whole,
    moments,
    only,
    spread_record,
    whole_moments,
)
from stpredict._sections.totals import known_totals, recorded_totals, row_sums, warn_of_few_genes


class Stub:
    """As much of a section as is looked at."""

    def __init__(self, n=4, uns=None, centres=None, names=None, name="s", mpp=1.0, counts=None):
        self.name, self.mpp, self.uns = name, mpp, uns or {}
        self.centres = np.zeros((n, 2)) if centres is None else np.asarray(centres, float)
        self.obs_names = pd.Index(names or [f"c{i}" for i in range(len(self.centres))])
        self._counts = counts

    def __len__(self):
        return len(self.centres)

    def record(self, key):
        return self.uns.get(key, {})

    def counts(self):
        return self._counts

    @property
    def genes(self):
        return pd.Index([f"g{i}" for i in range(self._counts.shape[1])])


# ---------------------------------------------------------------------- totals

OWN = np.array([3.0, 5.0])


@pytest.mark.parametrize(
    ("known", "count"),
    [
        ([3, 5], True),
        ([4.0, 9.0], True),
        (["4", "9"], True),
        ([2, 9], False),  # less than the counts that are there
        ([9, 9], False),  # the same everywhere, as after normalisation
        ([4.5, 9], False),
        ([np.nan, 9], False),
        ([np.inf, 9], False),
        (["many", "9"], False),
        (None, False),
    ],
)
def test_totals_that_can_be(known, count):
    obs = pd.DataFrame(index=["a", "b"]) if known is None else pd.DataFrame({"total_counts": known})
    found = recorded_totals(obs, OWN)
    assert (found is not None) == count
    if count:
        assert found.tolist() == [float(value) for value in known]


def table(n=3, raw=None, **columns):
    adata = AnnData(np.ones((2, n), np.float32), obs=pd.DataFrame(columns, index=["a", "b"]))
    if raw:
        adata.raw = AnnData(np.ones((2, raw), np.float32), obs=adata.obs)
    return adata


@pytest.mark.parametrize(
    ("adata", "sign"),
    [
        (table(), None),
        (table(raw=3), None),
        (table(raw=4), "adata.raw has 4, of which 3 are left"),
        (table(2000, raw=2001), None),
        (table(1999, raw=2000), "adata.raw has 2000"),
        (table(n_genes=[1, 3]), None),
        (table(n_genes=[1, 4]), r"obs\['n_genes'\] counts more genes in a spot than the 3"),
        (table(n_genes_by_counts=[4, 1]), r"obs\['n_genes_by_counts'\] counts more"),
        (table(n_genes=[4, 1], total_counts=[3.0, 4.0]), None),
    ],
)
def test_signs_of_genes_that_were_dropped(adata, sign):
    if sign is None:
        found = known_totals(adata, slice(None), row_sums(adata.X), "it")
        assert (found is None) == ("total_counts" not in adata.obs)
    else:
        with pytest.raises(ValueError, match=rf"Genes were dropped from it \({sign}"):
            known_totals(adata, slice(None), row_sums(adata.X), "it")
        if "n_genes" in adata.obs:  # one that says nothing of the rows in question
            assert known_totals(adata, np.array([0]), np.array([3.0]), "it") is None


@pytest.mark.parametrize(("flags", "n", "dropped"), [("TTT", 3, True), ("TFT", 3, False), ("", 0, False)])
def test_only_highly_variable_genes(flags, n, dropped):
    adata = table(n)
    adata.var["highly_variable"] = [flag == "T" for flag in flags]
    if dropped:
        with pytest.raises(ValueError, match="only highly variable ones are left"):
            known_totals(adata, slice(None), OWN, "it")
    else:
        assert known_totals(adata, slice(None), OWN, "it") is None


def test_few_genes_are_fewer_than_2000():
    with pytest.warns(StpredictWarning, match=r"only 1999 genes.* dropped: set adata\.obs"):
        warn_of_few_genes(table(1999))
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        warn_of_few_genes(table(2000))


# ---------------------------------------------------------------------- patients


@pytest.mark.parametrize(
    ("value", "name"), [(1, "1"), (1.0, "1"), (np.float32(2), "2"), (1.5, "1.5"), (" a ", "a"), ("1.0", "1.0")]
)
def test_names_of_groups(value, name):
    assert group_name(value) == name


def grouped(name, values):
    return SimpleNamespace(
        name=name, adata=SimpleNamespace(obs=pd.DataFrame({"who": values})), rows=np.arange(1, len(values))
    )


def test_groups_of_sections():
    with warnings.catch_warnings():
        warnings.simplefilter("error", StpredictWarning)
        assert section_groups([grouped("a", ["x", "P", "P"]), grouped("b", ["x", "P"])], "who") == ["P", "P"]
        assert section_groups([grouped("a", ["x", "P", "P"]), grouped("b", ["x", "P"])], None) == ["a", "b"]
    for values, told in ((["x", "P", None], "P, (None|nan)"), (["x", "P", "Q"], "P, Q"), (["x"], "none")):
        with pytest.raises(ValueError, match=f"one value in all of section 'a'; it has {told}\\."):
            section_groups([grouped("a", values)], "who")
    with pytest.raises(KeyError, match=r"has no obs\['x'\].*\(obs has who\)"):
        section_groups([grouped("a", ["x", "P"])], "x")


# ---------------------------------------------------------------------- places


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (3, 3), (64, 64), (65, 64), (1000, 64)])
def test_places_of_at_most_64_spots_are_kept_from_the_first_to_the_last(n, kept):
    section = Stub(centres=np.arange(2 * n).reshape(n, 2), mpp=0.5)
    record = places_record(section)
    assert len(record["spots"]) == kept
    assert (record["spots"][0], record["spots"][-1]) == ("c0", f"c{n - 1}")
    np.testing.assert_array_equal(record["places_um"][-1], [n - 1, n - 0.5])


def moved(section, keys=("X", "Y")):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_if_moved(section, keys)
    return [str(one.message) for one in told]


def test_spots_count_as_moved_from_half_a_window_on():
    kept = {"spots": ["c0", "c1", "gone"], "places_um": [[0, 0], [10, 0], [5, 5]]}
    uns = {"X": {"encoder_hash": "f", "spot_um": 10.0, "sections": {"s": kept}}}
    assert not moved(Stub(centres=[[0, 0], [5, 0]], mpp=2.0, uns=uns))
    assert not moved(Stub(centres=[[1.5, 2], [5, 0]], mpp=2.0, uns=uns))  # 5 µm away
    uns["Y"] = uns["X"]
    (told,) = moved(Stub(centres=[[1.6, 2], [8, 4]], mpp=2.0, uns=uns))
    assert "of 2 spots that were looked at, 2 lie elsewhere" in told
    assert "up to 10 µm away" in told
    assert not moved(Stub(centres=[[99, 99]] * 2, names=["c0", "c0"], uns=uns))
    assert not moved(Stub(centres=[[99, 99]] * 2, names=["d0", "d1"], uns=uns))
    assert not moved(Stub(centres=[[99, 99]] * 2, uns=uns, name="other"))
    for part in ("spots", "places_um"):
        less = {"X": {**uns["X"], "sections": {"s": {key: value for key, value in kept.items() if key != part}}}}
        assert not moved(Stub(centres=[[99, 99]] * 2, uns=less))
    kept["places_um"] = [[0, 0]]
    with pytest.raises(ValueError, match=r"uns\['X'\]\['sections'\]\['s'\] is damaged"):
        warn_if_moved(Stub(uns=uns), ["X"])


# ---------------------------------------------------------------------- features of the whole section


def test_moments_over_parts_of_different_sizes():
    mean, sd = moments([np.array([[1.0, 7], [3, 7]]), np.array([[5.0, 7]]), np.array([[7.0, 7], [9, 7], [11, 7]])])
    np.testing.assert_allclose(mean, [6, 7])
    np.testing.assert_allclose(sd, [np.sqrt(70 / 6), 0])


def test_what_is_kept_of_the_features_of_a_section():
    values = np.zeros((ROWS + 2, 1), np.float32)
    values[-2:] = 3
    record = spread_record(values)
    assert record["n_spots"] == ROWS + 2
    share = 2 / (ROWS + 2)
    np.testing.assert_allclose(record["mean"], [3 * share])
    np.testing.assert_allclose(record["sd"], [3 * np.sqrt(share * (1 - share))])


@pytest.mark.parametrize(
    "record", [{}, None, {"encoder_hash": 1}, {"sections": {}}, {"encoder_hash": 1, "sections": 2}]
)
def test_other_records_keep_nothing(record):
    assert not is_kept(record)
    assert kept_of_whole(Stub(uns={"X": record}), "X") is None


def test_a_part_is_standardised_as_the_whole():
    here = np.array([0.0]), np.array([1.0])
    kept = {"n_spots": 5, "mean": [0.5], "sd": [2.0]}
    record = {"encoder_hash": "f", "sections": {"s": kept, "t": {}}}

    def of(n, name="s"):
        section = Stub(n, uns={"X": record}, name=name)
        return kept_of_whole(section, "X"), whole_moments(section, "X", *here)

    assert only(record, "s") == {"encoder_hash": "f", "sections": {"s": kept}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of(4) == ((0.5, 2.0), (0.5, 2.0))
        assert of(5) == (None, here)
        assert whole_moments(Stub(), "X", *here) == here
    with pytest.warns(StpredictWarning, match="nothing is kept of this section"):
        assert of(4, "other") == (None, here)
    kept["sd"] = [0.1]
    with pytest.warns(StpredictWarning, match="of other features"):
        assert of(4)[1] == here
    del kept["sd"]
    with pytest.raises(ValueError, match=r"uns\['X'\]\['sections'\]\['s'\] is damaged"):
        of(4)


def test_squares_of_a_part_are_no_more_than_those_of_the_whole():
    """Of five values with sd 2 (squares of 20 around their mean), two at a distance 3 from it: 2 · 5 / 3 · 9 = 30."""
    one = np.ones(1)

    def can(n, mean, sd):
        return _can_be_part(n, mean * one, sd * one, 5, 0 * one, 2 * one)

    assert can(2, 0, 3.16)
    assert not can(2, 0, 3.17)
    assert can(2, 2.44, 0)
    assert not can(2, 2.46, 0)
    assert not _can_be_part(2, np.ones(2), one, 5, one, 2 * one)
    assert not _can_be_part(2, one, np.ones(2), 5, one, 2 * one)


# ---------------------------------------------------------------------- genes that were not measured


@pytest.mark.parametrize(("silent", "lacks"), [(3, 0), (4, 4)])
def test_one_gene_in_fifty_is_silent_where_a_join_filled_them_in(silent, lacks):
    deep = pd.Series(1000.0, index=[f"g{i}" for i in range(200)])
    shallow = deep * 0.1
    shallow.iloc[:silent] = 0
    assert not_measured([deep, shallow], deep.index).sum(axis=1).tolist() == [0, lacks]


def test_what_is_expected_is_scaled_by_shared_genes():
    first, second = pd.Series([1.0, 1.0], index=["a", "b"]), pd.Series([600.0, 0.0], index=["a", "b"])
    assert not_measured([first, second], ["b", "a"]).tolist() == [[False, False], [True, False]]
    nothing = pd.Series([0.0, 0.0], index=["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not not_measured([nothing, second], ["a", "b"]).any()


@pytest.mark.parametrize(("n", "told"), [(5, r"5 gene\(s\) \(g0, g1, g2, g3, g4\)"), (6, r"g3, g4 and 1 more\)")])
def test_genes_that_some_lack_are_left_out(n, told):
    full = np.full((1, 20), 1000.0)
    part = np.where(np.arange(20) < n, 0, full)
    with pytest.warns(StpredictWarning, match=told + " are zero in every spot of t, where .* left out"):
        genes = measured_everywhere([Stub(counts=full), Stub(counts=part, name="t")], [f"g{i}" for i in range(10)])
    assert genes == [f"g{i}" for i in range(n, 10)]
