"""Two processes train the network that one trains."""

from __future__ import annotations

import copy
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stpredict.models._training.processes import ALONE, Share, agreed, is_first, started
from stpredict.models.align_st import Options, _network
from stpredict.models.align_st._network import AlignStNetwork, Described, SlideTensors

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
    assert (started(), is_first(), agreed(values, torch.device("cpu")) is values) == ((1, 1), True, True)


def together(monkeypatch, of, work):
    """What `work(share)` returns in each of `of` processes; threads stand for them."""
    barrier, given, me = threading.Barrier(of, timeout=60), {}, threading.local()

    def exchanged(values):
        given[me.rank] = values.clone()
        barrier.wait()
        found = [given[rank] for rank in range(of)]
        barrier.wait()
        return found

    def run(rank):
        me.rank = rank
        try:
            return work(Share(10, rank, of))
        except BaseException:
            barrier.abort()
            raise

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.copy_(sum(exchanged(values))))
    monkeypatch.setattr(torch.distributed, "broadcast", lambda values, source: values.copy_(exchanged(values)[source]))
    with ThreadPoolExecutor(of) as pool:
        return list(pool.map(run, range(of)))


def test_one_process_of_several_writes(monkeypatch):
    ranks = iter(range(3))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: next(ranks))
    assert [is_first() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("first", [None, 3, 7, 20])
def test_shares_make_the_batch_and_its_gradients(monkeypatch, first):
    n, of = 10, 3
    torch.manual_seed(0)
    inputs, weights = torch.randn(n, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def loss(share):
        """Of the rows, and of what each process makes of its own from all of them."""
        weight = weights.clone().requires_grad_()
        own = share.rows(inputs) @ weight
        mean = share.mean(own[share.first(first)].square().mean(), first)
        rows = share.whole(own)
        later = share.mean((share.rows(rows).square() * rows.exp().sum()).mean())
        total = torch.log1p(rows.square().sum()) + torch.logsumexp(rows, 0) + torch.log1p(mean) + torch.log1p(later)
        total.backward()
        return total.detach(), weight.grad

    expected, gradient = loss(Share(n, 0, 1))
    totals, gradients = zip(*together(monkeypatch, of, loss), strict=True)
    for total in totals:
        torch.testing.assert_close(total, expected)
    torch.testing.assert_close(torch.stack(gradients).mean(dim=0), gradient)


TEXT = {"text_layers": 1, "prompts": 2}
SECTIONS = {
    "plain": {},
    "nothing drawn": {"genes_per_step": None},
    "layers": {"refinement": 2},
    "text": TEXT,
    "text without tissue": TEXT | {"interaction": False},
    "graph": TEXT | {"gene_neighbours": 2},
    "fewer genes than processes": TEXT | {"gene_neighbours": 2, "genes_per_step": 2},
    "text alone": TEXT | {"coordinates": False},
    "nuclei": {"nuclei": True},
}


@pytest.mark.parametrize("name", SECTIONS)
def test_processes_that_share_a_section_get_its_losses_and_gradients(monkeypatch, name):
    """Each would draw other genes; the first one's are taken."""
    options = Options(
        **{"width": 8, "axes": 5, "dropout": 0.0, "feature_dropout": 0.0, "genes_per_step": 7} | SECTIONS[name]
    )
    torch.manual_seed(0)
    network = AlignStNetwork(7, 6, 2 * options.nuclei, options).double()
    for norm in network.modules():
        norm.train(not isinstance(norm, nn.BatchNorm2d))  # on a CPU each process has statistics of its own
    monkeypatch.setattr(_network, "SPOTS_AT_ONCE", 2)
    near = torch.randint(-1, 11, (11, 3))
    slide = SlideTensors(torch.randn(11, 7).double(), near, near.flip(0), torch.randn(11, 2, 16, 16).double())
    facts, known = torch.randn(9, 3, 6).double(), torch.rand(9, 3) < 0.7
    genes = Described(torch.randn(9, 5).double(), torch.zeros(9).double(), facts, known)
    by_text = torch.where(torch.arange(9)[:, None] % 2 > 0, torch.nan, torch.randn(9, 5).double())
    unseen = Described(by_text, torch.ones(9).double(), facts, known)
    network.learn_from([(slide, torch.arange(1, 11), torch.randn(10, 9).double())], genes, unseen)
    orders = [torch.randperm(9) for _ in range(3)]

    def step(share):
        own = copy.deepcopy(network)
        losses = own.losses(torch.tensor([0]), **({} if share is None else {"share": share}))
        losses.total.backward()
        slopes = {key: p.grad for key, p in own.named_parameters() if p.grad is not None}
        return {key: value.detach() for key, value in vars(losses).items()} | slopes

    me = threading.local()
    monkeypatch.setattr(torch, "randperm", lambda n: orders[getattr(me, "rank", 0)])
    expected = step(None)

    def shared(share):
        me.rank = share.rank
        return step(share)

    found = together(monkeypatch, 3, shared)
    for key, value in expected.items():
        mean = torch.stack([one[key] for one in found]).mean(dim=0)
        torch.testing.assert_close(mean, value, msg=lambda text, key=key: f"{key}: {text}")


def test_processes_of_torchrun_are_counted_and_workers_of_theirs_are_not(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert started() == (4, 2)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "LokyProcess-1")
    assert started() == (1, 1)


def test_more_processes_than_spots_are_refused():
    with pytest.raises(ValueError, match="2 spots of a batch cannot be shared by 3 processes"):
        Share(10, 0, 3).first(2)
