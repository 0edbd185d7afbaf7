"""What the tags and the OME metadata of a TIFF say: which image is the H&E, its scale, and what its values mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from stpredict._images.colour import Colours, named_channels

if TYPE_CHECKING:
    from collections.abc import Iterator

AXES = ("YX", "YXS", "SYX", "CYX")
"""Of images that can be H&E."""

BESIDE = re.compile(r"label|macro|overview|thumbnail|preview|barcode|map", re.IGNORECASE)
"""Names of the images that scanners store beside the slide."""

RIVAL = 0.5
"""Share of the largest image's pixels from which another one may as well be meant."""

SMALL = 0.25
"""Share of the largest image's pixels below which one in colour is an overview of it."""

UM_PER_UNIT = {
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "&#181;m": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    r"\u00b5m": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25_400.0,
    "inch": 25_400.0,
}
UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}

RAW = (1, 5, 8, 32773, 32946, 34925, 50000)
"""Compressions that keep values as they are; the others have colours of their own, which their decoders convert."""

ORIENTATION, INK_SET, DOT_RANGE, REFERENCE_BLACK_WHITE, MAX_SAMPLE_VALUE = 274, 332, 336, 532, 281


class NotConvertedError(ValueError):
    """The image is sound, but its values are of a kind that is not converted to RGB here."""


def choose_series(tif: Any) -> tuple[int, Any, list[Any]]:
    """Number and series of the H&E image, and those that may be meant as well.

    The largest image in colour that is no label, macro or overview; without colours, the largest.
    """
    numbered = list(enumerate(tif.series))
    slides = [item for item in numbered if not BESIDE.search(item[1].name or "")] or numbered
    largest = max(map(_area, (series for _, series in slides)))
    coloured = [(n, s) for n, s in slides if s.axes in AXES and _has_colours(s) and _area(s) >= SMALL * largest]
    number, series = max(coloured or slides, key=lambda item: _area(item[1]))
    rivals = [s for n, s in coloured if n != number and _area(s) >= RIVAL * _area(series)]
    return number, series, rivals


def _area(series: Any) -> int:
    return int(np.prod([n for axis, n in zip(series.axes, series.shape, strict=True) if axis in "YX"]))


def _has_colours(series: Any) -> bool:
    return _channels(series) in (3, 4) or series.keyframe.photometric == 3


def _channels(series: Any) -> int:
    """Channels of an image."""
    return next((n for axis, n in zip(series.axes, series.shape, strict=True) if axis in "SC"), 1)


