"""How aligned models are trained: epochs chosen on held-out spots, then networks trained on all spots."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from stpredict._core.warning import warn
from stpredict._evaluation.metrics import pearson
from stpredict.models._aligned.hard_negatives import Companions
from stpredict.models._base.contract import History
from stpredict.models._data.folds import inner_folds
from stpredict.models._retrieval.bank import compact
from stpredict.models._retrieval.search import normalise, retrieve
from stpredict.models._training.loop import OTHER_RUN, Plan, Run, train_network
from stpredict.models._training.processes import is_first

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from stpredict.models._aligned.inputs import Inputs
    from stpredict.models._aligned.options import AlignedOptions

    Build = Callable[[], "AlignedNetwork"]
    Rows = Sequence[Tensor | np.ndarray]

RECALL_AT = 10
"""A held-out spot is recalled if its own expression is among this many nearest to its image."""

CHUNK = 256
"""Spots embedded at once."""

MOST_HELD = 5_000
"""Held-out spots that are looked at, at most."""


class AlignedNetwork(Protocol):
    """What training and prediction need of a network beside being an ``nn.Module``."""

    def image(self, *images: Tensor) -> Tensor:
        """(batch, width): embedding of what spots look like."""

    def gene(self, *genes: Tensor) -> Tensor:
        """(batch, width): embedding of what spots express."""

    def contrastive(self, image: Tensor, gene: Tensor) -> Tensor:
        """Contrastive loss of embeddings of the same spots."""


@dataclass(frozen=True)
class Chosen:
    """What the held-out spots told."""

    epochs: int
    residual_sd: np.ndarray
    history: History


def choose_epochs(
    build: Build,
    inputs: Inputs,
    options: AlignedOptions,
    *,
    seed: int,
    checkpoint: Path | None,
    show_progress: bool,
) -> Chosen:
    """Train without the smallest inner fold, and see after how many epochs it is predicted best.

    Warns
    -----
    UserWarning
        If images do not find the expression of their own held-out spots more often than chance.
    """
    folds, note = inner_folds(inputs.table)
    held = min(folds, key=np.count_nonzero)
    train, test = inputs.take(~held), inputs.take(held).sample(MOST_HELD, seed).with_expression()
    network = _seeded(build, seed)
    monitor = _Monitor(network, train.sample(options.bank_spots, seed).with_expression(), test, options)
    plan = _plan(options, seed, epochs=options.epochs)
    folder = checkpoint and checkpoint / "choice"
    identity = "" if folder is None else train.identity(options) + str(seed)
    run = remembered(folder, network, identity)
    if run is None:
        how = {
            "companions": _companions(train, options),
            "monitor": monitor,
            "checkpoint": folder,
            "identity": identity,
            "show_progress": show_progress,
        }
        run = train_network(network, train.tensors.all, plan, **how)
        remember(folder, run, network, identity)
    errors = np.square(monitor.predicted() - test.table.expression, dtype=np.float64)
    best = {name: values[run.best_epoch - 1] for name, values in run.values.items()}
    _warn_of_chance(options.NAME, best["val_recall"], best["chance_recall"], len(test))
    n = np.count_nonzero(held)
    looked_at = f"{n} spots" if n == len(test) else f"{len(test)} of its {n} spots"
    notes = [
        f"{note}; the smallest one, {looked_at}, chose the number of epochs: {run.best_epoch}",
        f"held-out spots at that epoch: PCC {best['val_pcc']:.3f}, recall@{RECALL_AT} {best['val_recall']:.3f} "
        f"(chance {best['chance_recall']:.3f}), contrastive loss {best['val_contrastive']:.3f} "
        f"(chance {best['chance_contrastive']:.3f})",
    ]
    history = History(run.values | {"best_epoch": [run.best_epoch]}, notes)
    return Chosen(run.best_epoch, np.sqrt(errors.mean(axis=0)).astype(np.float32), history)


def train_members(
    build: Build,
    inputs: Inputs,
    options: AlignedOptions,
    *,
    epochs: int,
    seed: int,
    checkpoint: Path | None,
    show_progress: bool,
) -> list[AlignedNetwork]:
    """Train every member on all spots."""
    networks = []
    for member in range(options.members):
        own_seed = seed * options.members + member
        network = _seeded(build, own_seed)
        train_network(
            network,
            inputs.tensors.all,
            _plan(options, own_seed, epochs=epochs),
            companions=_companions(inputs, options),
            checkpoint=checkpoint and checkpoint / f"member{member}",
            identity="" if checkpoint is None else inputs.identity(options),
            show_progress=show_progress,
        )
        networks.append(network)
    return networks


class _Monitor:
    """How well held-out spots are predicted and matched, after each epoch."""

    def __init__(self, network: AlignedNetwork, bank: Inputs, test: Inputs, options: AlignedOptions) -> None:
        self.network, self.bank, self.test, self.options = network, bank, test, options
        self.size = min(options.batch_size, len(test))
        self.sections = [test.table.section == section for section in np.unique(test.table.section)]

    def predicted(self) -> np.ndarray:
        """Expression of the held-out spots, retrieved from the others."""
        return self._retrieved(image_embeddings(self.network, self.test.tensors.images))

    def _retrieved(self, image: np.ndarray) -> np.ndarray:
        bank = normalise(gene_embeddings(self.network, self.bank.tensors.genes))
        return retrieve(normalise(image), bank, self.bank.table.expression, **self.options.read_out)[0]

    def __call__(self) -> dict[str, float]:
        """Quality of the prediction, and of the match between image and expression beside that of guessing."""
        image, gene = (
            image_embeddings(self.network, self.test.tensors.images),
            gene_embeddings(self.network, self.test.tensors.genes),
        )
        predicted, measured = self._retrieved(image), self.test.table.expression
        return {
            "val_pcc": float(np.mean([pearson(measured[rows], predicted[rows])[0].mean() for rows in self.sections])),
            "val_contrastive": self._contrastive(image, gene),
            "chance_contrastive": float(np.log(self.size)),
            "val_recall": float(np.mean([_recalled(image[rows], gene[rows]).mean() for rows in self.sections])),
            "chance_recall": float(np.mean([min(RECALL_AT / rows.sum(), 1) for rows in self.sections])),
        }

    def _contrastive(self, image: np.ndarray, gene: np.ndarray) -> float:
        """Contrastive loss over batches as large as in training, of spots from all over the held-out ones."""
        order = np.random.default_rng(0).permutation(len(image))
        batches = [order[i : i + self.size] for i in range(0, len(image) - self.size + 1, self.size)]
        pairs = [(torch.from_numpy(image[rows]), torch.from_numpy(gene[rows])) for rows in batches]
        return float(np.mean([float(self.network.contrastive(*pair)) for pair in pairs]))


def _recalled(image: np.ndarray, gene: np.ndarray) -> np.ndarray:
    """Whether each spot's own expression is among the `RECALL_AT` nearest to its image (cosine)."""
    similarity = normalise(image) @ normalise(gene).T
    return (similarity > np.diag(similarity)[:, None]).sum(axis=1) < RECALL_AT


