"""What several benchmarks share: markers, encoders, gene panels and how numbers are printed."""

from __future__ import annotations

import resource
import time

import numpy as np

import stpredict as st

MARKERS = [
    "ERBB2",
    "GNAS",
    "FASN",
    "MKI67",
    "CD74",
    "COL1A1",
    "KRT8",
    "KRT18",
    "EPCAM",
    "FN1",
    "HLA-DRA",
    "DDX5",
    "XBP1",
    "B2M",
]
ENCODERS = ("morphology", "efficientnet_lite0")
FEATURES = [f"X_{name}_560{part}" for name in ENCODERS for part in ("", "_niche")]
C = ("C2", "C3", "C4", "C5")
"""Sections of patient C of her2st."""


def encoded(adata, names, niches, mpp=None):
    for niche_um in niches:
        st.pp.tiles(adata, niche_um=niche_um)
        for name in names:
            st.pp.encode(adata, name, key_added=f"X_{name}_{niche_um:g}", mpp=mpp, show_progress=False)
    return adata


def her2st():
    """Encoded sections B4 and C2 … C5, and the counts-only sections."""
    sections = [encoded(st.datasets.her2st(name), ENCODERS, [560.0]) for name in ("B4", *C)]
    others = [st.datasets.her2st_counts_only(name) for name in st.datasets.available("her2st_counts_only")]
    return sections, others


def halves(whole, axis: int):
    """The two ends of a section along x (0) or y (1), without the 1.6 mm between them."""
    place = whole.obsm["spatial"][:, axis]
    distance = (place - np.median(place)) * next(iter(whole.uns["tiles"].values()))["mpp"]
    return whole[distance < -800].copy(), whole[distance > 800].copy()


def panels(train) -> dict[str, list[str]]:
    top = st.pp.gene_panel(train, n_top=1000)
    chosen = {"HEG": top[:50], "HVG": st.pp.gene_panel(train, kind="hvg", n_top=250), "all": top}
    markers = [gene for gene in MARKERS if all(gene in adata.var_names for adata in train)]
    return chosen | ({"markers": markers} if markers else {})


def timer(told: dict):
    """A function that makes a call and notes in `told` its seconds, and the peak of memory in GiB until then."""

    def timed(name, call):
        start = time.perf_counter()
        value = call()
        told[name] = time.perf_counter() - start
        told[f"{name} peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return value

    return timed


def cell(value, digits: int = 2) -> str:
    return value if isinstance(value, str) else f"{value:.{digits}f}" if np.isfinite(value) else "–"


def table(columns, rows, digits: int = 2) -> None:
    """Print a table with one number per cell."""
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        print(f"| {' | '.join(cell(value, digits) for value in row)} |", flush=True)
    print()
