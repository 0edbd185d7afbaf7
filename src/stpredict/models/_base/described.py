"""What a model and its history say of themselves, as text and as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stpredict.models._base.contract import ExpressionModel, History

NAMED = 3
"""So many genes are named before the rest is counted."""

Facts = dict[str, str]
"""What is told, by its label."""


def facts_of_model(model: ExpressionModel, history: History) -> Facts:
    """Method, genes, image features, training sections and held-out score of a trained model."""
    config: dict[str, Any] = model.config
    base = config.get("base", {}).get("config", {})
    facts = {"genes": _genes(model)}
    facts["features"] = _features(config.get("features", {}))
    if encoder := config.get("encoder"):
        facts["image network"] = encoder
    facts["trained on"] = _sections(base or config)
    if base:
        facts["adapted to"] = f"{counted(config['n_spots'], 'spot')} of {_sections(config, spots=False)}"
    if "reference" in config:
        facts["reference"] = "counts without images, by reference="
    facts["held-out score"] = _score(history)
    facts["remarks"] = "\n".join(history.notes)
    return {label: text for label, text in facts.items() if text}


def facts_of_history(history: History) -> Facts:
    """Held-out score, remarks, and what was written down in training and how often."""
    lengths: dict[int, list[str]] = {}
    for name, values in history.values.items():
        lengths.setdefault(len(values), []).append(name)
    listed = "; ".join(f"{', '.join(names)} ({counted(n, 'value')})" for n, names in lengths.items())
    facts = {"held-out score": _score(history), "remarks": "\n".join(history.notes), "values": listed}
    return {label: text for label, text in facts.items() if text}


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


def _genes(model: ExpressionModel) -> str:
    more = len(model.vocabulary) - len(model.genes)
    named = ", ".join(model.genes[:NAMED]) + (", …" if len(model.genes) > NAMED else "")
    others = f"; it also predicts {counted(more, 'gene')} that it did not learn from" if more else ""
    return f"{len(model.genes):,}: {named}{others}"


def _features(features: Mapping[str, Mapping[str, Any]]) -> str:
    if not features:
        return "none: this method looks at no image"
    return "; ".join(f"{key} ({_made(key, record)})" for key, record in features.items())


def _made(key: str, record: Mapping[str, Any]) -> str:
    """Encoder, window and scale of the features under a key, what is known of them."""
    window = record.get("niche_um" if "_niche" in key else "spot_um")
    told = [
        str(record.get("encoder", f"{record['n_features']} columns")),
        f"{window:g} µm" if window else "",
        f"{record['mpp']:.3g} µm/px" if "mpp" in record else "",
        f"stains normalised by {record['stain_norm']}" if "stain_norm" in record else "",
    ]
    return ", ".join(part for part in told if part)


def _sections(config: Mapping[str, Any], *, spots: bool = True) -> str:
    """Number of sections, patients and spots, and their names where these are few."""
    sections, groups = config.get("sections", []), config.get("groups", [])
    if not sections:
        return ""
    told = counted(len(sections), "section")
    if len(sections) <= NAMED:
        told += f" ({', '.join(sections)})"
    if groups and groups != sections:
        told += f" of {counted(len(set(groups)), 'patient')}"
    return f"{told}, {counted(config['n_spots'], 'spot')}" if spots and "n_spots" in config else told


def _score(history: History) -> str:
    before, after = (history.values.get(name) for name in ("rmse_base", "rmse_adapted"))
    if before and after:
        return f"error {after[0]:.2f} log1p CP10k at measured spots, each left out; before adapting {before[0]:.2f}"
    score = history.score
    return f"PCC {score:.2f}, mean over genes on inner held-out spots" if np.isfinite(score) else ""
