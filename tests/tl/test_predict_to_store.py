"""Predictions that go to a zarr store as they are made."""

from __future__ import annotations

import errno
import shutil
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

import stpredict as st
from stpredict._core.labels import layer_names
from stpredict.models._base.contract import Prediction
from stpredict.models._trust.trust import Trust
from stpredict.models.baselines.ridge import Ridge
from stpredict.tl._prediction import tables, zarr_store

GENES = ["GENE0", "GENE5", "GENE9"]


@pytest.fixture
def model(paired):
    return st.tl.train(paired(3), genes=GENES, method="ridge")


@pytest.fixture
def new(paired):
    return paired(4)[3]


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 10 spots."""
    monkeypatch.setattr(tables, "rows_of", lambda _: 10)


@pytest.mark.parametrize("version", [2, 3])
def test_store_holds_what_as_anndata_returns(model, new, tmp_path, small_parts, assert_same, version):
    before = new.copy()
    small = new[:, ["GENE5", "GENE7"]].copy()
    with anndata.settings.override(zarr_write_format=version):
        assert st.tl.predict_expression(small, model, std=True, out=tmp_path / "new.zarr") is None
    st.tl.predict_expression(new, model, out=str(tmp_path / "other.zarr"))
    assert_same(new, before)
    read = anndata.read_zarr(tmp_path / "new.zarr")
    expected = st.tl.predict_expression(small, model, std=True, as_anndata=True)
    assert read.X.dtype == read.layers["predicted_std"].dtype == np.float32
    np.testing.assert_allclose(read.X, expected.X, atol=2e-6)
    np.testing.assert_allclose(read.layers["predicted_std"], expected.layers["predicted_std"], atol=2e-6)
    np.testing.assert_array_equal(read.layers["predicted"], read.X)
    assert layer_names(read) == layer_names(expected) == ["predicted", "predicted_std"]
    pd.testing.assert_frame_equal(read.obs, expected.obs, check_categorical=False, check_dtype=False)
    pd.testing.assert_frame_equal(read.var, expected.var, check_column_type=False)
    np.testing.assert_array_equal(read.obsm["spatial"], expected.obsm["spatial"])
    assert read.uns["predicted"]["model_id"] == expected.uns["predicted"]["model_id"]
    assert read.uns["spatial"]["section3"]["metadata"] == {"spot_pitch_um": 100.0}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.zarr", "other.zarr"]


def test_store_is_read_lazily_in_chunks_of_spots(model, new, tmp_path, small_parts):
    st.tl.predict_expression(new, model, out=tmp_path / "new.zarr")
    lazy = anndata.experimental.read_lazy(tmp_path / "new.zarr")
    assert lazy.X.chunks[0] == (10,) * 8 + (1,)
    expected = st.tl.predict_expression(new, model, as_anndata=True)
    np.testing.assert_allclose(lazy[20:30].X.compute(), expected[20:30].X, atol=2e-6)


@pytest.mark.parametrize("version", [2, 3])
def test_maps_of_a_store_load_the_genes_that_they_draw(model, new, tmp_path, small_parts, monkeypatch, version):
    with anndata.settings.override(zarr_write_format=version):
        st.tl.predict_expression(new, model, std=True, out=tmp_path / "new.zarr")
    lazy = anndata.experimental.read_lazy(tmp_path / "new.zarr")
    panels = st.pl.expression(lazy, ["GENE5", "GENE0"], show=False, alpha_img=0)
    expected = st.tl.predict_expression(new, model, as_anndata=True)
    for panel, gene in zip(panels, ["GENE5", "GENE0"], strict=True):
        np.testing.assert_allclose(panel.collections[0].get_array(), expected[:, gene].X[:, 0], atol=2e-6)
    assert hasattr(lazy.layers["predicted"], "dask")  # (the rest is on disk still)


def test_prediction_takes_its_room_once_and_a_change_of_one_is_none_of_the_other(model, new, tmp_path, monkeypatch):
    import zarr

    st.tl.predict_expression(new, model, out=tmp_path / "new.zarr")
    files = [path for path in (tmp_path / "new.zarr" / "X").rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in files} == {2}

    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(zarr_store, "os", SimpleNamespace(link=no_links))
    st.tl.predict_expression(new, model, out=tmp_path / "copied.zarr")
    both = [anndata.read_zarr(tmp_path / name) for name in ("new.zarr", "copied.zarr")]
    np.testing.assert_array_equal(both[0].X, both[1].X)
    np.testing.assert_array_equal(both[1].X, both[1].layers["predicted"])
    group = zarr.open_group(tmp_path / "new.zarr", mode="r+")
    group["X"][:] = 7
    assert (anndata.read_zarr(tmp_path / "new.zarr").X == 7).all()
    np.testing.assert_array_equal(anndata.read_zarr(tmp_path / "new.zarr").layers["predicted"], both[0].X)


def test_a_store_of_an_earlier_version_without_the_layer_is_replaced(model, new, tmp_path):
    st.tl.predict_expression(new, model, out=tmp_path / "new.zarr")
    shutil.rmtree(tmp_path / "new.zarr" / "layers" / "predicted")
    import zarr

    zarr.consolidate_metadata(zarr.open_group(tmp_path / "new.zarr", mode="r+", use_consolidated=False).store)
    earlier = anndata.read_zarr(tmp_path / "new.zarr")
    assert layer_names(earlier) == []
    st.tl.predict_expression(new, model, out=tmp_path / "new.zarr")
    np.testing.assert_array_equal(anndata.read_zarr(tmp_path / "new.zarr").layers["predicted"], earlier.X)


def test_genes_that_the_model_does_not_know_are_nan(model, new, tmp_path):
    with pytest.warns(UserWarning, match="NOPE"):
        st.tl.predict_expression(new, model, genes=["GENE9", "NOPE"], out=tmp_path / "a.zarr")
    read = anndata.read_zarr(tmp_path / "a.zarr")
    assert read.var["predicted"].to_dict() == {"GENE9": True, "NOPE": False}
    assert np.isnan(read[:, "NOPE"].X).all()
    assert np.isfinite(read[:, "GENE9"].X).all()


def test_sections_whose_spots_alternate(model, paired, tmp_path, small_parts):
    *_, one, other = paired(5)
    both = anndata.concat(
        {"section3": one, "section4": other}, label="library_id", uns_merge="unique", index_unique="-"
    )
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    st.tl.predict_expression(both, model, out=tmp_path / "both.zarr")
    expected = st.tl.predict_expression(both, model, as_anndata=True)
    np.testing.assert_allclose(anndata.read_zarr(tmp_path / "both.zarr").X, expected.X, atol=2e-6)


class Tells(Ridge):
    """Says of its last gene that it was not learned from."""

    def predict_parts(self, section, genes=None, *, size=None):
        for rows, part in super().predict_parts(section, genes, size=size):
            unseen = {"genes": np.array(genes[-1:]), "distance": np.array([0.3]), "reliability": np.array([0.2])}
            yield rows, Prediction(part.mean, part.std, part.genes, unseen=unseen)


def test_what_is_known_of_unseen_genes_is_stored(model, new, tmp_path, small_parts):
    model.__class__ = Tells
    st.tl.predict_expression(new, model, out=tmp_path / "a.zarr")
    unseen = anndata.read_zarr(tmp_path / "a.zarr").uns["predicted"]["unseen"]
    assert {key: list(values) for key, values in unseen.items()} == {
        "genes": ["GENE9"],
        "distance": [0.3],
        "reliability": [0.2],
    }


# ---------------------------------------------------------------------- never half-written


class FailsLate(Ridge):
    """Predicts one part, then fails."""

    error: BaseException

    def predict_parts(self, section, genes=None, *, size=None):
        nothing = np.zeros((10, len(genes)), dtype=np.float32)
        yield slice(0, 10), Prediction(nothing, nothing, list(genes))
        raise self.error


@pytest.fixture
def failing(model):
    model.__class__ = FailsLate
    return model


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), MemoryError()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("earlier", [False, True])
def test_failure_leaves_nothing_behind(failing, new, tmp_path, error, earlier):
    path = tmp_path / "a.zarr"
    if earlier:
        failing.__class__ = Ridge
        st.tl.predict_expression(new, failing, out=path)
        before = anndata.read_zarr(path)
        failing.__class__ = FailsLate
    failing.error = error
    with pytest.raises(type(error)):
        st.tl.predict_expression(new, failing, out=path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"] * earlier
    if earlier:
        np.testing.assert_array_equal(anndata.read_zarr(path).X, before.X)


def test_full_disk_is_one_clear_error(model, new, tmp_path, monkeypatch):
    class Full:
        def __setitem__(self, rows, values):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr_store, "_array", lambda *_: Full())
    with pytest.raises(OSError, match=r"no room left for .*a.zarr, and nothing of it was kept"):
        st.tl.predict_expression(new, model, out=tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_an_earlier_store_is_replaced(model, new, tmp_path):
    path = tmp_path / "a.zarr"
    st.tl.predict_expression(new, model, genes=["GENE5"], out=path)
    st.tl.predict_expression(new, model, out=path)
    assert anndata.read_zarr(path).var_names.tolist() == GENES
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_anything_else_is_not_replaced(model, new, tmp_path):
    path = tmp_path / "a.zarr"
    for make in (
        new.write_zarr,
        lambda p: p.write_text("mine"),
        lambda p: (p.mkdir(), (p / "notes").write_text("mine")),
    ):
        make(path)
        with pytest.raises(FileExistsError, match=r"a.zarr exists and was not written by .*choose another out="):
            st.tl.predict_expression(new, model, out=path)
        assert path.exists()
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_unfit_features_are_found_before_anything_is_written(model, new, tmp_path):
    new.uns["X_fake"]["encoder_hash"] = "beef"
    with pytest.raises(ValueError, match="encoder_hash=beef"):
        st.tl.predict_expression(new, model, out=tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_sections_whose_names_cannot_be_written_are_refused(model, new, tmp_path):
    new.uns["spatial"] = {"lab/section3": new.uns["spatial"]["section3"]}
    with pytest.raises(ValueError, match="names hold '/' cannot be written: lab/section3"):
        st.tl.predict_expression(new, model, out=tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_memory_does_not_hold_spots_times_genes(model, new, tmp_path):
    """200,000 spots × 500 genes would take 400 MB; their features take 5."""
    import tracemalloc

    n, genes = 200_000, [f"G{i}" for i in range(500)]
    rng = np.random.default_rng(0)
    big = anndata.AnnData(obs=pd.DataFrame(index=np.arange(n).astype(str)))
    big.obsm["spatial"] = np.column_stack(np.divmod(np.arange(n), 500)).astype(float) * 100
    big.uns["spatial"] = new.uns["spatial"]
    for key in ("X_fake", "X_fake_niche"):
        big.uns[key] = new.uns[key]
        big.obsm[key] = rng.standard_normal((n, new.obsm[key].shape[1])).astype(np.float32)
    model.trust = Trust(model.trust.domain)
    model.genes, width = genes, model.arrays["weights"].shape[0]
    model.arrays["weights"] = rng.standard_normal((width, 500)).astype(np.float32)
    model.arrays |= {name: np.ones(500, dtype=np.float32) for name in ("intercept", "residual_sd")}
    tracemalloc.start()
    st.tl.predict_expression(big, model, out=tmp_path / "a.zarr")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250 * 2**20
