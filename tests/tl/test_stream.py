from __future__ import annotations

import weakref
from collections import Counter
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import stpredict as st
from stpredict._sections import stored
from stpredict._sections.open import Where, open_sections
from stpredict.models._aligned import training
from stpredict.models._aligned.inputs import drawn
from stpredict.models._data.rows import DiskRows
from stpredict.models._training import ensemble

FAST = {"epochs": 2, "width": 16, "members": 1, "show_progress": False}
METHODS = ("cmrcnet", "st_align")
OPEN = Path("/proc/self/fd")
pytestmark = pytest.mark.filterwarnings("ignore:.*has not left chance")


@pytest.fixture(autouse=True)
def cache(tmp_path):
    with st.settings.override(cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache"


@pytest.fixture
def sections(paired):
    return paired(4, patients=["A", "A", "B", "C"])


@pytest.fixture
def folder(sections, tmp_path):
    return stores(sections, tmp_path / "stores")


def stores(sections, folder):
    folder.mkdir()
    for i, adata in enumerate(sections):
        adata.write_h5ad(folder / f"{i}.h5ad")
    return folder


def assert_same_model(one, other):
    assert one.genes == other.genes
    assert one.config == other.config
    assert one.arrays.keys() == other.arrays.keys()
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(values, other.arrays[name], err_msg=name)


def open_files(folder):
    """Files in `folder` that this process holds open, those without a name too."""
    links = [link for link in OPEN.iterdir() if link.is_symlink()]
    return [path for link in links if str(path := link.readlink()).startswith(str(folder))]


# ---------------------------------------------------------------------- the same model


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_gives_the_model_that_memory_gives(sections, folder, cache, method):
    in_memory = st.tl.train(sections, method=method, **FAST)
    streamed = st.tl.train(folder, method=method, **FAST)
    assert_same_model(in_memory, streamed)
    assert not list(cache.iterdir())
    found = streamed.predict(open_sections(sections[0])[0]).mean
    np.testing.assert_array_equal(found, in_memory.predict(open_sections(sections[0])[0]).mean)


def test_paths_zarr_and_several_sections_in_a_store(sections, tmp_path):
    joined = ad.concat(sections[1:], label="library_id", keys=[f"section{i}" for i in (1, 2, 3)], uns_merge="unique")
    for name in ("X_fake", "X_fake_niche"):
        joined.uns[name] = sections[0].uns[name]
    sections[0].obs["library_id"] = "section0"
    sections[0].write_h5ad(tmp_path / "first.h5ad")
    joined.write_zarr(tmp_path / "others.zarr")
    paths = [str(tmp_path / "first.h5ad"), tmp_path / "others.zarr"]
    streamed = st.tl.train(paths, method="st_align", library_key="library_id", **FAST)
    assert_same_model(st.tl.train(sections, method="st_align", **FAST), streamed)


def test_counts_in_a_layer_are_read(sections, tmp_path):
    in_memory = st.tl.train(sections, method="cmrcnet", **FAST)
    for adata in sections:
        adata.layers["counts"] = adata.X.copy()
        adata.X = np.log1p(adata.X)
    assert_same_model(in_memory, st.tl.train(stores(sections, tmp_path / "layers"), method="cmrcnet", **FAST))


def test_pixels_are_streamed(two_sections, tmp_path):
    small = [adata[::30].copy() for adata in two_sections]
    how = {"image_encoder": "vit_tiny_patch16_224", "depth": 1, "batch_size": 8, "genes": list(small[0].var_names[:20])}
    features = ["X_fake_niche"]
    for adata in small:
        adata.obsm["X_fake_niche"] = np.random.default_rng(0).standard_normal((adata.n_obs, 4)).astype(np.float32)
        del adata.uns["truth"]
    how |= FAST | {"method": "st_align", "epochs": 1, "features": features}
    in_memory = st.tl.train(small, **how)
    assert_same_model(in_memory, st.tl.train(stores(small, tmp_path / "small"), **how))


def test_a_run_begun_in_memory_goes_on_from_disk(sections, folder, tmp_path):
    how = {"method": "st_align", "checkpoint": tmp_path / "run", **FAST}
    assert_same_model(st.tl.train(sections, **how), st.tl.train(folder, **how))


def test_a_panel_is_chosen_store_by_store(sections, folder):
    assert st.pp.gene_panel(folder, n_top=7) == st.pp.gene_panel(sections, n_top=7)


# ---------------------------------------------------------------------- what does not grow


@pytest.mark.parametrize("method", METHODS)
def test_what_is_large_lies_on_disk(folder, monkeypatch, method):

    class Enough(Exception):
        """The inputs are seen."""

    def look(ensemble, inputs, not_measured):
        assert isinstance(inputs.table.design, DiskRows)
        assert isinstance(inputs.table.expression, DiskRows)
        wide = [values for values in inputs.take(np.arange(100)).tensors.all if len(values.shape) > 1]
        assert len(wide) == {"cmrcnet": 2, "st_align": 5}[method]
        assert all(isinstance(values, DiskRows) for values in wide)
        raise Enough

    monkeypatch.setattr(training, "choose_epochs", look)
    with pytest.raises(Enough):
        st.tl.train(folder, method=method, **FAST)


def test_stores_are_open_one_at_a_time(folder, monkeypatch):
    alive, most = weakref.WeakSet(), []
    make = stored.Store.__init__

    def counted(store, path):
        alive.add(store)
        most.append(len(alive))
        make(store, path)

    monkeypatch.setattr(stored.Store, "__init__", counted)
    st.tl.train(folder, method="st_align", **FAST)
    assert len(most) > 12
    assert max(most) <= 2


def test_a_store_of_several_sections_is_read_once(sections, tmp_path):
    two = ad.concat(sections[:2], label="slide", keys=["section0", "section1"], uns_merge="unique")
    two.write_h5ad(tmp_path / "two.h5ad")
    sections[2].obs["slide"] = "section2"
    sections[2].write_h5ad(tmp_path / "three.h5ad")
    opened = stored.StoredSections([tmp_path / "two.h5ad", tmp_path / "three.h5ad"], Where("slide"))
    first, second, third = opened
    assert first.store is second.store
    assert first.store is not third.store
    assert [section.obs_names[0] for section in (first, second, third)] == ["s0_0", "s1_0", "s2_0"]
    assert opened[2].store is third.store
    assert [section.obs_names[0] for section in opened[1:]] == ["s1_0", "s2_0"]


def test_the_bank_has_a_limit_and_every_section_a_share(sections, folder):
    model = st.tl.train(folder, method="st_align", bank_spots=60, neighbours=20, **FAST)
    record = model.config["bank"]
    assert len(model.arrays["bank"]) == len(model.arrays["expression"]) == 60
    assert set(Counter(record["section"]).values()) == {15}
    assert all(spot.startswith(f"s{number}_") for number, spot in zip(record["section"], record["spots"], strict=True))
    section = open_sections(sections[1])[0]
    place = {name: i for i, name in enumerate(sections[1].obs_names)}
    rows = [i for i, number in enumerate(record["section"]) if number == 1]
    own = section.log_expression(model.genes)[[place[record["spots"][i]] for i in rows]]
    shift = model.arrays["expression"][rows] - own
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-5)


