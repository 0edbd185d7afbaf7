"""What happened in training, and how facts of it are told to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

import numpy as np

Facts = dict[str, str]
"""What is told, by its label."""


def as_text(title: str, facts: Facts) -> str:
    """Lines to print."""
    width = max(map(len, facts), default=0)
    below = "\n" + " " * (width + 4)
    lines = (f"  {label:<{width}}  {text.replace(chr(10), below)}" for label, text in facts.items())
    return "\n".join([title, *lines])


def as_html(title: str, facts: Facts) -> str:
    """A table for notebooks, in the colours that the notebook has."""
    left = "text-align: left; vertical-align: top"
    rows = "".join(
        f'<tr><th style="{left}; white-space: nowrap">{escape(label)}</th><td style="{left}">{_rows_of(text)}</td></tr>'
        for label, text in facts.items()
    )
    return f"<div><strong>{escape(title)}</strong><table>{rows}</table></div>"


def _rows_of(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def counted(n: int, word: str) -> str:
    """``1 spot``, ``1,200 spots``."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


@dataclass(repr=False)
class History:
    """What happened in training: one list of values by name, and remarks."""

    values: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Best PCC on inner held-out spots; NaN where none were held out."""
        scores = self.values.get("inner_pcc") or self.values.get("val_pcc") or [np.nan]
        return float(np.max(scores))

    @property
    def score_text(self) -> str:
        """Held-out score in a sentence; empty where nothing was held out."""
        before, after = (self.values.get(name) for name in ("rmse_base", "rmse_adapted"))
        if before and after:
            return f"error {after[0]:.2f} log1p CP10k at measured spots, each left out; before adapting {before[0]:.2f}"
        return f"PCC {self.score:.2f}, mean over genes on inner held-out spots" if np.isfinite(self.score) else ""

    def __repr__(self) -> str:
        return as_text("Training history", self._facts())

    def _repr_html_(self) -> str:
        return as_html("Training history", self._facts())

    def _facts(self) -> Facts:
        """Held-out score, remarks, and what was written down in training and how often."""
        lengths: dict[int, list[str]] = {}
        for name, values in self.values.items():
            lengths.setdefault(len(values), []).append(name)
        listed = "; ".join(f"{', '.join(names)} ({counted(n, 'value')})" for n, names in lengths.items())
        facts = {"held-out score": self.score_text, "remarks": "\n".join(self.notes), "values": listed}
        return {label: text for label, text in facts.items() if text}
