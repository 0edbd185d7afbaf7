"""Small pictures for the report: a slide, and beside it what was predicted."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys

if TYPE_CHECKING:
    from anndata import AnnData
    from PIL.Image import Image

HEIGHT, WIDEST = 130, 220
"""Pixels of a picture."""

QUALITY = 65
FADED = 0.75
"""Share of white in the slide under a map."""


def picture_of(adata: AnnData, values: np.ndarray | None = None, limits: tuple[float, float] | None = None) -> bytes:
    """JPEG of the slide that `adata` has one of; with `values` of its spots, of their map beside it. Empty without slide.

    `limits` are the values at the ends of the colours; by default the map runs from one end to the other.
    """
    library: dict[str, Any] = next(iter(adata.uns.get(keys.SPATIAL, {}).values()), {})
    if "hires" not in library.get("images", {}):
        return b""
    slide = _shrunk(library["images"]["hires"])
    panels = [slide]
    if values is not None:
        factors = library["scalefactors"]
        scale = factors["tissue_hires_scalef"] * slide.width / library["images"]["hires"].shape[1]
        diameter = 1.6 * factors.get("spot_diameter_fullres", 0) * scale  # spots of pseudo-lattices nearly touch
        panels.append(_mapped(slide, adata.obsm[keys.SPATIAL] * scale, diameter, values, limits or _own(values)))
    return _jpeg(panels)


def _shrunk(pixels: np.ndarray) -> Image:
    from PIL import Image

    if pixels.dtype != np.uint8:
        pixels = np.clip(pixels * 255, 0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    image.thumbnail((WIDEST, HEIGHT), Image.Resampling.LANCZOS)
    return image


def colours_of(shares: np.ndarray) -> np.ndarray:
    """Int (n, 3): red, green and blue, 0–255, of `shares` of the way from the low end of the colours, 0, to the high end, 1."""
    from matplotlib import colormaps

    colours: np.ndarray = colormaps["viridis"](shares)
    return (colours[:, :3] * 255).astype(int)


def _own(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [1, 99]) if np.isfinite(values).any() else (0, 1)
    return low, high


def _mapped(
    slide: Image, centres: np.ndarray, diameter: float, values: np.ndarray, limits: tuple[float, float]
) -> Image:
    from PIL import Image, ImageDraw

    faded = Image.blend(slide, Image.new("RGB", slide.size, "white"), FADED)
    low, high = limits
    colours = colours_of((values - low) / max(high - low, 1e-9))
    draw, radius = ImageDraw.Draw(faded), max(diameter, 2.0) / 2
    for (x, y), colour, value in zip(centres, colours, values, strict=True):
        if np.isfinite(value):
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=tuple(colour))
    return faded


def _jpeg(panels: list[Image]) -> bytes:
    from PIL import Image

    gap = 6
    sheet = Image.new("RGB", (sum(p.width + gap for p in panels) - gap, max(p.height for p in panels)), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + gap
    out = BytesIO()
    sheet.save(out, format="JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()
