"""The reference bank: training spots that a model compares new ones with, and where each of them came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.models._base.contract import needs_spots
from stpredict.models._base.featured import FeatureModel
from stpredict.models._base.files import Stored
from stpredict.models._data.folds import residual_sd
from stpredict.models._data.rows import chunks
from stpredict.models._retrieval.search import nearest
from stpredict.models._trust.reliability import Reliability
from stpredict.models._trust.span import Span

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from stpredict._sections.section import Section
    from stpredict.models._data.folds import HeldOut
    from stpredict.models._data.rows import Rows
    from stpredict.models._data.table import Table

BANK = ("bank", "expression", "between")
"""Arrays of the reference spots."""

WITHOUT = "without_bank."
"""What names of arrays start with that stand in for others of the same name where a model has no reference spots."""

LARGE = 50_000
"""Reference spots above which a bank, and the expression in it, are kept in half precision."""


class Banked(FeatureModel):
    """What a model with a reference bank adds; name it before the model's other base.

    ``arrays["bank"]`` holds the training spots in the space of `embed`, in rows of length 1, and ``config["bank"]`` tells
    what they are, as `bank_record` wrote it. Banks of more than `LARGE` spots are float16, and so is their expression:
    half the memory, and cosines that are wrong by some 0.0001; the search in them is exact unless `stpredict.settings` says otherwise.
    """

    def neighbours(self, section: Section, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the `k` reference spots most similar to each spot of `section`, as ``stpredict.settings.search`` says.

        Returns
        -------
        Rows of the bank, int64 (n_spots, k), best first, and their cosine similarities, float32 (n_spots, k).

        Raises
        ------
        ValueError
            If `k` is larger than the bank, or the section's features were made differently from those in training.
        """
        return nearest(self.embed(section), self.arrays["bank"], k)

    # ------------------------------------------------------------------ without reference spots

    def _learn_without_bank(self, table: Table, held: HeldOut, scores: Sequence[float]) -> dict[str, np.ndarray]:
        """Learn how far to believe what is predicted for held-out spots of the `table` without reference spots.

        `scores` are the PCC with and without them.
        """
        self.config["without_bank"] = {"inner_pcc": [float(score) for score in scores]}
        trust = self.trust.relearned(table, held).arrays()
        learned = {name: values for name, values in trust.items() if name in Reliability.SHAPES | Span.SHAPES}
        learned["residual_sd"] = residual_sd(table, held)
        return {f"{WITHOUT}{name}": values for name, values in learned.items()}

    def without_bank(self) -> Self:
        """The same without reference spots, which then predicts by other means.

        Raises
        ------
        ValueError
            If it has no other means.
        """
        if not self.config.get("has_bank", True):
            return self
        if "without_bank" not in self.config:
            raise ValueError(needs_spots(self.method))
        return type(self).from_stored(self._stripped(), "(without reference spots)")

    def _stripped(self) -> Stored:
        """Content of the model without its reference spots."""
        arrays = {
            name: array
            for name, array in self.arrays.items()
            if name.rpartition(".")[2] not in BANK and not name.startswith(WITHOUT)
        }
        arrays |= {n.removeprefix(WITHOUT): array for n, array in self.arrays.items() if n.startswith(WITHOUT)}
        before, after = self.config["without_bank"]["inner_pcc"]
        history = self.config["history"]
        note = f"without reference spots: PCC {after:.3f} on inner held-out spots; with them {before:.3f}"
        config = {name: value for name, value in self.config.items() if name != "bank"}
        config |= {
            "has_bank": False,
            "history": {
                "values": history["values"] | {"inner_pcc": [after]},
                "notes": [*history["notes"], note],
            },
        }
        return Stored(self.method, self.genes, config, arrays)

    # ------------------------------------------------------------------ storage

    @classmethod
    def shapes_of(cls, stored: Stored) -> dict[str, tuple[str | int, ...]]:
        """With or without those of reference spots, and with what stands in for others without them."""
        shapes = super().shapes_of(stored)
        own = {name: dims for name, dims in shapes.items() if f"{WITHOUT}{name}" in stored.arrays}
        for name, dims in own.items():
            shapes[f"{WITHOUT}{name}"] = tuple(n if isinstance(n, int) or n == "g" else f"{WITHOUT}{n}" for n in dims)
        if not stored.config.get("has_bank", True):
            shapes = {name: dims for name, dims in shapes.items() if name not in BANK}
        return shapes

    @classmethod
    def _checked(cls, stored: Stored, path: str | Path) -> Self:
        model = super()._checked(stored, path)
        if stored.config.get("has_bank", True):
            check_bank(stored, path)
        return model


def compact(values: Rows) -> np.ndarray:
    """Rows of a bank as they are kept: in half precision where there are many."""
    if len(values) <= LARGE:
        return np.asarray(values[:])
    out = np.empty(values.shape, dtype=np.float16)
    first = 0
    for chunk in chunks(values):
        out[first : first + len(chunk)] = chunk
        first += len(chunk)
    return out


def bank_record(table: Table, sections: Sequence[Section]) -> dict[str, Any]:
    """Where every row of a bank made of `table` came from: its section's number and its spot's name, ready for JSON."""
    spots = []
    for number, rows in table.of_sections():
        spots += sections[number].obs_names[table.row[rows]].astype(str).tolist()
    return {
        "sections": [section.name for section in sections],
        "section": table.section.tolist(),
        "spots": spots,
    }


def check_bank(stored: Stored, path: str | Path) -> None:
    """Refuse a stored model whose bank and the record of it do not belong together.

    Raises ValueError if the record is missing or is of another bank.
    """
    record = stored.config.get("bank", {})
    n = len(stored.arrays["bank"])
    sections = record.get("sections", [])
    numbers = record.get("section", [])
    if not (len(numbers) == len(record.get("spots", [])) == n and set(numbers) <= set(range(len(sections)))):
        msg = f"The model at {path} does not tell where its reference spots came from; train and save it again."
        raise ValueError(msg)
