"""Stain normalisation: what it does to pixels, and that models and jobs heed it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import stpredict as st
from stpredict._images.stain import _white
from stpredict._sections.open import open_sections


@pytest.fixture
def other_stain(section):
    """The same section, as another laboratory would have stained it: more eosin, less and bluer haematoxylin."""
    image = section.uns["spatial"]["sim_1"]["images"]["hires"]
    density = -np.log((image.astype(float) + 1) / 256)
    own = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    new = np.array([[0.75, 0.62, 0.20], [0.12, 0.95, 0.28]]) * [[0.7], [1.4]]
    out = section.copy()
    changed = 256 * np.exp(-density @ np.linalg.pinv(own) @ new) - 1
    out.uns["spatial"]["sim_1"]["images"]["hires"] = np.clip(changed.round(), 0, 255).astype(np.uint8)
    return out


def distance(a, b):
    """Mean distance of the features of two sections of the same tissue, in standard deviations of the first."""
    one, two = a.obsm["X_morphology"], b.obsm["X_morphology"]
    varies = one.std(axis=0) > 1e-6
    return (np.abs(one - two)[:, varies] / one.std(axis=0)[varies]).mean()


def test_two_stains_of_one_tissue_look_alike(section, other_stain):
    apart = {}
    for norm in (None, "macenko"):
        for one in (section, other_stain):
            st.pp.tiles(one)
            st.pp.encode(one, stain_norm=norm, niche=False, show_progress=False)
        apart[norm] = distance(section, other_stain)
    assert apart["macenko"] < 0.4 * apart[None]


def test_glass_becomes_white_in_whatever_light_the_slide_was_seen(section):
    """The same slide under a weaker and yellower lamp: every pixel is a share of what it was."""
    (white,) = open_sections(section)
    dim = section.copy()
    library = dim.uns["spatial"]["sim_1"]
    lamp = np.array([238, 232, 218]) / 255
    library["images"] = {"hires": (library["images"]["hires"] * lamp).round().astype(np.uint8)}
    (dim,) = open_sections(dim)
    whole = (0, 0, 900, 900)
    before = white.image.read(*whole)
    glass = before.min(axis=-1) > 230
    assert 0.01 < glass.mean() < 0.9
    assert dim.image.read(*whole)[glass].mean() < 230
    one, other = (view.stained_alike().image.read(*whole).astype(int) for view in (white, dim))
    assert np.median(other[glass], axis=0).min() >= 253
    assert np.abs(one - other)[::5, ::5].mean() < 2


def test_a_background_that_was_made_white_is_not_looked_for_in_pale_tissue():
    """Most of the slide is 255; a pale piece off the mask is fat, not glass."""
    rgb = np.full((400, 400, 3), 255, dtype=np.uint8)
    rgb[100:300, 100:250] = (180, 90, 160)
    rgb[100:200, 250:300] = (232, 217, 229)
    mask = np.zeros((400, 400), dtype=bool)
    mask[100:300, 100:250] = True
    assert _white(SimpleNamespace(thumbnail=lambda size: rgb), mask).tolist() == [255, 255, 255]
    rgb[rgb.min(axis=-1) == 255] = (236, 240, 226)
    assert _white(SimpleNamespace(thumbnail=lambda size: rgb), mask).tolist() == [236, 240, 226]


def test_white_stays_white_and_what_is_read_does_not_depend_on_the_window(section):
    (one,) = open_sections(section)
    image = one.stained_alike().image
    assert image.fingerprint != one.image.fingerprint
    np.testing.assert_array_equal(image.read(-5, -5, 0, 0), 255)
    whole = image.read(900, 900, 1100, 1100)
    np.testing.assert_array_equal(image.read(950, 920, 1000, 1000), whole[20:100, 50:100])
    assert (whole != one.image.read(900, 900, 1100, 1100)).any()


def test_it_is_recorded_and_models_refuse_the_other(section, two_sections, tmp_path):
    plain, alike = two_sections
    for one, norm in ((plain, None), (alike, "macenko")):
        st.pp.tiles(one)
        st.pp.encode(one, stain_norm=norm, show_progress=False)
    for key in ("X_morphology", "X_morphology_niche"):
        assert alike.uns[key]["stain_norm"] == "macenko"
        assert alike.uns[key]["stain_target"].shape == (2, 3)
        assert "stain_norm" not in plain.uns[key]
    genes = ["ERBB2", "COL1A1"]
    with pytest.raises(
        ValueError, match=r"stains normalised by 'macenko', where the model was trained on stains as they are"
    ):
        st.tl.predict_expression(alike, st.tl.train(plain, genes=genes, method="ridge"))
    model = st.tl.train(alike, genes=genes, method="ridge")
    with pytest.raises(ValueError, match=r"pp\.encode\(adata, 'morphology', mpp=2, stain_norm='macenko'\)"):
        st.tl.predict_expression(plain, model)
    st.pp.encode(plain, "morphology", mpp=2, stain_norm="macenko", show_progress=False)
    st.tl.predict_expression(plain, model)
    for key in ("X_morphology", "X_morphology_niche"):
        del plain.uns[key]["stain_white"]  # as features were before stains were measured against the glass
    with pytest.raises(ValueError, match=r"stains normalised by 'macenko' as earlier versions did"):
        st.tl.predict_expression(plain, model)
    alike.write_h5ad(tmp_path / "a.h5ad")


def test_many_slides_are_encoded_as_the_model_says(section, tmp_path):
    import tifffile

    slide = section.uns["spatial"]["sim_1"]["images"]["hires"]
    tifffile.imwrite(tmp_path / "a.tif", slide, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    st.pp.tiles(section)
    st.pp.encode(section, stain_norm="macenko", show_progress=False)
    st.tl.train(section, genes=["ERBB2", "COL1A1"], method="ridge").save(tmp_path / "model")
    report = st.tl.predict_many(
        [tmp_path / "a.tif"], tmp_path / "model", tmp_path / "out", pitch_um=300, show_progress=False
    )
    assert report["status"].tolist() == ["done"], report["error"].tolist()


def test_what_cannot_be_normalised_is_refused_before_any_work(section):
    st.pp.tiles(section)
    with pytest.raises(ValueError, match="stain_norm must be one of None, 'macenko'"):
        st.pp.encode(section, stain_norm="reinhard")
    image = section.uns["spatial"]["sim_1"]["images"]["hires"]
    image[:] = 240
    with pytest.raises(
        ValueError, match=r"stains of section 'sim_1' cannot be told apart \(no tissue was found on it\)"
    ):
        st.pp.encode(section, stain_norm="macenko", show_progress=False)
    assert not section.obsm.keys() - {"spatial"}


def test_what_other_packages_warn_of_when_imported_is_kept_out():
    code = """
import numpy as np
from stpredict._images.stain import TARGET, _stains
amounts = np.random.default_rng(0).gamma(1, 0.5, (4000, 2))
pixels = (255 * np.exp(-amounts @ TARGET)).astype(np.uint8)
assert np.abs(_stains(pixels, "tissue") - TARGET / np.linalg.norm(TARGET, axis=1)[:, None]).max() < 0.2
"""
    run = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "SyntaxWarning" not in run.stderr
