"""Niches: a spot with its surroundings, in expression and in the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from stpredict._core import keys
from stpredict._core.checks import one_of
from stpredict._core.docs import with_shared_texts
from stpredict._core.renamed import renamed
from stpredict._core.warning import warn
from stpredict._sections.niches import MEMBERS, Niche, find_boxes, find_members
from stpredict._sections.open import Opened, Where
from stpredict._sections.scale import NICHE_UM

if TYPE_CHECKING:
    from stpredict._core.typing import Data
    from stpredict._sections.section import Section


@renamed(k="n_neighbors")
@with_shared_texts
def niches(
    data: Data,
    *,
    members: Literal["window", "nearest", "ring"] = "window",
    um: float | None = None,
    n_neighbors: int = 3,
    rings: int = 1,
    library_key: str | None = None,
    table_key: str | None = None,
    copy: bool = False,
) -> Data | None:
    """Define which spots make up the niche of every spot, and which part of the slide is its image.

    Only needed for other niches than the default ones, which are the spots within the niche window of
    `stpredict.pp.tiles`. `stpredict.pp.encode`, called afterwards, reads niche features from these images, and models
    that learn from niche expression take its mean over these members.

    Parameters
    ----------
    data
        One or several sections, with spot centres in full-resolution pixels. Their image is not read.
    members
        ``"window"``: the spots whose centre lies in a square around the spot, which is the niche image too.
        ``"nearest"``: the spot and the `n_neighbors` spots nearest to it. ``"ring"``: the spot and those up to `rings` steps
        away on the lattice (8 spots in one step on legacy ST, 6 on Visium). The image of the last two is the box
        around the spot windows of all members.
    um
        Side of the window, µm; by default the niche window of `stpredict.pp.tiles`, or 560 µm. ST-Align took 200 µm
        in its first version.
    n_neighbors
        Number of nearest spots; ST-Align takes 3 in its later version. Spots equally far are chosen arbitrarily.
    rings
        Steps on the lattice.
    %(sections)s
    %(copy)s

    Returns
    -------
    None, or the copy. Writes ``obsp["niches"]``, float32 (spots, spots): the share of every spot in a niche's mean;
    rows sum to 1 and never reach into another section. ``obsm["niches"]``, float64 (spots, 4): left, top, right and
    bottom of the niche image, in the units of ``obsm["spatial"]``. ``uns["niches"]``: ``members`` with its parameter
    and, for every library, ``mean``, ``min`` and ``max`` number of members and the median side of the image in µm.

    Raises
    ------
    ValueError
        If a parameter is out of range or belongs to another kind of niche, the scale is unknown, rings are asked for
        and there is no lattice, or niches are too large to be listed.
    KeyError
        If there are no spot centres.

    Warns
    -----
    UserWarning
        If spots are alone in their niche, or a section has no `n_neighbors` other spots: its niches hold all of its spots.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.niches(adata, members="nearest", n_neighbors=3)
    >>> niche_counts = adata.obsp["niches"] @ adata.X
    >>> adata.uns["niches"]["libraries"]["sim_1"]["mean"]
    4.0

    References
    ----------
    ST-Align: Lin et al., arXiv:2411.16793 (2024).
    """
    _check(members, um, n_neighbors, rings)
    opened = Opened(data, Where(library_key, table_key), copy=copy)
    adata, sections = opened.table, opened.sections
    if not sum(map(len, sections)):
        msg = "There are no spots, so there are no niches."
        raise ValueError(msg)
    um = float(um or _common_window(adata.uns.get(keys.TILES, {})))
    niche = Niche(members, um=um, k=int(n_neighbors), rings=int(rings))

    rows, columns, shares = [], [], []
    boxes = np.full((adata.n_obs, 4), np.nan)
    libraries: dict[str, Any] = {}
    for section in sections:
        found = find_members(section, niche)
        boxes[section.rows] = find_boxes(section, niche, found)
        libraries[section.name] = _summary(section, found, boxes[section.rows])
        links = found.tocoo()
        rows.append(section.rows[links.row])
        columns.append(section.rows[links.col])
        shares.append(links.data)
    ends = np.concatenate(rows), np.concatenate(columns)
    whole = sparse.csr_matrix((np.concatenate(shares), ends), shape=(adata.n_obs, adata.n_obs))
    _warn(niche, sections, whole)

    opened.target.obsp[keys.NICHES] = whole
    opened.target.obsm[keys.NICHES] = boxes
    opened.target.uns[keys.NICHES] = {**niche.record(), "libraries": libraries}
    return opened.result


def _check(members: str, um: float | None, n_neighbors: int, rings: int) -> None:
    one_of(members, MEMBERS, "members")
    if um is not None and not 0 < um < np.inf:
        msg = f"um is the side of a window in µm and must be positive; got {um!r}."
        raise ValueError(msg)
    for name, value in (("n_neighbors", n_neighbors), ("rings", rings)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            msg = f"{name} must be a whole number of at least 1; got {value!r}."
            raise ValueError(msg)
    meant = {"window": um is not None, "nearest": n_neighbors != 3, "ring": rings != 1}
    for kind, parameter in (
        ("window", f"um={um}"),
        ("nearest", f"n_neighbors={n_neighbors}"),
        ("ring", f"rings={rings}"),
    ):
        if meant[kind] and members != kind:
            msg = f"{parameter} belongs to members={kind!r}, but members={members!r} was asked for."
            raise ValueError(msg)


def _common_window(tiles: dict[str, Any]) -> float:
    widths = {float(geometry["niche_um"]) for geometry in tiles.values()} or {NICHE_UM}
    if len(widths) > 1:
        msg = f"Sections have niche windows of different niche_um ({widths}); pass um=."
        raise ValueError(msg)
    return widths.pop()


def _summary(section: Section, members: sparse.csr_matrix, boxes: np.ndarray) -> dict[str, float]:
    n_members = np.diff(members.indptr)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) * section.mpp_of_coordinates
    return {
        "mean": float(n_members.mean()),
        "min": int(n_members.min()),
        "max": int(n_members.max()),
        "image_um": float(np.median(sides)),
    }


def _warn(niche: Niche, sections: list[Section], members: sparse.csr_matrix) -> None:
    alone = int((np.diff(members.indptr) == 1).sum())
    if alone:
        mend = "" if niche.members == "nearest" else " A wider niche, or members='nearest', would give them company."
        msg = f"{alone} of {members.shape[0]} spots are alone in their niche, which is then the spot itself.{mend}"
        warn(msg)
    small = [f"{section.name} ({len(section)})" for section in sections if len(section) <= niche.k]
    if niche.members == "nearest" and small:
        msg = f"Sections with no {niche.k} other spots: {', '.join(small)}. Their niches hold all of their spots."
        warn(msg)
