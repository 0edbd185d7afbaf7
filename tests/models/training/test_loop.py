"""What happens at every step and after every epoch of a run, on networks whose losses are numbers known beforehand."""

from __future__ import annotations

import logging
import signal
import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stpredict.models._training import callbacks, ensemble, loop
from stpredict.models._training.callbacks import Saves, interruptible, quiet
from stpredict.models._training.checkpoints import SafeCheckpointIO, latest
from stpredict.models._training.ensemble import Ensemble
from stpredict.models._training.loop import OTHER_RUN, Plan, _decayed_first, _Module, _processes, train_network

PLAN = Plan(epochs=2, batch_size=2, learning_rate=0.1, weight_decay=0.0, final_rate=0.1, seed=2)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 3)


@dataclass
class Loss:
    total: torch.Tensor


class Counting(nn.Module):
    """Its loss is the number of the step; it keeps the rows it was shown, and a random number of every step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen, self.drawn, self.training_in, self.types = [], [], [], set()

    def losses(self, rows, share=None):
        self.seen.append(rows.flatten().tolist())
        self.drawn.append(torch.rand(()).item())
        self.training_in.append(self.training)
        out = self.layer(torch.ones(1, 1))
        self.types.add(out.dtype)
        return Loss(out.sum() - out.sum().detach() + len(self.seen))


def run(plan=PLAN, n=4, **how):
    network = Counting()
    return network, train_network(network, [torch.arange(float(n))[:, None]], plan, **how)


def numbers(seed, n, of):
    """What follows from a seed: orders of `n` spots, `of` of them, and the generator after them."""
    generator = torch.Generator().manual_seed(seed)
    return [row for _ in range(of) for row in torch.randperm(n, generator=generator).tolist()], generator


# ---------------------------------------------------------------------- steps


def test_few_spots_are_gone_through_three_times_in_six_steps_whose_losses_are_averaged():
    network, found = run()
    assert [len(rows) for rows in network.seen] == [2] * 12
    for epoch in (0, 1):
        rows = [row for step in network.seen[6 * epoch : 6 * epoch + 6] for row in step]
        order, generator = numbers(2_000_006 + epoch, 4, 3)
        assert rows == order
        noise = [torch.rand((), generator=generator).item() for _ in range(6)]
        assert network.drawn[6 * epoch : 6 * epoch + 6] == noise
    assert found.values == {"train_total": [3.5, 9.5]}  # of steps 1 to 6, and 7 to 12
    assert found.best_epoch == 2
    assert all(network.training_in)
    assert not network.training
    assert network.types == {torch.float32}


def test_all_spots_are_seen_once_where_they_fill_more_steps():
    network, _ = run(replace(PLAN, epochs=1), n=17)
    rows = [row for step in network.seen for row in step]
    assert len(network.seen) == 8  # the seventeenth spot fills no batch
    assert len(set(rows)) == 16


class Trainer:
    """Stands for Lightning's trainer in a process of several."""

    def __init__(self, rank=0, of=1, step=0):
        self.global_rank, self.world_size, self.global_step, self.current_epoch = rank, of, step, 0


def module(trainer, network=None, negatives=None, n=4):
    network = network or Counting()
    found = _Module(
        network,
        [torch.arange(n)[:, None]],
        PLAN,
        hard_negatives=negatives,
        monitor=None,
        monitored="val_pcc",
        identity="",
    )
    found.trainer = trainer
    return found


@pytest.mark.parametrize("shares_rows", [True, False])
def test_processes_draw_the_same_negatives_each_its_rows_and_each_its_noise(shares_rows):
    expected = torch.randint(4, (2,), generator=torch.Generator().manual_seed(4_000_014)).tolist()
    for rank in (0, 1):
        trainer, network = Trainer(rank, 2, step=1), Counting()
        network.shares_rows = shares_rows
        step = module(trainer, network, lambda rows: torch.randint(4, (2,)))
        step._shuffle()
        step.training_step(1, 1)
        whole = numbers(2_000_006, 4, 3)[0][2:4] + expected
        assert network.seen == [whole[rank::2] if shares_rows else whole]
        noise = torch.rand((), generator=torch.Generator().manual_seed(4_000_014 + rank)).item()
        assert network.drawn == [noise]


def test_a_batch_is_not_shared_by_more_processes_than_it_has_spots():
    two, three, whole = Trainer(of=2), Trainer(of=3), Counting()
    whole.shares_rows = False
    module(two).on_train_start()
    module(three, whole).on_train_start()
    with pytest.raises(ValueError, match="batch of 2 spots cannot be shared by 3 processes"):
        module(three).on_train_start()


def test_biases_and_norms_are_spared_by_networks_that_say_so():
    network = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    assert [len(group["params"]) for group in _decayed_first(network)] == [4]
    network.decay_vectors = False
    decayed, spared = _decayed_first(network)
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert [tuple(p.shape) for p in spared["params"]] == [(2,)] * 3
    assert spared["weight_decay"] == 0


