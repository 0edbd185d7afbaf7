"""Niches: which spots surround a spot, and the part of the slide that they lie on.

`stpredict.pp.niches` stores both. Where it was not run, the niche of a spot is every spot within its niche window, so
that niche expression and niche image tell of the same tissue.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from scipy import sparse

from stpredict._core import keys
from stpredict._sections.scale import NICHE_UM, SPOT_UM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stpredict._sections.section import Section

    Members: TypeAlias = Literal["window", "nearest", "ring"]

BORDER = 0.01
"""Spots this far beyond a window's border, as a share of its side, still count: centres are only known to a pixel."""

MOST_LINKS = 50_000_000
"""Members of all niches of a section: 0.4 GB, and about 3 GB while they are found."""

NICHE_KEY = re.compile(r"_niche(_[0-9.]+)?$")
"""How ``obsm`` keys of niche features end: those of further widths name theirs in µm."""

MEMBERS = ("window", "nearest", "ring")
PARAMETER = {"window": "um", "nearest": "k", "ring": "rings"}
"""Names under which ``uns["niches"]`` keeps the number that defines a kind of niche."""
ARGUMENT = PARAMETER | {"nearest": "n_neighbors"}
"""What `stpredict.pp.niches` calls them."""


@dataclass(frozen=True)
class Niche:
    """What a niche is: a window of `um`, the `k` nearest spots, or `rings` of the lattice."""

    members: Members = "window"
    um: float = NICHE_UM
    k: int = 3
    rings: int = 1

    @classmethod
    def of(cls, section: Section) -> Niche:
        """Niches as `stpredict.pp.niches` made them for the section, else its niche windows.

        Raises ValueError if they were made, but how is not known any more.
        """
        adata = section.adata
        record = adata.uns.get(keys.NICHES, {})
        if "members" in record:
            return cls.from_record(record)
        if record or keys.NICHES in adata.obsm:
            msg = (
                f"Section {section.name!r} has niches, but uns['niches'] does not say of which kind, as after joining "
                "sections with different ones. Run stpredict.pp.niches again."
            )
            raise ValueError(msg)
        return cls(um=float(_tiles(section).get("niche_um", NICHE_UM)))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Niche:
        """Niches as recorded in ``uns``."""
        numbers = {"um": float, "k": int, "rings": int}
        known = {key: kind(record[key]) for key, kind in numbers.items() if key in record}
        return cls(members=cast("Members", str(record["members"])), **known)

    def record(self) -> dict[str, Any]:
        """What to store in ``uns``."""
        parameter = PARAMETER[self.members]
        return {"members": self.members, parameter: getattr(self, parameter)}

    def __str__(self) -> str:
        return f"{self.members} {getattr(self, PARAMETER[self.members]):g}"


def is_niche(feature_key: str) -> bool:
    """Whether features under this ``obsm`` key are of niches."""
    return NICHE_KEY.search(feature_key) is not None


def is_wider(feature_key: str) -> bool:
    """Whether features under this ``obsm`` key are of further niche windows, beside the niche proper."""
    found = NICHE_KEY.search(feature_key)
    return found is not None and found[1] is not None


def spot_key(feature_key: str) -> str:
    """``obsm`` key of the spot features that niche features belong to; any other key as it is."""
    return NICHE_KEY.sub("", feature_key)


def call(niche: str, um: float | None) -> str:
    """Write the call that makes niches which read `niche`, or windows of `um`."""
    members, _, value = niche.partition(" ")
    given = [f"members={members!r}"]
    if members == "window":
        given += [f"um={um:g}"] if um else []
    else:
        given.append(f"{ARGUMENT[members]}={value}")
    return f"stpredict.pp.niches(adata, {', '.join(given)})"


def niche_matrix(section: Section) -> sparse.csr_matrix:
    """float32 (n, n), rows sum to 1: the members of every spot's niche, as stored, else found."""
    niche = Niche.of(section)
    stored = section.adata.obsp.get(keys.NICHES)
    if stored is None:
        return find_members(section, niche)
    return _mean_of(sparse.csr_matrix(stored)[section.rows][:, section.rows])


def find_members(section: Section, niche: Niche) -> sparse.csr_matrix:
    """float32 (n, n), rows sum to 1: the members of every spot's niche, itself among them.

    Raises ValueError if the spots are on no lattice where its rings are asked for, the scale is unknown where a window
    is, or the niches are too large to be listed.
    """
    if niche.members == "nearest":
        return _mean_of(_nearest(section, niche.k))
    if niche.members == "ring":
        return _mean_of(_ring(section, niche.rings))
    return _mean_of(_window(section, niche.um))


