from __future__ import annotations

import pytest
import torch

from stpredict.models._training.checkpoints import REST, TENSORS, SafeCheckpointIO

CONTENT = {
    "epoch": 3,
    "state": {0: {"step": torch.tensor(5.0), "moments": [torch.ones(2, 3), torch.zeros(1, dtype=torch.int64)]}},
    "best": float("inf"),
    "pair": (1, None, "a", True),
}


def test_what_is_written_is_read_and_is_no_pickle(tmp_path):
    SafeCheckpointIO().save_checkpoint(CONTENT, tmp_path / "last")
    found = SafeCheckpointIO().load_checkpoint(tmp_path / "last")
    assert found["state"][0]["step"] == 5
    torch.testing.assert_close(found["state"][0]["moments"], CONTENT["state"][0]["moments"])
    assert {k: found[k] for k in ("epoch", "best", "pair")} == {k: CONTENT[k] for k in ("epoch", "best", "pair")}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["last", REST, TENSORS]


def test_a_later_checkpoint_replaces_the_earlier_one(tmp_path):
    for epoch in (1, 2):
        SafeCheckpointIO().save_checkpoint({"epoch": epoch}, tmp_path / "last")
    assert SafeCheckpointIO().load_checkpoint(tmp_path / "last") == {"epoch": 2}
    SafeCheckpointIO().remove_checkpoint(tmp_path / "last")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["{", "[1]", '["tensor", "9"]'])
def test_a_damaged_checkpoint_says_so(tmp_path, damage):
    SafeCheckpointIO().save_checkpoint(CONTENT, tmp_path / "last")
    (tmp_path / "last" / REST).write_text(damage)
    with pytest.raises(ValueError, match=r"is damaged .*delete it to train from the start"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last")


def test_objects_are_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot hold object"):
        SafeCheckpointIO().save_checkpoint({"x": object()}, tmp_path / "last")
    assert not (tmp_path / "last").exists()
