"""Lazy region readers: every image is a pyramid of RGB levels that is read window by window."""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.settings import settings
from stpredict._images import tiff, vendor
from stpredict._images.blocks import BlockCache, block_shape, covering

if TYPE_CHECKING:
    from collections.abc import Sequence

WHOLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
BACKGROUND = 255
"""What lies outside the image: glass."""

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
    """

    def __init__(
        self,
        levels: Sequence[Any],
        *,
        mpp: float | None = None,
        source: str = "image in memory",
        fingerprint: str | None = None,
        channels_first: bool = False,
    ) -> None:
        self._levels = list(levels)
        self._channels_first = channels_first
        self.mpp = mpp
        self.source = source
        spatial = slice(1, 3) if channels_first else slice(0, 2)
        shapes = [tuple(int(n) for n in level.shape[spatial]) for level in self._levels]
        if not all(min(shape) > 0 for shape in shapes):
            msg = f"{source} has no pixels (levels of {shapes} px). Get the image again."
            raise ValueError(msg)
        self.shape: tuple[int, int] = shapes[0]
        self.downsamples = [self.shape[0] / height for height, _ in shapes]
        self._shapes = shapes
        self._fingerprint = fingerprint
        self._number = next(_numbers)

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
        out = np.full((y1 - y0, x1 - x0, 3), BACKGROUND, dtype=np.uint8)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if left >= right or top >= bottom:
            return out
        inside = out[top - y0 : bottom - y0, left - x0 : right - x0]
        chunk = _chunk_of(self._levels[level], self._channels_first)
        if chunk is None:
            inside[...] = self._pixels(level, top, left, bottom, right)
            return out
        for block in covering((top, left, bottom, right), block_shape(chunk), self._shapes[level]):
            pixels = blocks.get((self._number, level, *block), lambda block=block: self._pixels(level, *block))
            y, x = block[:2]
            y_from, x_from, y_to, x_to = max(y, top), max(x, left), min(block[2], bottom), min(block[3], right)
            inside[y_from - top : y_to - top, x_from - left : x_to - left] = pixels[
                y_from - y : y_to - y, x_from - x : x_to - x
            ]
        return out

    def _pixels(self, level: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """What lies in a window of a level, uint8 RGB, decoded now."""
        window = (slice(top, bottom), slice(left, right))
        if self._channels_first:
            pixels = np.moveaxis(np.asarray(self._levels[level][:, window[0], window[1]]), 0, -1)
        else:
            pixels = np.asarray(self._levels[level][window])
        pixels = _as_rgb(pixels, self.source)
        black = (pixels[..., 0] | pixels[..., 1] | pixels[..., 2]) == 0
        return np.where(black[..., None], np.uint8(BACKGROUND), pixels) if black.any() else pixels

    def thumbnail(self, max_side: int = 1024) -> np.ndarray:
        """Whole image, uint8 RGB, at most `max_side` pixels on its longer side; read in strips."""
        from skimage.transform import resize

        factor = max(1.0, max(self.shape) / max_side)
        level = self.best_level(factor)
        height, width = self._shapes[level]
        step = min(max(1, int(factor / self.downsamples[level])), height, width)
        rows = []
        strip = max(step, 1024 // step * step)
        for y in range(0, height - height % step, strip):
            block = self.read(0, y, width - width % step, min(y + strip, height - height % step), level=level)
            h, w = block.shape[0] // step, block.shape[1] // step
            rows.append(block if step == 1 else block.reshape(h, step, w, step, 3).mean(axis=(1, 3), dtype=np.float32))
        small = np.concatenate(rows)
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
    ``settings.max_image_pixels``.

    Raises
    ------
    ImportError
        If only OpenSlide reads the format, and it is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no image that can be read, or too large to be decoded whole.
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
    if vendor.wanted(path):
        levels, mpp = vendor.open_slide(path)
        return SlideImage(levels, mpp=mpp, source=str(path), fingerprint=fingerprint)
    if path.suffix.lower() in tiff.SUFFIXES:
        levels, mpp, channels_first = tiff.open_tiff(path)
        return SlideImage(levels, mpp=mpp, source=str(path), fingerprint=fingerprint, channels_first=channels_first)
    levels = [_WholeImage(path)]
    if levels[0].is_jpeg:
        smallest = min(levels[0].shape[:2])
        levels += [_WholeImage(path, reduction) for reduction in (2, 4, 8) if reduction <= smallest]
    return SlideImage(levels, source=str(path), fingerprint=fingerprint)


class _WholeImage:
    """A file that can only be decoded whole; decoded at the first window, then kept.

    A JPEG decodes itself to a half, a quarter or an eighth of its size, faster the smaller: a pyramid for free.
    """

    def __init__(self, path: Path, reduction: int = 1) -> None:
        from PIL import Image, UnidentifiedImageError

        self.path, self._reduction = path, reduction
        self._pixels: np.ndarray | None = None
        self._lock = Lock()
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(path) as image:
                width, height = image.size
                self.is_jpeg = image.format == "JPEG"
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            msg = f"{path} cannot be read as an image ({error}). Give a JPEG, PNG or TIFF of the H&E stain."
            raise ValueError(msg) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        if width * height > settings.max_image_pixels:
            msg = (
                f"{path} has {width * height / 1e6:,.0f} million pixels and this format must be decoded whole. "
                "Convert it to a tiled TIFF, or raise stpredict.settings.max_image_pixels."
            )
            raise ValueError(msg)
        self.shape = (-(-height // reduction), -(-width // reduction), 3)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[window]

    def _decode(self) -> np.ndarray:
        from PIL import Image

        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            # Decoding from memory: a file cut short fails here, in one place.
            with Image.open(io.BytesIO(self.path.read_bytes())) as image:
                if self._reduction > 1:
                    image.draft("RGB", (image.width // self._reduction, image.height // self._reduction))
                if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                    glass = Image.new("RGBA", image.size, (BACKGROUND,) * 4)
                    image = Image.alpha_composite(glass, image.convert("RGBA"))
                if image.mode.startswith("I"):  # 16-bit grey, which PIL would clip instead of scaling
                    pixels = _as_rgb(np.asarray(image).astype(np.uint16), str(self.path))
                else:
                    pixels = np.asarray(image.convert("RGB"))
                if pixels.shape != self.shape:
                    msg = f"decoded to {pixels.shape} instead of {self.shape}"
                    raise ValueError(msg)
                return pixels
        except (OSError, SyntaxError, ValueError) as error:
            msg = f"{self.path} is truncated or damaged ({error}). Get the image again."
            raise ValueError(msg) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _chunk_of(level: Any, channels_first: bool) -> tuple[int, int] | None:
    """Height and width of the pieces in which a level is decoded; None where it lies in memory."""
    chunks = getattr(level, "chunks", None)
    if not chunks:
        return None
    spatial = chunks[1:] if channels_first else chunks[:2]
    return tuple(int(c if np.ndim(c) == 0 else max(c)) for c in spatial)


def _as_rgb(pixels: np.ndarray, source: str) -> np.ndarray:
    """uint8 RGB from grey, RGB or RGBA pixels of the usual dtypes."""
    if pixels.dtype != np.uint8:
        if np.issubdtype(pixels.dtype, np.floating):
            if not (pixels.min(initial=0) >= 0 and pixels.max(initial=0) <= 1):
                msg = f"{source} has fractional pixels outside of [0, 1]. Scale them, or give uint8."
                raise ValueError(msg)
            pixels = np.clip(pixels * 255 + 0.5, 0, 255).astype(np.uint8)
        elif pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        else:
            msg = f"{source} has pixels of type {pixels.dtype}; an H&E image has uint8, uint16 or float in [0, 1]."
            raise ValueError(msg)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        return (pixels[..., :3] * alpha + BACKGROUND * (1 - alpha) + 0.5).astype(np.uint8)
    if pixels.shape[-1] != 3:
        msg = f"{source} has {pixels.shape[-1]} channels; an H&E image has three colours."
        raise ValueError(msg)
    return pixels