def test_few_held_out_spots_are_looked_at_where_there_are_many(sections, monkeypatch):

    monkeypatch.setattr(training, "MOST_HELD", 50)
    notes = st.tl.train(sections, method="cmrcnet", **FAST).history.notes
    assert "the smallest one, 50 of its 81 spots" in notes[0]


def test_spots_are_drawn_in_proportion():
    section = np.repeat([0, 1, 2], [1000, 100, 10])
    found = drawn(section, 111, seed=0)
    assert len(np.unique(found)) == 111
    assert np.bincount(section[found]).tolist() == [100, 10, 1]
    assert not np.array_equal(found, drawn(section, 111, seed=1))
    np.testing.assert_array_equal(found, drawn(section, 111, seed=0))
    np.testing.assert_array_equal(drawn(section, 2000, seed=0), np.arange(1110))


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("method", ["ridge", "knn", "mean"])
def test_methods_that_hold_everything_say_so(folder, method):
    with pytest.raises(TypeError, match=f"'{method}' learns from all spots at once.*read_h5ad"):
        st.tl.train(folder, method=method)


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere"):
        st.tl.train(tmp_path / "nowhere", method="st_align")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty is neither an .h5ad or .zarr store nor a folder"):
        st.tl.train(tmp_path / "empty", method="st_align")


def test_paths_and_objects_are_not_mixed(sections, folder):
    with pytest.raises(TypeError, match="not both"):
        st.tl.train([sections[0], folder / "1.h5ad"], method="st_align")


def test_a_damaged_store_is_named(folder):
    (folder / "2.h5ad").write_bytes((folder / "2.h5ad").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"store .*2\.h5ad cannot be read"):
        st.tl.train(folder, method="st_align")


def test_a_spatialdata_store_is_refused(sections, tmp_path):
    import zarr

    zarr.open_group(tmp_path / "sdata.zarr", mode="w").create_group("tables")
    with pytest.raises(ValueError, match=r"sdata.zarr is no AnnData store.*write_h5ad"):
        st.tl.train(tmp_path / "sdata.zarr", method="st_align")


def test_sections_that_do_not_fit_are_refused_before_training(sections, tmp_path, cache):
    sections[2].X = sections[2].X * 0.5
    with pytest.raises(ValueError, match="fractional"):
        st.tl.train(stores(sections, tmp_path / "fractions"), method="st_align", **FAST)
    sections[2].X = sections[2].X * 2
    sections[3].uns["X_fake"]["encoder"] = "other"
    with pytest.raises(ValueError, match="encoder=other"):
        st.tl.train(stores(sections, tmp_path / "encoders"), method="st_align", **FAST)
    sections[3].obs["patient"] = np.where(np.arange(81) < 9, "A", "B")
    with pytest.raises(ValueError, match="one value in all of section 'section3'"):
        st.tl.train(stores(sections, tmp_path / "patients"), method="st_align", **FAST)
    assert not cache.exists()


@pytest.mark.skipif(not OPEN.is_dir(), reason="needs /proc to see open files")
def test_a_failed_training_leaves_nothing_behind(folder, cache, monkeypatch):

    held = []

    def fails(*args, **kwargs):
        held.extend(open_files(cache))
        msg = "the loss became NaN"
        raise ValueError(msg)

    monkeypatch.setattr(ensemble, "train_network", fails)
    with pytest.raises(ValueError, match="became NaN"):
        st.tl.train(folder, method="st_align", **FAST)
    assert held
    assert not open_files(cache)
    assert not list(cache.iterdir())


def test_part_of_stored_sections_stays_on_disk(folder, monkeypatch):
    whole = stored.StoredSections([folder])
    opened = Counter()
    read = stored.Store._read
    monkeypatch.setattr(stored.Store, "_read", lambda self, names: opened.update([self.path.name]) or read(self, names))
    part = whole[1:3]
    assert len(part) == 2
    assert not opened
    assert [section.name for section in part] == [whole[1].name, whole[2].name]
    assert set(opened) == {"1.h5ad", "2.h5ad"}
