"""The design matrix: what a feature model sees of every spot.

A spot is described by its spot and niche features, every column standardised within the section: the whole section as
it was encoded, also where only some of its spots are left. That uses nothing but the section's own image features, so it
leaks no expression, and it removes what stain and scanner do to a whole slide. Means over lattice neighbours are left out on purpose: beside a niche window they added nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._sections.niches import call, is_wider, spot_key
from stpredict._sections.places import warn_if_moved
from stpredict._sections.scale import NICHE_UM
from stpredict._sections.spread import ROWS, moments, whole_moments
from stpredict.models._data.chunks import Parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stpredict._sections.section import Section

SAME_EXACTLY = ("encoder", "encoder_hash", "niche", "stain_norm", "stain_white")
SAME_WITHIN = ("spot_um", "niche_um", "mpp")
GIVEN = ("input_size", "mean", "std")
"""What a user gave to a network in place of what it states; it is part of the encoder's hash."""

TOLERANCE = 0.05
"""Relative difference of windows and scale that is still the same."""


def design(section: Section, keys: Sequence[str]) -> np.ndarray:
    """float32 (n spots, d): features under `keys`, standardised within the section.

    Constant columns, and all columns of a single spot, are 0.
    """
    return designer(section, keys)(slice(None))


def designer(section: Section, keys: Sequence[str]) -> Callable[[slice], np.ndarray]:
    """What gives any rows of `design`; the whole section is looked at once, now."""
    mean, sd = section_moments(section, keys)
    return lambda rows: _standardised(raw_features(section, keys, rows), mean, sd)


def raw_features(section: Section, keys: Sequence[str], rows: slice = slice(None)) -> np.ndarray:
    """float32 (n spots, d): features under `keys` as they were encoded."""
    nothing = np.zeros((len(section.rows[rows]), 0), dtype=np.float32)
    return np.concatenate([nothing, *(section.features(key, rows) for key in keys)], axis=1)


def mean_features(section: Section, keys: Sequence[str]) -> np.ndarray:
    """float64 (1, d): mean of features under `keys` as they were encoded."""
    return section_moments(section, keys)[0][None]


