"""How aligned models are trained: epochs chosen on held-out spots, then networks trained on all spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from stpredict._core.warning import warn
from stpredict._evaluation.metrics import pearson
from stpredict.models._aligned.embedding import decoded, gene_embeddings, image_embeddings
from stpredict.models._aligned.expression import GeneScale
from stpredict.models._aligned.hard_negatives import HardNegatives
from stpredict.models._aligned.inputs import drawn
from stpredict.models._base.history import History
from stpredict.models._base.network import network_arrays
from stpredict.models._data.folds import HeldOut, judged, sample
from stpredict.models._retrieval.bank import compact
from stpredict.models._retrieval.search import normalise, retrieve
from stpredict.models._training.ensemble import Chosen, held_out

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stpredict.models._aligned.embedding import AlignedNetwork
    from stpredict.models._aligned.inputs import Inputs
    from stpredict.models._aligned.options import AlignedOptions
    from stpredict.models._data.rows import DiskRows
    from stpredict.models._training.ensemble import Ensemble

RECALL_AT = 10
"""A held-out spot is recalled if its own expression is among this many nearest to its image."""

MOST_HELD = 5_000
"""Held-out spots that are looked at, at most."""


@dataclass(frozen=True)
class SpotMaterial:
    """Spots as material of an ensemble, see `stpredict.models._training.ensemble.Material`."""

    inputs: Inputs
    options: AlignedOptions

    def tensors(self) -> tuple[Tensor | DiskRows, ...]:
        """What networks see."""
        return self.inputs.tensors.all

    def hard_negatives(self) -> HardNegatives | None:
        """Spots of other clusters, where the options want any."""
        if not self.options.companions:
            return None
        return HardNegatives(*self.inputs.tensors.groups[-2:], self.options.companions)

    def prepare(self, network: nn.Module) -> None:
        """Nothing: all comes in batches."""

    def identity(self) -> str:
        """Hash of options and inputs."""
        return self.inputs.identity(self.options)


def choose_epochs(ensemble: Ensemble, inputs: Inputs, not_measured: np.ndarray | None = None) -> Chosen:
    """Train without the smallest inner fold, and see after how many epochs it is predicted best.

    Genes are not judged on sections that did not measure them, which ``not_measured`` (sections, genes) tells.

    Warns
    -----
    UserWarning
        If images do not find the expression of their own held-out spots more often than chance.
    """
    options, seed = ensemble.options, ensemble.seed
    held, note = held_out(inputs.table)
    rows = np.flatnonzero(held)
    rows = rows[drawn(inputs.table.section[rows], MOST_HELD, seed)]
    train, test = inputs.take(~held), inputs.take(rows).with_expression()
    bank = train.sample(options.bank_spots, seed).with_expression()
    material = SpotMaterial(train, options)
    known = np.broadcast_to(judged(not_measured, train.table, test.table), test.table.expression.shape)
    run, monitor = ensemble.choose_epochs(material, lambda network: _Monitor(network, bank, test, options, known))
    predicted = monitor.predicted()
    errors = np.square(predicted - test.table.expression, dtype=np.float64)
    n_known = known.sum(axis=0)
    residual_sd = np.sqrt(errors.sum(axis=0, where=known) / np.maximum(n_known, 1))
    if (n_known == 0).any():  # as if nothing were known of the gene
        residual_sd = np.where(n_known == 0, bank.table.expression.std(axis=0), residual_sd)
    best = {name: values[run.best_epoch - 1] for name, values in run.values.items()}
    _warn_of_chance(options.NAME, best["val_recall"], best["chance_recall"], len(test))
    n, few = np.count_nonzero(held), sample(len(rows), predicted.shape[1])
    looked_at = f"{n} spots" if n == len(test) else f"{len(test)} of its {n} spots"
    notes = [
        f"{note}; the smallest one, {looked_at}, chose the number of epochs: {run.best_epoch}",
        f"held-out spots at that epoch: PCC {best['val_pcc']:.3f}, recall@{RECALL_AT} {best['val_recall']:.3f} "
        f"(chance {best['chance_recall']:.3f}), contrastive loss {best['val_contrastive']:.3f} "
        f"(chance {best['chance_contrastive']:.3f})",
    ]
    history = History(run.values | {"best_epoch": [run.best_epoch]}, notes)
    kept = [HeldOut(rows[few], np.where(known, predicted, np.float32(np.nan))[few])]
    scores = [best["val_pcc"], np.nan]
    if options.decoder:
        decoded = monitor.decoded(GeneScale(inputs.arrays["gene_level"], inputs.arrays["gene_sd"], options))
        kept.append(HeldOut(rows[few], np.where(known, decoded, np.float32(np.nan))[few]))
        scores[1] = monitor.pcc(decoded)
    arrays = {"residual_sd": residual_sd.astype(np.float32)}
    return Chosen(run.best_epoch, arrays, history, *kept, scores=tuple(scores))


class _Monitor:
    """How well held-out spots are predicted and matched, after each epoch."""

    def __init__(
        self, network: AlignedNetwork, bank: Inputs, test: Inputs, options: AlignedOptions, known: np.ndarray
    ) -> None:
        self.network, self.bank, self.test, self.options = network, bank, test, options
        self.size = min(options.batch_size, len(test))
        self.sections = [test.table.section == section for section in np.unique(test.table.section)]
        self.known = [known[rows].all(axis=0) for rows in self.sections]

    def predicted(self) -> np.ndarray:
        """Expression of the held-out spots, retrieved from the others."""
        return self._retrieved(image_embeddings(self.network, self.test.tensors.images))

    def decoded(self, scale: GeneScale) -> np.ndarray:
        """Expression of the held-out spots, read off their images by the decoder alone."""
        return scale.unscaled(decoded(self.network, self.test.tensors.images))

    def pcc(self, predicted: np.ndarray) -> float:
        """Mean PCC over genes within sections."""
        measured = self.test.table.expression
        pccs = [
            pearson(measured[rows], predicted[rows])[0][known].mean()
            for rows, known in zip(self.sections, self.known, strict=True)
            if known.any()
        ]
        return float(np.mean(pccs)) if pccs else 0.0

    def _retrieved(self, image: np.ndarray) -> np.ndarray:
        bank = normalise(gene_embeddings(self.network, self.bank.tensors.genes))
        return retrieve(normalise(image), bank, self.bank.table.expression, **self.options.read_out)[0]

    def __call__(self) -> dict[str, float]:
        """Quality of the prediction, and of the match between image and expression beside that of guessing."""
        image, gene = (
            image_embeddings(self.network, self.test.tensors.images),
            gene_embeddings(self.network, self.test.tensors.genes),
        )
        return {
            "val_pcc": self.pcc(self._retrieved(image)),
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
            f"{name} has not left chance level: for {recall:.1%} of the held-out spots their own expression is among the "
            f"{RECALL_AT} nearest to their image, where guessing finds {chance:.1%}. Do not trust its predictions; "
            "more sections, other features (stpredict.pp.encode) or method='ridge' may serve better."
        )
        warn(msg)


def arrays_of(networks: list[AlignedNetwork], reference: Inputs) -> dict[str, np.ndarray]:
    """Weights of the networks and the reference bank: embeddings and expression of spots that they learned from."""
    bank = [normalise(gene_embeddings(network, reference.tensors.genes)) for network in networks]
    state = {name: tensor.numpy() for name, tensor in network_arrays(networks).items()}
    return (
        state
        | reference.arrays
        | {
            "bank": compact(normalise(np.concatenate(bank, axis=1))),
            "expression": compact(reference.table.expression),
            "between": reference.between,
        }
    )
