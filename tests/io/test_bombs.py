"""Small files that would fill the memory once they are unpacked are refused, whichever of a section's files they are."""

from __future__ import annotations

import gzip
import io
import zlib
from contextlib import nullcontext

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from anndata import AnnData
from PIL import Image

import stpredict as st
from stpredict._core import expansion
from stpredict._images import whole
from stpredict.models._reference.gene_correlation import GeneStructure

WORDS = r"MB and holds more than .* MB, which would fill the memory; no data of this kind is so empty"
PIXELS = "million pixels in .* MB; no picture of tissue is so empty"
N = 3_000_000


@pytest.fixture
def run(tmp_path, write_visium, monkeypatch):
    """A section's files, and bounds that are met by what is made here in no time."""
    monkeypatch.setattr(expansion, "HARMLESS", 2**20)
    monkeypatch.setattr(whole, "HARMLESS", 10**6)
    write_visium(tmp_path / "outs", h5=True)
    return tmp_path / "outs"


def packed_positions(run):
    """Positions with a million empty lines behind them."""
    path = run / "spatial" / "tissue_positions.csv"
    (run / "spatial" / "tissue_positions.csv.gz").write_bytes(gzip.compress(path.read_bytes() + b"\n" * N))
    path.unlink()


def parquet_positions(run):
    path = run / "spatial" / "tissue_positions.csv"
    table = pd.read_csv(path).iloc[:1]
    table.loc[np.zeros(N // 10, dtype=int)].to_parquet(run / "spatial" / "tissue_positions.parquet", index=False)
    path.unlink()


def counts(run):
    with h5py.File(run / "filtered_feature_bc_matrix.h5", "a") as file:
        file.create_dataset("matrix/more", data=np.zeros(N), compression="gzip", compression_opts=9)


def packed_image(run):
    path = run / "spatial" / "tissue_hires_image.png"
    (run / "spatial" / "tissue_hires_image.png.gz").write_bytes(gzip.compress(path.read_bytes() + bytes(10 * N)))
    path.unlink()


def pixels(side):
    white = io.BytesIO()
    Image.new("1", (side, side), 1).save(white, "PNG")
    return white.getvalue()


def image(run):
    (run / "spatial" / "tissue_hires_image.png").write_bytes(pixels(5000))


def tiles(run):
    """Tiles by themselves are small enough; a downscaled image is read whole."""
    (run / "spatial" / "tissue_hires_image.png").unlink()
    white = np.full((5000, 5000), 255, dtype=np.uint8)
    how = {"tile": (512, 512), "compression": "zlib", "compressionargs": {"level": 9}}
    tifffile.imwrite(run / "spatial" / "tissue_hires_image.tif", white, photometric="minisblack", **how)


def matrix(run):
    (run / "filtered_feature_bc_matrix.h5").unlink()
    folder = run / "filtered_feature_bc_matrix"
    folder.mkdir()
    for name in ("matrix.mtx", "features.tsv", "barcodes.tsv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress(b"\n" * N))


@pytest.mark.parametrize(
    ("bomb", "words"),
    [
        (packed_positions, WORDS),
        (parquet_positions, WORDS),
        (counts, WORDS),
        (matrix, WORDS),
        (packed_image, WORDS),
        (image, PIXELS),
        (tiles, PIXELS),
    ],
)
def test_a_section_with_a_bomb_is_refused(run, bomb, words):
    st.read_visium(run)
    bomb(run)
    with pytest.raises(ValueError, match=words):
        st.read_visium(run)


def test_a_slide_that_is_a_bomb_is_refused(run, tmp_path):
    (tmp_path / "slide.png").write_bytes(pixels(5000))
    with pytest.raises(ValueError, match=PIXELS):
        st.read_wsi(tmp_path / "slide.png", 0.5)


def test_what_is_small_may_be_as_empty_as_it_likes(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(N)))
    expansion.check_gzip(tmp_path / "a.gz")
    expansion.check_expansion(N, tmp_path / "a.gz")


@pytest.fixture(params=[".h5ad", ".zarr"])
def store(request, tmp_path, section, monkeypatch):
    """A stored section of a few spots, and a function that puts an array into it."""
    monkeypatch.setattr(expansion, "HARMLESS", 2**22)
    monkeypatch.setattr(expansion, "SHARE_OF_MEMORY", 0)
    small, path = section[:30, :20].copy(), tmp_path / f"a{request.param}"
    del small.uns["spatial"]["sim_1"]["images"]
    small.write_h5ad(path) if request.param == ".h5ad" else small.write_zarr(path)

    def put(name, shape, chunk):
        with nullcontext(zarr.open_group(path)) if path.is_dir() else h5py.File(path, "a") as group:
            del group[name]
            new = group.create_array if path.is_dir() else group.create_dataset
            more = {} if path.is_dir() else {"compression": "gzip", "maxshape": (None,) * len(shape)}
            array = new(name, shape=shape, chunks=chunk, dtype="float32", **more)
            array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        if path.is_dir():
            zarr.consolidate_metadata(path)

    return path, put


@pytest.mark.parametrize(
    ("name", "shape", "chunk"),
    [
        ("X", (30, 10**9), (30, 1000)),  # zeros that take no room
        ("X", (30, 20), (30, 10**7)),  # one chunk that is larger than what it holds a part of
        ("obsm/spatial", (10**9, 2), (1000, 2)),
    ],
)
def test_a_store_that_is_a_bomb_is_refused(store, name, shape, chunk):
    path, put = store
    put(name, shape, chunk)
    with pytest.raises(ValueError, match=WORDS):
        st.pp.gene_panel(path)


def test_a_dense_matrix_of_few_counts_is_read_where_the_memory_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "HARMLESS", 2**20)
    counts = np.zeros((6000, 2000), np.float32)
    counts[:100, :10] = np.random.default_rng(0).poisson(20, (100, 10))
    places = np.argwhere(np.ones((100, 60))) * 100.0
    AnnData(counts, obsm={"spatial": places}).write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    assert counts.nbytes > 100 * (tmp_path / "a.h5ad").stat().st_size
    assert len(st.pp.gene_panel(tmp_path / "a.h5ad", n_top=5)) == 5
    monkeypatch.setattr(expansion, "SHARE_OF_MEMORY", 0)
    with pytest.raises(
        ValueError, match=WORDS + r".*store its matrices sparse: adata.X = scipy.sparse.csr_matrix\(adata.X\)"
    ):
        st.pp.gene_panel(tmp_path / "a.h5ad", n_top=5)


@pytest.mark.parametrize("store", [".h5ad"], indirect=True)
def test_a_chunk_that_holds_more_than_it_says_is_refused(store):
    path, put = store
    put("X", (30, 20), (30, 20))
    with h5py.File(path, "a") as file:
        file["X"].id.write_direct_chunk((0, 0), zlib.compress(bytes(2**26)))
    with pytest.raises(ValueError, match=WORDS):
        st.pp.gene_panel(path)


def test_of_a_reference_that_is_read_in_parts_only_the_chunks_count(store, section):
    path, put = store
    genes = list(section.var_names[:20])
    put("X", (30, 20), (30, 10**7))
    with pytest.raises(ValueError, match=WORDS):
        GeneStructure.learn([path], genes)
    put("X", (30, 20), (30, 20))
    with pytest.raises(ValueError, match="0"):  # (it is read, and has no counts)
        GeneStructure.learn([path], genes)
