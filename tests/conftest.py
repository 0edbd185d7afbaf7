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