class Description:
    """What a TIFF says about one of its images (`series` of tifffile)."""

    def __init__(self, tif: Any, series: Any, source: str) -> None:
        self._tif, self._series, self._page, self._source = tif, series, series.keyframe, source
        self._ome: Any = _ome_pixels(tif, series) if series.kind == "ome" else None

    # ------------------------------------------------------------------ scale

    def scale(self) -> tuple[float | None, float | None]:
        """µm per pixel along x and y: of the image's OME entry, Aperio's ``MPP``, or its own resolution tags."""
        page = self._page
        if self._ome is not None and "PhysicalSizeX" in self._ome.attrib:
            return self._ome_size("X"), self._ome_size("Y")
        if found := re.search(r"MPP = ([\d.]+)", page.description or ""):  # Aperio
            return float(found[1]), None
        um = UM_PER_RESOLUTION_UNIT.get(int(self._tag("ResolutionUnit", 1)))
        if self._tif.is_imagej:
            um = UM_PER_UNIT.get(str((self._tif.imagej_metadata or {}).get("unit", "")).lower(), um)
        x, y = (self._tag(f"{axis}Resolution", (0, 1)) for axis in "XY")
        return (um * x[1] / x[0] if um and x[0] else None), (um * y[1] / y[0] if um and y[0] else None)

    def _ome_size(self, axis: str) -> float | None:
        stated = self._ome.attrib.get(f"PhysicalSize{axis}")
        um = UM_PER_UNIT.get(self._ome.attrib.get(f"PhysicalSize{axis}Unit", "µm").strip().lower())
        return float(stated) * um if stated and um else None

    def _tag(self, name: str | int, default: Any) -> Any:
        tag = self._page.tags.get(name)
        return default if tag is None else tag.value

    # ------------------------------------------------------------------ colours

    def colours(self) -> Colours:
        """What the image's values mean.

        Raises NotConvertedError if they mean something that is not converted to RGB here, or nobody says which channel
        is which colour.
        """
        if (turned := int(self._tag(ORIENTATION, 1))) != 1:
            self._refuse(f"is stored turned or mirrored (orientation {turned})", "Save it upright")
        model = getattr(self._page.photometric, "name", str(self._page.photometric))
        bits = self._bits()
        if model in ("MINISBLACK", "MINISWHITE"):
            return self._grey_or_named("grey" if model == "MINISBLACK" else "white is zero", bits)
        if model == "RGB":
            return self._with_alpha("rgb", 3, bits)
        if model == "PALETTE":
            return Colours("palette", (0,), palette=self._palette())
        if model == "YCBCR":
            return self._ycbcr(bits)
        if model == "SEPARATED":
            return self._cmyk(bits)
        return self._refuse(f"has colours of the kind {model}", "Convert it to RGB")

    def _grey_or_named(self, model: Any, bits: int | None) -> Colours:
        n = _channels(self._series)
        names = _ome_channel_names(self._ome)
        if n == 1 or (n == 2 and self._page.extrasamples):
            return self._with_alpha(model, 1, bits)
        where = named_channels(names) if len(names) == n else None
        if where is not None:
            return Colours("rgb", where[:3], alpha=where[3] if len(where) == 4 else None, bits=bits)
        unnamed = len(names) != n or all(re.fullmatch(r"(channel|c|ch)?[ :_\d-]*", name.lower()) for name in names)
        if n == 3 and unnamed and self._page.dtype == np.uint8:
            return Colours(bits=bits)
        told = f" ({', '.join(names)})" if names else ""
        return self._refuse(
            f"has {n} channels{told} of {self._page.dtype} that are not called red, green and blue",
            "If it is H&E and no fluorescence, save it as RGB",
        )

    def _with_alpha(self, model: Any, n: int, bits: int | None) -> Colours:
        """Colours in the first `n` channels, and behind them one that is declared as alpha, or none."""
        extra = [int(kind) for kind in self._page.extrasamples]
        if _channels(self._series) < n:
            self._refuse(f"has {_channels(self._series)} channels", "An H&E image has three colours")
        alpha = next((n + i for i, kind in enumerate(extra) if kind in (1, 2)), None)
        premultiplied = alpha is not None and extra[alpha - n] == 1
        return Colours(model, tuple(range(n)), alpha=alpha, premultiplied=premultiplied, bits=bits)

    def _palette(self) -> np.ndarray:
        table = np.asarray(self._page.colormap)
        if any(not np.array_equal(level.keyframe.colormap, table) for level in self._series.levels):
            self._refuse("has levels with palettes of their own", "Convert it to RGB")
        return (table if table.max() < 256 else table >> 8).astype(np.uint8).T

    def _ycbcr(self, bits: int | None) -> Colours:
        if int(self._page.compression) not in RAW:
            return Colours(bits=bits)
        reference = np.asarray(self._tag(REFERENCE_BLACK_WHITE, (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)), float)
        levels = reference[::2] / reference[1::2] if reference.size == 12 else reference.ravel()
        if not np.allclose(levels, (0, 255, 128, 255, 128, 255)) or self._page.dtype != np.uint8:
            self._refuse("has YCbCr colours of a range or depth of their own", "Convert it to RGB")
        return Colours("ycbcr")

    def _cmyk(self, bits: int | None) -> Colours:
        if int(self._tag(INK_SET, 1)) != 1 or _channels(self._series) < 4:
            self._refuse("has inks that are not cyan, magenta, yellow and black", "Convert it to RGB")
        if np.ravel(self._tag(DOT_RANGE, 0))[0] != 0:
            self._refuse("has inverted inks (DotRange)", "Convert it to RGB")
        return Colours("cmyk", (0, 1, 2, 3), bits=bits)

    def _bits(self) -> int | None:
        """Bits that the values use, where the file says so."""
        whole = 8 * self._page.dtype.itemsize
        stated = [int(self._page.bitspersample)]
        if self._ome is not None:
            stated.append(int(self._ome.attrib.get("SignificantBits", whole)))
        largest = np.max(self._tag(MAX_SAMPLE_VALUE, 0))
        if largest in (255, 1023, 4095, 16383):
            stated.append(int(largest).bit_length())
        return min(stated) if 0 < min(stated) < whole and self._page.dtype.kind == "u" else None

    def _refuse(self, what: str, mend: str) -> Any:
        msg = f"{self._source} {what}. {mend}."
        raise NotConvertedError(msg)


def _ome_pixels(tif: Any, series: Any) -> ElementTree.Element | None:
    """The entry ``Pixels`` of an image in the OME metadata, found by its place in the file, else by its size."""
    entries = [part for part in ElementTree.fromstring(tif.ome_metadata).iter() if part.tag.endswith("}Pixels")]
    sized = dict(zip(series.axes, series.shape, strict=True))
    same = [
        e for e in entries if (int(e.attrib.get("SizeX", 0)), int(e.attrib.get("SizeY", 0))) == (sized["X"], sized["Y"])
    ]
    here = [e for e in same if series.keyframe.index in _first_pages(e)]
    if len(here) == 1:
        return here[0]
    sizes = {tuple(sorted((k, v) for k, v in e.attrib.items() if k.startswith("Physical"))) for e in same}
    return same[0] if len(sizes) == 1 else None


def _first_pages(pixels: ElementTree.Element) -> Iterator[int]:
    return (int(part.attrib.get("IFD", 0)) for part in pixels if part.tag.endswith("}TiffData"))


def _ome_channel_names(pixels: ElementTree.Element | None) -> list[str]:
    if pixels is None:
        return []
    return [part.attrib.get("Name", "") for part in pixels if part.tag.endswith("}Channel")]
