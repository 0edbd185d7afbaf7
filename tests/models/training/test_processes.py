"""Two processes train the network that one trains."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stpredict.models._training.processes import ALONE, Share, agreed, is_first, started

SCRIPT = Path(__file__).with_name("train_in_processes.py")
pytestmark = pytest.mark.filterwarnings("ignore:.*has not left chance")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_in_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays(path):
    with np.load(path) as found:
        return dict(found)


def test_two_processes_train_the_network_that_one_trains(paired, tmp_path, script):
    stores = tmp_path / "stores"
    stores.mkdir()
    for i, adata in enumerate(paired(3)):
        adata.write_h5ad(stores / f"{i}.h5ad")
    names = [*script.EXACT, *script.OTHERS]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, SCRIPT, stores, tmp_path, *names], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for name in names:
        first, second = (arrays(tmp_path / f"{name}{rank}.npz") for rank in (0, 1))
        assert first.keys() == second.keys()
        for key, values in first.items():
            np.testing.assert_array_equal(values, second[key], err_msg=f"{name} {key}")
        values = json.loads((tmp_path / f"{name}0.json").read_text())
        if name not in script.EXACT:
            continue
        alone = script.train(stores, name)
        for key, expected in alone.arrays.items():
            told = slice(None)
            if key.endswith("in_proj_bias"):  # of queries and values: those of keys change no attention
                told = np.arange(len(expected)) // (len(expected) // 3) != 1
            np.testing.assert_allclose(first[key][told], expected[told], rtol=1e-3, atol=1e-4, err_msg=f"{name} {key}")
        for key, expected in alone.history.values.items():
            np.testing.assert_allclose(values[key], expected, rtol=1e-3, atol=1e-4, err_msg=f"{name} {key}")
        again = script.train(stores, name, checkpoint=tmp_path / name)  # one process goes on where two have ended
        for key, expected in again.arrays.items():
            np.testing.assert_array_equal(first[key], expected, err_msg=f"{name} {key}")


def test_a_share_of_one_process_is_the_batch():
    values = torch.arange(10.0)
    assert ALONE.whole(values) is values
    assert ALONE.rows(values).tolist() == values.tolist()
    assert ALONE.first(None) == slice(None)
    assert values[ALONE.first(3)].tolist() == [0, 1, 2]
    assert ALONE.mean(values[0], 4) == 0
    assert (started(), is_first(), agreed([1.5], torch.device("cpu"))) == ((1, 1), True, [1.5])


@pytest.mark.parametrize("first", [None, 3, 7, 20])
def test_shares_make_the_batch_and_its_gradients(monkeypatch, first):
    """Processes take turns; what they would add up is added here."""
    n, of = 10, 3
    torch.manual_seed(0)
    inputs, weights = torch.randn(n, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def loss(rows, mean):
        return torch.log1p(rows.square().sum()) + torch.logsumexp(rows, 0) + torch.log1p(mean)

    def embedded(weight, share):
        own = share.rows(inputs) @ weight
        return own, own[share.first(first)].square().mean()

    def run(weight, share):
        own, mean = embedded(weight, share)
        return loss(share.whole(own), share.mean(mean, first))

    alone = weights.clone().requires_grad_()
    whole = inputs @ alone
    expected = loss(whole, whole[:first].square().mean())
    expected.backward()

    shares = [Share(n, rank, of) for rank in range(of)]
    calls = []
    with torch.no_grad():
        rows = torch.empty(n, dtype=torch.float64)
        some = torch.empty(min(first or n, n), dtype=torch.float64)
        for share in shares:
            own, mean = embedded(weights, share)
            rows[share.rank :: of], some[share.rank :: of] = own, mean

    def all_reduce(values):
        values.copy_(rows if calls.pop() == "rows" else some)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    slopes = []
    for share in shares:
        weight = weights.clone().requires_grad_()
        calls[:] = ["mean", "rows"]
        found = run(weight, share)
        found.backward()
        torch.testing.assert_close(found, expected)
        slopes.append(weight.grad)
    torch.testing.assert_close(torch.stack(slopes).mean(dim=0), alone.grad)


def test_processes_of_torchrun_are_counted_and_workers_of_theirs_are_not(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert started() == (4, 2)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "LokyProcess-1")
    assert started() == (1, 1)


def test_more_processes_than_spots_are_refused():
    with pytest.raises(ValueError, match="2 spots of a batch cannot be shared by 3 processes"):
        Share(10, 0, 3).first(2)