def _mean_of(links: sparse.spmatrix) -> sparse.csr_matrix:
    """Turn links into means: every spot linked to itself, rows summing to 1."""
    own = sparse.eye(links.shape[0], dtype=np.float32, format="csr")
    links = sparse.csr_matrix(links, dtype=np.float32) + own
    n_members = np.diff(links.indptr)
    links.data = np.repeat((1 / n_members).astype(np.float32), n_members)
    return links


def _nearest(section: Section, k: int) -> sparse.csr_matrix:
    from sklearn.neighbors import kneighbors_graph

    if len(section) == 1:
        return sparse.csr_matrix((1, 1))
    return kneighbors_graph(section.centres, min(k, len(section) - 1), include_self=False)


def _ring(section: Section, rings: int) -> sparse.csr_matrix:
    if section.lattice is None or section.lattice.kind == "irregular":
        msg = (
            f"The spots of section {section.name!r} lie on no lattice, so there are no rings around them. Call "
            "stpredict.pp.niches(adata, members='nearest') instead."
        )
        raise ValueError(msg)
    ring = section.neighbours(reach=1.7 if section.lattice.kind == "square" else 1.4)
    reached = ring
    for _ in range(rings - 1):
        reached = reached + reached @ ring
    return reached


def _window(section: Section, um: float) -> sparse.csr_matrix:
    from sklearn.neighbors import KDTree, radius_neighbors_graph

    reach = (0.5 + BORDER) * um / section.mpp
    sample = section.centres[:: 1 + len(section) // 1000]
    each = KDTree(section.centres, metric="chebyshev").query_radius(sample, reach, count_only=True).mean()
    if each * len(section) > MOST_LINKS:
        msg = (
            f"Windows of {um:g} µm hold {each:,.0f} of the {len(section):,} spots of section {section.name!r} each, too "
            f"many to list. Call stpredict.pp.niches with a smaller um=, or with members='nearest'."
        )
        raise ValueError(msg)
    return radius_neighbors_graph(section.centres, reach, metric="chebyshev", include_self=True)


# ---------------------------------------------------------------------- the niche image


def find_boxes(section: Section, niche: Niche, members: sparse.csr_matrix) -> np.ndarray:
    """float64 (n, 4): left, top, right and bottom of every niche image, in units of ``obsm['spatial']``.

    A window is its own image; otherwise it is the bounding box of the members' spot windows.
    """
    if niche.members == "window":
        half = niche.um / section.mpp / 2
        low, high = section.centres, section.centres
    else:
        half = float(_tiles(section).get("spot_um", SPOT_UM)) / section.mpp / 2
        theirs, starts = section.centres[members.indices], members.indptr[:-1]
        low, high = np.minimum.reduceat(theirs, starts), np.maximum.reduceat(theirs, starts)
    return np.hstack([low - half, high + half]) / section.image_scale


def boxes_of(section: Section) -> np.ndarray:
    """float64 (n, 4): left, top, right and bottom of every niche image, in pixels of the section's image.

    Raises ValueError if `stpredict.pp.niches` was run, but its boxes are gone or lie elsewhere than the spots.
    """
    niche = Niche.of(section)
    if niche.members == "window":
        half = niche.um / section.mpp / 2
        return np.hstack([section.centres - half, section.centres + half])
    stored = section.adata.obsm.get(keys.NICHES)
    if stored is None:
        msg = f"Section {section.name!r} has lost obsm['niches']. Run stpredict.pp.niches again."
        raise ValueError(msg)
    boxes: np.ndarray = np.asarray(stored, dtype=np.float64)[section.rows] * section.image_scale
    if not ((boxes[:, :2] < section.centres) & (section.centres < boxes[:, 2:])).all():
        msg = f"Section {section.name!r}: obsm['niches'] and the spots lie apart. Run stpredict.pp.niches again."
        raise ValueError(msg)
    return boxes


def niche_windows(section: Section) -> tuple[float | np.ndarray, np.ndarray]:
    """Side (µm; one for all, or one per spot) and centre (n, 2; pixels) of the squares that encoders read as niches.

    A box becomes the square around its centre that holds it.
    """
    niche = Niche.of(section)
    if niche.members == "window":
        return niche.um, section.centres
    low, high = np.hsplit(boxes_of(section), 2)
    return (high - low).max(axis=1) * section.mpp, (low + high) / 2


def _tiles(section: Section) -> Mapping[str, Any]:
    geometry: Mapping[str, Any] = section.adata.uns.get(keys.TILES, {}).get(section.name, {})
    return geometry