# ---------------------------------------------------------------------- epochs


def looking(network, scores):
    """A monitor that tells `scores` one after the other, and what it saw."""
    seen = []

    def look():
        seen.append((network.training, torch.is_inference_mode_enabled(), network.layer.weight.item()))
        return {"val_pcc": scores[len(seen) - 1], "other": 0.0}

    return look, seen


@pytest.mark.parametrize(("patience", "epochs"), [(2, 4), (None, 6)])
def test_a_run_ends_as_after_its_best_epoch_and_stops_after_two_without_a_better_one(monkeypatch, patience, epochs):
    shared = []
    monkeypatch.setattr(loop, "share_buffers", lambda network: shared.append(network))
    network = Counting()
    look, seen = looking(network, [0.1, 0.3, 0.3, 0.2, 0.2, 0.1])
    found = train_network(network, [torch.zeros(4, 1)], replace(PLAN, epochs=6, patience=patience), monitor=look)
    assert found.values["val_pcc"] == [0.1, 0.3, 0.3, 0.2, 0.2, 0.1][:epochs]
    assert found.best_epoch == 2
    assert [state[:2] for state in seen] == [(False, True)] * epochs
    assert network.layer.weight.item() == seen[1][2] != seen[-1][2]
    assert all(network.training_in)
    assert shared == [network] * epochs


def test_patience_without_a_monitor_stops_nothing():
    assert len(run(replace(PLAN, patience=1))[1].values["train_total"]) == 2


def test_a_finished_run_is_taken_from_its_checkpoint_and_refused_to_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run()
    assert list(tmp_path.iterdir()) == []
    _, found = run(checkpoint=tmp_path / "run", identity="a")
    network, again = run(checkpoint=tmp_path / "run", identity="a")
    assert again == found
    assert network.seen == []
    assert [path.name for path in tmp_path.rglob("last*")] == ["last"]
    for other in ({"identity": "b"}, {"identity": "a", "plan": replace(PLAN, learning_rate=0.2)}):
        with pytest.raises(ValueError, match=OTHER_RUN):
            run(checkpoint=tmp_path / "run", **other)


def test_the_bar_moves_with_each_epoch_and_tells_its_loss_and_score(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    told = []

    class Bar:
        def __init__(self, **how):
            told.append(how)

        def __getattr__(self, name):
            return lambda *given: told.append((name, *given))

    monkeypatch.setattr(callbacks, "progress_bar", Bar)
    network = Counting()
    look, _ = looking(network, [0.25, 0.5])
    train_network(network, [torch.zeros(4, 1)], PLAN, monitor=look)
    assert told == []
    network.seen.clear()
    look, _ = looking(network, [0.25, 0.5])
    train_network(network, [torch.zeros(4, 1)], PLAN, monitor=look, show_progress=True)
    assert told == [
        {"total": 2, "initial": 0, "desc": "train", "unit": "epoch", "disable": False},
        ("set_postfix", {"train_total": "3.500", "val_pcc": "0.250"}),
        ("update",),
        ("set_postfix", {"train_total": "9.500", "val_pcc": "0.500"}),
        ("update",),
        ("close",),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_written_within_an_epoch_when_five_minutes_have_passed(monkeypatch, tmp_path):
    now, saved = [1000.0], []
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    saves = Saves(tmp_path)
    batch = SimpleNamespace(batch_idx=0)
    trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_loop=batch),
        num_training_batches=3,
        save_checkpoint=lambda path: saved.append((path, now[0])),
    )
    for now[0], batch.batch_idx in ((1299, 0), (1300, 1), (1599, 0), (1600, 0), (2000, 2)):
        saves.on_train_batch_end(trainer, SimpleNamespace(device=CPU))
    assert saved == [(tmp_path, 1300), (tmp_path, 1600)]  # the last step of an epoch is saved with the epoch


# ---------------------------------------------------------------------- devices


@pytest.mark.parametrize(
    ("device", "devices"), [(CPU, 1), (torch.device("cpu", 0), 1), (torch.device("cuda"), 1), (GPU, [3])]
)
def test_one_process_trains_on_the_device_that_was_chosen(device, devices):
    found = _processes(device)
    assert found["devices"] == devices
    assert len(found["plugins"]) == 2
    assert "strategy" not in found


@pytest.mark.parametrize("started", [(2, 2), (1, 2)])
def test_processes_of_several_machines_are_counted(monkeypatch, started):
    monkeypatch.setattr(loop, "started", lambda: started)
    for device in (CPU, GPU):
        found = _processes(device)
        assert (found["devices"], found["num_nodes"]) == started
        assert found["sync_batchnorm"] == (device is GPU)


