"""Fixtures that every test may use."""

from __future__ import annotations

import matplotlib as mpl
import pytest

import stpredict as st

mpl.use("Agg")


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
