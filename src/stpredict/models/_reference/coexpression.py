"""Where genes lie among the programmes of seen genes, in data without images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict._genes.symbols import match, match_once
from stpredict._sections.open import Where
from stpredict._sections.references import open_references
from stpredict.pp._coexpression import CorrelationWithinStudies

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stpredict._core.typing import Data

MOMENTS = ["level", "log_sd"]
"""Columns beside the axes: expected mean and log standard deviation within a section, of log1p CP10k."""

MIN_SD = 1e-3
LEAST_POWER = 1e-3


@dataclass(frozen=True)
class ReferenceGenes:
    """How genes vary together in data without images.

    Attributes
    ----------
    correlation
        float32 (genes, seen): correlation within studies of every gene that varies with every seen gene that does.
    moments
        `MOMENTS` of every gene there.
    record
        What it was made of.
    """

    correlation: pd.DataFrame
    moments: pd.DataFrame
    record: dict[str, int]

    @property
    def names(self) -> list[str]:
        """All genes, those seen by the names they have in training."""
        return list(self.correlation.index)

    def coordinates(self, seen: Sequence[str], axes: int) -> pd.DataFrame:
        """Coordinates (genes, axes), in ``attrs`` the variance along each axis, and `MOMENTS`.

        Axes are the principal axes of the correlation between the `seen` genes alone; a gene lies on one where its
        correlation with the genes on it says (the Nyström extension). So the genes of interest span the programmes, and an
        unseen gene is described by nothing but its correlation with seen ones.
        """
        known = [gene for gene in seen if gene in self.correlation.columns]
        among = self.correlation.loc[known, known].to_numpy(np.float64)
        power, vectors = np.linalg.eigh(among)
        kept = np.argsort(-power)[:axes]
        kept = kept[power[kept] > LEAST_POWER]
        missing = axes - len(kept)
        places = self.correlation[known].to_numpy() @ (vectors[:, kept] / np.sqrt(power[kept]))
        frame = pd.DataFrame(np.pad(places, ((0, 0), (0, missing))), index=self.correlation.index).join(self.moments)
        frame.attrs["variance"] = [*power[kept].tolist(), *[0.0] * missing]
        return frame


def learn_reference(
    tables: Sequence[Data | str | Path], seen: Sequence[str], *, min_counts: int, study_key: str | None
) -> ReferenceGenes:
    """How all genes of image-free `tables` vary with the `seen` ones.

    Raises ValueError if there is no reference, one has no raw counts or none of the seen genes, fewer than two of these
    vary in the references, or these have too few spots or cells.
    """
    opened = open_references(tables, Where(study_key))
    if not opened:
        msg = "reference is empty; pass objects with raw counts, or leave it out."
        raise ValueError(msg)
    for reference in opened:
        if not match(seen, map(str, reference.genes)):
            first = ", ".join(map(str, reference.genes[:3]))
            msg = (
                f"{reference.name} measures none of the {len(seen)} genes to learn (it has {first}, …); are its var_names "
                "names of genes, and of the same species?"
            )
            raise ValueError(msg)
    matrix = CorrelationWithinStudies(opened, min_counts)
    names = [str(name) for name in matrix.names]
    row = {name: i for i, name in enumerate(names)}
    called = match_once(seen, np.array(names)[matrix.known])
    if len(called) < 2:
        msg = (
            f"Only {len(called)} of the {len(seen)} genes to learn vary in the references; are their var_names the same "
            "kind of names, and the same species?"
        )
        raise ValueError(msg)
    ours = {theirs: name for name, theirs in called.items()}
    known = np.array([row[name] for name in called.values()])
    alike = matrix.of(known).astype(np.float32)
    level, sd = matrix.moments()
    index = pd.Index([ours.get(name, name) for name in names])
    moments = pd.DataFrame({MOMENTS[0]: level, MOMENTS[1]: np.log(np.maximum(sd, MIN_SD))}, index=index)
    return ReferenceGenes(
        pd.DataFrame(alike, index=index, columns=list(called))[matrix.known],
        moments[matrix.known],
        {"n_studies": matrix.n_studies, "n_spots": matrix.n_rows, "n_genes": len(called)},
    )
