"""The default encoder: a weight-free description of H&E morphology.

A block of the slide is turned once into per-pixel maps (stains, texture at several scales, fibre direction, nuclei),
and the maps are averaged into cells of a few microns. Every window, spot or niche, is then a difference of sums over
cells, so tiles that overlap share all of the work and a million small bins cost little more than their block. Colour deconvolution follows Ruifrok & Johnston (2001), fibre direction the
structure tensor; both as implemented here in a few lines of torch so that a GPU can run them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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

WINDOWS = 8192
"""Windows averaged at a time."""

# Optical densities of haematoxylin, eosin and a residual (Ruifrok & Johnston 2001), rows normalised.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


@cache
def _unmixing() -> np.ndarray:
    stains = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    return np.linalg.inv(stains).astype(np.float32)


def describe(pixels: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    """Maps of one block, averaged into cells.

    Parameters
    ----------
    pixels
        (3, height, width) float in [0, 1] at the working resolution, with a halo of `HALO` pixels; height and width
        are multiples of ``2 ** SCALES`` and of `CELL`.

    Returns
    -------
    Names of the maps and their cell means, (maps, height / `CELL`, width / `CELL`).
    """
    import torch
    import torch.nn.functional as F

    names: list[str] = []
    cells: list[torch.Tensor] = []
    side = pixels.shape[-2] // CELL, pixels.shape[-1] // CELL

    def add(name: str, value: torch.Tensor) -> None:
        """Average `value` (h, w), at whatever octave, into cells."""
        factor = value.shape[-2] // side[0]
        if factor >= 1:
            cell = F.avg_pool2d(value[None], factor)[0] if factor > 1 else value
        else:
            cell = value.repeat_interleave(side[0] // value.shape[-2], 0).repeat_interleave(
                side[1] // value.shape[-1], 1
            )
        names.append(name)
        cells.append(cell)

    density = -torch.log(pixels.clamp(min=1 / 255))
    stains = torch.einsum("sc,shw->chw", torch.from_numpy(_unmixing()).to(pixels.device), density)
    hematoxylin, eosin = stains[0], stains[1]
    total = density.mean(0)
    for name, value in (("red", density[0]), ("green", density[1]), ("blue", density[2])):
        add(f"od_{name}", value)
    for name, value in (("hematoxylin", hematoxylin), ("eosin", eosin), ("density", total)):
        add(name, value)
        add(f"{name}_square", value * value)
    add("hematoxylin_eosin", hematoxylin * eosin)
    for threshold in (0.1, 0.3, 0.5, 0.8):
        add(f"hematoxylin_over_{threshold}", torch.sigmoid((hematoxylin - threshold) / 0.05))
    for threshold in (0.1, 0.3, 0.5):
        add(f"eosin_over_{threshold}", torch.sigmoid((eosin - threshold) / 0.05))
    add("glass", torch.sigmoid((0.12 - total) / 0.02))

    _add_nuclei(add, hematoxylin)
    level = torch.stack([hematoxylin, eosin, total])
    for octave in range(SCALES):
        smooth = _blur(level)
        band = level - smooth
        for channel, name in enumerate(("hematoxylin", "eosin", "density")):
            add(f"{name}_band{octave}", band[channel].abs())
            if channel < 2:
                add(f"{name}_dark{octave}", band[channel].clamp(min=0).square())
                add(f"{name}_light{octave}", band[channel].clamp(max=0).square())
        if octave:
            _add_fibres(add, smooth[2], octave)
        level = F.avg_pool2d(smooth, 2)
    return names, torch.stack(cells)


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


def _add_nuclei(add, hematoxylin: torch.Tensor) -> None:
    """Nuclei stand out in haematoxylin against their surroundings: area, number, darkness, texture."""
    import torch
    import torch.nn.functional as F

    smooth = _blur(hematoxylin[None])
    around = F.avg_pool2d(F.pad(F.avg_pool2d(smooth, 4), (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    around = F.interpolate(around[None], size=hematoxylin.shape, mode="bilinear", align_corners=False)[0, 0]
    smooth = smooth[0]
    excess = smooth - around
    nucleus = torch.sigmoid((excess - 0.06) / 0.01)
    peak = _is_peak(smooth) & (excess > 0.06)
    add("nucleus_area", nucleus)
    add("nucleus_count", peak.float())
    add("nucleus_hematoxylin", nucleus * hematoxylin)
    add("nucleus_darkness", peak * smooth)
    add("nucleus_excess", peak * excess)
    add("nucleus_texture", nucleus * (hematoxylin - smooth).abs())
    add("cytoplasm_hematoxylin", (1 - nucleus) * hematoxylin)


def _add_fibres(add, value: torch.Tensor, octave: int) -> None:
    """Structure tensor: how strongly, and how uniformly, the tissue runs in one direction."""
    import torch
    import torch.nn.functional as F

    dy = F.pad(value[2:] - value[:-2], (0, 0, 1, 1))
    dx = F.pad(value[:, 2:] - value[:, :-2], (1, 1))
    tensor = F.avg_pool2d(torch.stack([dx * dx - dy * dy, 2 * dx * dy, dx * dx + dy * dy])[:, None], 3, 1, 1)[:, 0]
    add(f"gradient{octave}", tensor[2])
    add(f"fibres{octave}", (tensor[0].square() + tensor[1].square()).sqrt())
    add(f"fibres{octave}_x", tensor[0])
    add(f"fibres{octave}_y", tensor[1])


def sums(cells: torch.Tensor) -> torch.Tensor:
    """Summed-area table of each cell map (maps, h, w): float64 (maps, h + 1, w + 1), sums up to every corner."""
    import torch

    if cells.device.type == "mps":  # has no float64
        cells = cells.cpu()
    maps, height, width = cells.shape
    table = torch.zeros((maps, height + 1, width + 1), dtype=torch.float64, device=cells.device)
    table[:, 1:, 1:] = cells
    return table.cumsum_(1).cumsum_(2)


def windows(table: torch.Tensor, left: np.ndarray, top: np.ndarray, side: float | np.ndarray) -> torch.Tensor:
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
    names: list[str], table: torch.Tensor, left: np.ndarray, top: np.ndarray, side: float | np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Names and values, float32 (windows, d), of the features of square windows, a few windows at a time."""
    sides = np.full(len(left), side, dtype=np.float64)
    pieces = []
    for start in range(0, len(left), WINDOWS):
        some = slice(start, start + WINDOWS)
        features, values = summarise(names, windows(table, left[some], top[some], sides[some]))
        pieces.append(values.cpu().numpy())
    return features, np.concatenate(pieces)


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
