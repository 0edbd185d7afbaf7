"""`Section`: one slide as everything below `tl` sees it, whichever container it lives in."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import check_unique_genes, raw_counts
from stpredict._images.stain import normalised
from stpredict._sections.scale import (
    Lattice,
    ScaleHints,
    check_coordinates,
    check_image_file,
    check_inside,
    find_lattice,
    lattice_mpp,
    resolve_mpp,
)
from stpredict._sections.totals import known_totals, row_sums, warn_of_few_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from stpredict._core.typing import Matrix
    from stpredict._images import SlideImage


class Section:
    """One slide: an image read lazily, spot centres on it, the scale, and the spots' expression and features.

    All coordinates are (x, y) in pixels of ``image`` at its finest level, and ``mpp`` is the size of those pixels, so
    nothing downstream needs to know whether the image is the full-resolution one or a downscaled stand-in.
    `stpredict._sections.open` makes sections of what users pass; a section itself knows no container but its table.

    Attributes
    ----------
    name
        Library id.
    adata
        The table that the section lives in; results are written there.
    rows
        Row numbers of the section's spots in ``adata``.
    centres
        (n, 2) float64, (x, y) in pixels of ``image``.
    image_scale
        Pixels of ``image`` per unit of the container's own coordinates: 1 for a full-resolution image.
    has_image
        Whether the container names an image at all; it is opened, and found missing or damaged, at ``image``.
    """

    def __init__(
        self,
        *,
        name: str,
        adata: AnnData,
        rows: np.ndarray,
        centres: np.ndarray,
        open_image: Callable[[], SlideImage],
        hints: ScaleHints,
        image_scale: float = 1.0,
        has_image: bool = True,
    ) -> None:
        self.name = name
        self.adata = adata
        self.rows = rows
        self.centres = centres * image_scale
        self._open_image = open_image
        self._hints = hints
        self.image_scale = image_scale
        self.has_image = has_image

    def __repr__(self) -> str:
        return f"Section({self.name!r}, {len(self)} spots)"

    def __len__(self) -> int:
        return len(self.rows)

    # ------------------------------------------------------------------ image and scale

    @cached_property
    def image(self) -> SlideImage:
        """The H&E image; every spot centre is known to lie on it.

        Raises ValueError or FileNotFoundError if there is no image, it cannot be read, or spots lie outside of it.
        """
        if len(self) == 0:
            msg = f"Section {self.name!r} has no spots. On a slide without measured spots, stpredict.io.grid lays some."
            raise ValueError(msg)
        check_inside(self.centres, self.slide.shape, self.name, self._hints)
        return self.slide

    @cached_property
    def slide(self) -> SlideImage:
        """The H&E image, whether or not there are spots on it.

        Raises ValueError or FileNotFoundError if there is no image, or it cannot be read.
        """
        return self._open_image()

    @cached_property
    def lattice(self) -> Lattice | None:
        """Spot layout in pixels of ``image``."""
        return find_lattice(self.centres)

    @cached_property
    def _mpp(self) -> tuple[float, str]:
        lattice = find_lattice(self.centres / self.image_scale)
        check_coordinates(self._hints, lattice, self.name)
        hints = self._hints
        if hints.argument is None and hints.metadata is None and hints.remembered is None:
            in_file = (self.image if len(self) else self.slide).mpp if self.has_image else None
            hints = replace(hints, image_file=in_file * self.image_scale if in_file else None)
        mpp, source = resolve_mpp(hints, lattice, self.name)
        return mpp, source

    def check_image_file(self) -> None:
        """Compare the scale with that of the image file, where the lattice of spots does not tell."""
        in_file = self.image.mpp
        if in_file and self.mpp_source != "image file":
            lattice = find_lattice(self.centres / self.image_scale)
            check_image_file(self._hints, lattice, *self._mpp, in_file * self.image_scale, self.name)

    @property
    def mpp(self) -> float:
        """Microns per pixel of ``image`` at its finest level."""
        return self._mpp[0] / self.image_scale

    @property
    def mpp_of_coordinates(self) -> float:
        """Microns per pixel of ``obsm['spatial']``; differs from ``mpp`` where only a downscaled image is at hand."""
        return self._mpp[0]

    @property
    def mpp_source(self) -> str:
        """Where the scale was found."""
        return self._mpp[1]

    @property
    def is_scale_measured(self) -> bool:
        """Whether the distance of measured spots confirms the scale; spots that were laid by the scale do not."""
        lattice = find_lattice(self.centres / self.image_scale)
        is_laid = self._hints.is_laid or not self.adata.n_vars
        return not is_laid and lattice_mpp(self._hints, lattice) is not None

    @property
    def spot_diameter(self) -> float:
        """Diameter of a spot in pixels of ``image``, for drawing: as stated, else half of the spots' distance."""
        if self._hints.spot_diameter_px:
            return self._hints.spot_diameter_px * self.image_scale
        return 0.55 * self.lattice.pitch_px if self.lattice else 55.0 / self.mpp

    def neighbours(self, *, reach: float = 1.5) -> sparse.csr_matrix:
        """(n, n) adjacency of spots at most `reach` pitches apart: 8 on a square lattice, 6 on a hexagonal one."""
        from scipy import sparse
        from sklearn.neighbors import radius_neighbors_graph

        if self.lattice is None:
            return sparse.csr_matrix((len(self), len(self)))
        return radius_neighbors_graph(self.centres, radius=reach * self.lattice.pitch_px)

    # ------------------------------------------------------------------ expression and features

    @property
    def obs_names(self) -> pd.Index:
        """Names of the section's spots."""
        return self.adata.obs_names[self.rows]

    @property
    def genes(self) -> pd.Index:
        """Gene names, checked to be unique."""
        check_unique_genes(self.adata.var_names, f"Section {self.name!r}")
        return self.adata.var_names

    def counts(self) -> Matrix:
        """Raw counts (n spots, n genes), checked.

        Raises ValueError if the counts are missing, NaN, negative or fractional.
        """
        return raw_counts(self.adata)[self.rows]

    def totals(self, counts: Matrix | None = None) -> np.ndarray:
        """float64 (n spots,): total count of every spot over the whole measured transcriptome.

        That is ``obs["total_counts"]`` as readers, `stpredict.pp.qc` or scanpy wrote it before genes were dropped, and
        the sum of `counts` without it. Raises ValueError if genes were dropped, and nothing tells the totals.
        """
        own = row_sums(self.counts() if counts is None else counts)
        known = self._known_totals(own)
        return own if known is None else known

    def lacks_genes(self) -> bool:
        """Whether totals are more than the sums of the counts, since genes were dropped.

        Warns
        -----
        StpredictWarning
            If nothing tells the totals, and there are so few genes that some may have been dropped.
        """
        own = row_sums(self.counts())
        known = self._known_totals(own)
        if known is None:
            warn_of_few_genes(self.adata)
        return known is not None and bool((known > own).any())

    def _known_totals(self, own: np.ndarray) -> np.ndarray | None:
        return known_totals(self.adata, self.rows, own, f"section {self.name!r}")

    def log_expression(self, genes: Iterable[str]) -> np.ndarray:
        """float32 (n spots, genes): log1p of counts per 10,000, by the total over all genes of the section."""
        from scipy import sparse

        genes = list(genes)
        counts = self.counts()
        totals = self.totals(counts)
        columns = self.genes.get_indexer(genes)
        if (columns < 0).any():
            lost = [g for g, c in zip(genes, columns, strict=True) if c < 0]
            msg = f"Section {self.name!r} does not measure {', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}."
            raise KeyError(msg)
        chosen: Any = counts[:, columns]
        dense = np.asarray(chosen.toarray() if sparse.issparse(chosen) else chosen, dtype=np.float64)
        return np.asarray(np.log1p(dense * (1e4 / np.maximum(totals, 1.0))[:, None]), dtype=np.float32)

    def features(self, key: str, part: slice = slice(None)) -> np.ndarray:
        """float32 (n, d): what ``obsm[key]`` holds for this section's spots, or for a `part` of them."""
        if key not in self.adata.obsm:
            known = ", ".join(map(repr, self.adata.obsm)) or "nothing"
            msg = f"Section {self.name!r} has no obsm[{key!r}] (it has {known}): run stpredict.pp.encode first."
            raise KeyError(msg)
        values = self.adata.obsm[key]
        if hasattr(values, "dtypes") and all(dtype.kind in "fiub" for dtype in values.dtypes):
            values = values.to_numpy(np.float32, na_value=np.nan)  # columns of several kinds would become objects
        values = np.asarray(values)
        if values.dtype.kind not in "fiub":
            msg = f"obsm[{key!r}] of section {self.name!r} must be a dense array of real numbers, not {values.dtype}."
            raise TypeError(msg)
        return np.asarray(values[self.rows[part]], dtype=np.float32)

    def record(self, key: str) -> Mapping[str, Any]:
        """How the features under `key` were made (``uns[key]``)."""
        record: Mapping[str, Any] = self.adata.uns.get(key, {})
        return record

    def stained_alike(self) -> Section:
        """View the same slide with its stains normalised, see `stpredict._images.stain`."""
        other = copy(self)
        other.image = normalised(self.image, mpp=self.mpp, name=self.name)
        return other

    def part(self, rows: np.ndarray) -> Section:
        """View of some spots; what belongs to others is out of reach."""
        few = copy(self)
        few.adata, few.rows, few.centres = self.adata[self.rows[rows]], np.arange(len(rows)), self.centres[rows]
        return few

    def without_counts(self, group_key: str | None = keys.PATIENT) -> Section:
        """View the same slide as if nothing had ever been measured on it: image, spots, features and patient, no expression.

        ``obs[group_key]`` names the patient.
        """
        from anndata import AnnData

        blind = copy(self)
        known = self.adata.obs[[name for name in (group_key,) if name in self.adata.obs]].copy()
        niches = {key: self.adata.obsp[key] for key in self.adata.obsp if key == keys.NICHES}
        blind.adata = AnnData(obs=known, obsm=dict(self.adata.obsm), obsp=niches, uns=dict(self.adata.uns))
        return blind
