"""Read whole-slide images on which nothing was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.warning import warn
from stpredict._images import open_image
from stpredict._sections.scale import PLAUSIBLE_MPP
from stpredict.io._library import check_mpp, check_name, library_entry

if TYPE_CHECKING:
    from anndata import AnnData

CONTRADICTION = 0.05
"""Share by which the scale that is passed and the one in the file may differ without a warning."""


def read_wsi(path: str | Path, mpp: float | None = None, *, library_id: str | None = None) -> AnnData:
    """Read a whole-slide image without measured spots.

    The image stays on disk and is read region by region, from the pyramid level nearest to what is asked for: plain
    and pyramidal TIFF, BigTIFF and OME-TIFF by tifffile; scanners' own formats (svs, ndpi, mrxs, scn, bif, vms, svslide,
    czi, dcm) by OpenSlide, with ``pip install 'stpredict[wsi]'``; JPEG and PNG decoded whole. Without OpenSlide, svs and
    ndpi are read as the TIFFs they are. `stpredict.io.grid` then lays pseudo-spots over the tissue.

    Parameters
    ----------
    path
        The image; of formats with several files, the main one.
    mpp
        Microns per pixel at full resolution. By default what the file says of the image that is read, which is no label,
        macro or overview: OME ``PhysicalSizeX`` and ``PhysicalSizeY``, Aperio's ``MPP``, TIFF resolution tags, or
        OpenSlide's ``mpp-x`` and ``mpp-y``.
    library_id
        Name of the slide. By default the name of the file.

    Returns
    -------
    A slide without spots and genes (0 × 0), ``obsm["spatial"]`` included. ``uns["spatial"][library_id]``: a small ``hires`` image for plots;
    ``scalefactors`` with ``microns_per_pixel``; ``metadata`` with ``source_image_path``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If only OpenSlide reads the format, and it is not installed.
    ValueError
        If the file is damaged, no image in colour, or holds two slides; if its pixels are not square, or mean something
        that is not converted to RGB here (CIELAB, unnamed channels of 16 bits); or if the scale is unknown or outside of
        0.05–20 µm per pixel.

    Warns
    -----
    UserWarning
        If `mpp` and the file differ by more than 5 %; `mpp` is used. If 16-bit pixels use 8, 10, 12 or 14 bits only.

    Examples
    --------
    >>> import stpredict as st
    >>> slide = st.read_wsi("slide.svs")  # doctest: +SKIP
    >>> adata = st.io.grid(slide, pitch_um=100)  # doctest: +SKIP
    """
    from anndata import AnnData

    check_mpp(mpp)
    path = Path(path)
    name = check_name(path.name.split(".ome.")[0].removesuffix(path.suffix) if library_id is None else library_id)
    if open_image(path).is_grey:
        msg = f"{path} is a greyscale picture; H&E has three colours. Pass the slide as it was scanned, in colour."
        raise ValueError(msg)
    scale = _slide_mpp(path, mpp)
    entry = library_entry(
        path, images={}, scalefactors={"microns_per_pixel": scale}, metadata={"technology": "whole-slide image"}
    )
    if (bits := open_image(path).bits) not in (None, 16):
        msg = f"{path.name} uses {bits} of its 16 bits per colour; they are taken for the whole range from black to white."
        warn(msg)
    return AnnData(obsm={keys.SPATIAL: np.empty((0, 2))}, uns={keys.SPATIAL: {name: entry}})


def states_scale(path: Path) -> bool:
    """Whether a slide says how large its pixels are, and it can be."""
    low, high = PLAUSIBLE_MPP
    return low <= (open_image(path).mpp or 0.0) <= high


def _slide_mpp(path: Path, mpp: float | None) -> float:
    """Microns per pixel as passed, else as the file says."""
    stated = open_image(path).mpp
    low, high = PLAUSIBLE_MPP
    if mpp is None:
        if stated is None or not states_scale(path):
            says = "does not say how large its pixels are" if stated is None else f"says {stated:g} µm per pixel"
            msg = (
                f"{path} {says}; a microscope gives {low}–{high}. Pass mpp=, the microns per pixel at full resolution: "
                "about 0.25 for a scan at 40×, 0.5 at 20×."
            )
            raise ValueError(msg)
        return float(stated)
    if stated is not None and abs(stated / mpp - 1) > CONTRADICTION:
        msg = f"mpp={mpp:g} µm per pixel is used for {path.name}, although the file says {stated:g}."
        warn(msg)
    return float(mpp)
