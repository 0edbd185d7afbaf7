"""What a trained model says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stpredict.models._base.history import Facts, counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stpredict.models._base.contract import Contract
    from stpredict.models._base.history import History

NAMED = 3
"""So many genes are named before the rest is counted."""


def facts_of_model(model: Contract, history: History) -> Facts:
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
    facts["held-out score"] = history.score_text
    facts["remarks"] = "\n".join(history.notes)
    return {label: text for label, text in facts.items() if text}


def _genes(model: Contract) -> str:
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
