"""A trained model, and what a few measured spots say it gets wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from stpredict._genes.symbols import match_once
from stpredict._sections.measured import gene_sums, not_measured, tell_of_not_measured
from stpredict.models._base import files
from stpredict.models._base.contract import Prediction, needs_spots
from stpredict.models._base.load import rebuilt
from stpredict.models._base.stored import StoredModel
from stpredict.models._data.chunks import Parts
from stpredict.models._trust.reliability import Reliability
from stpredict.models._trust.span import Span
from stpredict.models._trust.trust import Trust
from stpredict.models.adapted import residuals
from stpredict.models.adapted.gaussian_process import LENGTHS, ROWS, Points, Process, kernel
from stpredict.models.adapted.measured import LEAST_SPOTS, measured_expression, well_measured
from stpredict.models.methods import METHODS
from stpredict.models.published.pretrained import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from stpredict._sections.section import Section
    from stpredict.models._base.history import History
    from stpredict.models._base.model import ExpressionModel
    from stpredict.models._trust.trust import Judgement

MAX_SPOTS = 1500
"""More measured spots than this are thinned at random: the cost grows with their cube."""

SAME_PLACE = 0.05
"""Coordinates that differ by less than this share of the spots' distance are the same."""

NOWHERE = (np.nan, np.nan)
"""Coordinates of a spot that is not known."""

BASE = "base."
"""What names of the base model's arrays start with."""


