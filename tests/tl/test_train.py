from __future__ import annotations

import numpy as np
import pytest

import stpredict as st

GENES = ["GENE0", "GENE5", "GENE9"]


def test_training_leaves_sections_as_they_are(paired, assert_same):
    sections = paired(3)
    before = [adata.copy() for adata in sections]
    model = st.tl.train(sections, genes=GENES, method="ridge")
    for adata, copy in zip(sections, before, strict=True):
        assert_same(adata, copy)
    assert model.genes == GENES
    assert model.method == "ridge"
    assert list(model.config["features"]) == ["X_fake", "X_fake_niche"]
    assert model.config["groups"] == ["P0", "P1", "P2"]


def test_genes_default_to_the_panel_of_the_training_sections(paired):
    sections = paired(2)
    assert st.tl.train(sections, method="ridge").genes == st.pp.gene_panel(sections, n_top=1000)


def test_inner_folds_hold_out_patients_and_without_them_sections(paired):
    sections = paired(6, patients=["A", "A", "B", "B", "C", "C"])
    assert st.tl.train(sections, genes=GENES, method="ridge").history.notes[0] == "inner folds hold out groups (3)"
    for adata in sections:
        del adata.obs["patient"]
    assert st.tl.train(sections, genes=GENES, method="ridge").history.notes[0] == "inner folds hold out groups (6)"
    sections[0].obs["patient"] = "A"
    with pytest.raises(KeyError, match=r"Section 'section1' has no obs\['patient'\]"):
        st.tl.train(sections, genes=GENES, method="ridge")


def test_history_tells_what_was_tried(paired):
    model = st.tl.train(paired(3), genes=GENES, method="ridge")
    values = model.history.values
    assert len(values["inner_pcc"]) == len(values["alpha"])
    assert model.config["alpha"] == values["alpha"][int(np.argmax(values["inner_pcc"]))]


def test_shallow_spots_are_not_learned_from(paired):
    sections = paired(2)
    sections[0].X[:30] = 0
    model = st.tl.train(sections, method="knn", genes=GENES)
    assert len(model.arrays["bank"]) == 2 * 81 - 30
    with pytest.raises(ValueError, match=r"Only 0 spots have min_counts=1000000 counts.*Lower min_counts"):
        st.tl.train(sections, genes=GENES, min_counts=1_000_000, method="ridge")


def test_several_sections_in_one_anndata_are_the_same_as_a_list(paired):
    import anndata

    sections = paired(3)
    for adata in sections:
        adata.obs["library_id"] = next(iter(adata.uns["spatial"]))
    together = anndata.concat(sections, merge="same", uns_merge="first")
    together.uns["spatial"] = {k: v for adata in sections for k, v in adata.uns["spatial"].items()}
    apart = st.tl.train(sections, genes=GENES, method="ridge")
    joined = st.tl.train(together, genes=GENES, method="ridge")
    np.testing.assert_allclose(joined.arrays["weights"], apart.arrays["weights"], atol=1e-6)


def test_features_of_choice(paired):
    model = st.tl.train(paired(2), genes=GENES, features="X_fake", method="ridge")
    assert list(model.config["features"]) == ["X_fake"]
    assert model.config["n_design"] == 4


def nan_counts(adata):
    adata.X[0, 0] = np.nan


def negative_counts(adata):
    adata.X[0, 0] = -1


def log_counts(adata):
    adata.X = np.log1p(adata.X)


def duplicated_genes(adata):
    adata.var_names = ["GENE0", *adata.var_names[:-1]]


def no_coordinates(adata):
    del adata.obsm["spatial"]


def no_features(adata):
    del adata.obsm["X_fake"], adata.obsm["X_fake_niche"]


def other_encoder(adata):
    adata.uns["X_fake"]["encoder"] = "uni2-h"