def _warn_of_chance(name: str, recall: float, chance: float, n: int) -> None:
    from scipy.stats import binomtest

    if chance < 1 and binomtest(round(recall * n), n, chance, alternative="greater").pvalue > 0.05:
        msg = (
            f"{name} has not left chance: for {recall:.1%} of the held-out spots their own expression is among the "
            f"{RECALL_AT} nearest to their image, where guessing finds {chance:.1%}. Do not trust its predictions; "
            "more sections, other features (stpredict.pp.encode) or method='ridge' may serve better."
        )
        warn(msg)


# ---------------------------------------------------------------------- networks and arrays


def _seeded(build: Build, seed: int) -> AlignedNetwork:
    """A network whose first weights follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _plan(options: AlignedOptions, seed: int, *, epochs: int) -> Plan:
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


def _companions(inputs: Inputs, options: AlignedOptions) -> Companions | None:
    return Companions(*inputs.tensors.groups[-2:], options.companions) if options.companions else None


def image_embeddings(network: AlignedNetwork, images: Rows) -> np.ndarray:
    """float32 (n, width): what spots look like in the joint space."""
    return in_pieces(network, network.image, images)


def gene_embeddings(network: AlignedNetwork, genes: Rows) -> np.ndarray:
    """float32 (n, width): what spots express in the joint space."""
    return in_pieces(network, network.gene, genes)


@torch.inference_mode()
def in_pieces(network: AlignedNetwork, function: Callable[..., Tensor], rows: Rows) -> np.ndarray:
    """What `function` makes of `rows`, float32, a few spots at a time."""
    device = next(network.parameters()).device
    pieces = []
    for first in range(0, len(rows[0]), CHUNK):
        piece = [torch.as_tensor(values[first : first + CHUNK]).to(device) for values in rows]
        pieces.append(function(*piece).float().cpu())
    return torch.cat(pieces).numpy()


def arrays_of(networks: list[AlignedNetwork], reference: Inputs) -> dict[str, np.ndarray]:
    """Weights of the networks and the reference bank: embeddings and expression of spots that they learned from."""
    bank = [normalise(gene_embeddings(network, reference.tensors.genes)) for network in networks]
    state = {
        f"network.{member}.{name}": tensor.numpy()
        for member, network in enumerate(networks)
        for name, tensor in network.state_dict().items()
    }
    return (
        state
        | reference.arrays
        | {
            "bank": compact(normalise(np.concatenate(bank, axis=1))),
            "expression": compact(reference.table.expression),
            "between": reference.between,
        }
    )


def network_state(arrays: dict[str, np.ndarray], member: int) -> dict[str, torch.Tensor]:
    """Weights of one member."""
    prefix = f"network.{member}."
    return {name.removeprefix(prefix): torch.from_numpy(a) for name, a in arrays.items() if name.startswith(prefix)}


# ---------------------------------------------------------------------- an interrupted choice


def remember(folder: Path | None, run: Run, network: nn.Module, identity: str) -> None:
    """Keep a finished run, so that a resumed training starts after it."""
    from safetensors.torch import save_file

    if folder is None or not is_first():
        return
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "best.safetensors")
    unfinished = folder / "run.json.tmp"
    unfinished.write_text(json.dumps({"identity": identity, "run": asdict(run)}), encoding="utf-8")
    unfinished.replace(folder / "run.json")


def remembered(folder: Path | None, network: nn.Module, identity: str) -> Run | None:
    """Read what `remember` kept; the network is then as it was after its best epoch."""
    from safetensors.torch import load_file

    if folder is None or not (folder / "run.json").exists():
        return None
    kept = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if kept["identity"] != identity:
        raise ValueError(OTHER_RUN)
    network.load_state_dict(load_file(folder / "best.safetensors"))
    network.eval()
    return Run(**kept["run"])
