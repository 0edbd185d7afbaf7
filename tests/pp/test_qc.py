"""Spot quality: counts and tissue under each spot."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import stpredict as st
from stpredict._images import quality
from stpredict._images.mask import window_means
from stpredict._sections.open import open_sections

GLASS, TISSUE = (240, 238, 241), (150, 90, 160)


def slide(*, image=True, counts=True):
    """4 spots on a slide of 1 mm at 2 µm whose left half is tissue: in it, on its edge, off it, and in it but empty."""
    rgb = np.full((500, 500, 3), GLASS, dtype=np.uint8)
    rgb[:, :250] = TISSUE
    x = sparse.csr_matrix([[60, 0, 40], [100, 100, 0], [30, 30, 30], [0, 2, 0]], dtype=np.float32)
    adata = ad.AnnData(x if counts else sparse.csr_matrix((4, 0), dtype=np.float32))
    adata.obsm["spatial"] = np.array([[100.0, 100.0], [250.0, 100.0], [400.0, 100.0], [100.0, 300.0]])
    library = {"scalefactors": {"microns_per_pixel": 2.0, "tissue_hires_scalef": 1.0}, "metadata": {}}
    adata.uns["spatial"] = {"one": {"images": {"hires": rgb} if image else {}, **library}}
    return adata


def test_counts_and_tissue_are_measured_and_judged():
    adata = slide()
    assert st.pp.qc(adata) is None
    assert adata.obs["total_counts"].tolist() == [100, 200, 90, 2]
    assert adata.obs["n_genes_by_counts"].tolist() == [2, 2, 3, 1]
    np.testing.assert_allclose(adata.obs["tissue_fraction"], [1, 0.5, 0, 1], atol=0.04)
    assert adata.obs["qc_pass"].tolist() == [True, True, False, False]


def test_limits_are_the_callers():
    adata = slide()
    st.pp.qc(adata, min_counts=150, min_tissue=0)
    assert adata.obs["qc_pass"].tolist() == [False, True, False, False]
    st.pp.qc(adata, min_counts=0, min_tissue=0.9)
    assert adata.obs["qc_pass"].tolist() == [True, False, False, True]


def test_the_window_is_that_of_the_tiles():
    adata = slide()
    adata.obsm["spatial"][1, 0] = 280  # 60 µm off the tissue
    st.pp.qc(adata)
    assert adata.obs["tissue_fraction"].iloc[1] == 0
    st.pp.tiles(adata, spot_um=240)
    st.pp.qc(adata)
    assert adata.obs["tissue_fraction"].iloc[1] == pytest.approx(0.25, abs=0.03)


def test_without_an_image_counts_alone_decide():
    adata = slide(image=False)
    st.pp.qc(adata)
    assert adata.obs["qc_pass"].tolist() == [True, True, True, False]
    assert "tissue_fraction" not in adata.obs


def test_without_counts_tissue_alone_decides():
    adata = slide(counts=False)
    st.pp.qc(adata)
    assert adata.obs["qc_pass"].tolist() == [True, True, False, True]
    assert "total_counts" not in adata.obs
    with pytest.raises(ValueError, match="neither counts nor an H&E image"):
        st.pp.qc(slide(image=False, counts=False))


def test_counts_in_a_layer_are_preferred():
    adata = slide()
    adata.layers["counts"] = adata.X * 2
    adata.X.data = np.log1p(adata.X.data)
    st.pp.qc(adata)
    assert adata.obs["total_counts"].tolist() == [200, 400, 180, 4]


def test_two_libraries_each_with_its_own_image():
    both = ad.concat([slide(), slide(image=False)], uns_merge=None, keys=["a", "b"], label="where", index_unique="-")
    both.uns["spatial"] = {"a": slide().uns["spatial"]["one"], "b": slide(image=False).uns["spatial"]["one"]}
    st.pp.qc(both, library_key="where")
    np.testing.assert_allclose(both.obs["tissue_fraction"][:4], [1, 0.5, 0, 1], atol=0.04)
    assert both.obs["tissue_fraction"][4:].isna().all()
    assert both.obs["qc_pass"].tolist() == [True, True, False, False, True, True, True, False]
    with pytest.raises(ValueError, match="pass library_id="):
        st.pp.tissue_mask(both, library_key="where")
    mask, _ = st.pp.tissue_mask(both, library_key="where", library_id="a")
    assert mask.mean() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(KeyError, match="no section 'c'; there is a, b"):
        st.pp.tissue_mask(both, library_key="where", library_id="c")


def test_a_copy_leaves_the_original_alone():
    adata = slide()
    result = st.pp.qc(adata, copy=True)
    assert "qc_pass" in result.obs
    assert adata.obs.empty


@pytest.mark.parametrize("change", [{"min_counts": -1}, {"min_tissue": 1.5}, {"min_counts": np.nan}])
def test_bad_limits_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        st.pp.qc(slide(), **change)


def test_a_failure_writes_nothing(tmp_path):
    logged = slide()
    logged.X.data = np.log1p(logged.X.data)
    with pytest.raises(ValueError, match="fractional values"):
        st.pp.qc(logged)
    assert logged.obs.empty
    gone = slide()
    gone.uns["spatial"]["one"]["metadata"]["source_image_path"] = str(tmp_path / "gone.tif")
    with pytest.raises(FileNotFoundError, match="There is no image at"):
        st.pp.qc(gone)
    assert gone.obs.empty
    with pytest.raises(ValueError, match="mpp must be positive"):
        st.pp.tissue_mask(slide(), mpp=0)


def test_spatialdata_is_judged_alike(section):
    sdata = st.io.to_spatialdata(section)
    st.pp.qc(section)
    judged = st.pp.qc(sdata, copy=True)
    assert "qc_pass" not in sdata.tables["table"].obs
    obs = judged.tables["table"].obs
    assert obs["total_counts"].tolist() == section.obs["total_counts"].tolist()
    np.testing.assert_allclose(obs["tissue_fraction"], section.obs["tissue_fraction"], atol=0.05)


def pictured(rgb, mpp=2.0):
    """A section of spots every 100 µm on a picture."""
    y, x = np.mgrid[60 : rgb.shape[0] - 60 : 50, 60 : rgb.shape[1] - 60 : 50].reshape(2, -1)
    adata = ad.AnnData(np.zeros((len(x), 0), np.float32), obsm={"spatial": np.column_stack([x, y]).astype(float)})
    scale = {"microns_per_pixel": mpp, "tissue_hires_scalef": 1.0}
    adata.uns["spatial"] = {"one": {"images": {"hires": rgb}, "scalefactors": scale, "metadata": {}}}
    return adata


def test_the_blurred_half_is_told(section):
    from scipy.ndimage import gaussian_filter
    from sklearn.metrics import roc_auc_score

    image = section.uns["spatial"]["sim_1"]["images"]["hires"]
    half = image.shape[1] // 2
    image[:, half:] = gaussian_filter(image[:, half:], (3, 3, 0))  # σ of 3 µm
    st.pp.qc(section)
    on_tissue = (section.obs["tissue_fraction"] > 0.5).to_numpy()
    blurred = section.obsm["spatial"][:, 0] > half
    assert roc_auc_score(blurred[on_tissue], section.obs["blur"][on_tissue]) > 0.95
    assert section.obs["qc_pass"][blurred & on_tissue].any()


@pytest.mark.parametrize("finer", [1, 2])
def test_blur_is_told_alike_at_any_scale(section, finer):
    """A sharp section has spots about 0, and so has the same picture of twice as many pixels."""
    library = section.uns["spatial"]["sim_1"]
    library["images"]["hires"] = library["images"]["hires"].repeat(finer, 0).repeat(finer, 1)
    library["scalefactors"]["microns_per_pixel"] = 1.0 / finer
    library["scalefactors"]["spot_diameter_fullres"] *= finer
    section.obsm["spatial"] = section.obsm["spatial"] * finer
    st.pp.qc(section)
    blur = section.obs["blur"][section.obs["tissue_fraction"] == 1]
    assert blur.median() == pytest.approx(0, abs=0.1)
    assert blur.std() < 1.0


def test_a_drawn_fold_is_told():
    rng = np.random.default_rng(0)
    rgb = np.clip(np.array(TISSUE) + rng.normal(0, 8, (600, 800, 3)), 0, 255)
    fold = np.zeros((600, 800), dtype=bool)
    fold[:, 350:450] = True
    rgb[fold] = rgb[fold] ** 2 / 255  # light passes twice the tissue
    adata = pictured(rgb.astype(np.uint8))
    st.pp.qc(adata)
    x = adata.obsm["spatial"][:, 0]
    assert (adata.obs["fold"][(x > 380) & (x < 420)] > 0.9).all()
    assert (adata.obs["fold"][(x < 320) | (x > 480)] < 0.05).all()
    assert adata.obs["qc_pass"].all()


def test_real_sections_are_hardly_folded(her2st_c2):
    st.pp.qc(her2st_c2)
    assert her2st_c2.obs["fold"].mean() < 0.1
    assert her2st_c2.obs["blur"].median() == pytest.approx(0, abs=1e-6)


def test_the_user_says_where_the_tissue_is():
    mask = np.zeros((50, 50), dtype=bool)
    mask[:, 25:] = True
    outline = np.array([[250, 0], [500, 0], [500, 500], [250, 500]], dtype=float)
    for tissue in (mask, [outline]):
        adata = slide()
        st.pp.qc(adata, tissue=tissue)
        np.testing.assert_allclose(adata.obs["tissue_fraction"], [0, 0.5, 1, 0], atol=0.04)
    pale = slide()
    image = pale.uns["spatial"]["one"]["images"]["hires"]
    image[:, :250] = (230, 226, 232)
    st.pp.qc(pale)
    assert pale.obs["tissue_fraction"].max() == 0
    st.pp.qc(pale, tissue=0.01)
    assert pale.obs["tissue_fraction"].max() == 1
    both = ad.concat({"a": slide(), "b": slide()}, label="library_id", index_unique="-")
    both.uns["spatial"] = {name: slide().uns["spatial"]["one"] for name in "ab"}
    with pytest.raises(ValueError, match="of one slide, and there are 2 sections"):
        st.pp.qc(both, tissue=mask)
    with pytest.raises(ValueError, match="this section has no image"):
        st.pp.qc(slide(image=False), tissue=mask)
    with pytest.raises(ValueError, match="no threshold of the stain"):
        st.pp.qc(both, tissue=9.0)


def lying(flags=None, *, turned=False):
    """80 spots in the upper left of a slide, as an image shows it or mirrored."""
    rgb = np.full((500, 600, 3), GLASS, dtype=np.uint8)
    rgb[:350, 400 if turned else 0 : None if turned else 200] = TISSUE
    x, y = np.meshgrid(np.linspace(20, 180, 8), np.linspace(30, 320, 10))
    adata = ad.AnnData(np.zeros((80, 0), np.float32), obsm={"spatial": np.column_stack([x.ravel(), y.ravel()])})
    scale = {"microns_per_pixel": 2.0, "tissue_hires_scalef": 1.0}
    adata.uns["spatial"] = {"one": {"images": {"hires": rgb}, "scalefactors": scale, "metadata": {}}}
    if flags is not None:
        adata.obs["in_tissue"] = flags
    return adata


def test_spots_beside_the_tissue_of_a_mirrored_image_are_told():
    with pytest.warns(
        UserWarning, match=r"only 0% of 80 spots lie on tissue. With the image mirrored from left to right 100% would"
    ):
        st.pp.qc(lying(turned=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        st.pp.qc(lying())
        # of a raw matrix: only those that Space Ranger found on tissue must lie on it
        half = lying()
        half.obsm["spatial"][40:, 0] += 250
        st.pp.qc(half)
        half.obs["in_tissue"] = [1] * 40 + [0] * 40
        st.pp.qc(half)
    half.obs["in_tissue"] = ["0"] * 40 + ["1"] * 40
    with pytest.warns(UserWarning, match=r"only 0% of 40 spots lie on tissue. Is the image of another section\?"):
        st.pp.qc(half)


def test_sharpness_is_read_where_windows_are_and_is_the_same_there(section, monkeypatch):
    (view,) = open_sections(section)
    image, centres, window = view.image, view.centres * view.mpp, 112.0
    monkeypatch.setattr(quality, "TILE", 16)
    height, width = image.shape
    everywhere = quality.sharpness(image, view.mpp, np.array([[width, height]]) / 2 * view.mpp, 2 * width * view.mpp)
    few = centres[[0, 57, 200]]
    read, pixels = image.read, []
    monkeypatch.setattr(
        image, "read", lambda x0, y0, x1, y1, **at: pixels.append((x1 - x0) * (y1 - y0)) or read(x0, y0, x1, y1, **at)
    )
    here = quality.sharpness(image, view.mpp, few, window)
    monkeypatch.undo()
    cell = here[2]
    assert sum(pixels) < 0.2 * height * width
    for all_of_it, some in zip(everywhere[:2], here[:2], strict=True):
        assert (all_of_it > 0).mean() > 0.9
        means = [window_means(values, few / cell, window / cell) for values in (all_of_it, some)]
        np.testing.assert_allclose(*means, rtol=1e-4)
