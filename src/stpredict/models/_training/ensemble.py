"""Training of an ensemble: how many epochs serve held-out spots best, then every member for as many on all spots."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from stpredict._core.files import read_text, replacing, tensor_errors, write_text
from stpredict.models._data.folds import inner_folds
from stpredict.models._training.loop import OTHER_RUN, Plan, TrainingRun, train_network
from stpredict.models._training.processes import is_first

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from stpredict.models._base.history import History
    from stpredict.models._base.options import NetworkOptions
    from stpredict.models._data.folds import HeldOut
    from stpredict.models._data.rows import DiskRows
    from stpredict.models._data.table import Table


@dataclass(frozen=True)
class Chosen:
    """What held-out spots said.

    Attributes
    ----------
    epochs
        To train for.
    arrays
        What the model keeps of it, ``residual_sd`` (genes,) among them: the error of every gene on held-out spots.
    history
        Losses and scores after each epoch.
    held
        What was predicted for held-out spots.
    decoded
        What a decoder predicted for them without reference spots, of networks that have both.
    scores
        PCC of ``held`` and ``decoded`` on these spots.
    """

    epochs: int
    arrays: dict[str, np.ndarray]
    history: History
    held: HeldOut
    decoded: HeldOut | None = None
    scores: tuple[float, float] = (np.nan, np.nan)


class Material(Protocol):
    """What networks learn from."""

    def tensors(self) -> Sequence[Tensor | DiskRows]:
        """Arguments of the network's ``losses``, each with one row per spot."""

    def hard_negatives(self) -> Callable[[Tensor], Tensor] | None:
        """Draw rows that join the given ones in their batch, if the method wants any."""

    def prepare(self, network: nn.Module) -> None:
        """Give the untrained `network` what does not come in batches."""

    def identity(self) -> str:
        """Tell a training on this material, with the same options, from any other."""


@dataclass(frozen=True)
class Ensemble:
    """Networks that differ in their seed, and how they are trained.

    Attributes
    ----------
    build
        Makes an untrained network.
    options
        Options of the method: those of `Plan`, and ``members``, the number of networks.
    seed
        Of the choice of epochs; those of the members follow from it.
    checkpoint
        Folder of checkpoints, or None.
    show_progress
        Show a progress bar.
    """

    build: Callable[[], nn.Module]
    options: NetworkOptions
    seed: int
    checkpoint: Path | None
    show_progress: bool

    def choose_epochs(
        self, material: Material, monitor: Callable[[nn.Module], Callable[[], dict[str, float]]]
    ) -> tuple[TrainingRun, Callable[[], dict[str, float]]]:
        """Train a network while `monitor` of it looks at held-out spots after each epoch.

        Returns
        -------
        The run, and the monitor of the network as it was after its best epoch.
        """
        folder = self.checkpoint and self.checkpoint / "choice"
        identity = "" if folder is None else material.identity() + str(self.seed)
        network = self._untrained(material, self.seed)
        looks = monitor(network)
        run = remembered(folder, network, identity)
        if run is None:
            plan = self._plan(self.seed, self.options.epochs)
            run = self._train(network, material, plan, monitor=looks, checkpoint=folder, identity=identity)
            remember(folder, run, network, identity)
        return run, looks

    def train_members(self, material: Material, epochs: int) -> list[nn.Module]:
        """Train every member on all of `material`."""
        networks = []
        for member in range(self.options.members):
            own_seed = self.seed * self.options.members + member
            network = self._untrained(material, own_seed)
            folder = self.checkpoint and self.checkpoint / f"member{member}"
            identity = "" if folder is None else material.identity()
            self._train(network, material, self._plan(own_seed, epochs), checkpoint=folder, identity=identity)
            networks.append(network)
        return networks

    def _untrained(self, material: Material, seed: int) -> nn.Module:
        network = seeded(self.build, seed)
        material.prepare(network)
        return network

    def _train(self, network: nn.Module, material: Material, plan: Plan, **how: object) -> TrainingRun:
        negatives = material.hard_negatives()
        return train_network(
            network, material.tensors(), plan, hard_negatives=negatives, show_progress=self.show_progress, **how
        )

    def _plan(self, seed: int, epochs: int) -> Plan:
        options = self.options
        return Plan(
            epochs=epochs,
            schedule=options.epochs,
            patience=options.patience,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            warm_up=options.warm_up,
            final_rate=options.final_rate,
            final_weight_decay=options.final_weight_decay,
            seed=seed,
        )


def held_out(table: Table) -> tuple[np.ndarray, str]:
    """Mask (n,) of the smallest inner fold of the table's spots, and in words what folds hold out."""
    folds, note = inner_folds(table)
    return min(folds, key=np.count_nonzero), note


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose first weights follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


# ---------------------------------------------------------------------- an interrupted choice


def remember(folder: Path | None, run: TrainingRun, network: nn.Module, identity: str) -> None:
    """Keep a finished run, so that a resumed training starts after it."""
    from safetensors.torch import save_file

    if folder is None or not is_first():
        return
    with replacing(folder / "best.safetensors") as new, tensor_errors(new):
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, new)
    write_text(folder / "run.json", json.dumps({"identity": identity, "run": asdict(run)}))


def remembered(folder: Path | None, network: nn.Module, identity: str) -> TrainingRun | None:
    """Read what `remember` kept; the network is then as it was after its best epoch."""
    from safetensors.torch import load_file

    if folder is None or not (folder / "run.json").exists():
        return None
    kept = json.loads(read_text(folder / "run.json"))
    if kept["identity"] != identity:
        raise ValueError(OTHER_RUN)
    network.load_state_dict(load_file(folder / "best.safetensors"))
    network.eval()
    return TrainingRun(**kept["run"])
