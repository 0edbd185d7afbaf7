"""From a whole-slide image on which nothing was measured to genes, on real tissue."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as st

pytestmark = pytest.mark.skipif(
    not {"C2", "C3", "C4"} <= set(st.datasets.available("her2st")),
    reason="needs the real sections of her2st in STPREDICT_DATA",
)
GENES = ["ERBB2", "GNAS", "FASN", "CD74", "COL1A1", "KRT18", "FN1", "XBP1", "B2M", "TMSB10"]


@pytest.fixture(scope="module")
def sections():
    loaded = {name: st.datasets.her2st(name) for name in ("C2", "C3", "C4")}
    for adata in loaded.values():
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    return loaded


def correlation(predicted, measured):
    return np.mean([np.corrcoef(predicted[gene], measured[gene])[0, 1] for gene in GENES])


def test_an_image_without_spots_is_predicted_as_well_as_a_measured_section(sections, tmp_path):
    from scipy.spatial import cKDTree

    measured = sections["C2"]
    model = st.tl.train([sections["C3"], sections["C4"]], genes=GENES, method="ridge")
    at_spots = st.tl.predict_expression(measured, model, as_anndata=True)

    library = next(iter(measured.uns["spatial"].values()))
    image, mpp = (
        library["metadata"]["source_image_path"],
        measured.uns["tiles"][next(iter(measured.uns["tiles"]))]["mpp"],
    )
    grid = st.io.grid(st.read_wsi(image, mpp), pitch_um=100)
    st.pp.tiles(grid)
    st.pp.encode(grid, show_progress=False)
    st.tl.predict_expression(grid, model)

    distance, nearest = cKDTree(grid.obsm["spatial"]).query(measured.obsm["spatial"])
    near = distance * mpp < 60
    assert near.mean() > 0.95
    counts = measured[near].to_df()
    truth = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e4)
    of_grid = grid.obsm["predicted_genes"].iloc[nearest[near]]
    assert correlation(of_grid, truth) > 0.9 * correlation(at_spots[near].to_df(), truth) > 0.2
