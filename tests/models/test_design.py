from __future__ import annotations

import json

import numpy as np
import pytest

from stpredict._sections.open import open_sections
from stpredict.models._data.features import (
    check_features,
    column_names,
    describe_features,
    design,
    find_features,
    standardise,
)

KEYS = ["X_fake", "X_fake_niche"]


def opened(adata):
    return open_sections(adata)[0]


def test_columns_are_spot_then_niche_features(paired):
    adata = paired(side=3)
    adata.obsm["X_fake"] = np.arange(9, dtype=np.float32)[:, None]
    matrix = design(opened(adata), KEYS)
    np.testing.assert_allclose(matrix[:, 0], (np.arange(9) - 4) / np.arange(9).std(), rtol=1e-5)
    assert matrix.shape[1] == 1 + adata.obsm["X_fake_niche"].shape[1]
    assert column_names(opened(adata), ["X_fake"]) == ["X_fake:0"]


def test_stain_and_scanner_of_a_whole_slide_do_not_matter(paired):
    adata = paired()
    before = design(opened(adata), KEYS)
    adata.obsm["X_fake"] = adata.obsm["X_fake"] * 3 + 40
    np.testing.assert_allclose(design(opened(adata), KEYS), before, atol=1e-4)
    np.testing.assert_allclose(before.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(before.std(axis=0), 1, atol=1e-5)


def test_constant_features_and_single_spots_become_zero(paired):
    adata = paired()
    adata.obsm["X_fake"][:, 1] = 0.1
    matrix = design(opened(adata), KEYS)
    assert np.isfinite(matrix).all()
    assert (matrix[:, 1] == 0).all()
    assert (design(opened(adata[:1].copy()), KEYS) == 0).all()


def test_small_but_real_variation_is_kept():
    values = 1e-4 + 1e-5 * np.array([[0.0], [1.0], [2.0]])
    assert standardise(values).std() == pytest.approx(1, rel=1e-4)


def test_encoded_features_are_found_and_others_are_not(paired):
    adata = paired()
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
    adata.uns["X_pca"] = {"params": 1}
    assert find_features([opened(adata)]) == KEYS
    assert find_features([opened(adata)], "X_pca") == ["X_pca"]


def test_sections_with_different_features_are_refused(paired):
    first, second = paired(2)
    del second.obsm["X_fake_niche"]
    with pytest.raises(ValueError, match=r"section1: X_fake\).*encode on all, or pass features="):
        find_features([opened(first), opened(second)])


def test_no_features_names_the_calls_that_make_them(paired):
    adata = paired()
    del adata.obsm["X_fake"], adata.obsm["X_fake_niche"]
    with pytest.raises(ValueError, match=r"no image features: run stpredict.pp.tiles and stpredict.pp.encode"):
        find_features([opened(adata)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "uni2-h"}, r"encoder=uni2-h, where the model was trained on fake"),
        ({"encoder_hash": "beef"}, r"encoder_hash=beef.*same name, other weights"),
        ({"spot_um": 55.0}, r"spot_um=55.*pp.tiles\(adata, spot_um=112, niche_um=560\)"),
        ({"mpp": 1.06}, r"mpp=1.06.*pp.encode\(adata, 'fake', mpp=1\)"),
    ],
)
def test_features_made_otherwise_are_refused_with_the_call_that_mends_it(paired, change, message):
    adata = paired()
    expected = describe_features(opened(adata), KEYS)
    adata.uns["X_fake"].update(change)
    with pytest.raises(ValueError, match=message):
        check_features(opened(adata), expected)


def test_given_input_of_a_network_is_named_by_the_call_and_not_needed_beside_the_hash(paired):
    adata = paired()
    given = {"input_size": 64, "mean": np.array([0.5, 0.5, 0.25]), "std": np.array([0.5, 1.0, 1.0])}
    for key in KEYS:
        adata.uns[key] |= given
    expected = json.loads(json.dumps(describe_features(opened(adata), KEYS)))
    assert expected["X_fake"]["mean"] == [0.5, 0.5, 0.25]
    check_features(opened(adata), expected)
    for name in given:  # as earlier versions left it
        del adata.uns["X_fake"][name]
    check_features(opened(adata), expected)
    adata.uns["X_fake"]["encoder_hash"] = "beef"
    with pytest.raises(ValueError, match=r"input_size=64, mean=\[0.5, 0.5, 0.25\], std=\[0.5, 1.0, 1.0\]\)"):
        check_features(opened(adata), expected)


def test_scales_within_five_percent_are_the_same(paired):
    adata = paired()
    expected = describe_features(opened(adata), KEYS)
    adata.uns["X_fake"].update(mpp=1.04, spot_um=110.0)
    check_features(opened(adata), expected)


def test_other_width_and_nan_are_refused(paired):
    adata = paired()
    expected = describe_features(opened(adata), KEYS)
    wider = adata.copy()
    wider.obsm["X_fake"] = np.ones((adata.n_obs, 5))
    with pytest.raises(ValueError, match="n_features=5, where the model was trained on 4"):
        check_features(opened(wider), expected)
    adata.obsm["X_fake"][3, 0] = np.nan
    with pytest.raises(ValueError, match="without NaN"):
        check_features(opened(adata), expected)
