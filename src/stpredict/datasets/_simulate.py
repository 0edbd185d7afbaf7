"""Simulated sections: an H&E-like image and counts that follow from it, with the truth held back beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._sections.totals import row_sums
from stpredict.datasets import _simulated_counts as counts
from stpredict.datasets._simulated_image import render
from stpredict.datasets._simulated_tissue import (
    ADIPOSE,
    CELL,
    GLASS,
    IMMUNE,
    REGIONS,
    SIDE,
    STROMA,
    TUMOR,
    at,
    grow_tissue,
    place_nuclei,
    smooth_noise,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.datasets._simulated_tissue import Nuclei, Tissue

PITCH_UM, SPOT_UM = 100.0, 55.0

PURE = 0.95
"""Share of a spot that must lie in one region for the spot to have a domain."""


def simulate(
    n_sections: int = 1,
    *,
    seed: int = 0,
    sections_per_patient: int = 1,
    signal: float = 1.0,
    hidden: float = 0.6,
    region_scale: float = 1.0,
) -> AnnData | list[AnnData]:
    """Simulate Visium sections of a carcinoma: an H&E-like image, counts that depend on it, and the truth.

    Tumour nests, stroma, lymphocytes and fat are laid out at random, filled with nuclei and fibres, and stained. Each
    of 192 genes (real human symbols) follows programmes, whose activity is given by the tissue inside the spot, times
    a smooth factor that no image shows. Some programmes show as colour (stroma, fat, lymphocytes), some only as
    texture (``fibrosis``: straight, contrasted fibres) or nuclear size (``proliferation``), ``interferon`` hardly at
    all; housekeeping genes and those of no programme do not vary. Stain, scanner and expression differ between
    patients, and few molecules are counted, so no model can reach a correlation of 1.

    Parameters
    ----------
    n_sections
        Number of sections. A section is the same however many follow it.
    seed
        Seed; the same seed gives the same bits. The roles of genes do not depend on it.
    sections_per_patient
        Consecutive sections of one patient share the batch effect of expression, not the tissue.
    signal
        Strength of the programmes; 0 leaves no biology, only noise.
    hidden
        Standard deviation of the log of the factor that no image shows; at 0 the image shows all of the variation.
    region_scale
        Width of the regions as a multiple of the usual, which is a few spots. A quarter of the spots then lie on a
        border, where no method can name the region for sure; at 2 it is a sixth.

    Returns
    -------
    One AnnData if `n_sections` is 1, else a list of them, each with

    - ``X``: raw counts, CSR float32 (spots, genes).
    - ``obs``: ``section``, ``patient``, ``region`` (tumor, stroma, immune, adipose), ``domain`` (the same, but
      missing for spots on a border, with less than 95 % in one region), ``in_tissue``, ``array_row``, ``array_col``,
      ``total_counts`` and the held-back ``truth_nuclei`` (in the spot) and ``truth_<programme>`` (activity).
    - ``var["truth_programme"]``: the programme that drives each gene.
    - ``layers["truth"]``: noise-free expected expression, log1p of counts per 10,000, float32.
    - ``obsm["spatial"]``: spot centres (x, y) in pixels of 1 µm.
    - ``uns["spatial"][library]``: the full-resolution image, scale factors and metadata.
    - ``uns["truth"]``: ``nuclei`` (n, 4; x, y, area in µm², type) and ``types``, the names of the type codes.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> adata.obs["region"].cat.categories.tolist()
    ['tumor', 'stroma', 'immune', 'adipose']
    >>> first, second = st.datasets.simulate(2, seed=1)
    >>> first.obs["patient"].iloc[0], second.obs["patient"].iloc[0]
    ('P1', 'P2')
    """
    for name, value, least in (
        ("n_sections", n_sections, 1),
        ("sections_per_patient", sections_per_patient, 1),
        ("seed", seed, 0),
        ("signal", signal, 0),
        ("hidden", hidden, 0),
    ):
        if value < least:
            msg = f"{name} must be at least {least}, got {value!r}."
            raise ValueError(msg)
    if not 0.5 <= region_scale <= 4:
        msg = f"region_scale must lie between 0.5 and 4, got {region_scale!r}."
        raise ValueError(msg)
    sections = [
        _section(i, i // sections_per_patient, seed=seed, signal=signal, hidden=hidden, region_scale=region_scale)
        for i in range(n_sections)
    ]
    return sections[0] if n_sections == 1 else sections


def _section(index: int, patient: int, *, seed: int, signal: float, hidden: float, region_scale: float) -> AnnData:
    """Section `index` of `simulate`."""
    from anndata import AnnData
    from scipy import sparse

    rng = [np.random.default_rng([seed, index, part]) for part in range(3)]
    tissue = grow_tissue(rng[0], region_scale)
    nuclei = place_nuclei(rng[0], tissue)
    image = render(rng[1], tissue, nuclei)
    spots = _spots(tissue)
    truth = _measure(spots[["x", "y"]].to_numpy(), tissue, nuclei, rng[2], hidden)
    factor = counts.batch_factor(np.random.default_rng([seed, patient, 3]))
    activity = truth[[f"truth_{name}" for name in counts.DRIVEN]].to_numpy()
    fraction = counts.expected_fraction(activity, factor, signal)
    seen = counts.draw_counts(rng[2], fraction, truth["truth_nuclei"].to_numpy())

    library = f"sim_{index + 1}"
    obs = spots[["in_tissue", "array_row", "array_col"]].assign(section=library, patient=f"P{patient + 1}", **truth)
    obs.index = [f"{library}_{row}x{column}" for row, column in zip(obs["array_row"], obs["array_col"], strict=True)]
    adata = AnnData(sparse.csr_matrix(seen.astype(np.float32)), obs=obs)
    adata.obs[keys.TOTAL_COUNTS] = row_sums(adata.X)
    adata.var_names = counts.GENES
    adata.var["truth_programme"] = counts.PROGRAMME_OF
    adata.strings_to_categoricals()
    adata.layers["truth"] = np.log1p(1e4 * fraction).astype(np.float32)
    adata.obsm[keys.SPATIAL] = spots[["x", "y"]].to_numpy(copy=True)
    adata.uns[keys.SPATIAL] = {library: _library(image)}
    table = np.column_stack([nuclei.xy, nuclei.area, nuclei.kind]).astype(np.float32)
    adata.uns["truth"] = {"nuclei": table, "types": list(REGIONS)}
    return adata


def _spots(tissue: Tissue) -> pd.DataFrame:
    """Visium's hexagonal lattice over the tissue; in Visium's numbering a row has every other column."""
    import pandas as pd

    row, half = np.divmod(np.arange(64 * 64), 64)
    spots = pd.DataFrame({"in_tissue": 1, "array_row": row, "array_col": 2 * half + row % 2})
    spots["x"] = (spots["array_col"] + 1) * PITCH_UM / 2
    spots["y"] = (spots["array_row"] + 0.6) * PITCH_UM * np.sqrt(0.75)
    spots = spots[(spots[["x", "y"]] < SIDE - SPOT_UM / 2).all(axis=1)].reset_index(drop=True)
    covered = _disc_means(spots[["x", "y"]].to_numpy(), tissue.region != GLASS)
    return spots[covered > 0.6].reset_index(drop=True)


def _measure(
    centres: np.ndarray, tissue: Tissue, nuclei: Nuclei, rng: np.random.Generator, hidden: float
) -> pd.DataFrame:
    """What lies inside each spot: nuclei, region by majority, and programme activities.

    An activity is the amount of what the image shows (0 to about 1) times a smooth factor that it does not show.
    """
    import pandas as pd

    def per_spot(chosen: np.ndarray, value: np.ndarray | float = 1.0) -> np.ndarray:
        weights = chosen * value
        return np.bincount(spot[inside], weights[inside], minlength=len(centres))

    spot, inside = _inside(centres, nuclei.xy)
    region = np.stack([_disc_means(centres, tissue.region == code) for code in range(len(REGIONS))])
    share = [_disc_means(centres, tissue.compartment == code) for code in range(len(REGIONS))]
    density, alignment = _disc_means(centres, tissue.density), _disc_means(centres, tissue.alignment)
    visible = {
        "tumor": per_spot(nuclei.kind == TUMOR) / 15,
        "proliferation": per_spot(nuclei.kind == TUMOR, nuclei.grade**2) / 6,
        "stroma": share[STROMA] * (0.3 + 0.9 * density),
        "fibrosis": share[STROMA] * 1.5 * alignment**2,
        "immune": per_spot(nuclei.kind == IMMUNE) / 22,
        "interferon": np.full(len(centres), 0.3),
        "adipose": share[ADIPOSE],
        "endothelial": 0.5 * share[STROMA] + 0.2,
    }
    code = region.argmax(axis=0)
    pure = region.max(axis=0) >= PURE * region.sum(axis=0)
    obs = pd.DataFrame({"region": pd.Categorical.from_codes(code, REGIONS)})
    obs["domain"] = pd.Categorical.from_codes(np.where(pure, code, -1), REGIONS)
    obs["truth_nuclei"] = per_spot(np.ones(len(nuclei.xy))).astype(int)
    for name, amount in visible.items():
        obs[f"truth_{name}"] = amount * np.exp(hidden * at(smooth_noise(rng, 90), centres))
    return obs


def _disc_means(centres: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Mean of a coarse map over each spot."""
    offset = (np.arange(-7, 8) * CELL).astype(float)
    disc = np.stack(np.meshgrid(offset, offset), axis=-1).reshape(-1, 2)
    disc = disc[np.hypot(*disc.T) < SPOT_UM / 2]
    return at(field, (centres[:, None] + disc).reshape(-1, 2)).reshape(len(centres), -1).mean(axis=1)


def _inside(centres: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest spot for each point, and whether the point lies inside of it."""
    from scipy.spatial import cKDTree

    distance, spot = cKDTree(centres).query(points)
    return spot, distance < SPOT_UM / 2


def _library(image: np.ndarray) -> dict[str, Any]:
    factors = {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": SPOT_UM, "microns_per_pixel": 1.0}
    metadata = {"technology": "simulated Visium", "spot_pitch_um": PITCH_UM, "spot_diameter_um": SPOT_UM}
    return {"images": {"hires": image}, "scalefactors": factors, "metadata": metadata}
