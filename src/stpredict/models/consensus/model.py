"""Ridge, nearest neighbours and CMRCNet, each with and without wide niches, weighed by what held-out spots say."""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np

from stpredict._sections.niches import is_wider
from stpredict.models._base import files
from stpredict.models._base.history import History
from stpredict.models._base.load import rebuilt
from stpredict.models._base.spotwise import SpotwiseModel
from stpredict.models._data.chunks import Parts, rows_of
from stpredict.models._data.folds import HeldOut, residual_sd
from stpredict.models._reference.coexpression import ReferenceGenes, learn_reference
from stpredict.models._reference.gene_correlation import GeneStructure
from stpredict.models._reference.unseen import UnseenGenes
from stpredict.models._retrieval.bank import WITHOUT, Banked
from stpredict.models._trust.trust import Trust
from stpredict.models.baselines.base import Baseline
from stpredict.models.baselines.knn import Knn
from stpredict.models.baselines.ridge import Ridge
from stpredict.models.cmrcnet import CmrcNet
from stpredict.models.consensus.weights import added, learn_weights, levels_and_spreads, mean_pcc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Self

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section
    from stpredict.models._base.contract import Prediction
    from stpredict.models._data.table import Table

PARTS: dict[str, type[SpotwiseModel]] = {"ridge": Ridge, "knn": Knn, "cmrcnet": CmrcNet}
WIDE = "_wide"
"""How names of parts end that learn from niches of all widths; the others learn from spot and niche alone."""

STRUCTURED = (Ridge, Knn)
"""Parts that are drawn to the gene structure: they predict every gene by itself, or by look-alikes in features alone."""

MOST_SPOTS = 10_000
"""Training spots that networks learn from, at most: more would take long without a GPU."""

NETWORKS = 2
"""Networks in all."""


class Queries(NamedTuple):
    """Some spots of a section as the parts see them; of the section, how much each counts and how far it is for their structure."""

    weights: np.ndarray
    distances: list[float]
    designs: list[Callable[[], Any]]