def lost_gene(adata):
    adata.var_names = ["OTHER", *adata.var_names[1:]]


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (nan_counts, ValueError, "NaN or infinite values; raw counts are needed"),
        (negative_counts, ValueError, "negative values; raw counts are needed"),
        (log_counts, ValueError, r"fractional values.*layers\['counts'\]"),
        (duplicated_genes, ValueError, r"duplicated gene names.*var_names_make_unique"),
        (no_coordinates, KeyError, r"obsm\['spatial'\] is missing"),
        (no_features, ValueError, r"different image features.*section1: none.*encode on all"),
        (other_encoder, ValueError, r"encoder=uni2-h, where the model was trained on fake.*pp.encode\(adata, 'fake'"),
        (
            lost_gene,
            ValueError,
            r"'section1' does not measure GENE0\. Drop them, or take genes that all sections share",
        ),
    ],
)
def test_bad_sections_are_refused(paired, damage, error, message, assert_same):
    sections = paired(2)
    damage(sections[1])
    before = sections[1].copy()
    with pytest.raises(error, match=message):
        st.tl.train(sections, genes=GENES, method="ridge")
    assert_same(sections[1], before)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"method": "magic"},
            r"method must be one of 'consensus', 'mean', 'density', .*'cmrcnet', 'st_align', 'align_st'; got 'magic'",
        ),
        ({"genes": []}, "genes is empty"),
        ({"genes": ["GENE0", "GENE0"]}, "GENE0 more than once"),
        ({"features": "X_none"}, r"no features obsm\['X_none'\] \(it has X_fake, X_fake_niche\).*pp.encode"),
    ],
)
def test_bad_arguments_are_refused(paired, kwargs, message):
    with pytest.raises(ValueError, match=message):
        st.tl.train(paired(2), **{"genes": GENES, **kwargs})


@pytest.mark.parametrize(("n", "message"), [(0, "has no spots"), (1, r"has only 1 spot\(s\)")])
def test_zero_spots_and_one_spot_are_refused(paired, n, message):
    first, second = paired(2)
    with pytest.raises(ValueError, match=f"'section1' {message}; at least 2 are needed"):
        st.tl.train([first, second[:n].copy()], genes=GENES, method="ridge")


def test_nothing_and_other_things_are_refused():
    with pytest.raises(ValueError, match="No sections given"):
        st.tl.train([], method="ridge")
    with pytest.raises(TypeError, match="Expected an AnnData or a SpatialData, got int"):
        st.tl.train(2, method="ridge")
    with pytest.raises(TypeError, match=r"cannot stream sections from disk: .*anndata\.read_h5ad"):
        st.tl.train("C2.h5ad", method="ridge")


def test_other_names_of_a_gene_are_pointed_out(paired):
    adata = paired()
    adata.var_names = ["ENSG00000141736", *adata.var_names[1:]]
    with pytest.raises(ValueError, match=r"names some of them differently \(ENSG00000141736 for ERBB2\)"):
        st.tl.train(adata, genes=["ERBB2"], method="ridge")


def test_simulated_tissue_is_learned_by_image_and_not_by_chance(two_sections):
    """The whole way: encode, train on one patient, predict the other; shuffled tiles fall to chance."""
    train, new = two_sections
    for adata in two_sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    model = st.tl.train(train, method="ridge")
    st.tl.predict_expression(new, model)
    driven = {"tumor": ["ERBB2", "FASN", "EPCAM", "KRT8"], "stroma": ["COL1A1", "DCN", "SPARC", "LUM"]}
    pcc = st.tl.evaluate(new, panels=driven, metrics="pcc")["value"].mean()
    order = np.random.default_rng(0).permutation(new.n_obs)
    for key in ("X_morphology", "X_morphology_niche"):
        new.obsm[key] = new.obsm[key][order]
    st.tl.predict_expression(new, model)
    shuffled = st.tl.evaluate(new, panels=driven, metrics="pcc")["value"].mean()
    assert pcc > 0.4
    assert abs(shuffled) < 0.12


def test_real_tissue_of_a_known_patient_is_predicted(real):
    """her2st C3 and C4 train, C2 tests: far above chance, and far from the ceiling."""
    train, new = [real("her2st", "C3"), real("her2st", "C4")], real("her2st", "C2")
    for adata in (*train, new):
        adata.var_names_make_unique()
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    markers = ["ERBB2", "FASN", "COL1A1", "CD74", "HLA-DRA", "FN1", "KRT8", "B2M"]
    model = st.tl.train(train, genes=markers, method="ridge")
    st.tl.predict_expression(new, model)
    table = st.tl.evaluate(new, metrics=["pcc", "ceiling"]).groupby("metric")["value"].mean()
    assert 0.3 < table["pcc"] < table["ceiling"] < 0.95


@pytest.mark.parametrize("method", list(st.models.METHODS))
@pytest.mark.parametrize("name", ["epohcs", "temprature"])
def test_a_misspelt_option_is_refused_even_if_it_is_none(paired, method, name):
    with pytest.raises(TypeError, match=name):
        st.tl.train(paired(2), method=method, **{name: None})


def test_none_is_taken_where_an_option_has_it_for_a_value(paired):
    from stpredict.models.fit import own_arguments

    network = st.models.METHODS["cmrcnet"]
    assert own_arguments(network, {"rebuilt": None, "width": None, "preset": None}) == {"rebuilt": None}
