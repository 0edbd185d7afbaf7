"""TIFF files, pyramidal or plain: mapped where uncompressed, decoded chunk by chunk where compressed."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from stpredict._images import tags
from stpredict._images.scale import square_mpp
from stpredict._images.whole import check_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stpredict._images.colour import Colours

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".qptiff")
LARGEST_CHUNK = 2**24
"""Pixels: a TIFF with larger compressed pieces is decoded whole, once, instead of piece by piece for every window."""
BYTE_ORDER: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


class Pyramid(NamedTuple):
    """What a TIFF holds."""

    levels: list[TiffLevel]
    mpp: float | None
    channels_first: bool
    colours: Colours


def is_tiff(path: Path) -> bool:
    """Whether a file starts as TIFFs do, whatever it is called."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def open_tiff(path: Path) -> Pyramid:
    """Levels of the H&E image in a TIFF, finest first, its scale where the file says so, and what its values mean.

    Raises ValueError if the file is damaged, cut short, or no image in colour or grey that can be read rightly.
    """
    import tifffile

    try:
        with _silent(), tifffile.TiffFile(path) as tif:
            number, series, rivals = tags.choose_series(tif)
            axes, described = series.axes, tags.Description(tif, series, str(path))
            scale, colours = described.scale(), described.colours() if axes in tags.AXES else None
            levels = [TiffLevel(path, number, i, level) for i, level in enumerate(series.levels)]
            end = max(_end_of_pages(tif), *(_end_of_data(level.pages[0]) for level in series.levels))
    except tags.NotConvertedError:
        raise
    except Exception as error:  # (damaged tags raise every kind of error)
        msg = f"{path} cannot be read as a TIFF ({error}). Get the image again, or convert it to a tiled TIFF."
        raise ValueError(msg) from error
    if colours is None:
        msg = f"{path} has axes {axes!r}; an H&E image has height, width and three colours."
        raise ValueError(msg)
    if end > path.stat().st_size:
        msg = f"{path} is truncated: it should have {end:,} bytes and has {path.stat().st_size:,}. Get the image again."
        raise ValueError(msg)
    if rivals:
        told = ", ".join(f"{other.name or 'no name'} {other.shape}" for other in (series, *rivals))
        msg = f"{path} holds {1 + len(rivals)} images of about one size ({told}). Save the H&E in a file of its own."
        raise ValueError(msg)
    return Pyramid(levels, square_mpp(*scale, str(path)), axes in ("SYX", "CYX"), colours)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep back what tifffile logs of a damaged file, which would stand beside our own error in other words."""
    logger = logging.getLogger("tifffile")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


class TiffLevel:
    """One level of a TIFF.

    Attributes
    ----------
    shape
        As in the file, channels included.
    chunks
        Height and width of the pieces that are decoded one by one, from any number of threads at once; None where the
        level is mapped or decoded whole.
    """

    def __init__(self, path: Path, series: int, level: int, info: Any) -> None:
        self.path, self._series, self._level = path, series, level
        self.shape, self._array = tuple(info.shape), None
        self._lock = Lock()
        page = info.pages[0]
        chunk = int(np.prod(page.chunks[:2]))
        self._whole = info.dataoffset is None and chunk > LARGEST_CHUNK
        if self._whole:
            check_size(chunk, max(page.databytecounts), "a piece of it")
        interleaved = info.axes in ("YX", "YXS") and len(info.pages) == 1
        self._page = page if info.dataoffset is None and not self._whole and interleaved else None
        if self._page is not None:  # read now, while the file is open
            self._decode, self._tables = page.decode, {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        self.chunks = (int(page.chunks[0]), int(page.chunks[1])) if self._page is not None else None

    def __getitem__(self, window: tuple[slice, ...]) -> np.ndarray:
        try:
            if self._page is not None:
                return self._decoded(window)
            with self._lock:
                if self._array is None:
                    self._array = self._open()
            return np.asarray(self._array[window])
        except Exception as error:  # (codecs raise every kind of error on damaged data)
            msg = f"{self.path} is truncated or damaged ({error}). Get the image again."
            raise ValueError(msg) from error

    def _open(self) -> Any:
        import tifffile
        import zarr

        where: dict[str, Any] = {"series": self._series, "level": self._level}
        if self._whole:
            return tifffile.imread(self.path, **where)
        with tifffile.TiffFile(self.path) as tif:
            if tif.series[self._series].levels[self._level].dataoffset is not None:
                return tifffile.memmap(self.path, **where, mode="r")
        return zarr.open_array(tifffile.imread(self.path, **where, aszarr=True), mode="r")

    def _decoded(self, window: tuple[slice, ...]) -> np.ndarray:
        """Pixels of a window, of the chunks that it touches."""
        rows, columns = window
        (high, wide), across = self.chunks, self._page.chunked[1]
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]), self._page.dtype)
        with self.path.open("rb") as file:
            for j in range(rows.start // high, -(-rows.stop // high)):
                for i in range(columns.start // wide, -(-columns.stop // wide)):
                    top, left = max(rows.start, j * high), max(columns.start, i * wide)
                    bottom, right = min(rows.stop, (j + 1) * high), min(columns.stop, (i + 1) * wide)
                    chunk = self._chunk(file, int(j * across + i))
                    part = out[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
                    if chunk is None:  # (scanners leave out what they did not scan)
                        part[...] = 0
                    else:
                        piece = chunk[top - j * high : bottom - j * high, left - i * wide : right - i * wide]
                        part[...] = piece.reshape(part.shape)
        return out

    def _chunk(self, file: Any, number: int) -> np.ndarray | None:
        """Pixels (height, width, channels) of one chunk; None where the file has none."""
        page = self._page
        size = page.databytecounts[number]
        if not size:
            return None
        file.seek(page.dataoffsets[number])
        data = file.read(size)
        decoded = self._decode(data, number, **self._tables)[0]
        return None if decoded is None else decoded[0]


def _end_of_data(page: Any) -> int:
    """File size that the pixels of a TIFF page need.

    Raises ValueError if the page has fewer pixels than it announces.
    """
    too_few = len(page.dataoffsets) < np.prod(page.chunked)
    if too_few or (page.compression == 1 and sum(page.databytecounts) < page.nbytes):
        msg = f"its {page.imagelength:,} × {page.imagewidth:,} pixels are not all there"
        raise ValueError(msg)
    return max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))


def _end_of_pages(tif: Any) -> int:
    """File size that the chain of pages needs at least: a page may be announced that was cut off."""
    place, size = tif.pages.next_page_offset, tif.tiff.offsetsize
    tif.filehandle.seek(place)
    announced = tif.filehandle.read(size)
    if len(announced) < size:
        return place + size
    offset = int.from_bytes(announced, BYTE_ORDER[tif.byteorder])
    return offset + 1 if offset else 0
