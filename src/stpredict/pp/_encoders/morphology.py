"""The default encoder: a weight-free description of H&E morphology.

A block of the slide is turned once into per-pixel maps (stains, texture at several scales, fibre direction, nuclei),
and the maps are averaged into cells of a few microns. Every window, spot or niche, is then a difference of sums over
cells, so tiles that overlap share all of the work and a million small bins cost little more than their block. Colour deconvolution follows Ruifrok & Johnston (2001), fibre direction the
structure tensor; both as implemented here in a few lines of torch so that a GPU can run them.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch

MPP = 2.0
"""Resolution at which pixels are described, µm (1 µm measured no better on her2st); coarser images keep their own."""

CELL = 4
"""Side of a cell in pixels of the working resolution."""

SCALES = 5
"""Octaves of texture: about 2 to 32 µm."""

ALIGN = 2**SCALES
"""Blocks start and end at multiples of this many pixels, so that every octave and cell falls on one lattice."""

HALO = 3 * ALIGN
"""Pixels around a window that its maps depend on."""

STRIP = 8 * ALIGN
"""Rows that the finest octave is described in at a time, so that its maps never exist for all of a block."""

REACH = 4 * CELL
"""Rows above and below a strip that its nuclei depend on."""

MAPS = 8
"""Maps summed up at a time."""

WINDOWS = 8192
"""Windows averaged at a time."""

# Optical densities of haematoxylin, eosin and a residual (Ruifrok & Johnston 2001), rows normalised.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


@cache
def _unmixing() -> np.ndarray:
    stains = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    return np.linalg.inv(stains).astype(np.float32)


def describe(strips: Iterable[torch.Tensor], height: int) -> tuple[list[str], list[torch.Tensor]]:
    """Maps of one block, averaged into cells.

    Parameters
    ----------
    strips
        The block from top to bottom, (3, rows, width) float in [0, 1] at the working resolution, rows and width multiples
        of `ALIGN`; each with `REACH` more rows above and below. What windows need lies `HALO` pixels inside.
    height
        Rows of the block.

    Returns
    -------
    Names of the maps and the cell means of each, (height / `CELL`, width / `CELL`).
    """
    cells: dict[str, torch.Tensor] = {}
    coarser: Any = None
    top = 0
    for strip in strips:
        level, smooth, density = _levels(strip)
        bottom, width = top + strip.shape[1] - 2 * REACH, strip.shape[2]
        for name, value in _finest_maps(level, smooth, density):
            if name not in cells:
                cells[name] = strip.new_empty((height // CELL, width // CELL))
            cells[name][top // CELL : bottom // CELL] = _mean(value, CELL)
        coarser = strip.new_empty((3, height // 2, width // 2)) if coarser is None else coarser
        coarser[:, top // 2 : bottom // 2] = _mean(_inner(smooth), 2)
        top = bottom
    level = coarser
    for octave in range(1, SCALES):
        smooth = _blur(level)
        for name, value in chain(_band_maps(level - smooth, octave), _fibre_maps(smooth[2], octave)):
            cells[name] = _at_cells(value, octave)
        level = _mean(smooth, 2)
    return list(cells), list(cells.values())


def _levels(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Haematoxylin, eosin and mean density, (3, h, w); the same blurred; and the density of each colour."""
    import torch

    density = pixels.clamp(min=1 / 255).log_().neg_()
    stains = torch.from_numpy(_unmixing()).to(pixels.device)
    mixing = torch.cat([stains[:, :2], torch.full_like(stains[:, :1], 1 / 3)], dim=1)
    level = torch.einsum("sc,shw->chw", mixing, density)
    return level, _blur(level), density


def _inner(value: torch.Tensor) -> torch.Tensor:
    """A strip without the rows that it was only given to reach into."""
    return value[..., REACH:-REACH, :]


