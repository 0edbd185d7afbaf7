"""What a published model needs of a section's image features, and the calls that make them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict.models._data.chunks import Parts
from stpredict.models._data.features import ROWS

if TYPE_CHECKING:
    from stpredict._sections.section import Section
    from stpredict.models.published.cards import Card

COARSE = 2.5
"""Pixels of the image may be so many times as large as those of the model's tiles; `pp.encode` warns from 2 on."""


def own_key(card: Card) -> str:
    """``obsm`` key under which `stpredict.pp.encode` writes the model's features."""
    return keys.features(card.encoder)


def calls(card: Card, key: str | None = None) -> str:
    """The calls that make the model's features, under `key` where it is not the usual one."""
    stain = f", stain_norm={card.stain_norm!r}" if card.stain_norm else ""
    added = f", key_added={key!r}" if key not in (None, own_key(card)) else ""
    return (
        f"stpredict.pp.tiles(adata, spot_um={card.spot_um:g}) and stpredict.pp.encode(adata, {card.encoder!r}, "
        f"niche=False{stain}{added})"
    )


def check_needs(section: Section, key: str, card: Card, *, vouched: bool = False) -> None:
    """Refuse a section without the model's features under `key`, or with others.

    Where the user has `vouched` for them, neither a record of how they were made nor the encoder's name is asked for.
    Raises ValueError; the message names the calls that mend it.
    """
    if key not in section.adata.obsm:
        msg = f"Section {section.name!r} has no obsm[{key!r}], which {card.title} needs. Run {calls(card, key)} on it."
        raise ValueError(msg)
    shape = section.adata.obsm[key].shape
    if len(shape) != 2 or shape[1] != card.width:
        told = f"{shape[1]} features per spot" if len(shape) == 2 else f"{len(shape)} dimensions"
        _refuse(section, key, card, f"has {told}, where {card.title} needs {card.width} of {card.encoder!r}")
    if not all(np.isfinite(part).all() for part in Parts(partial(section.features, key), len(section), ROWS)):
        _refuse(section, key, card, "holds NaN or infinite values")
    record = section.record(key)
    if isinstance(record, Mapping) and "encoder" in record:
        _check_record(section, key, card, record, vouched=vouched)
    elif not vouched:
        msg = (
            f"Nothing says how obsm[{key!r}] of section {section.name!r} was made. Run {calls(card)}; or, if these are "
            f"features of {card.encoder!r} on tiles of {card.spot_um:g} µm, say so with "
            f"stpredict.models.pretrained({card.name!r}, features={key!r})."
        )
        raise ValueError(msg)


def check_image(section: Section, mpp: float) -> None:
    """Refuse a section whose image is missing, or much too coarse for a model that was trained at `mpp` µm per pixel."""
    section.image  # noqa: B018 (opening checks the image and that all spots lie on it)
    if section.mpp > COARSE * mpp:
        msg = (
            f"Section {section.name!r}: the image has {section.mpp:.3g} µm per pixel, and the model needs {mpp:.3g} or finer. "
            "Use the image in full resolution."
        )
        raise ValueError(msg)


def _check_record(section: Section, key: str, card: Card, record: Mapping[str, Any], *, vouched: bool) -> None:
    if record["encoder"] != card.encoder and not vouched:
        _refuse(
            section, key, card, f"is of the encoder {record['encoder']!r}, where {card.title} needs {card.encoder!r}"
        )
    um, mpp = float(record.get("spot_um", np.nan)), float(record.get("mpp", np.nan))
    if abs(um - card.spot_um) > card.within * card.spot_um:
        _refuse(section, key, card, f"is of tiles of {um:g} µm, where {card.title} needs {card.spot_um:g} µm")
    if mpp > COARSE * card.mpp:
        msg = (
            f"Section {section.name!r}: obsm[{key!r}] was made at {mpp:.3g} µm per pixel, and {card.title} needs "
            f"{card.mpp:.3g} or finer. Use the image in full resolution, then run {calls(card, key)}."
        )
        raise ValueError(msg)
    has = record.get("stain_norm")
    if has != card.stain_norm:
        told = [f"stains normalised by {name!r}" if name else "stains as they are" for name in (has, card.stain_norm)]
        _refuse(section, key, card, f"is of {told[0]}, where {card.title} needs {told[1]}")


def _refuse(section: Section, key: str, card: Card, why: str) -> None:
    msg = f"Section {section.name!r}: obsm[{key!r}] {why}. Delete it, del adata.obsm[{key!r}], and run {calls(card, key)}."
    raise ValueError(msg)


def vouched_key(config: Mapping[str, Any]) -> str | None:
    """``obsm`` key of features that the user vouches for, by a model's configuration; None where they are checked."""
    return next((key for key, made in config["features"].items() if "encoder" not in made), None)
