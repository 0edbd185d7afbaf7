"""Niche windows of several widths: what they hold, who learns from them, and how a new slide gets the same."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as st
from stpredict._evaluation.metrics import pearson

WIDTHS = (336, 560, 1000)


def encoded(n_sections=2, widths=WIDTHS, **how):
    sections = st.datasets.simulate(n_sections, **how)
    for adata in sections:
        st.pp.tiles(adata, niche_um=widths)
        st.pp.encode(adata, show_progress=False)
    return sections


@pytest.fixture(scope="module")
def sections():
    return encoded()


def test_each_width_has_features_of_its_own_that_are_those_of_this_width_alone(sections):
    adata = sections[0]
    assert adata.uns["tiles"]["sim_1"]["niche_um"] == 560
    np.testing.assert_array_equal(adata.uns["tiles"]["sim_1"]["further_um"], [336, 1000])
    st.pp.tiles(alone := st.datasets.simulate(2)[0], niche_um=1000)
    st.pp.encode(alone, show_progress=False)
    same = {"X_morphology": "X_morphology", "X_morphology_niche_1000": "X_morphology_niche"}
    for key, own in same.items():
        np.testing.assert_allclose(adata.obsm[key], alone.obsm[own], rtol=1e-3, atol=1e-4)
    assert [adata.uns[f"X_morphology_niche{end}"]["niche_um"] for end in ("_336", "", "_1000")] == [336, 560, 1000]


def test_without_560_the_first_width_is_the_niche():
    adata = st.datasets.simulate()
    st.pp.tiles(adata, niche_um=(1000, 336))
    assert adata.uns["tiles"]["sim_1"]["niche_um"] == 1000
    np.testing.assert_array_equal(adata.uns["tiles"]["sim_1"]["further_um"], [336])


@pytest.mark.parametrize("widths", [(), (560, 50), (560, np.inf), (560, 560.0)])
def test_widths_that_make_no_sense_are_refused(widths):
    adata = st.datasets.simulate()
    with pytest.raises(ValueError, match="µm"):
        st.pp.tiles(adata, niche_um=widths)
    assert "tiles" not in adata.uns


def test_sections_with_other_widths_are_refused():
    one, other = st.datasets.simulate(2)
    st.pp.tiles(one, niche_um=WIDTHS)
    st.pp.tiles(other, niche_um=560)
    import anndata as ad

    both = ad.concat([one, other], uns_merge="unique", label="library_id", keys=["sim_1", "sim_2"])
    both.uns["spatial"] = one.uns["spatial"] | other.uns["spatial"]
    both.uns["tiles"] = one.uns["tiles"] | other.uns["tiles"]
    with pytest.raises(ValueError, match=r"different widths \(\[\] and \[336.0, 1000.0\] µm\)"):
        st.pp.encode(both, library_key="library_id", show_progress=False)


def test_the_tiles_are_laid_anew_by_one_width(sections):
    adata = sections[0].copy()
    st.pp.tiles(adata)
    assert "further_um" not in adata.uns["tiles"]["sim_1"]


def test_widths_are_chosen_by_what_is_held_out(sections):
    model = st.tl.train(sections, genes=list(sections[0].var_names[:50]), method="ridge")
    note = model.history.notes[-1]
    narrow = st.tl.train(
        sections,
        genes=list(sections[0].var_names[:50]),
        features=["X_morphology", "X_morphology_niche"],
        method="ridge",
    )
    wide = st.tl.train(
        sections,
        genes=list(sections[0].var_names[:50]),
        features=[k for k in sorted(sections[0].obsm) if k.startswith("X_")],
        method="ridge",
    )
    better = max(narrow, wide, key=lambda one: max(one.history.values["inner_pcc"]))
    assert list(model.config["features"]) == list(better.config["features"])
    assert model.history.values == better.history.values
    for one in (narrow, wide):
        assert f"{max(one.history.values['inner_pcc']):.3f}" in note


def test_one_section_cannot_tell_so_the_niche_is_taken(sections):
    model = st.tl.train(sections[:1], genes=list(sections[0].var_names[:50]), method="ridge")
    assert list(model.config["features"]) == ["X_morphology", "X_morphology_niche"]
    assert "one section" in model.history.notes[-1]


@pytest.mark.parametrize("method", ["cmrcnet", "st_align"])
def test_networks_learn_from_all_widths(sections, method):
    keys = [key for key in sorted(sections[0].obsm) if key.startswith("X_")]
    genes = list(sections[0].var_names[:20])
    model = st.tl.train(sections, method=method, genes=genes, features=keys, epochs=1, members=1, show_progress=False)
    assert list(model.config["features"]) == keys
    st.tl.predict_expression(new := sections[0].copy(), model)
    assert pearson(new.layers["truth"][:, :20], new.layers["predicted"][:, :20])[0].mean() > 0.2


def test_a_new_slide_gets_the_widths_of_training_by_following_the_message(sections):
    keys = [key for key in sorted(sections[0].obsm) if key.startswith("X_")]
    model = st.tl.train(sections, genes=list(sections[0].var_names[:20]), features=keys, method="ridge")
    new = st.datasets.simulate(seed=7)
    st.pp.tiles(new, niche_um=(300, 400))
    st.pp.encode(new, show_progress=False)
    new.obsm["X_morphology_niche_336"] = new.obsm["X_morphology_niche"]
    new.uns["X_morphology_niche_336"] = new.uns["X_morphology_niche"]
    new.obsm["X_morphology_niche_1000"] = new.obsm["X_morphology_niche"]
    new.uns["X_morphology_niche_1000"] = new.uns["X_morphology_niche"]
    with pytest.raises(ValueError, match=r"niche_um=\(560.0, 336.0, 1000.0\)") as error:
        st.tl.predict_expression(new, model)
    call = str(error.value).split("Run ")[1].split(" on this section")[0]
    adata = st.datasets.simulate(seed=7)
    for one in call.split(" and "):
        eval(one, {"stpredict": st, "adata": adata})
    st.tl.predict_expression(adata, model)
    assert pearson(adata.layers["truth"][:, :20], adata.layers["predicted"][:, :20])[0].mean() > 0.3


def test_predict_many_makes_all_widths(sections, tmp_path):
    keys = [key for key in sorted(sections[0].obsm) if key.startswith("X_")]
    model = st.tl.train(sections, genes=list(sections[0].var_names[:20]), features=keys, method="ridge")
    new = st.datasets.simulate(seed=7)
    recipe = st.tl._batch.recipe.recipe_of(model, None, only_stores=False)
    recipe.apply(new)
    assert set(keys) <= set(new.obsm)
    expected = st.datasets.simulate(seed=7)
    st.pp.tiles(expected, niche_um=WIDTHS)
    st.pp.encode(expected, show_progress=False)
    for key in keys:
        np.testing.assert_allclose(new.obsm[key], expected.obsm[key], rtol=1e-4, atol=1e-5)