def _finest_maps(
    level: torch.Tensor, smooth: torch.Tensor, density: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """Maps of the finest octave of a strip, one by one."""
    hematoxylin, eosin, total = _inner(level)
    yield from zip(("od_red", "od_green", "od_blue"), _inner(density), strict=True)
    for name, value in (("hematoxylin", hematoxylin), ("eosin", eosin), ("density", total)):
        yield name, value
        yield f"{name}_square", value * value
    yield "hematoxylin_eosin", hematoxylin * eosin
    for threshold in (0.1, 0.3, 0.5, 0.8):
        yield f"hematoxylin_over_{threshold}", _above(hematoxylin, threshold, 0.05)
    for threshold in (0.1, 0.3, 0.5):
        yield f"eosin_over_{threshold}", _above(eosin, threshold, 0.05)
    yield "glass", _above(-total, -0.12, 0.02)
    yield from _nucleus_maps(level[0], smooth[0])
    yield from _band_maps(_inner(level) - _inner(smooth), 0)


def _above(value: torch.Tensor, threshold: float, width: float) -> torch.Tensor:
    """From 0 below a threshold to 1 above it, over about `width` to either side."""
    return ((value - threshold) / width).sigmoid_()


def _mean(value: torch.Tensor, n: int) -> torch.Tensor:
    """Means of `n` × `n` pixels along the last two axes: sums of whole rows, far faster than pooling."""
    if n == 1:
        return value
    rows = value.unflatten(-2, (-1, n))
    total = rows[..., 0, :] + rows[..., 1, :]
    for row in range(2, n):
        total += rows[..., row, :]
    return total.unflatten(-1, (-1, n)) @ total.new_full((n,), 1 / n**2)


def _at_cells(value: torch.Tensor, octave: int) -> torch.Tensor:
    """A map (h, w) of some octave, averaged into cells; cells that are finer than its pixels share them."""
    finer = 2**octave // CELL
    if finer <= 1:
        return _mean(value, CELL // 2**octave)
    return value.repeat_interleave(finer, 0).repeat_interleave(finer, 1)


def _blur(value: torch.Tensor) -> torch.Tensor:
    """Binomial 5 × 5 filter (about σ = 1) of the last two axes; as shifted sums, far faster than a convolution."""
    import torch.nn.functional as F

    padded = F.pad(value, (2, 2, 2, 2), mode="replicate")
    rows = padded[..., :-4, :] + padded[..., 4:, :]
    rows.add_(padded[..., 1:-3, :] + padded[..., 3:-1, :], alpha=4).add_(padded[..., 2:-2, :], alpha=6)
    out = rows[..., :-4] + rows[..., 4:]
    out.add_(rows[..., 1:-3] + rows[..., 3:-1], alpha=4).add_(rows[..., 2:-2], alpha=6)
    return out.mul_(1 / 256)


def _is_peak(value: torch.Tensor) -> torch.Tensor:
    """Where (h, w) is the largest of its 3 × 3 neighbourhood."""
    import torch
    import torch.nn.functional as F

    padded = F.pad(value[None], (1, 1, 1, 1), mode="replicate")[0]
    rows = torch.maximum(torch.maximum(padded[:-2], padded[2:]), padded[1:-1])
    return torch.maximum(torch.maximum(rows[:, :-2], rows[:, 2:]), rows[:, 1:-1]) == value


def _nucleus_maps(hematoxylin: torch.Tensor, smooth: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Nuclei stand out in haematoxylin against their surroundings: area, number, darkness, texture."""
    import torch.nn.functional as F

    around = F.avg_pool2d(F.pad(_mean(smooth, CELL)[None], (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    around = F.interpolate(around[None], size=smooth.shape, mode="bilinear", align_corners=False)[0, 0]
    is_peak = _inner(_is_peak(smooth))
    hematoxylin, smooth, around = _inner(hematoxylin), _inner(smooth), _inner(around)
    excess = smooth - around
    nucleus = _above(excess, 0.06, 0.01)
    peak = (is_peak & (excess > 0.06)).float()
    inside = nucleus * hematoxylin
    yield "nucleus_area", nucleus
    yield "nucleus_count", peak
    yield "nucleus_hematoxylin", inside
    yield "nucleus_darkness", peak * smooth
    yield "nucleus_excess", peak * excess
    yield "nucleus_texture", nucleus * (hematoxylin - smooth).abs_()
    yield "cytoplasm_hematoxylin", hematoxylin - inside


def _band_maps(band: torch.Tensor, octave: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Texture of one octave: how much the stains (3, h, w) differ from what they are when blurred."""
    for value, name in zip(band, ("hematoxylin", "eosin", "density"), strict=True):
        yield f"{name}_band{octave}", value.abs()
        if name != "density":
            yield f"{name}_dark{octave}", value.clamp(min=0).square_()
            yield f"{name}_light{octave}", value.clamp(max=0).square_()


def _fibre_maps(value: torch.Tensor, octave: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Structure tensor: how strongly, and how uniformly, the tissue runs in one direction."""
    import torch.nn.functional as F

    dy = F.pad(value[2:] - value[:-2], (0, 0, 1, 1))
    dx = F.pad(value[:, 2:] - value[:, :-2], (1, 1))
    tensor = value.new_zeros((3, value.shape[0] + 2, value.shape[1] + 2))
    inner = tensor[:, 1:-1, 1:-1]
    inner[0], inner[1], inner[2] = dx * dx - dy * dy, 2 * dx * dy, dx * dx + dy * dy
    tensor = tensor[:, :-2] + tensor[:, 1:-1] + tensor[:, 2:]
    tensor = (tensor[..., :-2] + tensor[..., 1:-1] + tensor[..., 2:]) / 9
    yield f"gradient{octave}", tensor[2]
    yield f"fibres{octave}", (tensor[0].square() + tensor[1].square()).sqrt_()
    yield f"fibres{octave}_x", tensor[0]
    yield f"fibres{octave}_y", tensor[1]


def sums(cells: Sequence[torch.Tensor]) -> torch.Tensor:
    """Summed-area table of each cell map (h, w): float64 (maps, h + 1, w + 1), sums up to every corner."""
    import torch

    if cells[0].device.type == "mps":  # has no float64
        cells = [values.cpu() for values in cells]
    height, width = cells[0].shape
    table = torch.zeros((len(cells), height + 1, width + 1), dtype=torch.float64, device=cells[0].device)
    for sums_of_one, values in zip(table, cells, strict=True):
        torch.cumsum(values, 0, dtype=torch.float64, out=sums_of_one[1:, 1:])
        sums_of_one.cumsum_(1)
    return table


def windows(table: torch.Tensor, left: Any, top: Any, side: Any) -> torch.Tensor:
    """Mean of each map behind a summed-area `table` over square windows in cells (fractional): (windows, maps).

    Maps are constant within a cell, so that their sums are bilinear there, and what lies between two corners of the
    table is exact. A window costs four corners, however wide it is.
    """
    import torch
    import torch.nn.functional as F

    left, top, side = (torch.as_tensor(value, dtype=table.dtype, device=table.device) for value in (left, top, side))
    height, width = table.shape[1] - 1, table.shape[2] - 1
    x, y = torch.stack([left, left + side]), torch.stack([top, top + side])
    corners = torch.stack(torch.broadcast_tensors(x[None] * (2 / width) - 1, y[:, None] * (2 / height) - 1), dim=-1)
    found = F.grid_sample(table[None], corners.flatten(0, 1)[None], padding_mode="border", align_corners=True)[0]
    (upper_left, upper_right, lower_left, lower_right) = found.unbind(1)
    return ((lower_right - lower_left - upper_right + upper_left) / side**2).T.float()


def features_of(
    names: list[str], cells: Sequence[torch.Tensor], boxes: Sequence[tuple[np.ndarray, np.ndarray, float | np.ndarray]]
) -> tuple[list[str], list[np.ndarray]]:
    """Names and values, float32 (windows, d), of the features of several kinds of square windows.

    Parameters
    ----------
    names, cells
        What `describe` returns.
    boxes
        Left, top and side of the windows of each kind, in cells.

    Only some of the maps are summed up at a time, and some of the windows described.
    """
    import torch

    means = [torch.empty((len(left), len(cells))) for left, _, _ in boxes]
    for first in range(0, len(cells), MAPS):
        table = sums(cells[first : first + MAPS])
        for (left, top, side), found in zip(boxes, means, strict=True):
            sides = np.full(len(left), side, dtype=np.float64)
            for start in range(0, len(left), WINDOWS):
                some = slice(start, start + WINDOWS)
                found[some, first : first + MAPS] = windows(table, left[some], top[some], sides[some])
    features, values = [], []
    while means:
        pieces = [summarise(names, some) for some in means.pop(0).split(WINDOWS)]
        features = pieces[0][0]
        values.append(torch.cat([piece for _, piece in pieces]).numpy())
    return features, values


def summarise(names: list[str], means: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    """Turn window means into features that read as morphology: spreads, sizes, coherences; energies on a log scale."""
    import torch

    column = dict(zip(names, means.T, strict=True))
    features: dict[str, torch.Tensor] = {}
    tiny = 1e-4
    for name, value in column.items():
        if name.endswith("_square"):
            base = column[name.removesuffix("_square")]
            features[f"{name.removesuffix('_square')}_sd"] = (value - base.square()).clamp(min=0).sqrt()
        elif name.endswith(("_x", "_y")):
            continue
        elif "band" in name or "dark" in name or "light" in name or "gradient" in name:
            features[name] = torch.log(value + 1e-6)
        elif name.startswith("fibres"):
            gradient = column[name.replace("fibres", "gradient")] + 1e-6
            features[f"{name}_local"] = value / gradient
            along = (column[f"{name}_x"].square() + column[f"{name}_y"].square()).sqrt()
            features[f"{name}_wide"] = along / gradient
        elif name == "hematoxylin_eosin":
            spread = features["hematoxylin_sd"] * features["eosin_sd"] + tiny
            covariance = value - column["hematoxylin"] * column["eosin"]
            features["hematoxylin_eosin_correlation"] = covariance / spread
        else:
            features[name] = value
    area, count = column["nucleus_area"], column["nucleus_count"] + tiny
    features["nucleus_size"] = torch.log((area + tiny) / count)
    features["nucleus_mean_hematoxylin"] = column["nucleus_hematoxylin"] / (area + tiny)
    features["nucleus_mean_texture"] = column["nucleus_texture"] / (area + tiny)
    features["nucleus_peak"] = column["nucleus_darkness"] / count
    features["cytoplasm_mean_hematoxylin"] = column["cytoplasm_hematoxylin"] / (1 - area + tiny)
    return list(features), torch.stack(list(features.values()), dim=1)
