"""One training run of a network, by Lightning."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from stpredict._core.device import resolve_device, resolve_precision
from stpredict.models._training.callbacks import Progress, Saves, interruptible, quiet
from stpredict.models._training.checkpoints import SafeCheckpointIO, latest
from stpredict.models._training.processes import Share, agreed, share_buffers, started

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

LEAST_STEPS = 6
"""Steps that an epoch has at least."""

OTHER_RUN = "The checkpoint is of a run on other data or with other options; pass another folder, or delete it."

LAST = "last"
"""Name of the checkpoint that a run continues from."""


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes
    ----------
    epochs
        Epochs to train.
    batch_size
        Spots per step, over all processes; the last, smaller batch of an epoch is left out.
    learning_rate, weight_decay
        Of AdamW.
    seed
        Everything random follows from it and the epoch; checkpoints within an epoch hold the state of the generator. So
        a resumed run goes on as if never cut.
    schedule
        Epochs over which the rate falls; by default `epochs`.
    warm_up
        Epochs over which it first rises from 0.
    final_rate, final_weight_decay
        Rate at the end as a share of `learning_rate`, and weight decay there (None: as at the start), both approached
        along a cosine.
    patience
        Stop when the monitored value has not risen for this many epochs.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    final_rate: float
    schedule: int | None = None
    warm_up: int = 0
    final_weight_decay: float | None = None
    patience: int | None = None


@dataclass(frozen=True)
class TrainingRun:
    """What a run left: the value of every quantity after each epoch, and the epoch (from 1) with the best monitored."""

    values: dict[str, list[float]]
    best_epoch: int


def train_network(
    network: nn.Module,
    tensors: Sequence[Tensor],
    plan: Plan,
    *,
    hard_negatives: Callable[[Tensor], Tensor] | None = None,
    monitor: Callable[[], dict[str, float]] | None = None,
    monitored: str = "val_pcc",
    checkpoint: Path | None = None,
    identity: str = "",
    show_progress: bool = False,
) -> TrainingRun:
    """Train `network` in place; with a `monitor`, it ends as it was after its best epoch.

    In processes that ``torchrun`` started, all call this with the same arguments and get the same network: each embeds
    its share of every step, losses are those of the whole batch, and gradients are averaged. What a network draws at
    random (dropout, masks) differs from that of a single process.

    Parameters
    ----------
    network
        Has ``losses(*batch)`` that returns a dataclass of losses with ``total``, and ``losses(*own, share=share)``, which
        returns the same from the rows of one process; from the whole batch, if its ``shares_rows`` is False, of
        which it then takes its share itself. If its ``decay_vectors`` is False, biases and weights of norms are not
        decayed.
    tensors
        Spots to learn from, each tensor with one row per spot.
    plan
        How to train.
    hard_negatives
        Draws rows that join the given ones in their batch.
    monitor
        Called after each epoch, with the network in evaluation mode; returns values to keep, among them `monitored`.
    monitored
        The value that tells the best epoch.
    checkpoint
        Folder of checkpoints, which all processes see; an unfinished run that is found there is continued, within an
        epoch from the last checkpoint that was written there (every five minutes).
    identity
        What tells this run from others, of other data or options; only the same run is continued.
    show_progress
        Show a progress bar.

    Raises
    ------
    ValueError
        If the loss becomes NaN or infinite, the checkpoint is of another run, or there are more processes than spots in
        a batch.
    """
    device = resolve_device()
    bf16 = resolve_precision(None, device) == "bfloat16"
    module = _Module(
        network, tensors, plan, hard_negatives=hard_negatives, monitor=monitor, monitored=monitored, identity=identity
    )
    callbacks: list[L.Callback] = []
    if monitor is not None and plan.patience is not None:
        callbacks.append(EarlyStopping(monitored, mode="max", patience=plan.patience, check_on_train_epoch_end=True))
    if checkpoint is not None:
        callbacks.append(Saves(checkpoint / LAST))
    if show_progress:
        callbacks.append(Progress(plan.epochs))
    with quiet(), interruptible(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trainer = L.Trainer(
            max_epochs=plan.epochs,
            accelerator=device.type,
            **_processes(device),
            precision="bf16-mixed" if bf16 else "32-true",
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=checkpoint is not None or show_progress,  # both are `Checkpoint`s
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, range(module.steps), ckpt_path=latest(checkpoint, LAST))
    network.cpu().eval()
    best = module.best_epoch or plan.epochs
    if module.best_state is not None:
        network.load_state_dict(module.best_state)
    return TrainingRun(module.values, best)


def _processes(device: torch.device) -> dict[str, Any]:
    """Arguments of Lightning's trainer: all processes of ``torchrun``, or this one, whatever a cluster offers."""
    here, machines = started()
    if here * machines == 1:
        devices = 1 if device.type == "cpu" or device.index is None else [device.index]
        return {"devices": devices, "plugins": [SafeCheckpointIO(), LightningEnvironment()]}
    return {
        "devices": here,
        "num_nodes": machines,
        "strategy": DDPStrategy(static_graph=True),
        "sync_batchnorm": device.type == "cuda",
        "plugins": [SafeCheckpointIO()],
    }


