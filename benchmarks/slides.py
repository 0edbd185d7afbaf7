"""Synthetic slides for the benchmarks: pyramids of any size, of simulated tissue that repeats, on glass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

TILE = 256
PERIOD = 1024
"""Tissue repeats after so many pixels: a tile is compressed once, so that 10 gigapixels take seconds to write."""


def tissue() -> np.ndarray:
    """uint8 (`PERIOD`, `PERIOD`, 3): simulated tissue, simulated at about 0.5 µm per pixel."""
    import stpredict as st

    library = next(iter(st.datasets.simulate(seed=1).uns["spatial"].values()))
    return library["images"]["hires"][300 : 300 + PERIOD, 300 : 300 + PERIOD]


def write_slide(
    path: Path, side: int, *, mpp: float = 0.5, share: float = 1.0, steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
) -> None:
    """JPEG-compressed pyramid of `side` × `side` pixels in tiles of 256, downsampled by `steps`.

    A square in its middle, of a `share` of the area, is tissue; the rest is glass.
    """
    import tifffile

    pixels, margin = tissue(), side * (1 - share**0.5) / 2
    options = {"photometric": "ycbcr", "subsampling": (2, 2), "compression": "jpeg", "tile": (TILE, TILE)}
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for number, step in enumerate(steps):
            own = side // step
            tif.write(
                _tiles(_shrunken(pixels, step), own, margin / step),
                shape=(own, own, 3),
                dtype=np.uint8,
                metadata=None,
                resolution=(1e4 / (mpp * step), 1e4 / (mpp * step)),
                resolutionunit="CENTIMETER",
                **({"subifds": len(steps) - 1} if number == 0 else {"subfiletype": 1}),
                **options,
            )


def _shrunken(pixels: np.ndarray, step: int) -> np.ndarray:
    """Mean of every `step` × `step` pixels, repeated to at least a tile."""
    n = PERIOD // step
    small = pixels.reshape(n, step, n, step, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    times = -(-TILE // n)
    return np.tile(small, (times, times, 1))


def _tiles(pixels: np.ndarray, side: int, margin: float):
    """Compressed tiles of one level, row by row."""
    n, per = -(-side // TILE), pixels.shape[0] // TILE
    glass = _jpeg(np.full((TILE, TILE, 3), (243, 241, 244), np.uint8))
    kinds = {
        (y, x): _jpeg(pixels[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE])
        for y in range(per)
        for x in range(per)
    }
    for y in range(n):
        for x in range(n):
            centre = (np.array([y, x]) + 0.5) * TILE
            yield kinds[y % per, x % per] if (abs(centre - side / 2) < side / 2 - margin).all() else glass


def _jpeg(tile: np.ndarray) -> bytes:
    import imagecodecs

    return imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile), level=85, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
    )
