"""The whole way, as a user goes it: from sections to genes in `layers`, to a tumour map."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

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


@pytest.fixture(scope="module")
def simulated():
    sections = st.datasets.simulate(4, seed=11)
    for adata in sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    return sections


def mean_pcc(train, test, method, genes):
    model = st.tl.train(train, method=method, genes=genes)
    st.tl.predict_expression(test, model)
    return st.tl.evaluate(test, metrics="pcc")["value"].mean()


def test_simulated_tissue_is_learnable_and_shuffled_tiles_are_not(simulated):
    *train, new = [adata.copy() for adata in simulated]
    genes = [g for g in st.pp.gene_panel(train, n_top=100) if train[0].var.loc[g, "truth_programme"] != "housekeeping"]
    ridge, knn, density, mean = (mean_pcc(train, new, m, genes) for m in ("ridge", "knn", "density", "mean"))
    assert mean == 0
    assert min(ridge, knn) > density + 0.1
    truth = st.tl.evaluate(new, predicted="truth", panels={"p": genes}, metrics="pcc")["value"].mean()
    assert 0.6 * truth < ridge < truth < 0.9

    rng = np.random.default_rng(0)
    for adata in train:
        order = rng.permutation(adata.n_obs)
        for key in ("X_morphology", "X_morphology_niche"):
            adata.obsm[key] = adata.obsm[key][order]
    assert abs(mean_pcc(train, new, "ridge", genes)) < 0.08


def test_ten_lines_and_a_round_trip(simulated, tmp_path):
    *train, new = [adata.copy() for adata in simulated]
    counts = new.X.copy()
    model = st.tl.train(train, method="ridge", genes=st.pp.gene_panel(train, n_top=150))
    st.tl.predict_expression(new, model, std=True)
    st.tl.localize_tumor(new, markers="breast", label_key="region")
    assert (counts != new.X).nnz == 0
    assert new.layers["predicted"].dtype == np.float32
    assert new.var["predicted"].sum() == 150
    tumour = new.obs["region"] == "tumor"
    assert new.obs["tumor_score"][tumour].mean() > new.obs["tumor_score"][~tumour].mean() + 0.5
    assert new.uns["tumor"]["auroc"]["sim_4"] > 0.9

    new.write_h5ad(tmp_path / "new.h5ad")
    again = ad.read_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(again.layers["predicted"], new.layers["predicted"])
    new.write_zarr(tmp_path / "new.zarr")
    model.save(tmp_path / "model")
    st.tl.predict_expression(again, st.models.load(tmp_path / "model"), key_added="loaded")
    np.testing.assert_array_equal(again.layers["loaded"], new.layers["predicted"])


def test_a_slide_without_any_gene_gets_them_all(simulated):
    *train, new = [adata.copy() for adata in simulated]
    model = st.tl.train(train, genes=["ERBB2", "COL1A1", "CD74"], method="ridge")
    bare = new[:, []].copy()
    st.tl.predict_expression(bare, model)
    assert list(bare.obsm["predicted_genes"].columns) == ["ERBB2", "COL1A1", "CD74"]
    st.tl.predict_expression(new, model)
    np.testing.assert_allclose(
        bare.obsm["predicted_genes"]["CD74"], new.layers["predicted"][:, new.var_names.get_loc("CD74")]
    )


def test_her2st_unseen_section_reaches_its_floors(real):
    """Leave one section out over C2 … C5; every panel and penalty is chosen on the other sections."""
    sections = {name: real("her2st", name) for name in ("B4", "C2", "C3", "C4", "C5")}
    for adata in sections.values():
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    scores = []
    for test in ("C2", "C3", "C4", "C5"):
        train = [adata for name, adata in sections.items() if name != test]
        top = st.pp.gene_panel(train, n_top=1000)
        panels = {"HEG": top[:50], "HVG": st.pp.gene_panel(train, kind="hvg", n_top=250), "markers": MARKERS}
        genes = list(dict.fromkeys([*top, *panels["HVG"], *MARKERS]))
        new = sections[test].copy()
        st.tl.predict_expression(new, st.tl.train(train, genes=genes, method="ridge"))
        scores.append(st.tl.evaluate(new, panels=panels, metrics="pcc").groupby("panel")["value"].mean())
    mean = pd.DataFrame(scores).mean()
    assert mean["HEG"] >= 0.27
    assert mean["HVG"] >= 0.25
    assert mean["markers"] >= 0.37
