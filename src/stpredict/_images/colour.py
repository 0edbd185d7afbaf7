"""What pixel values mean: bit depth, colour model, alpha; and the uint8 RGB that they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKGROUND = 255
"""What lies outside the image, and behind what is transparent: glass."""

DARKEST_WHITE = 0.4
"""H&E is bright: an image whose brightest pixel is below this share of the range has another range."""

OVERFLOW = 1e-3
"""Share of pixels that may lie above the range of the others, such as dead pixels of a camera."""

NAMED_COLOURS = {"r": 0, "red": 0, "g": 1, "green": 1, "b": 2, "blue": 2, "a": 3, "alpha": 3}


@dataclass(frozen=True)
class Colours:
    """How to read the channels of an image."""

    model: Literal["rgb", "grey", "white is zero", "cmyk", "palette", "ycbcr"] = "rgb"
    channels: tuple[int, ...] = (0, 1, 2)
    """Which channels hold the colours, in the order of the model."""
    alpha: int | None = None
    """Which channel says how opaque a pixel is."""
    premultiplied: bool = False
    """Whether the colours are already multiplied by alpha."""
    bits: int | None = None
    """Bits that the values use, where the file says so."""
    palette: np.ndarray | None = None
    """uint8 (n, 3), colours of the values of a palette image."""

    @property
    def is_grey(self) -> bool:
        """Whether the image has no colours."""
        return self.model in ("grey", "white is zero")


def usual_colours(n_channels: int) -> Colours | None:
    """What an array of so many channels holds, where nothing else is known: grey, RGB or RGBA."""
    kinds = {1: Colours("grey", (0,)), 3: Colours(), 4: Colours(alpha=3)}
    return kinds.get(n_channels)


def named_channels(names: Sequence[object]) -> tuple[int, ...] | None:
    """Places of red, green, blue (and alpha) among channels called `names`; None where they are called otherwise."""
    found = [NAMED_COLOURS.get(str(name).strip().lower(), -1) for name in names]
    if sorted(found) not in ([0, 1, 2], [0, 1, 2, 3]):
        return None
    return tuple(found.index(colour) for colour in range(len(found)))


def significant_bits(values: np.ndarray, stated: int | None, source: str) -> int:
    """Bits that 16-bit values use: as stated, else the smallest depth of a camera that holds the brightest of them.

    Raises ValueError if the values do not fit what is stated, or are too dark to tell.
    """
    brightest = int(values.max(initial=0))
    if stated is not None and stated < 16:
        if np.count_nonzero(values >> stated) > OVERFLOW * values.size:
            msg = f"{source} is said to have {stated} bits, and has values up to {brightest}. Convert it to uint8."
            raise ValueError(msg)
        return stated
    bits = max(8, brightest.bit_length() + brightest.bit_length() % 2)
    if 0 < brightest < DARKEST_WHITE * 2**bits:
        msg = (
            f"{source} has 16-bit pixels whose brightest value is {brightest}: too dark for {bits} bits, too bright for "
            f"{bits - 2}. Scale them to 0–255 and give uint8, or write SignificantBits into its OME metadata."
        )
        raise ValueError(msg)
    return bits if brightest else 16


def check_fractions(values: np.ndarray, source: str) -> None:
    """Refuse fractional pixels that do not reach from 0 to about 1."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not (low >= 0 and high <= 1):
        msg = f"{source} has fractional pixels outside of [0, 1]. Scale them, or give uint8."
        raise ValueError(msg)
    if 0 < high < DARKEST_WHITE:
        msg = f"{source} has fractional pixels up to {high:.3g}; an H&E image is bright. Scale them to [0, 1]."
        raise ValueError(msg)


def to_rgb(pixels: np.ndarray, colours: Colours | None, bits: int | None, source: str) -> np.ndarray:
    """uint8 (y, x, 3) of pixels (y, x) or (y, x, channel) as they are stored.

    `bits` is how many of 16 bits the values use. Raises ValueError if the pixels are of a type or number of channels
    that no H&E image has.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    colours = colours or usual_colours(pixels.shape[-1])
    if colours is None or max(colours.channels) >= pixels.shape[-1]:
        msg = f"{source} has {pixels.shape[-1]} channels; an H&E image has three colours."
        raise ValueError(msg)
    if colours.model == "palette":
        return colours.palette[np.minimum(pixels[..., 0], len(colours.palette) - 1)]
    values = _eight_bits(pixels, colours.bits if bits is None else bits, source)
    if colours.alpha is None and colours.model == "rgb" and colours.channels == tuple(range(values.shape[-1])):
        return values
    rgb = _coloured(values[..., list(colours.channels)], colours.model)
    if colours.alpha is None:
        return rgb
    alpha = values[..., colours.alpha, None].astype(np.float32) / 255
    seen = rgb if colours.premultiplied else rgb * alpha
    return np.minimum(seen + BACKGROUND * (1 - alpha) + 0.5, 255).astype(np.uint8)


def _eight_bits(pixels: np.ndarray, bits: int | None, source: str) -> np.ndarray:
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint8:
        return (
            pixels if bits is None or bits >= 8 else (pixels.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
        )
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min(initial=0) >= 0 and pixels.max(initial=0) <= 1):
            check_fractions(pixels, source)
        return np.clip(pixels * 255 + 0.5, 0, 255).astype(np.uint8)
    if pixels.dtype != np.uint16:
        msg = f"{source} has pixels of type {pixels.dtype}; an H&E image has uint8, uint16 or float in [0, 1]."
        raise ValueError(msg)
    bits = 16 if bits is None else bits
    if np.count_nonzero(pixels >> np.uint16(bits) if bits < 16 else 0) > OVERFLOW * pixels.size:
        msg = (
            f"{source} has {bits}-bit pixels in most places and values up to {int(pixels.max())} in others. "
            "Scale them to 0–255 and give uint8."
        )
        raise ValueError(msg)
    return (np.minimum(pixels, 2**bits - 1) >> (bits - 8)).astype(np.uint8)


def _coloured(values: np.ndarray, model: str) -> np.ndarray:
    """uint8 RGB of uint8 values of a colour model."""
    if model == "rgb":
        return values
    if model == "grey":
        return np.repeat(values, 3, axis=-1)
    if model == "white is zero":
        return np.repeat(255 - values, 3, axis=-1)
    inverted = values.astype(np.float32)
    if model == "cmyk":
        return ((255 - inverted[..., :3]) * (255 - inverted[..., 3:]) / 255 + 0.5).astype(np.uint8)
    y, blue, red = inverted[..., 0], inverted[..., 1] - 128, inverted[..., 2] - 128  # ITU-R BT.601, full range
    rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=-1)
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)
