"""How ALIGN-ST is trained: epochs chosen on held-out spots and genes, then networks trained on all of them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from stpredict._evaluation.metrics import pearson
from stpredict.models._base.history import History
from stpredict.models._data.folds import HeldOut, judged, sample
from stpredict.models._reference.unseen import MIN_HIDDEN, largest_cosine, learn_reliability
from stpredict.models._training.ensemble import Chosen, held_out
from stpredict.models.align_st._genes import FROM_TEXT, MEASURED
from stpredict.models.align_st._network import GENES_AT_ONCE, Described

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stpredict.models._data.table import Table
    from stpredict.models._training.ensemble import Ensemble
    from stpredict.models.align_st._genes import GeneSpace
    from stpredict.models.align_st._network import AlignStNetwork, SlideTensors
    from stpredict.models.align_st._options import Options

HIDDEN = 5
"""Every so manieth seen gene is hidden while epochs are chosen."""


@dataclass(frozen=True)
class Lesson:
    """Spots and genes as material of an ensemble, see `stpredict.models._training.ensemble.Material`.

    Attributes
    ----------
    table
        Spots to learn from.
    slides
        Every section, whole.
    space
        Genes; seen ones come first.
    facts
        Facts (genes, facts, d) about the seen genes and which there are, or None.
    options
        Of the method.
    """

    table: Table
    slides: Sequence[SlideTensors]
    space: GeneSpace
    facts: tuple[np.ndarray, np.ndarray] | None
    options: Options

    @property
    def n_seen(self) -> int:
        """Number of seen genes."""
        return self.table.expression.shape[1]

    def tensors(self) -> list[torch.Tensor]:
        """Numbers of the sections: a step is a whole one."""
        return [torch.unique(torch.from_numpy(self.table.section))]

    def hard_negatives(self) -> None:
        """None are drawn."""

    def prepare(self, network: AlignStNetwork) -> None:
        """Give the network all spots and seen genes."""
        _teach(network, self, self.table, self.space, np.arange(self.n_seen))

    def identity(self) -> str:
        """Hash of options, spots, genes and sections."""
        digest = hashlib.sha256(repr(asdict(self.options)).encode())
        table, space = self.table, self.space
        arrays = [table.design, table.expression, table.group, table.section, space.coordinates, space.by_text]
        arrays += [part.numpy() for slide in self.slides for part in vars(slide).values() if part is not None]
        for values in arrays + list(self.facts or ()):
            digest.update(np.ascontiguousarray(values))
        return digest.hexdigest()


@dataclass(frozen=True)
class _Part(Lesson):
    """The `whole` lesson without held-out spots and hidden genes; ``kept`` are the columns of the genes that stay."""

    whole: Lesson
    kept: np.ndarray

    def prepare(self, network: AlignStNetwork) -> None:
        _teach(network, self.whole, self.table, self.space, self.kept)

    def identity(self) -> str:
        return self.whole.identity()


def described(space: GeneSpace, facts: tuple[np.ndarray, np.ndarray] | None, rows: np.ndarray) -> Described:
    """Genes in `rows` of the space for the network; `facts` are of the same genes."""
    return _described(space.coordinates[rows], space.from_text[rows], facts)


def _described(
    coordinates: np.ndarray, from_text: np.ndarray, facts: tuple[np.ndarray, np.ndarray] | None
) -> Described:
    parts = () if facts is None else tuple(torch.from_numpy(part) for part in facts)
    return Described(torch.from_numpy(coordinates), torch.from_numpy(from_text), *parts)


def choose_epochs(
    ensemble: Ensemble,
    lesson: Lesson,
    space_of: Callable[[Table, np.ndarray], GeneSpace],
    not_measured: np.ndarray | None = None,
) -> Chosen:
    """Train without the smallest inner fold and without every fifth gene, and see when both are predicted best.

    `space_of` places genes as if only those in its second argument were seen. Genes that ``not_measured`` (sections,
    genes) says a held-out section lacks are not judged.
    """
    held, note = held_out(lesson.table)
    hidden = np.random.default_rng(ensemble.seed).permutation(lesson.n_seen)[: lesson.n_seen // HIDDEN]
    kept = np.setdiff1d(np.arange(lesson.n_seen), hidden)
    train, test = lesson.table.take(~held), lesson.table.take(held)
    space = space_of(train, kept)
    order = np.concatenate([kept, hidden])
    place = {name: i for i, name in enumerate(space.names)}
    asked = np.array([place.get(name, -1) for name in np.array(lesson.space.names[: lesson.n_seen])[order]])
    can = asked >= 0
    facts = None if lesson.facts is None else tuple(part[order[can]] for part in lesson.facts)
    genes = described(space, facts, asked[can])
    columns = order[can]
    known = np.broadcast_to(judged(not_measured, train, test), test.expression.shape).all(axis=0)[columns]
    part = _Part(train, lesson.slides, space, lesson.facts, lesson.options, whole=lesson, kept=kept)
    run, monitor = ensemble.choose_epochs(
        part, lambda network: _Monitor(network, lesson.slides, test, genes, columns, known, n_seen=len(kept))
    )
    best = run.best_epoch
    pcc = {name: series[best - 1] for name, series in run.values.items()}
    also = f", {pcc['val_unseen']:.3f} of hidden ones" if "val_unseen" in pcc else ""
    notes = [
        f"{note}; the smallest one, {len(test)} spots, and {len(columns) - len(kept)} hidden genes chose the number of "
        f"epochs: {best}",
        f"held-out spots at that epoch: PCC {pcc['val_seen']:.3f} of seen genes{also}",
    ]
    history = History(run.values | {"best_epoch": [best]}, notes)
    return Chosen(
        best, _errors(lesson, monitor, space, asked[can]), history, _held(lesson, monitor, held, space, asked[can])
    )


def _held(lesson: Lesson, monitor: _Monitor, held: np.ndarray, space: GeneSpace, places: np.ndarray) -> HeldOut:
    """Predictions for the held-out spots, of the genes that were not hidden; `places` are rows of the space."""
    rows = np.flatnonzero(held)
    few = sample(len(rows), lesson.n_seen)
    predicted = np.full((len(few), lesson.n_seen), np.nan, dtype=np.float32)
    n, seen = monitor.n_seen, places[: monitor.n_seen]
    predicted[:, monitor.columns[:n]] = monitor.predicted()[few][:, :n] * space.sd[seen] + space.level[seen]
    predicted[:, monitor.columns[~monitor.known]] = np.nan
    return HeldOut(rows[few], predicted)


def _teach(network: AlignStNetwork, lesson: Lesson, table: Table, space: GeneSpace, seen: np.ndarray) -> None:
    """Give the network the spots in `table` and the seen genes in columns `seen`, the first of `space`."""
    sections = []
    for number in range(len(lesson.slides)):
        rows = np.flatnonzero(table.section == number)
        values = np.asarray(table.expression[rows])[:, seen]
        targets = standardised(values)
        sections.append((lesson.slides[number], torch.from_numpy(table.row[rows]), torch.from_numpy(targets)))
    facts = None if lesson.facts is None else tuple(part[seen] for part in lesson.facts)
    genes = described(space, facts, np.arange(len(seen)))
    unseen = None
    by_text = space.by_text[: len(seen)]
    if np.isfinite(by_text).any():
        unseen = _described(by_text, np.ones(len(seen), dtype=np.float32), facts)
    network.learn_from(sections, genes, unseen)


def standardised(values: np.ndarray) -> np.ndarray:
    """Expression (spots, genes) of one section with mean 0 and variance 1; 0 where a gene does not vary."""
    if not len(values):
        return values
    centred = values - values.mean(axis=0)
    size = centred.std(axis=0)
    centred /= np.where(size > 1e-3, size, 1)
    return centred


class _Monitor:
    """How well held-out spots are predicted, of genes seen and hidden, after each epoch."""

    def __init__(
        self,
        network: AlignStNetwork,
        slides: Sequence[SlideTensors],
        test: Table,
        genes: Described,
        columns: np.ndarray,
        known: np.ndarray,
        *,
        n_seen: int,
    ) -> None:
        self.network, self.slides, self.test, self.genes = network, slides, test, genes
        self.columns, self.known, self.n_seen = columns, known, n_seen

    def predicted(self, genes: Described | None = None) -> np.ndarray:
        """Standardised expression (held-out spots, genes), of `genes` where they are to be described otherwise."""
        out = np.empty((len(self.test), len(self.columns)), dtype=np.float32)
        pool = np.arange(self.n_seen)
        for number, rows in self.test.of_sections():
            out[rows] = expression(self.network, self.slides[number], genes or self.genes, pool)[self.test.row[rows]]
        return out

    def __call__(self) -> dict[str, float]:
        """Mean PCC per gene and section; the mean over seen and hidden genes decides."""
        predicted = self.predicted()
        pccs = []
        for _, rows in self.test.of_sections():
            pccs.append(pearson(np.asarray(self.test.expression[rows])[:, self.columns], predicted[rows])[0])
        pcc = np.mean(pccs, axis=0)
        of_seen, of_hidden = (pcc[part][self.known[part]] for part in (slice(self.n_seen), slice(self.n_seen, None)))
        seen = float(of_seen.mean()) if len(of_seen) else 0.0
        if not len(of_hidden):
            return {"val_pcc": seen, "val_seen": seen}
        unseen = float(of_hidden.mean())
        return {"val_pcc": (seen + unseen) / 2, "val_seen": seen, "val_unseen": unseen}


def expression(network: AlignStNetwork, slide: SlideTensors, genes: Described, pool: np.ndarray) -> np.ndarray:
    """float32 (n, g): standardised expression of every gene; those in rows `pool` are the seen ones, heard by all."""
    return reader(network, slide, genes, pool)(slice(None))


@torch.inference_mode()
def reader(
    network: AlignStNetwork,
    slide: SlideTensors,
    genes: Described,
    pool: np.ndarray,
    wanted: Sequence[int] | slice = slice(None),
) -> Callable[[slice], np.ndarray]:
    """What gives any rows of `expression`, of the `wanted` genes; tiles and genes are made of the whole section before."""
    device = next(network.parameters()).device
    genes, slide = genes.to(device), slide.to(device)
    tiles = network.tiles(slide)
    rows = torch.arange(len(genes.coordinates), device=device).split(GENES_AT_ONCE)
    before = network.described_in_parts(genes, tiles)
    seen = torch.as_tensor(pool, device=device)
    itself = torch.full((len(before),), len(seen), device=device)
    itself[seen] = torch.arange(len(seen), device=device)
    after = [network.genes(before[part], before[seen], itself[part]) for part in rows]
    final = torch.cat(after)[wanted]

    @torch.inference_mode()
    def read(rows: slice) -> np.ndarray:
        return network.expression(tiles[rows], final).float().cpu().numpy()

    return read


def _errors(lesson: Lesson, monitor: _Monitor, space: GeneSpace, places: np.ndarray) -> dict[str, np.ndarray]:
    """Error of seen genes on held-out spots, and how reliable hidden ones are; `places` are rows of the space."""
    test, columns, n_seen = monitor.test, monitor.columns, monitor.n_seen
    known = monitor.known if monitor.known.any() else ~monitor.known
    measured = np.asarray(test.expression)[:, columns]

    def multiples(predicted: np.ndarray) -> np.ndarray:
        """Root mean square error of every gene in units of its expected standard deviation."""
        errors = predicted * space.sd[places] + space.level[places] - measured
        found = np.sqrt(np.square(errors).mean(axis=0, dtype=np.float64)) / space.sd[places]
        return np.where(known, found, np.median(found[known]))  # what was filled in says nothing

    def of_hidden(predicted: np.ndarray, nearest: np.ndarray, those: np.ndarray) -> tuple[np.ndarray, float]:
        """What to expect of unseen genes, and of their error, where `those` hidden genes stand for them."""
        pccs = [pearson(measured[rows][:, those], predicted[rows][:, those])[0] for _, rows in test.of_sections()]
        learned = learn_reliability(np.mean(pccs, axis=0), nearest, space.level[places[those]])
        squares = np.square(multiples(predicted)[those])
        return learned, float(np.sqrt(squares.mean())) if len(those) > MIN_HIDDEN else usual

    predicted = monitor.predicted()
    multiple = multiples(predicted)
    usual = float(np.median(multiple))
    residual = np.full(lesson.n_seen, np.median(multiple[:n_seen])) * lesson.space.sd[: lesson.n_seen]
    residual[columns[:n_seen]] = multiple[:n_seen] * space.sd[places[:n_seen]]
    reliability, errors = np.full((2, 3), np.nan), np.full(2, usual)
    hidden = np.arange(n_seen, len(columns))
    hidden = hidden[known[hidden]]
    placed = hidden[space.from_text[places[hidden]] == 0]
    reliability[MEASURED], errors[MEASURED] = of_hidden(predicted, space.nearest[places[placed]], placed)
    coordinates, from_text = space.coordinates[places].copy(), space.from_text[places].copy()
    texts = hidden[np.isfinite(space.by_text[places[hidden], 0])]
    coordinates[texts], from_text[texts] = space.by_text[places[texts]], 1
    texts = hidden[from_text[hidden] == 1]
    seen = space.coordinates[places[:n_seen]]
    by_text = monitor.predicted(
        replace(monitor.genes, coordinates=torch.from_numpy(coordinates), from_text=torch.from_numpy(from_text))
    )
    reliability[FROM_TEXT], errors[FROM_TEXT] = of_hidden(
        by_text, largest_cosine(coordinates[texts], seen, own=False), texts
    )
    return {
        "residual_sd": residual.astype(np.float32),
        "reliability": reliability.astype(np.float32),
        "unseen_error": errors.astype(np.float32),
    }