class Consensus(Banked, SpotwiseModel):
    """The weighted sum of what several models predict; which of them count how much is learned on held-out spots.

    The parts are `Ridge`, `Knn` and `CmrcNet`: a linear model, the training spots that look alike, and those that are alike
    in a space that images and expression share. Each is trained on spot and niche features, and once more with niches
    of all widths, where there are several. They err differently, so that their sum is mostly better than the best
    of them, and none needs to be chosen by hand.

    Every gene of every part is brought to one mean and one spread, known from held-out spots, before parts are added; where few were
    held out, or a part predicts a gene as constant, predictions are added as they are. Weights
    are those of `stpredict.models.consensus.weights.learn_weights` where a section is as near to the training sections as
    held-out ones were. The farther it is, and if it is of a patient that is none of the few that were trained on, the
    more the linear parts alone count: nothing in training says how well retrieved expression fits such a section.

    What ridge and neighbours predict is drawn to the gene structure of references, or without any to that of the training
    sections, see `stpredict.models._reference.gene_correlation.GeneStructure`. CMRCNet has learned it already.

    With references, genes that no training section measures are predicted too, from those that vary alike there, see
    `stpredict.models._reference.unseen.UnseenGenes`.

    Networks learn from at most `MOST_SPOTS` spots, drawn at random.

    Parameters
    ----------
    features, min_counts
        See `stpredict.models._base.featured.FeatureModel`.
    seed, checkpoint, show_progress
        Of the networks, see `stpredict.models._base.network.NetworkModel`.
    """

    method: ClassVar[str] = "consensus"
    seeded: ClassVar[bool] = True
    weighs_widths: ClassVar[bool] = True
    spaces: ClassVar[tuple[str, ...]] = CmrcNet.spaces
    shapes: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "weights": ("parts",),
        "levels": ("parts", "g"),
        "spreads": ("parts", "g"),
        "expression": ("m", "g"),
    }

    def __init__(
        self,
        *,
        features: str | Sequence[str] | None = None,
        min_counts: int = 50,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        show_progress: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(features=features, min_counts=min_counts)
        if options:
            msg = (
                f"method={self.method!r} has no {', '.join(options)}: leave it out, or train one of its parts, "
                f"{' or '.join(f'method={name!r}' for name in PARTS)}."
            )
            raise TypeError(msg)
        network = CmrcNet(seed=seed, checkpoint=checkpoint, show_progress=show_progress)  # (which checks them)
        self._of_networks = {"seed": network.seed, "show_progress": show_progress}
        self.checkpoint = network.checkpoint
        self.parts: dict[str, SpotwiseModel] = {}
        self._learned: tuple[GeneStructure, ReferenceGenes] | None = None

    # ------------------------------------------------------------------ training

    def learn_reference(
        self, tables: Sequence[Data | str | Path], genes: Sequence[str], *, min_counts: int, study_key: str | None
    ) -> None:
        """Learn how all genes of `tables` without images vary together, before `fit`."""
        how: dict[str, Any] = {"min_counts": min_counts, "study_key": study_key}
        self._learned = GeneStructure.learn(tables, genes, **how), learn_reference(tables, genes, **how)

    def fit(self, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]) -> History:
        """Train every part on `sections`, then learn their weights; `groups` names the patient of each.

        Raises
        ------
        ValueError
            If features or counts are missing or unusable, too few spots are left, or the loss of a network becomes NaN.
        """
        table = self._table(sections, genes, groups)
        self.parts = self._untrained(list(self.config["features"]))
        structure = self._learned[0] if self._learned else GeneStructure.of_table(table)
        if self._learned is not None:
            self.config["reference"] = self._learned[0].record
        for part in self.parts.values():
            part.not_measured = self.not_measured
            part.structure = structure if isinstance(part, STRUCTURED) else None
        rows = self._fit_networks(table, sections, genes, groups)
        for part in self.parts.values():
            if isinstance(part, Baseline):
                part.looked_at = rows
                part.fit(sections, genes=genes, groups=groups)
        predicted = [cast("HeldOut", part.held).predicted for part in self.parts.values()]
        measured, section = np.asarray(table.expression[rows]), table.section[rows]
        levels, spreads = levels_and_spreads(predicted, section)
        self.arrays = {"weights": learn_weights(predicted, measured, section), "levels": levels, "spreads": spreads}
        together = added(predicted, self.arrays["weights"], self.arrays)
        held, score = HeldOut(rows, together), mean_pcc(together, measured, section)
        arrays = self.arrays | {"residual_sd": residual_sd(table, held)}
        arrays |= self._learn_trust(sections, table, held)
        arrays |= self._weighed_without_bank(table, rows, score)
        if self._learned is not None:
            unseen = UnseenGenes.learn(self._learned[1], genes, table, held)
            self.config["vocabulary"] = [*genes, *unseen.names]
            arrays |= unseen.arrays()
        history = self._history_of(score, len(rows))
        return self._finish(genes, arrays | self._packed(), history)

    def _weighed_without_bank(self, table: Table, rows: np.ndarray, score: float) -> dict[str, np.ndarray]:
        """Weights of what is left without reference spots, ridge and decoders, and how far to believe their sum."""
        kept = [part for part in self.parts.values() if not isinstance(part, Knn)]
        held = [part.decoded if isinstance(part, CmrcNet) else part.held for part in kept]
        predicted = [cast("HeldOut", one).predicted for one in held]
        measured, section = np.asarray(table.expression[rows]), table.section[rows]
        levels, spreads = levels_and_spreads(predicted, section)
        weights = {"weights": learn_weights(predicted, measured, section), "levels": levels, "spreads": spreads}
        together = added(predicted, weights["weights"], weights)
        scores = score, mean_pcc(together, measured, section)
        return {f"{WITHOUT}{name}": array for name, array in weights.items()} | self._learn_without_bank(
            table, HeldOut(rows, together), scores
        )

    def _untrained(self, keys: Sequence[str]) -> dict[str, SpotwiseModel]:
        """The parts by name: each learns from spot and niche, and where there are several widths once more from all."""
        narrow = [key for key in keys if not is_wider(key)]
        of_widths = {"": narrow, WIDE: list(keys)} if narrow and narrow != list(keys) else {"": list(keys)}
        return {
            name + width: self._part(name + width, own, len(of_widths))
            for width, own in of_widths.items()
            for name in PARTS
        }

    def _part(self, name: str, keys: Sequence[str], n_widths: int) -> SpotwiseModel:
        kind = _kind(name)
        how: dict[str, Any] = {"features": list(keys), "min_counts": self._min_counts}
        if kind.seeded:
            how |= self._of_networks | {"checkpoint": self.checkpoint and self.checkpoint / name}
            how["members"] = NETWORKS // n_widths
        return kind(**how)

    def _fit_networks(
        self, table: Table, sections: Sequence[Section], genes: Sequence[str], groups: Sequence[str]
    ) -> np.ndarray:
        """Train the networks, on few spots where there are many; returns the rows of the `table` that they held out."""
        few, there = np.arange(len(table)), list(range(len(sections)))
        if len(table) > MOST_SPOTS:
            few = np.sort(np.random.default_rng(0).permutation(len(table))[:MOST_SPOTS])
            there = np.unique(table.section[few]).tolist()
            sections = [sections[i].part(table.row[few[table.section[few] == i]]) for i in there]
        for part in self.parts.values():
            if isinstance(part, CmrcNet):
                part.not_measured = None if self.not_measured is None else self.not_measured[there]
                part.fit(sections, genes=genes, groups=[groups[i] for i in there])
                if part.config["n_spots"] != len(few):
                    msg = (
                        "Spots have other totals in a part of a section than in the whole: obs['total_counts'] does not belong to "
                        "the counts. Run stpredict.pp.qc on every section."
                    )
                    raise ValueError(msg)
                rows = few[cast("HeldOut", part.held).rows]  # (the same for all: the folds are)
        return rows

    def _history_of(self, score: float, n_held: int) -> History:
        """What all parts together scored, each by itself, how much it counts, and the losses of the network with the larger weight."""
        parts = zip(self.parts.items(), self.arrays["weights"], strict=True)
        told = ", ".join(f"{name} {weight:.2f} (PCC {part.history.score:.3f})" for (name, part), weight in parts)
        own = self._space.history
        return History(
            {"inner_pcc": [score]} | own.values, [f"weights from {n_held} held-out spots: {told}", *own.notes]
        )

    # ------------------------------------------------------------------ prediction

    @property
    def vocabulary(self) -> list[str]:
        """Genes that can be predicted: those of training, then all others that the references measure."""
        names: list[str] = self.config.get("vocabulary", self.genes)
        return names

    def predict_parts(
        self, section: Section, genes: Sequence[str] | None = None, *, size: int | None = None
    ) -> Iterable[tuple[slice, Prediction]]:
        """As every model that looks at single spots; genes that were not trained on follow from those that vary alike.

        Raises
        ------
        ValueError
            If the section's features are missing or were made differently from those in training; before the first part.
        """
        asked = list(self.genes if genes is None else genes)
        place = {name: number for number, name in enumerate(self.vocabulary[len(self.genes) :])}
        columns = np.array([number for number, name in enumerate(asked) if name in place], dtype=int)
        if not len(columns):
            return super().predict_parts(section, genes, size=size)
        rows = np.array([place[asked[number]] for number in columns])
        queries = Parts(self.designer(section), len(section), size or rows_of(max(len(asked), len(self.genes))))
        judgement = self._judged(section)
        means = self.apply_to(queries).map(itemgetter(0))
        unseen = UnseenGenes.stored_in(self.arrays, list(place))
        found = unseen.of(means, rows)
        return (
            (part, unseen.filled(self._of_genes(asked, mean, None, judgement), columns, values, rows))
            for part, mean, values in zip(queries.rows, means, found, strict=True)
        )

    @property
    def compares_spots(self) -> bool:  # type: ignore[override]
        """Whether parts standardise predictions over the spots that are there: to be drawn to the gene structure."""
        return any(part.compares_spots for part in self.parts.values())

    def designer(self, section: Section) -> Callable[[slice], Queries]:  # type: ignore[override]
        """Make the function that returns any rows of the section as the parts see them."""
        designers = [part.designer(section) for part in self.parts.values()]  # (which check the features)
        kept = self._judged(section).kept
        weights = kept * self.arrays["weights"] + (1 - kept) * self._linear
        distances = [part.distance(section) for part in self.parts.values()]
        return lambda rows: Queries(weights, distances, [partial(of, rows) for of in designers])

    def apply_to(self, queries: Parts[Queries]) -> Parts[tuple[np.ndarray, None]]:  # type: ignore[override]
        """Weighted sum of the parts, each drawn to the gene structure where it has one; those without weight are not asked."""
        first = next(iter(queries))
        asked = [number for number, weight in enumerate(first.weights) if weight > 0]
        parts = list(self.parts.values())
        means = [parts[i].drawn(queries.map(partial(_of_part, parts[i], i)), first.distances[i]) for i in asked]
        few = {name: self.arrays[name][asked] for name in ("levels", "spreads")}
        return Parts.side_by_side(means).map(lambda several: (added(several, first.weights[asked], few), None))

    def apply(self, arrays: dict[str, np.ndarray], queries: Queries) -> tuple[np.ndarray, None]:  # type: ignore[override]
        """Weighted sum of the parts for all spots of a section."""
        ((mean, _),) = self.apply_to(Parts(lambda _: queries, 1, 1))
        return mean, None

    def embed(self, section: Section, *, use: str = "image") -> np.ndarray:
        """`embed` of the network with the larger weight, see `stpredict.models._aligned.model.Aligned`."""
        return self._space.embed(section, use=use)

    def neighbours(self, section: Section, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the `k` reference spots that the network with the larger weight finds most similar, as `Banked` does."""
        return self._space.neighbours(section, k)

    @property
    def _space(self) -> CmrcNet:
        """The network with the larger weight."""
        weights = dict(zip(self.parts, self.arrays["weights"], strict=True))
        networks = [name for name in self.parts if _kind(name) is CmrcNet]
        return cast("CmrcNet", self.parts[max(networks, key=weights.__getitem__)])

    @property
    def _linear(self) -> np.ndarray:
        """Weights where nothing is known of how well retrieved expression fits: the linear parts alone."""
        linear = np.array([_kind(name) is Ridge for name in self.parts], dtype=np.float32)
        return linear / linear.sum()

    # ------------------------------------------------------------------ storage

    @classmethod
    def shapes_of(cls, stored: files.Stored) -> dict[str, tuple[str | int, ...]]:
        """Its own arrays, and those of unseen genes if it knows any."""
        u = len(stored.config.get("vocabulary", stored.genes)) - len(stored.genes)
        unseen = {name: tuple(u if n == "u" else n for n in dims) for name, dims in UnseenGenes.SHAPES.items()}
        return super().shapes_of(stored) | (unseen if "vocabulary" in stored.config else {})

    def _packed(self) -> dict[str, np.ndarray]:
        """Arrays of all parts under ``<part>.<name>``; ``config`` gets theirs.

        What parts say of their own trustworthiness, with and without reference spots, is dropped. The record of reference spots and their expression are kept once,
        for all parts that have the same.
        """
        out = {"expression": self._space.arrays["expression"]}
        self.config |= {"bank": self._space.config["bank"], "parts": {}}
        for name, part in self.parts.items():
            trust = Trust.shapes_in(part.arrays)
            part.trust, part.held = Trust(), None
            own = {key: array for key, array in part.arrays.items() if not key.startswith(WITHOUT)}
            part.arrays = own = {key: array for key, array in own.items() if key not in trust}
            part.config.pop("without_bank", None)
            config = part.config
            if config.get("bank") == self.config["bank"]:
                config = {key: value for key, value in config.items() if key != "bank"}
            if "expression" in own and np.array_equal(own["expression"], out["expression"]):
                own["expression"] = out["expression"]
            self.config["parts"][name] = config
            out |= {f"{name}.{key}": array for key, array in own.items() if array is not out["expression"]}
        return out

    def _stripped(self) -> files.Stored:
        """Content of the model without its reference spots: of its parts, those that predict without."""
        stored = super()._stripped()
        parts = {name: dict(config) for name, config in stored.config["parts"].items() if _kind(name) is not Knn}
        for name, config in parts.items():
            if issubclass(_kind(name), Banked):
                config.pop("bank", None)
                config["has_bank"] = False
        gone = self.parts.keys() - parts.keys()
        arrays = {name: array for name, array in stored.arrays.items() if name.split(".")[0] not in gone}
        return files.Stored(stored.method, stored.genes, stored.config | {"parts": parts}, arrays)

    @classmethod
    def _checked(cls, stored: files.Stored, path: str | Path) -> Self:
        configs = stored.config["parts"]
        own = {name: array for name, array in stored.arrays.items() if name.split(".")[0] not in configs}
        shapes = cls.shapes_of(files.Stored(stored.method, stored.genes, stored.config, own))
        files.check_shapes(files.Stored(stored.method, stored.genes, stored.config, own), shapes, path)
        model = cls(min_counts=stored.config["min_counts"])
        for name, config in configs.items():
            arrays = {
                key.removeprefix(f"{name}."): array
                for key, array in stored.arrays.items()
                if key.startswith(f"{name}.")
            }
            kind = _kind(name)
            if issubclass(kind, Banked) and config.get("has_bank", True):
                config = {"bank": stored.config["bank"]} | config
                arrays.setdefault("expression", own["expression"])
            part = rebuilt(files.Stored(kind.method, stored.genes, config, arrays), path, {kind.method: kind})
            model.parts[name] = cast("SpotwiseModel", part)
        features = [part.config["features"].items() for part in model.parts.values()]
        if len(model.parts) != len(own["weights"]) or not all(
            of_part <= stored.config["features"].items() for of_part in features
        ):
            msg = f"The model at {path} is damaged: its parts, their weights and features do not belong together; save it again."
            raise ValueError(msg)
        return model


def _of_part(part: SpotwiseModel, number: int, queries: Queries) -> np.ndarray:
    return part.apply(part.arrays, queries.designs[number]())[0]


def _kind(name: str) -> type[SpotwiseModel]:
    """Class of the part of this name."""
    return PARTS[name.removesuffix(WIDE)]
