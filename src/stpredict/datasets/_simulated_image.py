"""Paint a simulated section: haematoxylin and eosin as optical densities, then light through them."""

from __future__ import annotations

import numpy as np

from stpredict.datasets._simulated_tissue import (
    ADIPOSE,
    CELL,
    IMMUNE,
    REGIONS,
    SIDE,
    STROMA,
    TUMOR,
    Nuclei,
    Tissue,
    smooth_noise,
)

HEMATOXYLIN = np.array([0.64, 0.72, 0.34])
EOSIN = np.array([0.10, 0.94, 0.36])
"""Optical density of each stain in red, green and blue."""

NUCLEAR_DENSITY = np.array([0.78, 0.85, 1.25, 0.9])
"""Haematoxylin of a nucleus, by type."""
CYTOPLASM = np.array([0.34, 0.50, 0.22, 0.0])
"""Eosin outside of nuclei, by compartment."""
BASOPHILIA = np.array([0.13, 0.02, 0.10, 0.0])
"""Haematoxylin outside of nuclei, by compartment."""

HALF = SIDE // 2
"""Side of everything that is painted at 2 µm; only nuclei need the full resolution."""

PATCH = 13
"""A nucleus is painted within this many pixels of its centre."""


def render(rng: np.random.Generator, tissue: Tissue, nuclei: Nuclei) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): the section as one scanner with one batch of stain would show it."""
    from scipy.ndimage import uniform_filter

    masks = (np.float32(tissue.compartment == kind) for kind in range(len(REGIONS)))
    weight = [_enlarge(uniform_filter(mask, 3)) for mask in masks]
    ground = sum(w * level for w, level in zip(weight, BASOPHILIA, strict=True))
    chromatin = _stamp(rng, nuclei)
    eosin = _enlarge(_eosin(rng, tissue, weight), SIDE) * (1 - np.minimum(chromatin, 0.5))
    grain = _enlarge(1 + 0.16 * smooth_noise(rng, 1.6, cell=2), SIDE)
    hematoxylin = np.maximum(_enlarge(ground, SIDE), chromatin) * grain
    return _expose(rng, hematoxylin, eosin)


def _eosin(rng: np.random.Generator, tissue: Tissue, weight: list[np.ndarray]) -> np.ndarray:
    fibres = _fibres(rng, tissue)
    contrast = _enlarge(0.08 + 0.34 * tissue.alignment)
    collagen = _enlarge(0.55 + 0.9 * tissue.density) * (1 + contrast * fibres)
    clefts = np.clip((fibres + 2.1) / 0.5, 0, 1)
    mottle = 1 + 0.12 * _enlarge(smooth_noise(rng, 5))
    eosin = CYTOPLASM[TUMOR] * weight[TUMOR] * mottle
    eosin += CYTOPLASM[STROMA] * weight[STROMA] * np.maximum(collagen, 0.1) * clefts
    eosin += CYTOPLASM[IMMUNE] * weight[IMMUNE] * mottle
    eosin += 0.5 * weight[ADIPOSE] * _membranes(tissue.vacuoles)
    retraction = np.exp(-(((weight[TUMOR] - 0.5) / 0.3) ** 2)) * (weight[STROMA] > 0.3)
    edge = np.clip(_enlarge(tissue.depth) / 0.006, 0, 1)
    return eosin * (1 - 0.45 * retraction) * edge


def _fibres(rng: np.random.Generator, tissue: Tissue) -> np.ndarray:
    """Mean 0, sd 1: streaks that run along the tissue's angle."""
    from scipy.ndimage import gaussian_filter1d, map_coordinates

    streaks = gaussian_filter1d(rng.standard_normal((HALF, HALF), np.float32), 14, axis=1, mode="wrap")
    streaks = gaussian_filter1d(streaks, 1.0, axis=0, mode="wrap")
    streaks /= streaks.std()
    y, x = np.mgrid[:HALF, :HALF].astype(np.float32)
    wave = 9 * _enlarge(smooth_noise(rng, 55))
    angle = _enlarge(tissue.angle)
    painted, total = np.zeros((2, HALF, HALF), np.float32)
    for direction in np.arange(6) * np.pi / 6:  # few directions, blended: streaks bend without being torn
        share = np.cos(angle - direction) ** 24
        here = share > 0.01
        cos, sin = np.float32(np.cos(direction)), np.float32(np.sin(direction))
        across = y[here] * cos - x[here] * sin + wave[here]
        along = x[here] * cos + y[here] * sin
        painted[here] += share[here] * map_coordinates(streaks, [across, along], order=1, mode="grid-wrap")
        total[here] += share[here] ** 2
    return painted / np.sqrt(total)


