"""A run that is cut in the middle of an epoch goes on there, to the numbers of a run that never was."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import numpy as np
import pytest

import stpredict as st
from stpredict.models._training import callbacks
from stpredict.models._training.loop import LEAST_STEPS, _Module

FAST = {"epochs": 3, "width": 16, "members": 1, "learning_rate": 1e-3, "show_progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:.*has not left chance", "ignore:Fewer than 20 genes")


@pytest.fixture
def steps(monkeypatch):
    """Epoch and step of every training step; the one of number ``cut`` raises ``error``."""
    seen = SimpleNamespace(steps=[], cut=None, error=KeyboardInterrupt())
    step = _Module.training_step

    def watched(module, batch, number):
        seen.steps.append((module.current_epoch, number))
        if len(seen.steps) - 1 == seen.cut:
            seen.cut = None
            raise seen.error
        return step(module, batch, number)

    monkeypatch.setattr(_Module, "training_step", watched)
    return seen


def assert_same_model(one, other):
    assert one.history == other.history
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(values, other.arrays[name], err_msg=name)


@pytest.mark.parametrize(
    ("method", "cut", "error"),
    [
        ("cmrcnet", 9, KeyboardInterrupt()),  # the fourth step of the second epoch
        ("cmrcnet", 6, OSError(5, "Input/output error")),  # the first step of it
        ("cmrcnet", 3 * LEAST_STEPS + 5, KeyboardInterrupt()),  # the last step of an epoch of the final network
        ("st_align", 9, KeyboardInterrupt()),
        ("st_align", 8, KeyboardInterrupt()),  # as the published preset has it
        ("align_st", 3, KeyboardInterrupt()),
    ],
)
def test_a_run_goes_on_within_the_epoch(paired, tmp_path, monkeypatch, steps, method, cut, error):
    sections = paired(2)
    how = FAST | ({"companions": 2, "clusters": 3} if method == "st_align" else {}) | {"method": method}
    if cut == 8:
        how |= {"fusion": "released", "negatives": "companions", "soft_targets": False, "decay_vectors": False}
    if method == "align_st":
        how |= {"text_layers": 0, "axes": 4}
    expected = st.tl.train(sections, **how)
    all_steps = list(steps.steps)
    monkeypatch.setattr(callbacks, "SECONDS", 0)
    steps.cut, steps.error = cut, error
    steps.steps.clear()
    with pytest.raises(type(error)):
        st.tl.train(sections, checkpoint=tmp_path / "run", **how)
    assert steps.steps == all_steps[: cut + 1]
    steps.steps.clear()
    resumed = st.tl.train(sections, checkpoint=tmp_path / "run", **how)
    assert steps.steps == all_steps[cut:]
    assert_same_model(expected, resumed)


def test_a_checkpoint_is_written_every_few_minutes_and_after_every_epoch(paired, tmp_path, monkeypatch):
    saved, clock = [], [0.0]
    save = callbacks.Saves._save

    def watched(saves, trainer):
        saved.append(trainer.global_step)
        save(saves, trainer)

    def tick():
        clock[0] += 61
        return clock[0]

    monkeypatch.setattr(callbacks.Saves, "_save", watched)
    monkeypatch.setattr(callbacks.time, "monotonic", tick)
    monkeypatch.setattr(callbacks, "SECONDS", 240)
    st.tl.train(paired(2), method="cmrcnet", checkpoint=tmp_path / "run", **FAST)
    n = LEAST_STEPS
    assert saved[:6] == [4, n, n + 4, 2 * n, 2 * n + 4, 3 * n]


def test_an_interrupt_stays_one_and_further_ones_are_heard(paired, tmp_path, steps):
    steps.cut = 2
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        st.tl.train(paired(2), method="cmrcnet", **FAST)
    assert signal.getsignal(signal.SIGINT) is before
