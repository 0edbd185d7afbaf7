"""Count matrices that are read piece by piece, and positions of which those off the tissue stay on disk."""

from __future__ import annotations

import tracemalloc

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as st
from stpredict.io import _matrix_h5
from stpredict.io._matrix_h5 import read_h5
from stpredict.io._run import VisiumFiles
from stpredict.io._visium import read_positions

N, GENES = 3000, 400


def write_h5(path, counts, *, names=None, **features):
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"] = counts.data.astype(np.int32), counts.indices.astype(np.int64)
        group["indptr"], group["shape"] = counts.indptr.astype(np.int64), np.array(counts.shape[::-1])
        names = [f"s_002um_{i:05d}_00000-1" for i in range(counts.shape[0])] if names is None else names
        group["barcodes"] = np.array(names, dtype="S")
        n = counts.shape[1]
        own = {"id": [f"ENSG{i}" for i in range(n)], "name": [f"G{i // 2}" for i in range(n)]}
        own |= {"feature_type": ["Gene Expression"] * n, "genome": ["GRCh38"] * n, "_all_tag_keys": ["genome"]}
        for key, values in (own | features).items():
            group[f"features/{key}"] = np.array(values, dtype=None if key == "probed" else "S")


@pytest.fixture
def counts():
    return sparse.random(N, GENES, density=0.05, format="csr", random_state=0, data_rvs=lambda n: np.arange(n) % 9 + 1)


@pytest.fixture
def path(tmp_path, counts):
    write_h5(tmp_path / "counts.h5", counts)
    return tmp_path / "counts.h5"


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("size", [7, 2**22])
def test_it_is_what_scanpy_reads(tmp_path, counts, monkeypatch, size):
    import scanpy as sc

    monkeypatch.setattr(_matrix_h5, "VALUES", size)
    few = counts[:40]
    write_h5(tmp_path / "a.h5", few, pattern=["" for _ in range(GENES)], probed=np.arange(GENES) % 2 == 0)
    own, theirs = read_h5(tmp_path / "a.h5"), sc.read_10x_h5(tmp_path / "a.h5", gex_only=False)
    np.testing.assert_array_equal(own.X.toarray(), theirs.X.toarray())
    assert own.X.dtype == theirs.X.dtype == np.float32
    assert own.obs_names.tolist() == theirs.obs_names.tolist()
    pd.testing.assert_frame_equal(own.var, theirs.var, check_like=True)


def test_other_kinds_are_left_to_scanpy(tmp_path, counts):
    write_h5(tmp_path / "probes.h5", counts, gene_id=["G"] * GENES)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.create_group("GRCh38")
    assert read_h5(tmp_path / "probes.h5") is None
    assert read_h5(tmp_path / "old.h5") is None


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_memory_is_that_of_the_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(_matrix_h5, "VALUES", 2**10)
    counts = sparse.random(N, GENES, density=0.9, format="csr", random_state=0)  # (names of spots weigh little)
    path = tmp_path / "counts.h5"
    write_h5(path, counts)
    read_h5(path)
    tracemalloc.start()
    adata = read_h5(path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert adata.X.data.nbytes + adata.X.indices.nbytes == 8 * counts.nnz < kept
    assert peak < kept + 4 * counts.nnz  # (of which int64 indices alone would take 8)


@pytest.mark.parametrize(
    ("name", "place", "value", "why"),
    [
        ("indices", 5, 2**32 + 3, "outside of its 400 features"),  # (3, in 32 bits)
        ("indices", 5, -1, "outside of its 400 features"),
        ("indptr", 7, 2**32 + 7, "its indptr does not fit"),
        ("indptr", N, 4, "its indptr does not fit"),
        ("shape", 1, N + 1, "its indptr does not fit"),
    ],
)
def test_damage_is_told_and_not_cut_to_32_bits(path, tmp_path, name, place, value, why):
    with h5py.File(path, "r+") as file:
        file["matrix"][name][place] = value
    with pytest.raises(ValueError, match=why):
        read_h5(path)


@pytest.fixture
def hd(tmp_path):
    """A run of 2 µm bins, of which those of odd rows lie off the tissue."""
    here = tmp_path / "outs" / "binned_outputs" / "square_002um"
    (here / "spatial").mkdir(parents=True)
    row, column = np.divmod(np.arange(400), 20)
    table = pd.DataFrame({"barcode": [f"s_002um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)]})
    table = table.assign(in_tissue=1 - row % 2, array_row=row, array_col=column)
    table = table.assign(pxl_row_in_fullres=row * 4.0, pxl_col_in_fullres=column * 4.0)
    table.to_parquet(here / "spatial" / "tissue_positions.parquet", index=False)
    (here / "spatial" / "scalefactors_json.json").write_text('{"microns_per_pixel": 0.5, "bin_size_um": 2.0}')
    counts = sparse.random(400, 20, density=0.3, format="csr", random_state=1, data_rvs=lambda n: np.ones(n))
    return here, table, counts


def test_positions_off_the_tissue_stay_on_disk(hd):
    here, table, _ = hd
    run = VisiumFiles(here, here / "spatial", bin_um=2.0)
    inside = table[table["in_tissue"] == 1].set_index("barcode")
    pd.testing.assert_frame_equal(read_positions(run, only_tissue=True), inside)
    assert len(read_positions(run)) == 400


def test_bins_are_found_whatever_the_matrix_holds(hd, tmp_path):
    here, table, counts = hd
    inside = (table["in_tissue"] == 1).to_numpy()
    names = table["barcode"].to_numpy()
    backwards = np.flatnonzero(inside)[::-1]
    write_h5(here / "filtered_feature_bc_matrix.h5", counts[backwards], names=names[backwards])
    adata = st.read_visium(tmp_path / "outs", bin_um=2)
    assert adata.obs_names.tolist() == names[backwards].tolist()
    places = table.iloc[backwards]
    np.testing.assert_array_equal(adata.obsm["spatial"], places[["pxl_col_in_fullres", "pxl_row_in_fullres"]])

    write_h5(here / "filtered_feature_bc_matrix.h5", counts, names=names)
    with pytest.warns(UserWarning, match="without 200 of 400 spots, which lie off the tissue"):
        adata = st.read_visium(tmp_path / "outs", bin_um=2)
    assert adata.obs_names.tolist() == names[inside].tolist()
    np.testing.assert_array_equal(adata.X.toarray(), counts[inside].toarray())

    write_h5(here / "filtered_feature_bc_matrix.h5", counts[:2], names=["elsewhere-1", names[0]])
    with pytest.raises(ValueError, match="1 of 2 barcodes of the count matrix have no position"):
        st.read_visium(tmp_path / "outs", bin_um=2)
