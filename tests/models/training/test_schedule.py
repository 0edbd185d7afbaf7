"""Learning rate and weight decay at every step of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import stpredict as st
from stpredict.models._training.loop import LEAST_STEPS, Plan, _Module, train_network

EPOCHS = 4
STEPS = EPOCHS * LEAST_STEPS
TO_GO = (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)) / 2


@dataclass
class Loss:
    total: torch.Tensor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def losses(self, x):
        return Loss(self.layer(x).square().mean())


@pytest.fixture
def steps(monkeypatch):
    """Learning rate and weight decay of every step so far."""
    seen = []
    step = _Module.training_step

    def watched(module, batch, number):
        (group,) = module.optimizers().param_groups
        seen.append((group["lr"], group["weight_decay"]))
        return step(module, batch, number)

    monkeypatch.setattr(_Module, "training_step", watched)
    return seen


def run(**plan):
    how = {"epochs": EPOCHS, "batch_size": 4, "learning_rate": 0.1, "weight_decay": 0.04, "seed": 0, "final_rate": 0.1}
    train_network(Net(), [torch.randn(8, 2)], Plan(**how | plan))


def test_the_rate_falls_along_a_cosine_to_its_last_share_and_decay_stays(steps):
    run(final_rate=0.2)
    rate, decay = np.array(steps).T
    np.testing.assert_allclose(rate, 0.1 * (0.2 + 0.8 * TO_GO), rtol=1e-6)
    np.testing.assert_allclose(decay, 0.04)


def test_the_rate_rises_in_equal_steps_over_the_epochs_of_warm_up(steps):
    run(final_rate=1, warm_up=2)
    rate, _ = np.array(steps).T
    np.testing.assert_allclose(rate[: 2 * LEAST_STEPS], 0.1 * np.arange(1, 13) / 12, rtol=1e-6)
    np.testing.assert_allclose(rate[2 * LEAST_STEPS :], 0.1, rtol=1e-6)


def test_weight_decay_follows_a_cosine_to_its_last_value(steps):
    run(final_weight_decay=0.4)
    _, decay = np.array(steps).T
    np.testing.assert_allclose(decay, 0.4 - 0.36 * TO_GO, rtol=1e-6)


def test_a_longer_schedule_is_cut(steps):
    run(final_rate=0, schedule=2 * EPOCHS)
    rate, _ = np.array(steps).T
    np.testing.assert_allclose(rate, 0.1 * (1 + np.cos(np.pi * np.arange(STEPS) / (2 * STEPS))) / 2, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*has not left chance")
def test_methods_train_by_the_schedule_of_their_options(paired, steps):
    """The choice of epochs and the final network both begin and go on as the options say."""
    how = {"learning_rate": 0.01, "weight_decay": 0.04, "warm_up": 1, "final_rate": 0.5, "final_weight_decay": 0.4}
    genes = [f"GENE{i}" for i in range(15)]
    st.tl.train(paired(2), method="st_align", genes=genes, epochs=2, members=1, width=16, show_progress=False, **how)
    first = np.array(steps[: 2 * LEAST_STEPS])
    to_go = (1 + np.cos(np.pi * np.arange(2 * LEAST_STEPS) / (2 * LEAST_STEPS))) / 2
    warm = np.minimum(np.arange(1, 2 * LEAST_STEPS + 1) / LEAST_STEPS, 1)
    np.testing.assert_allclose(first[:, 0], 0.01 * warm * (0.5 + 0.5 * to_go), rtol=1e-6)
    np.testing.assert_allclose(first[:, 1], 0.4 - 0.36 * to_go, rtol=1e-6)
    np.testing.assert_array_equal(steps[2 * LEAST_STEPS :][:LEAST_STEPS], first[:LEAST_STEPS])
