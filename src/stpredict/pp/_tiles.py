"""Tile geometry: square windows around every spot, in microns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.warning import warn
from stpredict._sections.open import Opened, Where
from stpredict._sections.scale import NICHE_UM, SPOT_UM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

IN_TISSUE = "in_tissue"


@with_shared_texts
def tiles(
    data: Data,
    *,
    spot_um: float = SPOT_UM,
    niche_um: float | Sequence[float] = NICHE_UM,
    mpp: float | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    copy: bool = False,
) -> Data | None:
    """Lay a spot window and a niche window around every spot, and fix the scale of each section.

    Only geometry is stored: tiles are read from the slide when they are needed. The image is opened but not decoded,
    and every spot is checked to lie on it.

    Parameters
    ----------
    data
        One or several sections, with spot centres in full-resolution pixels and their H&E image.
    spot_um
        Side of the square spot window, µm.
    niche_um
        Side of the square niche window, µm, or several: ``(336, 560, 1000, 1600)``. Of several, 560 is the niche where it
        is among them, else the first, and the others are further windows that `stpredict.pp.encode` describes too.
        Wide windows help on further sections of a tissue block that the model was trained on, and can do harm
        elsewhere: `stpredict.tl.train` tries on training sections whether they help.
    mpp
        Microns per pixel of the full-resolution image. By default it is taken from the scale factors, the image
        file or the spot lattice (100 µm centre to centre on Visium), in this order.
    %(sections_and_image)s
    %(copy)s

    Returns
    -------
    None, or the copy. Writes ``uns["tiles"][library]``: ``mpp`` and ``mpp_source`` (scale of ``obsm["spatial"]``),
    ``spot_um``, ``niche_um``, ``further_um`` (float64, the other widths, where there are any), ``image`` and its ``image_width`` and ``image_height`` in pixels.

    Raises
    ------
    TypeError
        If `data` is neither AnnData nor SpatialData.
    ValueError, FileNotFoundError
        If there is no image or no spot, spots lie outside of the image, the scale is unknown or contradicts the spot
        lattice or, without one, the image file, or a window is not positive.

    Warns
    -----
    UserWarning
        If scales of two sources differ by more than 5 %. If there are spots off the tissue (``obs["in_tissue"]`` is 0), as other readers leave of a raw matrix.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> adata.uns["tiles"]["sim_1"]["niche_um"]
    560.0
    """
    niche_um, *further = niche_widths(spot_um, niche_um)
    opened = Opened(data, Where(library_key, table_key, image_key), mpp=mpp, copy=copy)
    geometry = {}
    for section in opened.sections:
        height, width = section.image.shape
        _tell_off_tissue(section)
        section.check_image_file()
        geometry[section.name] = {
            "mpp": section.mpp_of_coordinates,
            "mpp_source": section.mpp_source,
            "spot_um": float(spot_um),
            "niche_um": niche_um,
            "image": section.image.source,
            "image_width": width,
            "image_height": height,
        }
        if further:
            geometry[section.name]["further_um"] = np.array(further)
        if library_key:
            geometry[section.name]["library_key"] = library_key
    opened.target.uns[keys.TILES] = geometry
    return opened.result


def niche_widths(spot_um: float, niche_um: float | Sequence[float]) -> list[float]:
    """Width of the niche, then of further windows from narrow to wide, all in µm.

    Raises ValueError if there is none, one is narrower than the spot, or two are the same.
    """
    widths = [float(um) for um in np.atleast_1d(np.asarray(niche_um, dtype=float))]
    if not widths or not all(0 < spot_um <= um < np.inf for um in widths):
        told = ", ".join(f"{um:g}" for um in widths) or "none"
        msg = f"Windows must be positive and niches at least as wide as the spot; got {spot_um:g} and {told} µm."
        raise ValueError(msg)
    if len({f"{um:g}" for um in widths}) < len(widths):
        msg = f"niche_um names a width twice ({', '.join(f'{um:g}' for um in widths)} µm); name each once."
        raise ValueError(msg)
    niche = NICHE_UM if NICHE_UM in widths else widths[0]
    return [niche, *sorted(um for um in widths if um != niche)]


def _tell_off_tissue(section: Section) -> None:
    """Warn of spots that Space Ranger found off the tissue."""
    if IN_TISSUE not in section.adata.obs:
        return
    flags = section.adata.obs[IN_TISSUE].iloc[section.rows]
    off = flags.astype(str).isin(["0", "0.0", "False"])
    if off.any():
        kept = (
            " == 1"
            if flags.dtype.kind in "biuf"
            else f".astype(str) == {str(flags[~off].iloc[0] if not off.all() else 1)!r}"
        )
        warn(
            f"Section {section.name!r}: {off.sum()} of {len(section)} spots lie off the tissue (obs['in_tissue'] is "
            f"{flags[off].iloc[0]}); models would learn from glass. Drop them: "
            f"adata = adata[adata.obs['in_tissue']{kept}].copy()."
        )
