"""Sections that figures are drawn of, and what is read off the figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection

import stpredict as st


@pytest.fixture
def predicted(section):
    """A section with a prediction for all but one gene, and one gene beyond ``var``."""
    rng = np.random.default_rng(0)
    layer = section.layers["truth"] + 0.1 * rng.standard_normal(section.shape).astype(np.float32)
    layer[:, section.var_names == "LUM"] = np.nan
    layer[:5] = np.nan
    section.layers["predicted"] = layer
    section.obsm["predicted_genes"] = pd.DataFrame({"VEGFA": rng.random(section.n_obs)}, index=section.obs_names)
    return section


@pytest.fixture
def mapped(section):
    st.tl.localize_tumor(section, layer=None, markers=["ERBB2", "EPCAM", "KRT8"], threshold=0.3, label_key="region")
    return section


@pytest.fixture(params=["tiles", "expression", "compare", "tumor"])
def draw(request, mapped):
    """One of the figures as a function of the common options, and its number of panels."""
    calls = {
        "tiles": (lambda **k: st.pl.tiles(mapped, n=2, **k), 2),
        "expression": (lambda **k: st.pl.expression(mapped, ["ERBB2", "FASN"], layer="truth", **k), 2),
        "compare": (lambda **k: st.pl.compare(mapped, "ERBB2", predicted="truth", **k), 3),
        "tumor": (lambda **k: st.pl.tumor(mapped, **k), 3),
    }
    return calls[request.param]


@pytest.fixture
def spots_of():
    """The spots drawn on an axes."""

    def read(ax):
        (collection,) = [c for c in ax.collections if isinstance(c, EllipseCollection)]
        return collection

    return read


@pytest.fixture
def column():
    """A gene's values in a layer."""
    return lambda adata, layer, gene: adata.layers[layer][:, adata.var_names == gene].ravel()


@pytest.fixture
def log_cp10k():
    """A gene's counts as log1p of counts per 10,000, by hand."""

    def compute(adata, gene):
        counts = adata.X.toarray()
        return np.log1p(1e4 * counts[:, adata.var_names == gene].ravel() / counts.sum(axis=1))

    return compute
