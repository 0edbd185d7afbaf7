"""Fixtures that every test may use."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

# Before numpy and torch start their threads. The networks of the tests are small, so more threads make nothing faster,
# and where the test processes have more threads than there are cores, each waits for the others: tests of one second
# then take a minute or two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl
import numpy as np
import pytest
from anndata import AnnData

import stpredict as st

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _one_thread():
    """Give torch its one thread back: other libraries, called by an earlier test, may have set another number."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _no_figure_left():
    """Close what a test has drawn, so that no later test of the same process counts it as its own."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def _simulated():
    return st.datasets.simulate(2)


@pytest.fixture
def section(_simulated):
    """A fresh copy of one simulated section."""
    return _simulated[0].copy()


@pytest.fixture
def two_sections(_simulated):
    """Fresh copies of two simulated sections, of two patients."""
    return [adata.copy() for adata in _simulated]


@pytest.fixture
def real():
    """Load a real section by dataset and name, or skip where the real data are absent."""

    def load(dataset: str, section: str):
        if section not in _available(dataset):
            pytest.skip(f"real section {dataset}/{section} is not in STPREDICT_DATA ({st.settings.data_dir})")
        return getattr(st.datasets, dataset)(section)

    return load


@pytest.fixture
def her2st_c2(real):
    """Section C2 of her2st."""
    return real("her2st", "C2")


def _available(dataset: str) -> list[str]:
    folder = {"mob": "mob_spacest"}.get(dataset, dataset)
    try:
        return list(st.datasets.available(folder))
    except (FileNotFoundError, ValueError, KeyError):
        return []


@pytest.fixture
def assert_same():
    """Compare two AnnData slot by slot and value by value; NaN equals NaN."""
    from anndata.tests.helpers import assert_equal

    def without_nan(adata):
        adata = adata.copy()
        for slot in (adata.obsm, adata.layers):
            for key, values in slot.items():
                slot[key] = np.nan_to_num(values) if isinstance(values, np.ndarray) else values
        if isinstance(adata.X, np.ndarray):
            adata.X = np.nan_to_num(adata.X)
        return adata

    def compare(one, other):
        assert_equal(without_nan(one), without_nan(other), exact=True)

    return compare


@pytest.fixture(scope="session")
def paired():
    """Make small sections whose features, under ``X_fake`` and ``X_fake_niche``, drive their counts; no image."""

    def make(n_sections=1, *, side=9, n_genes=15, depth=4000, effect=0.6, seed=0, patients=None):
        out = [_paired_section(i, side, n_genes, depth, effect, seed) for i in range(n_sections)]
        for i, adata in enumerate(out):
            adata.obs["patient"] = patients[i] if patients else f"P{i}"
        return out[0] if n_sections == 1 else out

    return make


def _paired_section(number: int, side: int, n_genes: int, depth: float, effect: float, seed: int) -> AnnData:
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, number])
    n = side * side
    features = own.standard_normal((n, 6))
    loadings = shared.standard_normal((6, n_genes)) * effect
    rate = np.exp(shared.standard_normal(n_genes) + features @ loadings)
    fraction = rate / rate.sum(axis=1, keepdims=True)
    totals = depth * np.exp(0.3 * own.standard_normal(n))
    adata = AnnData(own.poisson(totals[:, None] * fraction).astype(np.float32))
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    adata.obs_names = [f"s{number}_{i}" for i in range(n)]
    rows, columns = np.divmod(np.arange(n), side)
    adata.obsm["spatial"] = np.column_stack([columns, rows]) * 100.0 + 50
    adata.uns["spatial"] = {
        f"section{number}": {"images": {}, "scalefactors": {}, "metadata": {"spot_pitch_um": 100.0}}
    }
    record = {"encoder": "fake", "encoder_hash": "f00d", "spot_um": 112.0, "niche_um": 560.0, "mpp": 1.0}
    for key, values in (("X_fake", features[:, :4]), ("X_fake_niche", features[:, 4:])):
        adata.obsm[key] = values.astype(np.float32)
        adata.uns[key] = dict(record)
    adata.layers["truth"] = np.log1p(1e4 * fraction)
    return adata


@pytest.fixture(scope="session")
def attentive():
    """Simulated section with nuclei, and a small ALIGN-ST of two members that attends to them and to genes; read only."""
    adata = st.datasets.simulate()
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    st.pp.nuclei(adata, show_progress=False)
    how = {"epochs": 1, "members": 2, "width": 16, "axes": 6, "show_progress": False}
    genes = adata.var_names[:40]
    return adata, st.tl.train(adata, method="align_st", genes=genes, nuclei=True, gene_neighbours=8, **how)


@pytest.fixture
def script(monkeypatch):
    """Import a script of ``scripts`` by name."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "scripts"), *sys.path])
    return importlib.import_module