def test_the_state_of_a_gpu_is_kept_and_taken_up_where_there_is_one(monkeypatch):
    state, told = torch.get_rng_state(), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: (device, "state"))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *given: told.append(given))
    assert len(loop._random_state(CPU)) == 1
    assert loop._random_state(GPU)[1:] == [(GPU, "state")]
    try:
        loop._set_random_state([torch.Generator().manual_seed(7).get_state(), "state"], CPU)
        assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(7))
        loop._set_random_state([state], GPU)
        assert told == []
        loop._set_random_state([state, "state"], GPU)
        assert told == [("state", GPU)]
    finally:
        torch.set_rng_state(state)


# ---------------------------------------------------------------------- quiet, and interrupts


def test_lightning_is_quiet_and_others_are_heard():
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with quiet():
            assert logger.level == logging.ERROR
            warnings.warn_explicit("by Lightning", UserWarning, "file", 1, module="lightning.pytorch.loops")
            for text in ("loader does not have many workers", "This isn't supported", "a treespec is old"):
                warnings.warn_explicit(text, UserWarning, "file", 2, module="torch")
            warnings.warn_explicit("your dataloader is not resumable", UserWarning, "file", 3, module="torch")
            warnings.warn_explicit("something else", UserWarning, "file", 4, module="torch")
    assert [str(one.message) for one in heard] == ["something else"]
    assert logger.level == before


def test_an_exit_after_an_interrupt_is_the_interrupt_and_any_other_stays_one():
    handler, left = signal.getsignal(signal.SIGINT), SystemExit()
    left.__context__ = KeyboardInterrupt()
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():  # noqa: PT012
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise left
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, handler)
    with pytest.raises(SystemExit), interruptible():
        raise SystemExit(3)


# ---------------------------------------------------------------------- ensembles


class Material:
    """Four spots; `name` tells them from others."""

    def __init__(self, name="a"):
        self.name, self.asked, self.prepared = name, 0, []

    def tensors(self):
        return [torch.zeros(4, 1)]

    def hard_negatives(self):
        return None

    def prepare(self, network):
        self.prepared.append(network)

    def identity(self):
        self.asked += 1
        return self.name


def of_three(seed, checkpoint=None):
    """An ensemble, and the seeds that its networks were built with."""
    seeds = []
    options = SimpleNamespace(**vars(PLAN) | {"members": 3})

    def build():
        seeds.append(torch.initial_seed())
        return Counting()

    return Ensemble(build, options, seed, checkpoint, show_progress=False), seeds


def test_members_have_seeds_of_their_own():
    group, seeds = of_three(2)
    material = Material()
    group.choose_epochs(material, lambda network: lambda: {"val_pcc": 0.0})
    members = group.train_members(material, 1)
    assert seeds == [2, 6, 7, 8]
    assert material.prepared[1:] == members
    assert [len(member.seen) for member in members] == [6] * 3
    assert material.asked == 0  # without a folder nothing has to be told from other runs


def test_a_choice_that_was_made_is_remembered_and_refused_to_others(tmp_path, monkeypatch):
    def choose(seed=2, material=None, folder=tmp_path, scores=()):
        networks, left = [], iter(scores)

        def monitor(network):
            networks.append(network)
            return lambda: {"val_pcc": next(left)}

        run, _ = of_three(seed, folder)[0].choose_epochs(material or Material(), monitor)
        return run, networks[0]

    run, network = choose(scores=[0.2, 0.1])
    assert run.best_epoch == 1
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "_train", None)  # nothing is trained, nor read from the checkpoints of training
        again, same = choose()
    assert again == run
    assert torch.equal(same.layer.weight, network.layer.weight)
    assert not same.training
    for other in ({"seed": 3}, {"material": Material("b")}):
        with pytest.raises(ValueError, match=OTHER_RUN):
            choose(**other)
    monkeypatch.setattr(ensemble, "is_first", lambda: False)  # another process writes
    choose(folder=tmp_path / "other", scores=[0.2, 0.1])
    assert not (tmp_path / "other" / "choice" / "run.json").exists()


def test_members_go_on_from_checkpoints_of_their_own_material(tmp_path):
    group, _ = of_three(2, tmp_path)
    group.train_members(Material(), 1)
    assert all(member.seen == [] for member in group.train_members(Material(), 1))
    with pytest.raises(ValueError, match=OTHER_RUN):
        group.train_members(Material("b"), 1)


# ---------------------------------------------------------------------- checkpoints


def test_lists_tuples_and_paths_are_read_as_they_are_used(tmp_path):
    SafeCheckpointIO().save_checkpoint({"list": [1], "tuple": (1,), "path": tmp_path}, tmp_path / "last")
    found = SafeCheckpointIO().load_checkpoint(tmp_path / "last")
    assert found == {"list": [1], "tuple": (1,), "path": str(tmp_path)}


def test_the_latest_checkpoint_is_that_which_is_there(tmp_path):
    assert latest(None, "last") is None
    assert latest(tmp_path, "last") is None
    (tmp_path / "last").mkdir()
    assert latest(tmp_path, "last") == tmp_path / "last"
