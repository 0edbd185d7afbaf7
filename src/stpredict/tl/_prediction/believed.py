"""How far a prediction can be believed, as it is written into AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.warning import warn
from stpredict.models._trust.trust import OUTSIDE, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from stpredict._sections.section import Section
    from stpredict.models import Prediction
    from stpredict.models._trust.trust import Judgement

ENDS = ("", "_lower", "_upper")
"""Endings of the columns of ``var``: the correlation to expect, and the ends of its interval."""


class Believed:
    """Judgements of the sections that were predicted, and the correlation to expect of every gene."""

    def __init__(self) -> None:
        self._judged: list[tuple[Section, Judgement]] = []
        self._reached: list[pd.DataFrame] = []

    def take(self, section: Section, prediction: Prediction) -> None:
        """Take what the prediction of a section says."""
        if prediction.judgement is not None:
            self._judged.append((section, prediction.judgement))
        if prediction.reached is not None:
            self._reached.append(pd.DataFrame(prediction.reached.T, index=prediction.genes, columns=list(ENDS)))

    def domain(self) -> dict[str, Any]:
        """What ``uns`` keeps: the judgement of the section that is farthest outside, and where there are several, of each."""
        if not self._judged:
            return {}
        worst = max((one for _, one in self._judged), key=_badness)
        names = ("verdict", "distance", "nearest_section", "why")
        kept: dict[str, Any] = {name: getattr(worst, name) for name in names}
        if len(self._judged) > 1:
            kept["sections"] = {"names": np.array([section.name for section, _ in self._judged], dtype=object)}
            for name in names:
                values = [getattr(judgement, name) for _, judgement in self._judged]
                kept["sections"][name] = np.array(values, dtype=float if name == "distance" else object)
        return kept

    def write(self, adata: AnnData, key: str, genes: Mapping[str, str | None]) -> None:
        """Write distances of spots to ``obs``, and the correlation to expect of `genes`, a mean over sections, to ``var``."""
        away = np.full(adata.n_obs, np.nan, dtype=np.float32)
        for section, judgement in self._judged:
            away[section.rows] = judgement.spots
        adata.obs[keys.distance(key)] = away
        reached = (
            sum(self._reached) / len(self._reached) if self._reached else pd.DataFrame(columns=list(ENDS), dtype=float)
        )
        own = [genes.get(name) for name in adata.var_names]
        table = reached.reindex(own)
        for end in ENDS:
            adata.var[f"{keys.reliability(key)}{end}"] = table[end].to_numpy(dtype=np.float32)

    def warn_of_outside(self) -> None:
        """Say once which sections are outside of what the model was trained on."""
        away = [(section, judgement) for section, judgement in self._judged if judgement.verdict == OUTSIDE]
        if away:
            section, judgement = away[0]
            more = f" So do {len(away) - 1} other sections." if len(away) > 1 else ""
            done, do = ("calibrated", "calibrate it") if judgement.known == "measured" else ("trained", "train")
            msg = (
                f"Section {section.name!r} lies outside of what the model was {done} on: {judgement.why}.{more} Do not "
                f"believe its prediction; {do} on sections of this kind, or check the scale and the stain of the image."
            )
            warn(msg)


def _badness(judgement: Judgement) -> tuple[bool, float]:
    """How little a section is to be believed: whether it is outside, and how far it is."""
    return judgement.verdict == OUTSIDE, float(np.nan_to_num(judgement.distance, nan=np.inf))


def judgement_of(record: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Verdict on the section `name` and its reason, by the `record` of a prediction."""
    domain = record.get("domain", {})
    if "sections" in domain:
        several = domain["sections"]
        judged = zip(several["names"], several["verdict"], several["why"], strict=True)
        found = {str(one): (str(verdict), str(why)) for one, verdict, why in judged}
        return found.get(name, (UNKNOWN, "the section was not among those that were predicted"))
    return str(domain.get("verdict", UNKNOWN)), str(domain.get("why", "nothing was learned of it"))


def outside_of(record: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    """Sections among `names` that lie outside, and why, by the `record` of a prediction."""
    domain = record.get("domain", {})
    if "sections" not in domain:
        return dict.fromkeys(names, str(domain["why"])) if domain.get("verdict") == OUTSIDE else {}
    several = domain["sections"]
    judged = zip(several["names"], several["verdict"], several["why"], strict=True)
    return {str(name): str(why) for name, verdict, why in judged if verdict == OUTSIDE and name in names}
