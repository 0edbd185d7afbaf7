"""What published models refuse, and that the advice they give can be followed to the letter."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import stpredict as st

CALLS = (
    "stpredict.pp.tiles(adata, spot_um=100) and stpredict.pp.encode(adata, 'ctranspath', niche=False, "
    "stain_norm='macenko')"
)


def refused(section, model, match):
    with pytest.raises(ValueError, match=match) as caught:
        st.tl.predict_expression(section, model)
    assert "predicted" not in section.layers
    return str(caught.value)


def test_missing_features_name_the_calls(section, path2space):
    with pytest.raises(ValueError, match="has no obsm") as caught:
        st.tl.embed(section, path2space)
    assert CALLS in str(caught.value)


def test_an_image_too_coarse_is_refused_before_it_is_encoded(section, path2space):
    coarse = section[::60].copy()
    coarse.uns["spatial"]["sim_1"]["scalefactors"]["microns_per_pixel"] = 3.2
    refused(coarse, path2space, r"the image has 3.2 µm per pixel, and the model needs 0.446 or finer")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"encoder": "uni2-h"}, "of the encoder 'uni2-h', where Path2Space needs 'ctranspath'"),
        ({"spot_um": 200.0}, "of tiles of 200 µm, where Path2Space needs 100 µm"),
        ({"stain_norm": None}, "of stains as they are, where Path2Space needs stains normalised by 'macenko'"),
        ({"width": 700}, "has 700 features per spot, where Path2Space needs 768"),
    ],
)
def test_features_made_differently_name_the_calls(section, ctranspath, path2space, changed, told):
    ctranspath(section, **changed)
    assert CALLS in refused(section, path2space, re.escape(told))


def test_an_image_too_coarse_is_told_from_wrong_tiles(section, ctranspath, path2space):
    ctranspath(section, mpp=3.2)
    refused(section, path2space, r"made at 3.2 µm per pixel, and Path2Space needs 0.446 or finer")


def test_features_with_nan_are_refused(section, ctranspath, path2space):
    ctranspath(section)
    section.obsm["X_ctranspath"][3, 5] = np.nan
    refused(section, path2space, "holds NaN")


def test_features_made_elsewhere_need_the_users_word(section, ctranspath, path2space, path2space_folder):
    ctranspath(section)
    whole = st.tl.predict_expression(section, path2space, as_anndata=True)
    section.obsm["mine"] = section.obsm["X_ctranspath"]
    del section.uns["X_ctranspath"]
    told = refused(section, path2space, "Nothing says how")
    assert "stpredict.models.pretrained('path2space', features='X_ctranspath')" in told
    for key in ("X_ctranspath", "mine"):
        vouched = st.models.pretrained("path2space", path=path2space_folder, features=key)
        np.testing.assert_array_equal(st.tl.predict_expression(section, vouched, as_anndata=True).X, whole.X)


def test_features_vouched_for_must_still_be_of_the_right_tiles(section, ctranspath, path2space_folder):
    ctranspath(section, key="mine", encoder="Swin", spot_um=224.0)
    vouched = st.models.pretrained("path2space", path=path2space_folder, features="mine")
    told = refused(section, vouched, "of tiles of 224 µm")
    assert "key_added='mine'" in told


def test_the_advice_followed_to_the_letter_works(section, ctranspath, path2space_folder):
    """With the encoder as a module, under the key that the message names."""

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.out = torch.nn.Linear(3 * 16, 768)

        def forward(self, tiles):
            return self.out(torch.nn.functional.adaptive_avg_pool2d(tiles, 4).flatten(1))

    model = st.models.pretrained("path2space", path=path2space_folder, features="mine")
    told = refused(section, model, "has no obsm")
    tiles, encode = re.search(
        r"Run stpredict\.(pp\.tiles\(.*?\)) and stpredict\.(pp\.encode\(.*?\)) on it", told
    ).groups()
    scope = {"st": st, "adata": section, "encoder": Encoder()}
    eval(f"st.{tiles}", scope)
    eval(f"st.{encode}".replace("'ctranspath'", "encoder, show_progress=False"), scope)
    st.tl.predict_expression(section, model)
    section.obsm["X_ctranspath"] = section.obsm["mine"]
    vouched = st.models.pretrained("path2space", path=path2space_folder, features="X_ctranspath")
    whole = st.tl.predict_expression(section, vouched, as_anndata=True)
    found = section[:, "ERBB2"].layers["predicted"]
    assert found.std() > 0
    np.testing.assert_array_equal(found, whole[:, "ERBB2"].X)


def test_genes_that_the_model_does_not_know(path2space_folder):
    with pytest.raises(ValueError, match="Path2Space knows none of the genes asked for"):
        st.models.pretrained("path2space", path=path2space_folder, genes=["MOG"])
    with pytest.warns(UserWarning, match="does not know 1 of the genes asked for: MOG"):
        model = st.models.pretrained("path2space", path=path2space_folder, genes=["MOG", "VIM"])
    assert model.genes == ["VIM"]


def test_names_organs_and_revisions_that_cannot_be(path2space_folder):
    with pytest.raises(ValueError, match="'path2space'"):
        st.models.pretrained("path2spice", path=path2space_folder)
    with pytest.raises(ValueError, match="takes no organ: it was trained on breast"):
        st.models.pretrained("path2space", path=path2space_folder, organ="colon")
    with pytest.raises(ValueError, match="revision= is of the hub's repository"):
        st.models.pretrained("path2space", path=path2space_folder, revision="main")


def test_it_cannot_be_trained(path2space):
    with pytest.raises(TypeError, match=r"stpredict\.tl\.adapt"):
        path2space.fit([], genes=[], groups=[])


def test_the_table_of_published_models():
    table = st.models.available()
    assert {"tissue", "genes", "encoder", "um_per_px", "licence", "gated", "size_gb", "source", "paper"} <= {*table}
    assert table.loc["path2space", "um_per_px"] == pytest.approx(0.446)
    assert table["licence"].str.len().min() > 0
