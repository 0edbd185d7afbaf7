"""What a model says of how far its predictions for a section can be believed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._sections.groups import group_name
from stpredict.models._data.folds import MIN_GROUPS
from stpredict.models._trust.domain import MAX_PLACES, Domain, looked_at
from stpredict.models._trust.reliability import LEVELS, SPREAD_90, Reliability, width, with_shift
from stpredict.models._trust.span import Span
from stpredict.models._trust.texture import Texture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from stpredict._sections.section import Section
    from stpredict.models._data.folds import HeldOut
    from stpredict.models._data.table import Table
    from stpredict.models._trust.sight import Sight

INSIDE, EDGE, OUTSIDE, UNKNOWN = "inside", "edge", "outside", "unknown"

NEAR, FAR = 1.35, 2.0
"""Distances of a section up to which it is inside, and from which it is outside; held-out training sections have 1."""

SHIFTED = 2.0
"""Distance of mean features from which a section is at the edge at best."""

OTHER_PATIENT = 0.5
"""Share of the held-out correlation to expect of a further patient, where training knew fewer than `MIN_GROUPS`. A rule."""

OTHER_LEVEL = 0.3
"""Standard deviation, in log1p CP10k, by which levels of genes may differ in a further patient; see `OTHER_PATIENT`.

Chosen on 20 pairs of other patients of her2st, D to H, by their counts alone (``benchmarks/trust.py --parts patients``).
"""


@dataclass(frozen=True)
class Judgement:
    """How far predictions for a section can be believed.

    Attributes
    ----------
    verdict
        ``"inside"``, ``"edge"`` or ``"outside"`` of what the model was trained on; ``"unknown"`` where it cannot tell.
    distance
        Median of ``spots``.
    nearest_section
        Training section that most spots are most similar to.
    why
        The verdict in a sentence.
    spots
        float32 (n_spots,), how far the spot's image features lie from those of training spots; 1 = as far as held-out
        training spots did, NaN where unknown.
    other_patient
        Whether the section is of a patient that is not among the fewer than three that were trained on.
    size
        How large the tissue looks beside that of training, where the scale seems to be wrong: 0.5 or 2; else 1.
    known
        Which spots it is compared with, in a word: ``"training"``, or ``"measured"`` of a model that was calibrated on them.
    """

    verdict: str
    distance: float
    nearest_section: str
    why: str
    spots: np.ndarray
    other_patient: bool = False
    size: float = 1.0
    known: str = "training"

    @property
    def kept(self) -> float:
        """Share of the held-out correlation to expect: all where it is near or unknown, nothing where it is far."""
        near = np.clip((FAR - self._away) / (FAR - NEAR), 0, 1) if np.isfinite(self.distance) else 1.0
        return float(near) * (OTHER_PATIENT if self.other_patient else 1)

    @property
    def widening(self) -> float:
        """Factor by which errors are larger than on held-out training spots."""
        return float(1 + 0.25 * np.clip(self._away - NEAR, 0, 4)) if np.isfinite(self.distance) else 1.0

    @property
    def _away(self) -> float:
        """The distance; no less than that of a section outside where the scale seems to be wrong."""
        return self.distance if self.size == 1 else max(self.distance, FAR)

    @classmethod
    def unknown(cls, n_spots: int, why: str) -> Judgement:
        """Nothing is known."""
        return cls(UNKNOWN, np.nan, "", why, np.full(n_spots, np.nan, dtype=np.float32))


@dataclass(frozen=True)
class Trust:
    """What a model learned of its own trustworthiness; its parts are None in models that learned nothing of it.

    Attributes
    ----------
    domain
        Where training spots lie; None of models that look at no image.
    reliability
        What held-out spots reached.
    span
        Between which values predictions for held-out spots lie.
    texture
        What tells a wrong scale; None of models that do not see the default encoder's features of tiles.
    """

    domain: Domain | None = None
    reliability: Reliability | None = None
    span: Span | None = None
    texture: Texture | None = None

    @classmethod
    def learn(cls, sections: Sequence[Section], sight: Sight, table: Table, held: HeldOut) -> Self:
        """Learn from predictions for held-out spots of the training `table`."""
        if not sight.width:
            return cls().relearned(table, held)
        rng = np.random.default_rng(0)
        few, features = looked_at(sections, sight, table, rng)
        texture = Texture.learn(features, sight.names(sections[0]))
        return cls(Domain.learn(few, features, rng), texture=texture).relearned(table, held)

    def relearned(self, table: Table, held: HeldOut) -> Self:
        """The same distances, with what other predictions for held-out spots of the training `table` reached."""
        measured = np.asarray(table.expression[held.rows])
        between = table.between_sections() if len(np.unique(table.section)) > 1 else None
        reliability = Reliability.learn(measured, held.predicted, table.section[held.rows], between)
        return replace(self, reliability=reliability, span=Span.learn(held.predicted))

    def joined_by(self, section: Section, sight: Sight, rows: np.ndarray, number: int) -> Self:
        """The same with spots in `rows` of a further `section`, which has this `number`, among those that others are compared with."""
        if self.domain is None or not len(rows):
            return self
        few = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:MAX_PLACES])]
        features = sight.of_rows(section, few)
        texture = None if self.texture is None else self.texture.joined_by(features)
        return replace(self, domain=self.domain.joined_by(features, number), texture=texture)

    def judge(
        self,
        section: Section,
        sight: Sight,
        trained_on: Sequence[str],
        patients: Sequence[str],
        group_key: str | None,
        *,
        known: str = "training",
    ) -> Judgement:
        """How far a `section` is from the sections `trained_on`, whose `patients` were named by ``obs[group_key]``.

        `known` says in a word which spots these are of.
        """
        if self.domain is None:
            why = "the model looks at no encoded features, or was trained by an earlier version; train it again to learn it"
            return Judgement.unknown(len(section), why)
        if sight.is_outdated:
            why = "the model was trained by a version that described tiles in another way; train it again to learn it"
            return Judgement.unknown(len(section), why)
        spots, nearest, shifted, shift, mean = self.domain.distances(section, sight)
        distance = float(np.median(spots))
        other = _is_other_patient(section, patients, group_key)
        size = 1.0 if self.texture is None else self.texture.size(mean)
        size = 1.0 if size != 1 and section.is_scale_measured else size
        outside, edge = distance > FAR or size != 1, distance > NEAR or shifted > SHIFTED or other
        verdict = OUTSIDE if outside else EDGE if edge else INSIDE
        names = sight.names(section)
        most = np.argsort(-np.abs(shift))[:2]
        told = " and ".join(f"{names[i]} ({shift[i]:+.1f} sd)" for i in most)
        why = f"its spots lie {distance:.2g} times as far from {known} spots as held-out ones did"
        if size != 1:
            looks, true = ("half", "twice") if size == 0.5 else ("twice", "half")
            why += (
                f"; its tissue looks about {looks} as large as that of training, as if it were read at a wrong scale: check "
                f"its microns per pixel, they may be about {true} those that were taken"
            )
        elif verdict != INSIDE:
            why += f"; its features differ most in {told}"
        if other:
            n = len(set(patients))
            why += (
                f"; it is of another patient than the {n} that the model was trained on"
                if n > 1
                else "; it is of another patient than that of training"
            )
        home = trained_on[int(np.bincount(nearest).argmax())]
        return Judgement(verdict, distance, str(home), why, spots.astype(np.float32), other, size, known)

    def expected(self, judgement: Judgement, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What to expect of genes in these columns, NaN where a column is −1 or nothing was learned.

        Returns
        -------
        float64 (3, genes), correlation over spots and the ends of its 90 % interval; float32 (levels, genes), quantiles
        of measured minus predicted expression.
        """
        if self.reliability is None:
            return np.full((3, len(columns)), np.nan), np.full((len(LEVELS), len(columns)), np.nan, dtype=np.float32)
        reached = np.clip(self.reliability.pcc[columns], 0, 1) * judgement.kept
        half = SPREAD_90 * self.reliability.pcc_sd[columns]
        reached = np.stack([reached, np.maximum(reached - half, 0), np.minimum(reached + half, 1)]).astype(np.float64)
        errors = self._errors(self.reliability, judgement)[:, columns]
        reached[:, columns < 0], errors[:, columns < 0] = np.nan, np.nan
        return reached, errors

    @staticmethod
    def _errors(reliability: Reliability, judgement: Judgement) -> np.ndarray:
        """float32 (levels, genes): quantiles of the errors to expect on a section."""
        errors = with_shift(reliability.errors, OTHER_LEVEL) if judgement.other_patient else reliability.errors
        return errors * np.float32(judgement.widening)

    def error_width(self, judgement: Judgement, has_spread: bool) -> np.ndarray | None:
        """float32 (genes,): standard deviation of predictions, or factor of the method's own spread; None where unknown.

        So that the central 90 % interval of a normal distribution is as wide as that of the errors on held-out spots.
        """
        if self.reliability is None:
            return None
        needed = width(self._errors(self.reliability, judgement))
        if not has_spread:
            return needed
        own = self.reliability.spread
        return np.where(own > 0, needed / np.where(own > 0, own, np.inf), np.float32(judgement.widening)).astype(
            np.float32
        )

    def learn_spread(self, spread: np.ndarray) -> dict[str, np.ndarray]:
        """Learn how wide a method's own spread (spots, genes) is; returns what a model stores of it."""
        rms = np.sqrt(np.square(spread, dtype=np.float64).mean(axis=0)).astype(np.float32)
        learned: Any = self.reliability
        learned.spread[:] = rms
        return {f"{Reliability.PREFIX}spread": rms}

    def arrays(self) -> dict[str, np.ndarray]:
        """What a model stores of it."""
        parts = (self.domain, self.texture, self.reliability, self.span)
        return {name: values for part in parts if part for name, values in part.arrays().items()}

    @classmethod
    def stored_in(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What `arrays` returned, among the arrays of a model."""
        domain, reliability = Domain.stored_in(arrays), Reliability.stored_in(arrays)
        return cls(domain, reliability, Span.stored_in(arrays), Texture.stored_in(arrays))

    @classmethod
    def shapes_in(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[str | int, ...]]:
        """Shapes of those arrays of a model that belong to it."""
        parts = (Domain.SHAPES, Texture.SHAPES, Reliability.SHAPES, Span.SHAPES)
        return {name: dims for part in parts if part.keys() & arrays.keys() for name, dims in part.items()}


def _is_other_patient(section: Section, patients: Sequence[str], group_key: str | None) -> bool:
    """Whether ``obs[group_key]`` of the section says that it is of none of the few `patients` that were trained on.

    False where it cannot be known: models of earlier versions have no `group_key`, nor have those that took every section
    for a patient of its own.
    """
    if group_key is None or group_key not in section.adata.obs or len(set(patients)) >= MIN_GROUPS:
        return False
    own = set(map(group_name, section.adata.obs[group_key].iloc[section.rows].dropna().unique()))
    return bool(own) and not own & set(patients)
