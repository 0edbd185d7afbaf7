"""Lazy region readers: every image is a pyramid of RGB levels that is read window by window."""

from __future__ import annotations

from copy import copy
from functools import cached_property, lru_cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._images import tiff, vendor, whole
from stpredict._images.blocks import BlockCache, block_shape, covering
from stpredict._images.colour import BACKGROUND, check_fractions, significant_bits, to_rgb, usual_colours
from stpredict._images.scale import downsample_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stpredict._images.colour import Colours

NEARLY_BLACK = 15
"""The brightest that a colour of a blackened pixel is after JPEG; of the form 2ⁿ − 1."""

BLACKENED = 0.01
"""Least share of nearly black pixels on a slide whose background is."""

SAMPLED = 2**22, 8, 256
"""Levels of more pixels than the first are judged by so many windows along each side, of so many pixels."""

READ_AT_ONCE = 1024, 4096
"""Height and width of the windows that a thumbnail is made from."""

blocks = BlockCache()
_numbers = count()


class SlideImage:
    """An RGB image as a pyramid of levels, read window by window.

    Parameters
    ----------
    levels
        Array-likes indexed ``[y, x]`` or ``[y, x, channel]``, largest first. Nothing is read until a window is asked for.
    mpp
        Microns per pixel of the largest level, where the file says so.
    source
        What to call the image in messages.
    fingerprint
        Identifies the pixels (path, size and time of a file), for caches.
    channels_first
        Whether levels are indexed ``[channel, y, x]``.
    colours
        What the channels hold; by default grey, RGB or RGBA, by their number.

    Notes
    -----
    Levels that are coarser along one axis than along the other are left out.
    """

    def __init__(
        self,
        levels: Sequence[Any],
        *,
        mpp: float | None = None,
        source: str = "image in memory",
        fingerprint: str | None = None,
        channels_first: bool = False,
        colours: Colours | None = None,
    ) -> None:
        self._levels = list(levels)
        self._colours = colours
        self._channels_first = channels_first
        self.mpp = mpp
        self.source = source
        spatial = slice(1, 3) if channels_first else slice(0, 2)
        shapes: list[Any] = [tuple(int(n) for n in level.shape[spatial]) for level in self._levels]
        if not all(min(shape) > 0 for shape in shapes):
            msg = f"{source} has no pixels (levels of {shapes} px). Get the image again."
            raise ValueError(msg)
        self.shape: tuple[int, int] = shapes[0]
        downsamples = [downsample_of(self.shape, shape) for shape in shapes]
        kept = [i for i, downsample in enumerate(downsamples) if downsample is not None]
        self.downsamples = [downsample for downsample in downsamples if downsample is not None]
        self._levels = [self._levels[i] for i in kept]
        self._shapes = [shapes[i] for i in kept]
        self._fingerprint = fingerprint
        self._number = next(_numbers)
        self._recolour: Callable[[np.ndarray], np.ndarray] | None = None

    def recoloured(self, recolour: Callable[[np.ndarray], np.ndarray], name: str) -> SlideImage:
        """View the same image in other colours: `recolour` maps uint8 RGB to the same, `name` tells which way."""
        other = copy(self)
        other._fingerprint = f"{self.fingerprint}:{name}"
        other._number = next(_numbers)
        other._recolour = recolour
        return other

    def __repr__(self) -> str:
        height, width = self.shape
        return f"SlideImage({self.source}, {width} × {height} px, {len(self._levels)} level(s))"

    @property
    def fingerprint(self) -> str:
        """Identity of the pixels; of an image in memory, a hash of a thumbnail and the shape."""
        if self._fingerprint is None:
            import hashlib

            small = self.thumbnail(256)
            self._fingerprint = hashlib.sha256(small.tobytes() + repr(self.shape).encode()).hexdigest()[:16]
        return self._fingerprint

    def best_level(self, downsample: float) -> int:
        """Coarsest level that is still at least as fine as `downsample` (5 % tolerance)."""
        fine_enough = [i for i, d in enumerate(self.downsamples) if d <= downsample * 1.05]
        return fine_enough[-1] if fine_enough else 0

    def read(self, x0: int, y0: int, x1: int, y1: int, *, level: int = 0) -> np.ndarray:
        """Window in pixels of `level`, as uint8 (y1 − y0, x1 − x0, 3).

        Blocks are decoded once and kept while there is room, so windows that overlap and follow each other share them. Any
        number of threads may read. What lies outside the image is white, and so are pixels that are exactly black: tools blacken what is no tissue,
        and black would read as the darkest of stains.
        """
        height, width = self._shapes[level]
        out = np.empty((y1 - y0, x1 - x0, 3), dtype=np.uint8)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if (left, top, right, bottom) != (x0, y0, x1, y1):
            out[...] = BACKGROUND
        if left >= right or top >= bottom:
            return out
        inside = out[top - y0 : bottom - y0, left - x0 : right - x0]
        chunk = _chunk_of(self._levels[level], self._channels_first)
        if chunk is None:
            inside[...] = self._pixels(level, top, left, bottom, right)
            return out
        for block in covering((top, left, bottom, right), block_shape(chunk), self._shapes[level]):
            pixels = blocks.get((self._number, level, *block), partial(self._pixels, level, *block))
            y, x = block[:2]
            y_from, x_from, y_to, x_to = max(y, top), max(x, left), min(block[2], bottom), min(block[3], right)
            inside[y_from - top : y_to - top, x_from - left : x_to - left] = pixels[
                y_from - y : y_to - y, x_from - x : x_to - x
            ]
        return out

    def _pixels(self, level: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """What lies in a window of a level, uint8 RGB, decoded now."""
        stored = self._stored(level, top, left, bottom, right)
        bits = self._bits if stored.dtype == np.uint16 else None
        if stored.dtype.kind == "f":
            self._check_fractions  # noqa: B018 (once)
        pixels = to_rgb(stored, self._colours, bits, self.source)
        if pixels.min() <= NEARLY_BLACK:  # (most blocks have no such value, which is found out at once)
            pixels = self._unblackened(pixels)
        return self._recolour(pixels) if self._recolour else pixels

    def _unblackened(self, pixels: np.ndarray) -> np.ndarray:
        """Black pixels, and on slides with a blackened background the nearly black ones, made white."""
        brightness = pixels[..., 0] | pixels[..., 1] | pixels[..., 2]
        black = brightness == 0
        dark = brightness <= NEARLY_BLACK
        if np.count_nonzero(dark) > np.count_nonzero(black) and self._is_blackened:
            black = dark
        return np.where(black[..., None], np.uint8(BACKGROUND), pixels) if black.any() else pixels

    def _stored(self, level: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """Window of a level as it is stored, channels last."""
        window = (slice(top, bottom), slice(left, right))
        if self._channels_first:
            return np.moveaxis(np.asarray(self._levels[level][:, window[0], window[1]]), 0, -1)
        return np.asarray(self._levels[level][window])

    def _sample(self) -> np.ndarray:
        """Pixels (n, 1, channels) of the coarsest level as they are stored, all or some of them."""
        (height, width), last = self._shapes[-1], len(self._levels) - 1
        enough, n, side = SAMPLED
        if height * width <= enough:
            windows = [(0, 0, height, width)]
        else:
            tops, lefts = (np.linspace(0, max(0, extent - side), n).astype(int) for extent in (height, width))
            windows = [
                (y, x, min(y + side, height), min(x + side, width)) for y in tops.tolist() for x in lefts.tolist()
            ]
        parts = [self._stored(last, *window) for window in windows]
        return np.concatenate([part.reshape(-1, 1, part.shape[2] if part.ndim == 3 else 1) for part in parts])

    def _colour_sample(self) -> np.ndarray:
        sample = self._sample()
        colours = self._colours or usual_colours(sample.shape[-1])
        return sample if colours is None else sample[..., list(colours.channels)]

    @property
    def bits(self) -> int | None:
        """How many bits the values use, of images of 16."""
        return self._bits if self._stored(len(self._levels) - 1, 0, 0, 1, 1).dtype == np.uint16 else None

    @cached_property
    def _bits(self) -> int:
        """Of 16, how many the values use."""
        stated = self._colours.bits if self._colours else None
        return significant_bits(self._colour_sample(), stated, self.source)

    @cached_property
    def _check_fractions(self) -> None:
        check_fractions(self._colour_sample(), self.source)

    @cached_property
    def _is_blackened(self) -> bool:
        """Whether the background is nearly black, as black is after JPEG."""
        if self.is_grey:
            return False
        sample = self._sample()
        brightest = to_rgb(sample, self._colours, self._bits if sample.dtype == np.uint16 else None, self.source).max(
            -1
        )
        near = np.count_nonzero(brightest <= NEARLY_BLACK) - (exact := np.count_nonzero(brightest == 0))
        return near > max(BLACKENED * brightest.size, exact)

    @property
    def is_grey(self) -> bool:
        """Whether the image has one channel only."""
        if self._colours is not None:
            return self._colours.is_grey
        shape = self._levels[0].shape
        return len(shape) == 2 or shape[0 if self._channels_first else 2] == 1

    def thumbnail(self, max_side: int = 1024) -> np.ndarray:
        """Whole image, uint8 RGB, at most `max_side` pixels on its longer side; read in windows, however large it is."""
        from skimage.transform import resize

        factor = max(1.0, max(self.shape) / max_side)
        level = self.best_level(factor)
        height, width = self._shapes[level]
        step = min(max(1, int(factor / self.downsamples[level])), height, width)
        high, wide = (max(step, extent // step * step) for extent in READ_AT_ONCE)
        small = np.empty((height // step, width // step, 3), dtype=np.uint8 if step == 1 else np.float32)
        for y in range(0, height - height % step, high):
            for x in range(0, width - width % step, wide):
                out = small[y // step : (y + high) // step, x // step : (x + wide) // step]
                h, w = out.shape[:2]
                block = self.read(x, y, x + w * step, y + h * step, level=level)
                out[...] = (
                    block if step == 1 else block.reshape(h, step, w, step, 3).mean(axis=(1, 3), dtype=np.float32)
                )
        shape = tuple(max(1, round(n / factor)) for n in self.shape)
        out = np.empty((*shape, 3), dtype=np.uint8)
        for channel in range(3):  # one by one: they are large as floats
            values = small[..., channel].astype(np.float32)
            values = resize(values, shape, order=1, anti_aliasing=False, preserve_range=True)
            out[..., channel] = np.clip(values + 0.5, 0, 255)
        return out


def open_image(path: str | Path) -> SlideImage:
    """Open an image file without decoding it.

    Tiled and uncompressed TIFFs are read window by window, and so are scanners' own formats, through OpenSlide; JPEG,
    PNG and the like can only be decoded whole, which happens at the first window and is refused above
    ``settings.max_image_pixels``. Raises ImportError if only OpenSlide reads the format, and it is not installed;
    FileNotFoundError if there is no such file; ValueError if the file is no image that can be read, or too large to be
    decoded whole.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no image at {path}. Pass the full-resolution H&E image when reading the section."
        raise FileNotFoundError(msg)
    stat = path.stat()
    return _open_cached(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _open_cached(path: Path, size: int, mtime_ns: int) -> SlideImage:
    fingerprint = f"{path}:{size}:{mtime_ns}"
    levels: Any
    if vendor.wanted(path):
        levels, mpp = vendor.open_slide(path)
        return SlideImage(levels, mpp=mpp, source=str(path), fingerprint=fingerprint)
    if path.suffix.lower() in tiff.SUFFIXES or tiff.is_tiff(path):
        levels, mpp, channels_first, colours = tiff.open_tiff(path)
        how: dict[str, Any] = {"channels_first": channels_first, "colours": colours}
        return SlideImage(levels, mpp=mpp, source=str(path), fingerprint=fingerprint, **how)
    levels = whole.open_whole(path)
    return SlideImage(levels, source=str(path), fingerprint=fingerprint, colours=levels[0].colours)


def _chunk_of(level: Any, channels_first: bool) -> tuple[int, int] | None:
    """Height and width of the pieces in which a level is decoded; None where it lies in memory."""
    chunks = getattr(level, "chunks", None)
    if not chunks:
        return None
    height, width = (int(c if np.ndim(c) == 0 else max(c)) for c in (chunks[1:] if channels_first else chunks[:2]))
    return height, width
