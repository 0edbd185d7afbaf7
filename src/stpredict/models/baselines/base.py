"""What the baselines share: the choice of one hyper-parameter by inner cross-validation."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from stpredict.models._base.history import History
from stpredict.models._base.spotwise import SpotwiseModel
from stpredict.models._data.folds import Choice, choose

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from stpredict._sections.section import Section
    from stpredict.models._data.table import Table


class Baseline(SpotwiseModel):
    """A model that is a few arrays, with at most one hyper-parameter, chosen by inner cross-validation.

    A method says how it learns arrays from a `Table` (`learn`) and how these predict (`apply`).

    Attributes
    ----------
    hyperparameter, candidates
        Name of the hyper-parameter, and the values to choose from.
    looked_at
        Rows of the training table whose held-out predictions are kept in ``held``; None leaves it to `choose`.
    """

    hyperparameter: ClassVar[str] = ""
    candidates: ClassVar[tuple[float, ...]] = (0.0,)
    looked_at: np.ndarray | None = None

    # ------------------------------------------------------------------ what a method defines

    @abstractmethod
    def learn(self, table: Table, value: float) -> dict[str, np.ndarray]:
        """Arrays of the model, with the hyper-parameter at `value`."""

    def try_candidates(self, table: Table, queries: np.ndarray) -> Iterable[np.ndarray]:
        """Predictions for `queries` with every candidate in turn; methods may share work between candidates."""
        for value in self.candidates:
            yield self.apply(self.learn(table, value), queries)[0]

    # ------------------------------------------------------------------ the contract

    def fit(self, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]) -> History:
        """Learn from `sections`; `groups` names the patient (or other unit) of each, for inner validation.

        Returns
        -------
        Inner PCC of every candidate, and which was chosen.

        Raises
        ------
        ValueError
            If features or counts are missing or unusable, or too few spots are left.
        """
        table = self._table(sections, genes, groups)
        choice = self._choose(table)
        if self.hyperparameter:
            self.config[self.hyperparameter] = choice.value
        arrays = self.learn(table, choice.value) | {"residual_sd": choice.residual_sd}
        arrays |= self._learn_trust(sections, table, choice.held, arrays)
        return self._finish(genes, arrays, self._history(choice))

    def _choose(self, table: Table) -> Choice:
        """The hyper-parameter that predicts best, after the gene structure where there is one."""
        return choose(table, self.candidates, self.structured(self.try_candidates), looked_at=self.looked_at)

    def _history(self, choice: Choice) -> History:
        values = {"inner_pcc": choice.scores}
        notes = [choice.note]
        if self.hyperparameter:
            values[self.hyperparameter] = list(self.candidates)
            notes.append(f"{self.hyperparameter} = {choice.value:g}")
        return History(values, notes)
