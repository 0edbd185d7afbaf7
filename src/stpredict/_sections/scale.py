"""Microns per pixel: where it comes from, and the checks that catch hires/full-resolution mix-ups.

The scale is taken, in this order, from the caller, from what the readers found (``microns_per_pixel`` or the image
file), or from the spot lattice. It is never taken from ``spot_diameter_fullres``, on which tools disagree by more
than 10 %; that number only serves to notice coordinates of the wrong image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from stpredict._core.warning import warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stpredict._images import SlideImage

    Layout: TypeAlias = Literal["hexagonal", "square", "irregular"]

VISIUM_PITCH_UM = 100.0
"""Centre to centre distance of Visium spots (10x Genomics, Visium Spatial Gene Expression)."""

PLAUSIBLE_MPP = (0.05, 20.0)
TOLD = 1.05
"""Scale and lattice may differ by this factor before a warning says so."""

DISAGREEMENT = 1.25
"""Scale and lattice may differ by this factor before it is called a mix-up."""

PITCH_PER_DIAMETER = (0.8, 2.8)
"""Pitch over spot diameter: 1.0 for bins, 1.5–1.8 for Visium, 2.0 for legacy ST."""


LAID = "pseudo-spots"
"""Technology of spots that were laid over a slide."""

SPOT_UM = 112.0
"""Width of a spot window: 224 px at 0.5 µm, what pathology encoders are trained on, and enough to cover a spot."""

NICHE_UM = 560.0
"""Width of a niche window: five spot windows across, as in other context models of this field (TRIPLEX, DeepSpot)."""

FEW = 0.05
"""Share of spots off the image up to which they may be strays rather than a mix-up."""


@dataclass(frozen=True)
class Lattice:
    """How spots are laid out: distance between neighbours in pixels, and the kind of grid.

    Spots picked from a grid here and there are ``"irregular"``: their distances say nothing about the scale.
    """

    pitch_px: float
    kind: Layout


@dataclass(frozen=True)
class ScaleHints:
    """Everything known about a section's scale, in pixels of the coordinates' own image."""

    argument: float | None = None
    metadata: float | None = None
    image_file: float | None = None
    cells: tuple[float, str] | None = None
    """What a reader's table of cells says, and where."""
    pitch_um: float | None = None
    is_laid: bool = False
    """Whether the spots were laid over the tissue by the scale itself, so that their distance tells nothing."""
    spot_diameter_px: float | None = None
    remembered: tuple[float, str] | None = None
    scalefactors: Mapping[str, float] = field(default_factory=dict)
    coordinates: str = "obsm['spatial']"
    """Where the centres are kept, for messages."""
    exchange: str = "adata.obsm['spatial'] = adata.obsm['spatial'][:, ::-1]"
    """Code that exchanges their x and y."""


