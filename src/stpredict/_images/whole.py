"""Images that can only be decoded whole: JPEG, PNG and the like."""

from __future__ import annotations

import io
import struct
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.settings import settings
from stpredict._images.colour import BACKGROUND, Colours

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
"""Of PIL; others are no pictures of slides, or start programs."""

HARMLESS = 50_000_000
"""Pixels that may be decoded from a file of any size."""

PIXELS_PER_BYTE = 100
"""A picture of tissue, however compressed, has fewer: more is a bomb that fills the memory."""

GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""PIL's modes of one channel."""

ORIENTATION = 274
TURNED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
"""From pixels as stored to the upright image, by Exif orientation."""


def check_size(pixels: int, n_bytes: int, source: str) -> None:
    """Refuse what would take too much memory, decoded whole.

    Raises ValueError if there are more pixels than ``settings.max_image_pixels``, or many more than so few bytes can
    hold of tissue.
    """
    if pixels > settings.max_image_pixels:
        msg = (
            f"{source} has {pixels / 1e6:,.0f} million pixels and this format must be decoded whole. "
            "Convert it to a tiled TIFF, or raise stpredict.settings.max_image_pixels."
        )
        raise ValueError(msg)
    if pixels > max(HARMLESS, PIXELS_PER_BYTE * n_bytes):
        msg = (
            f"{source} has {pixels / 1e6:,.0f} million pixels in {n_bytes / 1e6:,.1f} MB; no picture of tissue is so "
            "empty. If it is one, convert it to a tiled TIFF."
        )
        raise ValueError(msg)


class WholeImage:
    """An image that can only be decoded whole; one level of it, `reduction` times smaller."""

    def __init__(self, path: Path, reduction: int = 1) -> None:
        self.path, self._reduction = path, reduction
        self._pixels: np.ndarray | None = None
        self._lock = Lock()
        self.colours: Colours | None = None
        """None where the channels are the usual ones."""
        try:
            with path.open("rb") as file:
                image = _opened(file)
                width, height = image.size
                self.is_jpeg = image.format in ("JPEG", "MPO")
                self._turn = TURNED.get(_orientation(image))
                self._deep = _is_deep_png(path)
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            msg = f"{path} cannot be read as an image ({error}). Give a JPEG, PNG or TIFF of the H&E stain."
            raise ValueError(msg) from error
        if self._deep and image.mode == "LA":
            self.colours = Colours("grey", (0,), alpha=1)
        check_size(width * height, path.stat().st_size, str(path))
        stored = np.empty((-(-height // reduction), -(-width // reduction), 0))
        size = (self._turn(stored) if self._turn else stored).shape[:2]
        self.shape = size if image.mode in GREY else (*size, 3)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[window]

    def _decode(self) -> np.ndarray:
        try:
            # Decoding from memory: a file cut short fails here, in one place.
            pixels = self._values(self.path.read_bytes())
            pixels = self._turn(pixels) if self._turn else pixels
            if pixels.shape[:2] != self.shape[:2]:
                msg = f"decoded to {pixels.shape} instead of {self.shape}"
                raise ValueError(msg)
            return pixels
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            msg = f"{self.path} is truncated or damaged ({error}). Get the image again."
            raise ValueError(msg) from error

    def _values(self, data: bytes) -> np.ndarray:
        """uint8 RGB, or the values of 16 bits as they are stored."""
        from PIL import Image

        image = _opened(io.BytesIO(data))
        if self._deep:  # PIL keeps the upper 8 bits of these, whichever are used
            import imagecodecs

            image.load()  # (checks what the decoder below does not)
            try:
                return imagecodecs.png_decode(data)
            except RuntimeError as error:
                raise ValueError(str(error)) from error
        if self._reduction > 1:
            image.draft("RGB", (image.width // self._reduction, image.height // self._reduction))
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            glass = Image.new("RGBA", image.size, (BACKGROUND,) * 4)
            image = Image.alpha_composite(glass, image.convert("RGBA"))
        if not image.mode.startswith("I"):
            mode = "L" if image.mode in GREY else "RGB"
            return np.asarray(
                image if image.mode == mode else image.convert(mode)
            )  # (converting copies, also to itself)
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > np.iinfo(np.uint16).max:
            msg = "its values need more than 16 bits"
            raise ValueError(msg)
        return values.astype(np.uint16)


def _opened(file: BinaryIO) -> Image:
    """An image whose pixels are not decoded yet.

    As PIL's own ``open``, without its bound on pixels, which belongs to the whole process; `check_size` takes its place.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    start = file.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        try:
            if factory is None or accept is None or accept(start) is not True:
                continue
            file.seek(0)
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error):
            continue
    msg = "no known format"
    raise UnidentifiedImageError(msg)


def _orientation(image: Image) -> int:
    """Exif orientation; 1 is upright."""
    if image.format == "PNG" and "exif" not in image.info:  # (PIL would decode all of it to look behind the pixels)
        return 1
    return int(image.getexif().get(ORIENTATION, 1))


def _is_deep_png(path: Path) -> bool:
    """Whether a PNG has more than 8 bits per value."""
    with path.open("rb") as file:
        start = file.read(25)
    return start.startswith(b"\x89PNG") and len(start) == 25 and start[24] > 8


def open_whole(path: Path) -> list[WholeImage]:
    """Levels of an image that is decoded whole: a JPEG decodes itself to a fraction of its size, faster the smaller."""
    levels = [WholeImage(path)]
    if levels[0].is_jpeg:
        levels += [WholeImage(path, reduction) for reduction in (2, 4, 8) if reduction <= min(levels[0].shape[:2])]
    return levels