class _Module(L.LightningModule):
    """Batches, optimiser, schedule and bookkeeping around a network.

    Lightning counts the steps; which spots a step sees follows from the seed and the epoch alone. An epoch has at least
    `LEAST_STEPS` steps: few spots are gone through several times.
    """

    def __init__(
        self,
        network: nn.Module,
        tensors: Sequence[Tensor],
        plan: Plan,
        *,
        hard_negatives: Callable[[Tensor], Tensor] | None,
        monitor: Callable[[], dict[str, float]] | None,
        monitored: str,
        identity: str,
    ) -> None:
        super().__init__()
        self.network, self.tensors, self.plan, self.hard_negatives = network, tensors, plan, hard_negatives
        self.monitor, self.monitored, self.identity = monitor, monitored, identity
        self.shares_rows = getattr(network, "shares_rows", True)
        self.size = min(plan.batch_size, len(tensors[0]))
        self.steps = max(len(tensors[0]) // self.size, LEAST_STEPS)
        self.values: dict[str, list[float]] = {}
        self.best_epoch: int = 0
        self.best_state: dict[str, Tensor] | None = None
        self._sums: dict[str, Tensor] = {}
        self._order = torch.empty(0, dtype=torch.int64)
        self._random: list[Tensor] = []

    def configure_optimizers(self) -> dict[str, Any]:
        plan = self.plan
        optimizer = torch.optim.AdamW(
            _decayed_first(self.network), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
        )
        rise = plan.warm_up * self.steps

        def rate(step: int) -> float:
            warm = min((step + 1) / rise, 1) if rise else 1
            return warm * (plan.final_rate + (1 - plan.final_rate) * self._to_go(step))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _to_go(self, step: int) -> float:
        """1 at the first step, 0 at the last, along a cosine."""
        total = (self.plan.schedule or self.plan.epochs) * self.steps
        return (1 + math.cos(math.pi * step / total)) / 2

    def on_train_batch_start(self, batch: int, step: int) -> None:
        plan = self.plan
        if plan.final_weight_decay is not None:
            change = (1 - self._to_go(self.global_step)) * (plan.final_weight_decay - plan.weight_decay)
            self.optimizers().param_groups[0]["weight_decay"] = plan.weight_decay + change

    def on_train_start(self) -> None:
        if self.shares_rows and self.trainer.world_size > self.size:
            msg = f"A batch of {self.size} spots cannot be shared by {self.trainer.world_size} processes; start fewer."
            raise ValueError(msg)
        if self._random:  # goes on where it was cut, perhaps within an epoch
            self._shuffle()
            _set_random_state(self._random, self.device)
            self._sums = {name: total.to(self.device) for name, total in self._sums.items()}

    def on_train_epoch_start(self) -> None:
        self._shuffle()
        self._sums = {}

    def _shuffle(self) -> None:
        """Draw the order of the spots in this epoch."""
        torch.manual_seed(self.plan.seed * 1_000_003 + self.current_epoch)
        n = len(self.tensors[0])
        rounds = math.ceil(self.steps * self.size / n)
        self._order = torch.cat([torch.randperm(n) for _ in range(rounds)])

    def training_step(self, _: int, step: int) -> Tensor:
        rank, of = self.global_rank, self.trainer.world_size
        if of > 1:  # all draw the same rows, then each its own noise
            torch.manual_seed((self.plan.seed * 1_000_003 + self.global_step) * of)
        rows = self._order[step * self.size : (step + 1) * self.size]
        if self.hard_negatives is not None:
            rows = torch.cat([rows, self.hard_negatives(rows)])
        how: dict[str, Any] = {}
        if of > 1:
            torch.manual_seed((self.plan.seed * 1_000_003 + self.global_step) * of + rank)
            how["share"] = share = Share(len(rows), rank, of)
            rows = share.rows(rows) if self.shares_rows else rows
        losses = self.network.losses(*(tensor[rows].to(self.device) for tensor in self.tensors), **how)
        for name, loss in vars(losses).items():
            self._sums[name] = self._sums.get(name, 0.0) + loss.detach()
        return losses.total

    def on_train_epoch_end(self) -> None:
        values = {f"train_{name}": float(total) / self.steps for name, total in self._sums.items()}
        if not math.isfinite(values["train_total"]):
            msg = (
                f"The training loss became {values['train_total']} in epoch {self.current_epoch + 1}. "
                "Lower learning_rate, and check the features for extreme values."
            )
            raise ValueError(msg)
        share_buffers(self.network)
        if self.monitor is not None:
            self.network.eval()
            with torch.inference_mode():
                values |= self.monitor()
            self.network.train()
        told = agreed(torch.tensor(list(values.values()), dtype=torch.float64), self.device)
        values = dict(zip(values, told.tolist(), strict=True))
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
        self.log_dict({name: torch.tensor(value) for name, value in values.items()})
        if self.monitor is not None:
            self._keep_best(self.values[self.monitored])

    def _keep_best(self, values: list[float]) -> None:
        if values[-1] > max(values[:-1], default=-math.inf):
            self.best_epoch = len(values)
            self.best_state = {
                name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()
            }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {
            "values": self.values,
            "best_epoch": self.best_epoch,
            "best_state": self.best_state,
            "identity": [self.identity, asdict(self.plan)],
            "sums": self._sums,
            "random": _random_state(self.device),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        run = checkpoint["run"]
        if run["identity"] != [self.identity, asdict(self.plan)]:
            raise ValueError(OTHER_RUN)
        self.values, self.best_epoch, self.best_state = run["values"], run["best_epoch"], run["best_state"]
        self._sums, self._random = run.get("sums", {}), run.get("random", [])


def _decayed_first(network: nn.Module) -> list[dict[str, Any]]:
    """Parameters to decay, then those that are not: biases and weights of norms of a network that spares them."""
    parameters = list(network.parameters())
    if getattr(network, "decay_vectors", True):
        return [{"params": parameters}]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _random_state(device: torch.device) -> list[Tensor]:
    """State of the generators that a network draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[Tensor], device: torch.device) -> None:
    """Go on drawing from there; a GPU cannot go on where a CPU was cut, and starts anew."""
    torch.set_rng_state(state[0])
    if device.type == "cuda" and len(state) > 1:
        torch.cuda.set_rng_state(state[1], device)
