from __future__ import annotations

import errno
import gc
import os

import numpy as np
import pytest
import torch

from stpredict._sections.stored import StoredSections
from stpredict.models._data.rows import DiskRowStore, RowStore, as_tensor, chunks, columns, row_store, take


@pytest.fixture
def store(tmp_path):
    with DiskRowStore(tmp_path) as store:
        yield store


def kept(store, values, parts=3):
    collected = store.collect()
    for part in np.array_split(values, parts):
        collected.append(part)
    return collected.done()


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)


@pytest.mark.parametrize(
    "asked",
    [
        slice(None),
        slice(10, 13),
        slice(48, 60),
        np.array([1, 3, 5, 6]),
        np.arange(50) % 3 == 0,
        np.array([4, 4, -1, 0, 1, 2, 30]),
        torch.tensor([7, 3]),
        torch.arange(50) > 40,
        np.zeros(0, dtype=np.int64),
    ],
)
def test_rows_read_from_disk_are_those_in_memory(store, values, asked):
    found = kept(store, values)[asked]
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found, values[np.asarray(asked) if torch.is_tensor(asked) else asked])


def test_views_name_rows_of_views_and_columns(store, values):
    rows = kept(store, values)
    even, later = np.arange(50) % 2 == 0, np.array([3, 5, 24])
    view = columns(take(take(rows, even), later), slice(2, 5))
    assert view.shape == (3, 3)
    assert len(rows) == 50
    np.testing.assert_array_equal(view[:], values[even][later][:, 2:5])
    np.testing.assert_array_equal(view[np.array([2, 0])], values[even][later][[2, 0], 2:5])


def test_pixels_keep_shape_and_type(store):
    tiles = np.random.default_rng(0).integers(0, 255, (9, 3, 4, 4), dtype=np.uint8)
    rows = kept(store, tiles)
    assert rows.shape == (9, 3, 4, 4)
    assert rows[2:5].dtype == torch.uint8
    np.testing.assert_array_equal(rows[:], tiles)


def test_rows_without_columns_are_counted(store):
    rows = kept(store, np.zeros((6, 0), dtype=np.float32))
    assert len(rows) == 6
    assert rows[np.array([1, 5])].shape == (2, 0)
    assert len(take(rows, np.array([1, 5]))) == 2


def test_chunks_are_the_same_on_disk_and_in_memory(store):
    values = np.random.default_rng(0).standard_normal((10_000, 3)).astype(np.float32)
    there, here = list(chunks(kept(store, values))), list(chunks(kept(RowStore(), values)))
    assert [len(chunk) for chunk in there] == [len(chunk) for chunk in here]
    np.testing.assert_array_equal(np.concatenate(there), values)


def test_chunks_are_of_4096_rows_or_sixteen_million_values():
    def sizes(*shape):
        return [len(chunk) for chunk in chunks(np.broadcast_to(np.float32(0), shape))]

    assert sizes(5000, 3) == [4096, 904]
    assert sizes(1500, 2**7, 2**7) == [1024, 476]
    assert sizes(2, 2**25) == [1, 1]
    assert sizes(5000, 0) == [4096, 904]


def test_one_part_in_memory_is_not_copied(values):
    assert np.shares_memory(kept(RowStore(), values, parts=1), values)
    np.testing.assert_array_equal(kept(RowStore(), values, parts=2), values)


def test_rows_are_on_disk_at_once_and_may_be_read_between_writes(tmp_path, values):
    with DiskRowStore(tmp_path / "deep" / "cache") as store:
        rows = store.collect()
        for n in (1, 2, 3):
            rows.append(values)
            assert os.fstat(rows._file._raw.fileno()).st_size == n * values.nbytes
            np.testing.assert_array_equal(rows[50 * n - 50 : 50 * n - 48], values[:2])
        os.ftruncate(rows._file._raw.fileno(), 100)
        np.testing.assert_array_equal(rows[:3], values[:3])
        with pytest.raises(OSError, match="ends before its last row"):
            rows[:4]


def test_rows_of_stores_are_kept_on_disk_and_others_in_memory(values):
    assert isinstance(row_store(StoredSections([])), DiskRowStore)
    assert not isinstance(row_store([]), DiskRowStore)
    tensor = as_tensor(values[:, ::2])
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(tensor, values[:, ::2])
    np.testing.assert_array_equal(columns(values, slice(2, 4)), values[:, 2:4])


def test_rows_of_another_shape_are_refused(store, values):
    collected = store.collect()
    collected.append(values)
    with pytest.raises(ValueError, match=r"\(7,\).*got \(6,\)"):
        collected.append(values[:, :6])
    tiles = kept(store, np.zeros((4, 3, 2, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"\(3, 2, 2\).*got \(3, 2, 3\)"):
        tiles.append(np.zeros((4, 3, 2, 3), dtype=np.uint8))


def test_nothing_is_left_behind(tmp_path, values):
    with DiskRowStore(tmp_path) as store:
        rows = kept(store, values)
        assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="closed"):
        rows[:]


def test_room_is_given_back_as_soon_as_rows_are_forgotten(store, values):
    rows = kept(store, values)
    view = take(rows, np.arange(3))
    del rows
    gc.collect()
    assert len(store._files) == 1
    del view
    gc.collect()
    assert not len(store._files)


def test_a_full_disk_is_named(store, values, tmp_path, monkeypatch):
    rows = store.collect()

    class Full:
        def seek(self, _):
            pass

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(rows._file, "_raw", Full())
    with pytest.raises(OSError, match=r"has no room left.*cache_dir") as raised:
        rows.append(values)
    assert str(tmp_path) in str(raised.value)
    assert raised.value.errno == errno.ENOSPC