class Adapted(StoredModel):
    """The prediction of a frozen base model, plus a correction learned from measured spots.

    What the base model gets wrong at the measured spots is taken for a Gaussian process: spots err alike where they lie
    near each other in the section they were measured in, and where they are alike to the base model, in prediction and
    embedding, in any section. Over genes, errors vary as predictions do, along their first principal axes, plus a little for every gene on
    its own: a few spots can tell some scores, not a thousand genes. How much there is of each is chosen on the measured
    spots.

    Genes that the base model does not know are predicted by their mean, corrected alike, each on its own. Genes that
    were not measured stay as the base model predicts them.

    Parameters
    ----------
    base
        The model to adapt; it is not changed.
    min_counts
        Spots with fewer counts are not learned from.
    seed
        Seed of the thinning, where more than `MAX_SPOTS` spots are measured.

    Attributes
    ----------
    base
        The frozen model; its content is part of ``arrays`` and ``config``.
    """

    method: ClassVar[str] = "adapted"
    shapes: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "spots": ("all", 2),
        "spot_section": ("all",),
        "places": ("n", 2),
        "section": ("n",),
        "scores": ("n", "axes"),
        "embedded": ("n", "e"),
        "along": ("n", "axes"),
        "beside": ("n", "g"),
        "axes": ("b", "axes"),
        "centre": ("b",),
        "variances": ("axes",),
        "scale": (2,),
        "weights": (2 + len(LENGTHS),),
        "loadings": ("g", "axes"),
        "level": ("g",),
        "rest": ("g",),
        "axis_unit": (1,),
        "gene_unit": ("g",),
        "noise": ("g",),
    }

    def __init__(self, base: ExpressionModel, *, min_counts: int = 50, seed: int = 0) -> None:
        super().__init__()
        self.base = base
        self._min_counts = min_counts
        self._seed = seed

    # ------------------------------------------------------------------ adaptation

    def fit(
        self,
        sections: Sequence[Section],
        *,
        genes: Sequence[str],
        groups: Sequence[str] = (),
        measured: Sequence[np.ndarray] | None = None,
    ) -> History:
        """Learn from the spots of `sections` that the masks `measured` name (default: all); `groups` is not needed.

        Raises
        ------
        ValueError
            If features or counts are missing or unusable, fewer than two spots are left, or the base model predicts the
            same for every spot.
        """
        masks = [np.ones(len(section), dtype=bool) for section in sections] if measured is None else measured
        rows = [well_measured(section, mask, self._min_counts) for section, mask in zip(sections, masks, strict=True)]
        rows = self._thinned(rows)
        spots, names = self._spots(sections, rows, genes)
        learned = residuals.learn(spots, seed=self._seed)
        numbers = {gene: number for number, gene in enumerate(names)}
        self.genes = list(genes)
        columns = np.array([numbers[gene] for gene in genes])
        own = learned.of(columns)
        pitches = [_pitch(section) for section in sections]
        own["spot_section"] = spots.section
        own["spots"] = spots.places * np.array(pitches)[spots.section][:, None]
        self.arrays = own | {f"{BASE}{name}": array for name, array in self.base.arrays.items()}
        self.arrays |= self._learn_trust(sections, rows, spots.expression[:, columns], learned.left_out[:, columns])
        self.config = {
            "base": {"method": self.base.method, "genes": self.base.genes, "config": self.base.config},
            "features": self.base.config.get("features", {}),
            "min_counts": self._min_counts,
            "seed": self._seed,
            "n_spots": len(spots.rows),
            "sections": [section.name for section in sections],
            "pitches": pitches,
            "spots": [str(name) for section in sections for name in section.obs_names],
            "history": residuals.history(learned, own["weights"], spots),
        }
        self.config |= {name: self.base.config[name] for name in ("encoder", "tiles") if name in self.base.config}
        for of_before in ("_process", "_coefficients"):
            self.__dict__.pop(of_before, None)
        return self.history

    def _learn_trust(
        self, sections: Sequence[Section], rows: list[np.ndarray], measured: np.ndarray, left_out: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Join what is known of the base model with measured spots and what was predicted for them without them."""
        base = self.base.trust
        for number, (section, own) in enumerate(zip(sections, rows, strict=True), len(self.base.trained_on)):
            base = base.joined_by(section, self.base.sight, own, number)
        predicted = left_out.astype(np.float32)
        learned = Reliability.learn(measured, predicted, np.repeat(np.arange(len(rows)), list(map(len, rows))))
        span = Span.learn(predicted)
        of_base = pd.Index(self.base.genes).get_indexer(self.genes)
        if base.reliability is not None:
            learned = learned.drawn_to(base.reliability, of_base, len(measured))
        if base.span is not None:
            span = span.joined(base.span, of_base)
        self.trust = replace(base, reliability=learned, span=span)
        return self.trust.arrays()

    @property
    def compares_spots(self) -> bool:  # type: ignore[override]
        """As the base model."""
        return self.base.compares_spots

    @property
    def provenance(self) -> dict[str, Any]:
        """As the base model."""
        return self.base.provenance

    def check(self, section: Section) -> None:
        """As the base model.

        Raises
        ------
        ValueError
            If the section's features are missing or were made differently from those in training.
        """
        self.base.check(section)

    def _judged(self, section: Section) -> Judgement:
        """How far `section` is from those that were learned from; what the base model says, where only that can tell."""
        return self.base._judged(section) if self.trust.domain is None else super()._judged(section)

    @property
    def trained_on(self) -> list[str]:
        """Names of the sections that the base model and the correction learned from."""
        return [*self.base.trained_on, *self.config["sections"]]

    def _thinned(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        """At most `MAX_SPOTS` of the measured spots."""
        n = sum(map(len, rows))
        if n < LEAST_SPOTS:
            msg = (
                f"{n} measured spot(s) with min_counts={self._min_counts} counts or more are too few; at least "
                f"{LEAST_SPOTS} are needed. Is the right column given as measured=, and True where spots were measured?"
            )
            raise ValueError(msg)
        kept = np.zeros(n, dtype=bool)
        kept[np.random.default_rng(self._seed).permutation(n)[:MAX_SPOTS]] = True
        parts = np.split(kept, np.cumsum([len(own) for own in rows])[:-1])
        return [own[part] for own, part in zip(rows, parts, strict=True)]

    def _spots(
        self, sections: Sequence[Section], rows: list[np.ndarray], genes: Sequence[str]
    ) -> tuple[residuals.Spots, list[str]]:
        """What there is to learn from, and the names of its genes: the base model's, then others of `genes`."""
        predictions = [self.base.predict(section.without_counts()) for section in sections]
        names = list(dict.fromkeys([*self.base.genes, *genes]))
        called = [match_once(names, section.genes) for section in sections]
        listed = [gene for gene in names if all(gene in theirs for theirs in called)]
        lacking = self._zeroed(sections, rows, called, listed, predictions)
        measured = set(listed) - lacking
        there = [i for i, gene in enumerate(names) if gene in measured]
        expression = np.full((sum(map(len, rows)), len(names)), np.nan)
        expression[:, there] = measured_expression(sections, rows, called, [names[i] for i in there])
        own_rows = [np.isin(np.arange(len(section)), own) for section, own in zip(sections, rows, strict=True)]
        spots = residuals.Spots(
            places=np.concatenate([_coordinates(section) / _pitch(section) for section in sections]),
            section=np.repeat(np.arange(len(sections)), [len(section) for section in sections]),
            predicted=np.concatenate([p.mean for p in predictions]).astype(np.float64),
            variance=np.square(np.concatenate([p.std for p in predictions]), dtype=np.float64),
            embedded=np.concatenate([self.base.embed(section.without_counts()) for section in sections]),
            rows=np.flatnonzero(np.concatenate(own_rows)),
            expression=expression,
        )
        return spots, names

    def _zeroed(
        self,
        sections: Sequence[Section],
        rows: list[np.ndarray],
        called: list[dict[str, str]],
        listed: list[str],
        predictions: list[Prediction],
    ) -> set[str]:
        """Genes of those that all sections list that one has zeros of, where others or the base model let expect counts."""
        sums, expected = [], []
        for section, own, theirs, predicted in zip(sections, rows, called, predictions, strict=True):
            few = section.part(own)
            sums.append(gene_sums(few).reindex([theirs[gene] for gene in listed]).set_axis(listed))
            counts = np.expm1(predicted.mean[own], dtype=np.float64).T @ (few.totals() / 1e4)
            expected.append(pd.Series(counts, index=predicted.genes))
        number = {gene: i for i, gene in enumerate(listed)}
        known = [gene for gene in self.base.genes if gene in number]
        columns = [number[gene] for gene in known]
        found = not_measured(sums, listed)
        for i, pair in enumerate(zip(sums, expected, strict=True)):
            found[i, columns] |= not_measured(pair, known)[0]
        tell_of_not_measured(sections, listed, found, "They stay as the model predicts them.")
        lacking = {gene for gene, zeros in zip(listed, found.T, strict=True) if zeros.any()}
        if unknown := [gene for gene in listed if gene in lacking - set(known)]:
            msg = (
                f"{', '.join(unknown[:5])}: neither known to the model nor measured in all sections. Leave these genes "
                "out, or the sections that have zeros of them in every spot."
            )
            raise ValueError(msg)
        return lacking

    # ------------------------------------------------------------------ prediction

    def predict_parts(
        self, section: Section, genes: Sequence[str] | None = None, *, size: int | None = None
    ) -> Iterator[tuple[slice, Prediction]]:
        """`predict`, a few spots at a time, in the parts of the base model."""
        asked = self.genes if genes is None else list(genes)
        taken = pd.Index(self.genes).get_indexer(asked)
        points_of, judgement = self._pointer(section), self._judged(section)
        reached, errors = self.trust.expected(judgement, taken)
        for part, base in self.base.predict_parts(section, size=size):
            points = points_of(part, base.mean)
            few = [
                self._corrected(base.mean[rows], points.take(rows))
                for rows in Parts(lambda rows: rows, len(points), ROWS)
            ]
            mean, std = (
                np.where(taken >= 0, np.concatenate(each)[:, taken], np.nan) for each in zip(*few, strict=True)
            )
            yield part, Prediction(mean, std, list(asked), judgement=judgement, reached=reached, errors=errors)

    def embed(self, section: Section, *, use: str = "image") -> np.ndarray:
        """float32 (n_spots, d): `section` in the space of the base model, which says what `use` may be."""
        return self.base.embed(section, use=use)

    def _corrected(self, predicted: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """float32: mean and standard deviation of every gene where the base model predicts `predicted`."""
        arrays, process = self.arrays, self._process
        column = {gene: i for i, gene in enumerate(self.base.genes)}
        shared = [i for i, gene in enumerate(self.genes) if gene in column]
        mean = np.broadcast_to(arrays["level"], (len(points), len(self.genes))).copy()
        mean[:, shared] += predicted[:, [column[self.genes[i]] for i in shared]]
        mean += kernel(arrays["weights"], points, process.points) @ self._coefficients
        square = np.square(arrays["loadings"])
        variance = arrays["noise"] + arrays["axis_unit"] * process.spread(points, arrays["variances"]) @ square.T
        rest, which = np.unique(arrays["rest"], return_inverse=True)
        beside = arrays["gene_unit"] * (1 - square.sum(axis=1))
        variance = variance + process.spread(points, rest)[:, which] * beside
        return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)

    @cached_property
    def _process(self) -> Process:
        arrays = self.arrays
        return Process(
            Points(arrays["places"], arrays["section"], arrays["scores"], arrays["embedded"]), arrays["weights"]
        )

    @cached_property
    def _coefficients(self) -> np.ndarray:
        arrays = self.arrays
        along = self._process.coefficients(arrays["along"], arrays["variances"])
        return along @ arrays["loadings"].T + self._process.coefficients(arrays["beside"], arrays["rest"])

    def _pointer(self, section: Section) -> Callable[[slice, np.ndarray], Points]:
        """What gives the points of some rows of `section`, for which the base model predicts what it is told."""
        scale = self.arrays["scale"]
        embedded = self.base.embed(section)
        number = self._number(section)
        places = _coordinates(section) / self.config["pitches"][number]  # (without neighbours they do not count)

        def points_of(rows: slice, predicted: np.ndarray) -> Points:
            scores = (predicted - self.arrays["centre"]) @ self.arrays["axes"] / scale[0]
            own = embedded[rows] / np.float32(scale[1])
            return Points(places[rows], np.full(len(own), number), scores, own)

        return points_of

    def _number(self, section: Section) -> int:
        """Which of the sections adapted on this one is, or is a part of: by names and coordinates of its spots; else -1."""
        places, names = _coordinates(section), section.obs_names.astype(str)
        for number, pitch in enumerate(self.config["pitches"]):
            rows = np.flatnonzero(self.arrays["spot_section"] == number)
            known = {self.config["spots"][row]: self.arrays["spots"][row] for row in rows}
            away = np.abs(np.array([known.get(name, NOWHERE) for name in names]) - places).max(axis=1)
            if np.mean(away < SAME_PLACE * pitch) > 0.5:
                return number
        return -1

    # ------------------------------------------------------------------ storage

    def without_bank(self) -> Self:
        """Refuse: measured spots are what it corrects by.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(needs_spots(self.method))

    @classmethod
    def _checked(cls, stored: files.Stored, path: str | Path) -> Self:
        content = stored.config["base"]
        if not all(isinstance(name, str) for name in (*content["genes"], *stored.config["spots"])):
            msg = f"The model at {path} is damaged: not all of its genes and spots have names; save it again."
            raise ValueError(msg)
        arrays: dict[bool, dict[str, np.ndarray]] = {True: {}, False: {}}
        for name, array in stored.arrays.items():
            arrays[name.startswith(BASE)][name.removeprefix(BASE)] = array
        stored_base = files.Stored(content["method"], content["genes"], content["config"], arrays[True])
        kinds: dict[str, type[Any]] = {**METHODS, **PUBLISHED, cls.method: cls}
        base = rebuilt(stored_base, path, kinds)
        own = files.Stored(stored.method, stored.genes, {}, arrays[False])
        files.check_shapes(own, cls.shapes | Trust.shapes_in(own.arrays), path)
        numbers, config = own.arrays["spot_section"], stored.config
        n = len(config["sections"])
        if not (
            len(config["spots"]) == len(numbers)
            and len(config["pitches"]) == n
            and ((numbers >= 0) & (numbers < n)).all()
            and config["features"] == base.config.get("features", {})
            and config.get("tiles") == base.config.get("tiles")
        ):
            msg = f"The model at {path} is damaged: its sections, spots or features do not belong together; save it again."
            raise ValueError(msg)
        model = cls(base, min_counts=stored.config["min_counts"], seed=stored.config["seed"])
        model.trust = Trust.stored_in(own.arrays)
        return model


def _coordinates(section: Section) -> np.ndarray:
    """Spot centres in the container's own coordinates."""
    return section.centres / section.image_scale


def _pitch(section: Section) -> float:
    """Distance of neighbouring spots in the container's own coordinates."""
    return section.lattice.pitch_px / section.image_scale if section.lattice else 1.0