def _membranes(vacuoles: np.ndarray) -> np.ndarray:
    """1 on the walls between fat vacuoles, 0 inside."""
    from scipy.spatial import cKDTree

    n = SIDE // CELL
    pixels = (np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2) + 0.5) * CELL
    nearest = cKDTree(vacuoles).query(pixels, k=2)[0]
    gap = _enlarge((nearest[:, 1] - nearest[:, 0]).reshape(n, n))
    return np.clip((5.5 - gap) / 2.5, 0, 1)


def _stamp(rng: np.random.Generator, nuclei: Nuclei) -> np.ndarray:
    """Haematoxylin of all nuclei; where two overlap, the darker one shows."""
    canvas = np.zeros((SIDE + 2 * PATCH, SIDE + 2 * PATCH), np.float32)
    dy, dx = np.mgrid[-PATCH : PATCH + 1, -PATCH : PATCH + 1].astype(np.float32)
    n = len(nuclei.xy)
    darkness = (NUCLEAR_DENSITY[nuclei.kind] * np.exp(0.14 * rng.standard_normal(n))).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, n).astype(np.float32)
    reach = np.ceil(1.15 * nuclei.axes[:, 0] + 1).astype(int)
    for size in np.unique(reach):
        window = slice(PATCH - min(size, PATCH), PATCH + min(size, PATCH) + 1)
        for batch in np.array_split(np.flatnonzero(reach == size), max(1, (reach == size).sum() // 2000)):
            paint = _nucleus(nuclei, batch, dx[window, window], dy[window, window], darkness, phase)
            column, row = np.floor(nuclei.xy[batch]).astype(int).T
            rows = row[:, None, None] + PATCH + dy[window, window].astype(int)
            columns = column[:, None, None] + PATCH + dx[window, window].astype(int)
            np.maximum.at(canvas, (rows, columns), paint)
    return canvas[PATCH:-PATCH, PATCH:-PATCH]


def _nucleus(
    nuclei: Nuclei, batch: np.ndarray, dx: np.ndarray, dy: np.ndarray, darkness: np.ndarray, phase: np.ndarray
) -> np.ndarray:
    """(batch, height, width): anti-aliased ellipses with a rim; tumour nuclei are irregular and have a nucleolus."""

    def per(values: np.ndarray) -> np.ndarray:
        return np.asarray(values, np.float32)[batch, None, None]

    x = dx + 0.5 - per(nuclei.xy[:, 0] % 1)
    y = dy + 0.5 - per(nuclei.xy[:, 1] % 1)
    cos, sin = per(np.cos(nuclei.angle)), per(np.sin(nuclei.angle))
    u, v = (x * cos + y * sin) / per(nuclei.axes[:, 0]), (y * cos - x * sin) / per(nuclei.axes[:, 1])
    tumor = per(nuclei.kind == TUMOR)
    around = np.arctan2(v, u)
    lobes = np.cos(2 * around - 3 * per(phase)) + np.cos(3 * around + per(phase))
    r = np.sqrt(u**2 + v**2) * (1 + 0.07 * tumor * per(nuclei.grade) * lobes)
    inside = np.clip((1 - r) * per(nuclei.axes[:, 1]) + 0.5, 0, 1)
    rim = 0.8 + 0.3 * np.minimum(r, 1) ** 3
    spot = np.exp(-((u - 0.3 * np.cos(per(phase))) ** 2 + (v - 0.3 * np.sin(per(phase))) ** 2) / 0.06)
    return inside * per(darkness) * (rim + 0.5 * tumor * per(nuclei.grade) * spot)


def _expose(rng: np.random.Generator, hematoxylin: np.ndarray, eosin: np.ndarray) -> np.ndarray:
    """Light through both stains, with this section's stain batch, scanner and sensor noise."""
    strength = np.exp(0.13 * rng.standard_normal(2))
    vectors = np.stack([HEMATOXYLIN, EOSIN]) + 0.035 * rng.standard_normal((2, 3))
    light = 243 + rng.uniform(-6, 6, 3)
    shade = 1 + 0.02 * np.linspace(-1, 1, SIDE, dtype=np.float32) * rng.uniform(-1, 1)
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    for channel in range(3):
        h, e = np.maximum(vectors[:, channel] * strength, 0.02).astype(np.float32)
        through = np.float32(light[channel]) * shade * np.exp(-(h * hematoxylin + e * eosin))
        through += 2.2 * rng.standard_normal((SIDE, SIDE), np.float32)
        image[..., channel] = np.clip(through + 0.5, 0, 255)
    return image


def _enlarge(field: np.ndarray, side: int = HALF) -> np.ndarray:
    """A map, interpolated to `side` cells a side; float32."""
    from PIL import Image

    return np.asarray(Image.fromarray(field.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