def section_moments(section: Section, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """float64 (d,): mean and standard deviation of features under `keys` over the whole section as it was encoded."""
    mean, sd = moments(Parts(partial(raw_features, section, keys), len(section), ROWS))
    ends = np.cumsum([section.adata.obsm[key].shape[1] for key in keys])
    for key, end, width in zip(keys, ends, np.diff(ends, prepend=0), strict=True):
        own = slice(end - width, end)
        mean[own], sd[own] = whole_moments(section, key, mean[own], sd[own])
    return mean, sd


def column_names(section: Section, keys: Sequence[str]) -> list[str]:
    """Names of the columns of `design`, ``<key>:<feature>``, numbered where the encoder does not name its features."""
    own: list[str] = []
    for key in keys:
        n = section.adata.obsm[key].shape[1]
        names = section.record(key).get("feature_names", ()) if _is_record(section.record(key)) else ()
        own += [f"{key}:{name}" for name in (names if len(names) == n else range(n))]
    return own


def standardise(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; constant ones become 0."""
    return _standardised(np.array(values, dtype=np.float32), *moments([values]))


def _standardised(values: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """`values`, changed in place."""
    constant = sd <= 1e-6 * np.abs(mean) + 1e-12
    values -= mean
    values *= 1 / np.where(constant, np.inf, sd)
    return values


def find_features(sections: Sequence[Section], features: str | Sequence[str] | None = None) -> list[str]:
    """``obsm`` keys to learn from: those asked for, or all that `stpredict.pp.encode` left in every section.

    Raises ValueError if there are none, or sections carry different ones.
    """
    if features is not None:
        keys = [features] if isinstance(features, str) else list(features)
    else:
        found = {section.name: _encoded_keys(section) for section in sections}
        keys = found[sections[0].name]
        if any(other != keys for other in found.values()):
            told = "; ".join(f"{name}: {', '.join(k) or 'none'}" for name, k in found.items())
            msg = (
                f"Sections carry different image features ({told}). Run stpredict.pp.tiles and stpredict.pp.encode "
                "on all, or pass features= with what all of them have."
            )
            raise ValueError(msg)
    if not keys:
        msg = (
            f"Section {sections[0].name!r} has no image features: run stpredict.pp.tiles and stpredict.pp.encode first."
        )
        raise ValueError(msg)
    return keys


def _encoded_keys(section: Section) -> list[str]:
    return sorted(key for key in section.adata.obsm if _is_record(section.record(key)))


def _is_record(record: Any) -> bool:
    return isinstance(record, Mapping) and "encoder_hash" in record


def describe_features(section: Section, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How the features under `keys` were made, by key, ready for JSON; they are checked to be there and finite."""
    described = {}
    for key in keys:
        if key not in section.adata.obsm:
            there = ", ".join(_encoded_keys(section)) or "none"
            msg = (
                f"Section {section.name!r} has no features obsm[{key!r}] (it has {there}). Run stpredict.pp.tiles(adata) "
                f"and stpredict.pp.encode(adata, ...) with the encoder that made them."
            )
            raise ValueError(msg)
        shape = section.adata.obsm[key].shape
        parts = Parts(partial(section.features, key), len(section), ROWS)
        if len(shape) != 2 or not all(np.isfinite(part).all() for part in parts):
            msg = f"obsm[{key!r}] of section {section.name!r} must be a matrix without NaN; run stpredict.pp.encode again."
            raise ValueError(msg)
        record = section.record(key)
        known = {k: record[k] for k in (*SAME_EXACTLY, *SAME_WITHIN) if k in record} if _is_record(record) else {}
        try:
            described[key] = {k: str(v) if k in SAME_EXACTLY else float(v) for k, v in known.items()}
            described[key] |= {"n_features": shape[1]} | given_input(record if _is_record(record) else {})
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"The record uns[{key!r}] of section {section.name!r} is damaged ({error}); run stpredict.pp.encode again."
            raise ValueError(msg) from error
    return described


def check_all(sections: Sequence[Section], expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse sections of which one has features that were not made as `expected`, see `check_features`."""
    for section in sections:
        check_features(section, expected)


def check_features(section: Section, expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a section whose features were not made as `expected` (what `describe_features` returned in training).

    Raises ValueError if features are missing, or differ in encoder, windows or scale; the message names the call that
    mends it. Warns where spots were moved since.
    """
    for key in expected:
        if key not in section.adata.obsm:
            there = ", ".join(_encoded_keys(section)) or "no image features"
            msg = (
                f"Section {section.name!r} has no features obsm[{key!r}], from which this model predicts (it has {there}). "
                f"Run {_made_first(key, expected)} on it first."
            )
            raise ValueError(msg)
    found = describe_features(section, list(expected))
    for key, wanted in expected.items():
        _check_niche(section, key, found[key], expected)
        _check_stain(section, key, found[key], expected)
        for name, value in wanted.items():
            has = found[key].get(name)
            if name in GIVEN:  # (the hash tells; earlier versions did not keep them)
                continue
            if has is None or _differs(name, has, value):
                told = value if has is None or name != "encoder_hash" else f"{value} (same name, other weights)"
                msg = (
                    f"Section {section.name!r}: obsm[{key!r}] has {name}={has}, where the model was trained on {told}. "
                    f"Run {_mend(key, expected)} on this section, or train on features made like these."
                )
                raise ValueError(msg)
    warn_if_moved(section, list(expected))


def _check_niche(section: Section, key: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse niche features of other niches; those that do not say are of windows."""
    wanted = expected[key]
    has, should = (features.get("niche", "window") for features in (found, wanted))
    if has != should and "encoder" in found:
        msg = (
            f"Section {section.name!r}: obsm[{key!r}] is of niches {has!r}, where the model was trained on {should!r}. "
            f"Run {call(should, wanted.get('niche_um'))} and {_mend(key, expected)} on this section."
        )
        raise ValueError(msg)


def _check_stain(section: Section, key: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse features of normalised stains where the model was trained on others, and the other way round."""
    wanted = expected[key]
    has, should = ((features.get("stain_norm"), features.get("stain_white")) for features in (found, wanted))
    if has != should and "encoder" in found and "encoder" in wanted:
        told = [
            f"stains normalised by {name!r}{'' if white else ' as earlier versions did'}"
            if name
            else "stains as they are"
            for name, white in (has, should)
        ]
        msg = (
            f"Section {section.name!r}: obsm[{key!r}] has {told[0]}, where the model was trained on {told[1]}. "
            f"Run {_mend(key, expected)} on this section."
        )
        raise ValueError(msg)


def windows_of(key: str, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``spot_um`` and ``niche_um`` as `stpredict.pp.tiles` takes them, for the features that `key` and its like stand for.

    Of several niche widths, that of the niche comes first.
    """
    alike = [(name, record) for name, record in records.items() if spot_key(name) == spot_key(key)]
    windows: dict[str, Any] = {}
    for name, record in sorted(alike, key=lambda one: is_wider(one[0])):
        if "spot_um" in record:
            windows.setdefault("spot_um", float(record["spot_um"]))
        if "niche_um" in record:
            widths = windows.setdefault("niche_um", [] if not is_wider(name) else [NICHE_UM])
            widths += [] if float(record["niche_um"]) in widths else [float(record["niche_um"])]
    if "niche_um" in windows:
        first, *others = windows["niche_um"]
        windows["niche_um"] = (first, *sorted(others)) if others else first
    return windows


def given_input(record: Mapping[str, Any]) -> dict[str, Any]:
    """Input size and normalisation that a user gave to the network of these features, as `stpredict.pp.encode` takes them."""
    size = {"input_size": int(record["input_size"])} if "input_size" in record else {}
    return size | {name: [float(value) for value in record[name]] for name in ("mean", "std") if name in record}


def _differs(name: str, has: Any, wanted: Any) -> bool:
    if name in SAME_WITHIN:
        return not abs(has - wanted) <= TOLERANCE * wanted
    return has != wanted


def _made_first(key: str, expected: Mapping[str, Mapping[str, Any]]) -> str:
    """What makes the features under `key`; those that do not say how they were made may be anybody's."""
    if "encoder" in expected[key]:
        return _mend(key, expected)
    return "stpredict.pp.tiles and stpredict.pp.encode, or the feature extraction of the training sections,"


def _mend(key: str, expected: Mapping[str, Mapping[str, Any]]) -> str:
    record = expected[key]
    if "encoder" not in record:
        return "the same feature extraction"
    given = windows_of(key, expected)
    several = {name: value if isinstance(value, tuple) else f"{value:g}" for name, value in given.items()}
    tiles = ", ".join(f"{name}={value}" for name, value in several.items())
    scale = f", mpp={record['mpp']:.4g}" if "mpp" in record else ""
    stain = f", stain_norm={record['stain_norm']!r}" if "stain_norm" in record else ""
    own = "".join(f", {name}={value}" for name, value in given_input(record).items())
    return (
        f"stpredict.pp.tiles(adata, {tiles}) and stpredict.pp.encode(adata, {record['encoder']!r}{scale}{own}{stain})"
    )
