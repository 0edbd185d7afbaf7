"""Counts of references, block by block: of objects in memory and of stores, by rows and by columns."""

from __future__ import annotations

import errno

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from scipy import sparse

import stpredict as st
from stpredict._sections import by_rows, references
from stpredict._sections.by_rows import ByRows
from stpredict._sections.open import Where
from stpredict._sections.references import log_rows, open_reference, open_references, study_codes

COUNTS = np.array(
    [[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0], [5, 6, 7, 8], [0, 0, 9, 0], [1, 0, 0, 4], [0, 0, 0, 0]], np.float32
)
AS = {"csc": sparse.csc_matrix, "csr": sparse.csr_matrix, "dense": np.asarray}


@pytest.mark.parametrize("at_once", [3, 100])
@pytest.mark.parametrize("kind", AS)
def test_rows_of_a_store(tmp_path, monkeypatch, kind, at_once):
    monkeypatch.setattr(by_rows, "AT_ONCE", at_once)
    reader = ByRows()
    with h5py.File(tmp_path / "a.h5", "w") as file, st.settings.override(cache_dir=tmp_path / "cache"):
        write_elem(file, "X", AS[kind](COUNTS))
        write_elem(file, "nothing", AS[kind](np.zeros((3, 2), np.float32)))
        for rows in (slice(0, 7), slice(3, 6), slice(2, 3), slice(5, 12)):
            part = reader.read(file["X"], rows)
            assert part.shape == COUNTS[rows].shape
            np.testing.assert_array_equal(part.toarray() if kind != "dense" else part, COUNTS[rows])
        assert ByRows().read(file["nothing"], slice(1, 3)).shape == (2, 2)


@pytest.mark.parametrize(("number", "match"), [(errno.ENOSPC, "has no room left"), (errno.EIO, "broken")])
def test_a_full_disk_is_told(tmp_path, monkeypatch, number, match):
    def fail(*_):
        raise OSError(number, "broken")

    monkeypatch.setattr(by_rows.os, "posix_fallocate", fail, raising=False)
    with h5py.File(tmp_path / "a.h5", "w") as file, st.settings.override(cache_dir=tmp_path):
        write_elem(file, "X", sparse.csc_matrix(COUNTS))
        with pytest.raises(OSError, match=match) as error:
            ByRows().read(file["X"], slice(0, 2))
    assert error.value.errno == number


@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize("kind", ["memory", "SpatialData", "path", "backed"])
@pytest.mark.parametrize("stored", AS)
def test_counts_of_a_reference_and_of_some_of_its_rows(tmp_path, monkeypatch, kind, stored, layer):
    monkeypatch.setattr(references, "ROWS", 3)
    adata = ad.AnnData(AS[stored](COUNTS), obs=pd.DataFrame({"study": list("aabbaab")}, index=list("abcdefg")))
    if layer:
        adata.layers["counts"] = adata.X.copy()
        adata.X = np.log1p(COUNTS)
    data = adata
    if kind == "SpatialData":
        data = pytest.importorskip("spatialdata").SpatialData(tables={"table": adata})
    elif kind != "memory":
        adata.write_h5ad(tmp_path / "a.h5ad")
        data = tmp_path / "a.h5ad" if kind == "path" else ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with st.settings.override(cache_dir=tmp_path):
        reference = open_reference(data, "ref", Where("study"))
        assert reference.study.tolist() == [0, 0, 1, 1, 0, 0, 1]
        for mask in (np.ones(7, bool), np.array([0, 1, 0, 0, 0, 1, 1], bool), np.array([1, 0, 1, 1, 0, 0, 1], bool)):
            part = reference.take(mask)
            rows, blocks = zip(*part.counts(), strict=True)
            assert [r.start for r in rows] == list(range(0, mask.sum(), 3))
            whole = np.vstack([b.toarray() if sparse.issparse(b) else b for b in blocks])
            np.testing.assert_array_equal(whole, COUNTS[mask])
            studies, values = zip(*part.blocks(6, np.array([1, 0])), strict=True)
            deep = mask & (COUNTS.sum(axis=1) >= 6)
            assert np.concatenate(studies).tolist() == reference.study[deep].tolist()
            own = COUNTS[deep]
            expected = np.log1p(1e4 * own[:, [1, 0]] / own.sum(axis=1, keepdims=True))
            np.testing.assert_allclose(sparse.vstack(values).toarray(), expected)
    if kind == "backed":
        with pytest.raises(ValueError, match=r"ref is a part of an AnnData in backed mode.*pass its \.to_memory\(\)"):
            open_reference(data[2:], "ref", Where())
        assert open_reference(data[2:].to_memory(), "ref", Where()).read(slice(1, 3)).shape == (2, 4)
        data.file.close()


def test_spots_without_counts_are_left_out_and_totals_that_are_told_count():
    obs = pd.DataFrame(index=list("ab"))
    values, enough = log_rows(np.array([[0.0, 0], [0, 1]]), obs, 0)
    assert enough.tolist() == [False, True]
    np.testing.assert_allclose(values.toarray(), [[0, np.log1p(1e4)]])
    obs["total_counts"] = [2.0, 4.0]
    values, enough = log_rows(np.array([[0.0, 0], [0, 1]]), obs, 2)
    assert enough.tolist() == [True, True]
    np.testing.assert_allclose(values.toarray(), [[0, 0], [0, np.log1p(2500)]])


def test_every_value_of_a_column_is_a_study_and_missing_ones_another():
    obs = pd.DataFrame({"donor": ["x", "y", None, "x", np.nan]})
    assert study_codes(obs, "donor").tolist() == [0, 1, 2, 0, 2]
    assert study_codes(obs, None).tolist() == study_codes(obs, "patient").tolist() == [0] * 5


@pytest.mark.filterwarnings("ignore:Variable names are not unique")  # of anndata
def test_references_are_named_by_their_number_and_twins_among_genes_refused(tmp_path):
    fine, twins = (ad.AnnData(COUNTS, var=pd.DataFrame(index=list(names))) for names in ("abcd", "aacd"))
    first, second = open_references([fine, fine], Where())
    assert (first.name, second.name) == ("reference[0]", "reference[1]")
    assert open_references([first], Where()) == [first]
    with pytest.raises(ValueError, match=r"reference\[1\].*duplicated gene names"):
        open_references([fine, twins], Where())
    twins.write_h5ad(tmp_path / "a.h5ad")
    for data in (tmp_path / "a.h5ad", ad.read_h5ad(tmp_path / "a.h5ad", backed="r")):
        with pytest.raises(ValueError, match=r"duplicated gene names"):
            open_references(data, Where())
    with pytest.raises(ValueError, match=r"reference\[0\]: X holds negative"):
        open_references(ad.AnnData(-COUNTS), Where())
