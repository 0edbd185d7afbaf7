"""Where things lie in a simulated section: smooth fields, regions and nuclei. All lengths are in µm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 2304
"""Side of the square section; the image has one pixel per µm."""

CELL = 4
"""Size of a cell of the coarse maps that hold fields and regions."""

REGIONS = ("tumor", "stroma", "immune", "adipose")
TUMOR, STROMA, IMMUNE, ADIPOSE = range(4)
GLASS = -1

SPACING = np.array([10.5, 21.0, 9.3, 62.0])
"""Distance between neighbouring nuclei, by type (the order of ``REGIONS``); in fat, between vacuoles."""
RADIUS = np.array([4.2, 2.9, 3.2, 2.4])
SPREAD = np.array([0.16, 0.15, 0.07, 0.15])
ASPECT = np.array([1.3, 3.3, 1.08, 3.0])


@dataclass(frozen=True)
class Tissue:
    """Coarse maps (``SIDE // CELL`` squared) of one section; fields lie in [0, 1].

    Attributes
    ----------
    region
        What a pathologist would outline: a code of ``REGIONS``, or ``GLASS``.
    compartment
        The same in detail: tumour regions consist of tumour nests and the stroma between them.
    depth
        Signed distance-like level of the tissue, positive inside.
    grade
        Nuclear size and pleomorphism of tumour cells, at equal haematoxylin per area.
    density
        How much collagen the stroma has (its eosin).
    alignment
        How parallel and contrasted its fibres run, at equal eosin.
    angle
        Direction of fibres, in radians.
    vacuoles
        (n, 2) centres of fat vacuoles, also where there is no fat.
    """

    region: np.ndarray
    compartment: np.ndarray
    depth: np.ndarray
    grade: np.ndarray
    density: np.ndarray
    alignment: np.ndarray
    angle: np.ndarray
    vacuoles: np.ndarray


@dataclass(frozen=True)
class Nuclei:
    """One entry per nucleus: centre (n, 2), type (a code of ``REGIONS``), semi-axes (n, 2), direction, grade."""

    xy: np.ndarray
    kind: np.ndarray
    axes: np.ndarray
    angle: np.ndarray
    grade: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """Area in µm²."""
        return np.pi * self.axes.prod(axis=1)


def grow_tissue(rng: np.random.Generator, region_scale: float = 1.0) -> Tissue:
    """Draw the fields and regions of one section; every region is present, its width a multiple of the usual."""
    grid = (np.arange(SIDE // CELL) + 0.5) / (SIDE // CELL) * 2 - 1
    from_centre = (np.abs(grid[:, None]) ** 3 + np.abs(grid[None, :]) ** 3) ** (1 / 3)
    depth = 0.9 - from_centre + 0.07 * smooth_noise(rng, 160)
    to_rim = 0.95 - np.maximum(np.abs(grid[:, None]), np.abs(grid[None, :]))
    depth = np.minimum(depth, to_rim) + 0.01 * smooth_noise(rng, 25)
    inside = depth > 0

    region = np.where(inside, STROMA, GLASS)
    tumor = smooth_noise(rng, 190 * region_scale) - 0.8 * from_centre
    region[inside & (tumor > np.quantile(tumor[inside], 0.56))] = TUMOR
    fat = smooth_noise(rng, 170 * region_scale) + 1.2 * from_centre - 0.8 * tumor
    region[inside & (fat > np.quantile(fat[inside], 0.86))] = ADIPOSE
    margin = np.exp(-((tumor - np.quantile(tumor[inside], 0.56)) ** 2) / 0.15)
    lymphocytes = smooth_noise(rng, 70 * region_scale) + margin + 0.25 / region_scale * smooth_noise(rng, 10)
    lymphocytes[region == ADIPOSE] = -9
    region[inside & (lymphocytes > np.quantile(lymphocytes[inside], 0.88))] = IMMUNE

    compartment = region.copy()
    nests = smooth_noise(rng, 24) + 0.5 * smooth_noise(rng, 10)
    compartment[(region == TUMOR) & (nests < -0.5)] = STROMA
    return Tissue(
        region=region,
        compartment=compartment,
        depth=depth,
        grade=_unit(smooth_noise(rng, 130)),
        density=_unit(smooth_noise(rng, 140)),
        alignment=_unit(smooth_noise(rng, 120)),
        angle=1.2 * smooth_noise(rng, 220) + rng.uniform(0, np.pi),
        vacuoles=scatter(rng, SPACING[ADIPOSE]),
    )


def place_nuclei(rng: np.random.Generator, tissue: Tissue) -> Nuclei:
    """Draw nuclei of each type in their compartment, and a few lymphocytes in the stroma."""
    on_walls, along_walls = _between(tissue.vacuoles)
    found = []
    for region, spacing in enumerate(SPACING):
        xy = on_walls if region == ADIPOSE else scatter(rng, spacing)
        here = at(tissue.compartment, xy)
        keep = here == region
        if region == TUMOR:  # larger nuclei lie wider apart: haematoxylin per area stays the same
            keep &= rng.random(len(xy)) < 0.95 / _growth(at(tissue.grade, xy)) ** 2
        if region == IMMUNE:
            keep |= (here == STROMA) & (rng.random(len(xy)) < 0.04)
        keep &= at(tissue.depth, xy) > 0.01
        found.append(xy[keep])
    xy = np.concatenate(found)
    kind = np.repeat(np.arange(len(REGIONS)), [len(points) for points in found])
    n = len(xy)

    grade = np.where(kind == TUMOR, at(tissue.grade, xy), 0.0)
    pleomorphism = SPREAD[kind] * np.where(kind == TUMOR, 0.5 + grade, 1.0)
    radius = RADIUS[kind] * np.where(kind == TUMOR, _growth(grade), 1.0) * np.exp(pleomorphism * rng.standard_normal(n))
    stretch = np.sqrt(1 + (ASPECT[kind] - 1) * rng.uniform(0.4, 1.6, n))
    axes = np.clip(np.stack([radius * stretch, radius / stretch], axis=1), 1.2, 10.0)
    along = at(tissue.angle, xy) + 0.3 * rng.standard_normal(n)
    angle = np.where(kind == STROMA, along, rng.uniform(0, np.pi, n))
    angle[kind == ADIPOSE] = along_walls[keep]  # the last kind placed
    return Nuclei(xy=xy, kind=kind, axes=axes, angle=angle, grade=grade)


def at(field: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Values of a coarse map at points (n, 2)."""
    column, row = np.clip(xy // CELL, 0, len(field) - 1).astype(int).T
    return field[row, column]


def scatter(rng: np.random.Generator, spacing: float) -> np.ndarray:
    """Points about `spacing` apart: a hexagonal lattice, shaken."""
    rows, columns = int(SIDE / (0.866 * spacing)), int(SIDE / spacing)
    row, column = np.divmod(np.arange(rows * columns), columns)
    lattice = np.stack([column + 0.5 * (row % 2), 0.866 * row], axis=1)
    points = (lattice + 0.5 + rng.uniform(-0.36, 0.36, lattice.shape)) * spacing
    return points[((points > 0) & (points < SIDE)).all(axis=1)]


def smooth_noise(rng: np.random.Generator, scale: float, *, cell: int = CELL) -> np.ndarray:
    """Gaussian random field with mean 0, sd 1 and blur `scale` (µm) on a map with cells of `cell` µm."""
    from scipy import fft

    n = SIDE // cell
    frequency = fft.fftfreq(n, cell)[:, None] ** 2 + fft.rfftfreq(n, cell)[None, :] ** 2
    waves = fft.rfft2(rng.standard_normal((n, n))) * np.exp(-2 * (np.pi * scale) ** 2 * frequency)
    waves[0, 0] = 0
    field = fft.irfft2(waves, s=(n, n))
    return field / field.std()


def _between(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints to nearest neighbours, where walls between vacuoles run, and the direction of those walls."""
    from scipy.spatial import cKDTree

    neighbour = points[cKDTree(points).query(points, k=2)[1][:, 1]]
    dx, dy = (neighbour - points).T
    return (points + neighbour) / 2, np.arctan2(dx, -dy)


def _growth(grade: np.ndarray) -> np.ndarray:
    return 0.85 + 0.55 * grade


def _unit(field: np.ndarray) -> np.ndarray:
    """Map sd units to [0, 1], smoothly."""
    return 1 / (1 + np.exp(-1.7 * field))
