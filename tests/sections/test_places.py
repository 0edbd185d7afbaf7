"""Coordinates that were changed after the image was described are told, and nothing else is."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest

import stpredict as st


@pytest.fixture(scope="module")
def encoded():
    adata = st.datasets.simulate()
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    return adata


@pytest.fixture(scope="module")
def model(encoded):
    return st.tl.train(encoded, method="ridge", genes=list(encoded.var_names[:5]))


def of_moved(adata, model):
    """Warnings of a prediction that speak of places."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        st.tl.predict_expression(adata, model, copy=True)
    return {str(one.message) for one in told if "lie elsewhere" in str(one.message)}


def test_as_many_spots_as_are_kept_are_looked_at(encoded):
    kept = encoded.uns["X_morphology"]["sections"]["sim_1"]
    assert len(kept["spots"]) == 64 < encoded.n_obs
    xy = encoded[list(kept["spots"])].obsm["spatial"] * encoded.uns["tiles"]["sim_1"]["mpp"]
    np.testing.assert_allclose(kept["places_um"], xy)


@pytest.mark.parametrize(
    "change",
    [
        lambda adata: adata,
        lambda adata: adata[np.random.default_rng(0).permutation(adata.n_obs)[:100]].copy(),
        lambda adata: adata[:3].copy(),
        lambda adata: ad.concat([adata], uns_merge="same", index_unique="-", keys=["a"]),
    ],
    ids=["as it was", "a part, shuffled", "three spots", "renamed"],
)
def test_parts_and_other_orders_are_not_told(encoded, model, change):
    assert not of_moved(change(encoded.copy()), model)


def test_a_saved_section_is_not_told(encoded, model, tmp_path):
    encoded.write_h5ad(tmp_path / "section.h5ad")
    assert not of_moved(ad.read_h5ad(tmp_path / "section.h5ad"), model)


def test_small_corrections_are_not_told(encoded, model):
    adata = encoded.copy()
    record = adata.uns["tiles"]["sim_1"]
    adata.obsm["spatial"] = adata.obsm["spatial"] + 0.4 * record["spot_um"] / record["mpp"]  # .57 of a width in all
    adata.obsm["spatial"][:, 1] = encoded.obsm["spatial"][:, 1]
    assert not of_moved(adata, model)


@pytest.mark.parametrize("turned", ["mirrored", "shifted", "of other spots"])
def test_changed_coordinates_are_told_with_how_far_and_the_remedy(encoded, model, turned):
    adata = encoded.copy()
    xy, mpp = adata.obsm["spatial"].copy(), adata.uns["tiles"]["sim_1"]["mpp"]
    if turned == "mirrored":
        xy[:, 0] = xy[:, 0].max() + xy[:, 0].min() - xy[:, 0]
    elif turned == "shifted":
        xy += [100 / mpp, 0]
    else:
        xy = xy[::-1]
    adata.obsm["spatial"] = xy
    (told,) = of_moved(adata[::2].copy(), model)
    names = [name for name in adata.uns["X_morphology"]["sections"]["sim_1"]["spots"] if name in adata.obs_names[::2]]
    away = np.linalg.norm(adata[names].obsm["spatial"] - encoded[names].obsm["spatial"], axis=1) * mpp
    moved = (away > encoded.uns["tiles"]["sim_1"]["spot_um"] / 2).sum()
    assert f"of {len(names)} spots that were looked at, {moved} lie elsewhere" in told
    assert f"up to {away.max():.0f} µm away" in told
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    assert not of_moved(adata, model)


def test_training_tells_too(encoded):
    adata = encoded.copy()
    adata.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
    with pytest.warns(UserWarning, match="lie elsewhere"):
        st.tl.train(adata, method="ridge", genes=list(adata.var_names[:5]))


def test_damaged_places_are_refused(encoded, model):
    adata = encoded.copy()
    adata.uns["X_morphology"]["sections"]["sim_1"]["places_um"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"damaged.*run stpredict\.pp\.encode again"):
        st.tl.predict_expression(adata, model)