def find_lattice(centres: np.ndarray) -> Lattice | None:
    """Spacing of spot centres (n, 2) in pixels; None for fewer than three spots."""
    from sklearn.neighbors import NearestNeighbors

    if len(centres) < 3:
        return None
    k = min(len(centres) - 1, 8)
    sample = centres[:: 1 + len(centres) // 20_000]
    distances = NearestNeighbors(n_neighbors=k + 1).fit(centres).kneighbors(sample)[0][:, 1:]
    nearest = np.median(distances[:, 0])
    if not nearest > 0:
        return None
    close = distances < 1.25 * nearest
    pitch = float(distances[close].mean())
    n_close = np.quantile(close.sum(axis=1), 0.9, method="lower")
    spread = np.median(np.abs(distances[close] - pitch)) / pitch
    kind: Layout = (
        "irregular" if spread > 0.1 else "hexagonal" if n_close >= 6 else "square" if n_close == 4 else "irregular"
    )
    return Lattice(pitch, kind)


def resolve_mpp(hints: ScaleHints, lattice: Lattice | None, name: str) -> tuple[float, str]:
    """Microns per pixel and where the number comes from.

    Raises ValueError if no source knows the scale, the number is implausible, or two sources contradict each other.
    """
    from_lattice = lattice_mpp(hints, lattice)
    candidates = [
        (hints.argument, "argument"),
        hints.remembered or (None, ""),
        (hints.metadata, "scalefactors['microns_per_pixel']"),
        hints.cells or (None, ""),
        (hints.image_file, "image file"),
        (from_lattice, "spot lattice"),
    ]
    known = [(float(mpp), source) for mpp, source in candidates if mpp is not None]
    if not known:
        msg = (
            f"The scale of section {name!r} is unknown. Pass mpp= (microns per full-resolution pixel) to stpredict.pp.tiles, "
            "which keeps it for all that follows."
        )
        if lattice is not None and lattice.kind != "irregular":
            msg += (
                f" Or say how far apart the spots lie: adata.uns.setdefault('spatial', {{}}).setdefault({name!r}, {{}})"
                ".setdefault('metadata', {})['spot_pitch_um'] = 200, for legacy ST; 100 for Visium."
            )
        raise ValueError(msg)
    mpp, source = known[0]
    if not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
        msg = (
            f"Section {name!r} would have {mpp:g} µm per pixel (from {source}), outside of {PLAUSIBLE_MPP[0]}–"
            f"{PLAUSIBLE_MPP[1]}. Pass the right mpp=; a scanner at 20× gives about 0.5."
        )
        raise ValueError(msg)
    if lattice is None or from_lattice is None or _times(mpp, from_lattice) <= TOLD:
        return mpp, source
    ratio = mpp / from_lattice
    if _times(mpp, from_lattice) > DISAGREEMENT:
        msg = (
            f"Section {name!r}: {source} says {mpp:.3g} µm per pixel, but the spots lie {lattice.pitch_px:.1f} px apart, "
            f"which is {from_lattice:.3g} µm per pixel. {_mixup_advice(ratio / DISAGREEMENT, ratio * DISAGREEMENT, hints)}"
        )
        raise ValueError(msg)
    taken = (from_lattice, "spot lattice") if source == "image file" else (mpp, source)
    msg = (
        f"Section {name!r}: {source} says {mpp:.3g} µm per pixel, and spots that lie {lattice.pitch_px:.1f} px apart say "
        f"{from_lattice:.3g}. The scale of the {taken[1]} is taken; pass mpp= where you know better."
    )
    warn(msg)
    return taken


def check_image_file(
    hints: ScaleHints, lattice: Lattice | None, mpp: float, source: str, in_file: float, name: str
) -> None:
    """Refuse a scale that the image file contradicts where no lattice of spots confirms either; one passed is only told.

    Raises ValueError if they differ by more than a quarter.
    """
    if lattice_mpp(hints, lattice) is not None or _times(mpp, in_file) <= TOLD:
        return
    msg = (
        f"Section {name!r}: {source} says {mpp:.3g} µm per pixel, and the image file says {in_file:.3g}; there is no lattice of "
        "spots that would tell which is right."
    )
    if source != "argument" and _times(mpp, in_file) > DISAGREEMENT:
        msg += " Pass mpp= where you know, or mend the wrong one."
        raise ValueError(msg)
    warn(f"{msg} The scale of the {source} is taken.")


def check_coordinates(hints: ScaleHints, lattice: Lattice | None, name: str) -> None:
    """Refuse spot centres that belong to another image than ``spot_diameter_fullres`` does.

    Raises ValueError if neighbouring spots would overlap or stand several diameters apart.
    """
    if lattice is None or lattice.kind == "irregular" or not hints.spot_diameter_px:
        return
    ratio = lattice.pitch_px / hints.spot_diameter_px
    smallest, largest = PITCH_PER_DIAMETER
    if not smallest <= ratio <= largest and not _is_confirmed(hints, lattice):
        msg = (
            f"Section {name!r}: spots lie {lattice.pitch_px:.1f} px apart but spot_diameter_fullres is "
            f"{hints.spot_diameter_px:.1f} px. "
            f"{_mixup_advice(ratio / largest, ratio / smallest, hints)}"
        )
        raise ValueError(msg)


def check_inside(centres: np.ndarray, shape: tuple[int, int], name: str, hints: ScaleHints) -> None:
    """Refuse spot centres (n, 2) outside of an image of `shape` (height, width).

    Raises ValueError if a centre is off the image; the message tells which scale factor would bring the spots onto it.
    """
    height, width = shape
    x, y = centres.T
    off = (x < 0) | (y < 0) | (x >= width) | (y >= height)
    if not off.any():
        return
    reach = (
        f"spots reach ({x.max():.0f}, {y.max():.0f})" if x.max() >= width or y.max() >= height else "some are negative"
    )
    msg = (
        f"Section {name!r}: {off.sum()} of {len(off)} spot centres lie outside the image of {width} × {height} px "
        f"({reach}). "
    )
    if (centres[:, ::-1] < [width, height]).all() and (centres >= 0).all():
        msg += f"With x and y exchanged they fit: {hints.coordinates} seems to hold (y, x). Write {hints.exchange}."
        raise ValueError(msg)
    for key, factor in hints.scalefactors.items():
        if key.startswith("tissue_") and factor and (centres * factor < [width, height]).all() and (centres >= 0).all():
            msg += f"Multiplied by {key}={factor:g} they would fit: this looks like the downscaled image. "
    if off.mean() < FEW:
        msg += "If these few are strays, as at the edge of a CytAssist capture area, drop them from the table. "
    msg += f"{hints.coordinates} must be (x, y) in pixels of the full-resolution image; pass that image when reading."
    raise ValueError(msg)


def check_full_resolution(
    image: SlideImage, images: Mapping[str, Any], scalefactors: Mapping[str, float], name: str
) -> None:
    """Refuse a downscaled image where the full-resolution one is meant, by the size of the downscaled ones at hand.

    Raises ValueError if the image is not about as large as ``hires`` and ``lowres`` of ``uns["spatial"]`` say.
    """
    for key in ("hires", "lowres"):
        small = images.get(key)
        factor = scalefactors.get(f"tissue_{key}_scalef")
        if small is None or not factor:
            continue
        full = tuple(round(n / factor) for n in small.shape[:2])
        if all(0.95 * want < have < 1.05 * want for have, want in zip(image.shape, full, strict=True)):
            continue
        which = f"the {key} one" if image.shape == tuple(small.shape[:2]) else "another one"
        msg = (
            f"Section {name!r}: the image at {image.source} has {image.shape[1]} × {image.shape[0]} px, but by "
            f"tissue_{key}_scalef={factor:g} the full-resolution image has about {full[1]} × {full[0]} px, so this is "
            f"{which}. Pass the full-resolution image, or none to use the hires image knowingly."
        )
        raise ValueError(msg)


def lattice_mpp(hints: ScaleHints, lattice: Lattice | None) -> float | None:
    """Microns per pixel by the lattice of spots; None where it is irregular, or their distance is not known."""
    if lattice is None or lattice.kind == "irregular":
        return None
    pitch_um = hints.pitch_um or (VISIUM_PITCH_UM if lattice.kind == "hexagonal" else None)
    return pitch_um / lattice.pitch_px if pitch_um else None


def _is_confirmed(hints: ScaleHints, lattice: Lattice) -> bool:
    """Whether the caller's scale and the lattice agree, so that a recorded diameter must be what is wrong."""
    from_lattice = lattice_mpp(hints, lattice)
    return bool(hints.argument and from_lattice and _times(hints.argument, from_lattice) <= TOLD)


def _times(one: float, other: float) -> float:
    """By which factor the larger of two scales is larger."""
    return max(one / other, other / one)


def _mixup_advice(low: float, high: float, hints: ScaleHints) -> str:
    """What to do about coordinates that are too small by a factor between `low` and `high`."""
    for key, scale in hints.scalefactors.items():
        if key.startswith("tissue_") and scale < 0.95 and low < scale < high:
            return (
                f"That is as if obsm['spatial'] held coordinates of the downscaled image ({key}={scale:g}). "
                f"Divide obsm['spatial'] by {key}."
            )
    return "Give obsm['spatial'] in full-resolution pixels and the scale (mpp=) of that same image."
