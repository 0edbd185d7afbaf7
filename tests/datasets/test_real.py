"""Named real sections, and their layout by a small copy of it."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import stpredict as st

needs_data = pytest.mark.skipif(not st.datasets.available("her2st"), reason="STPREDICT_DATA holds no real sections")


@pytest.fixture
def data_dir(tmp_path):
    """A data folder with one made-up section, `her2st/Z9`."""
    folder = tmp_path / "her2st" / "Z9"
    folder.mkdir(parents=True)
    sparse.save_npz(folder / "counts.npz", sparse.csr_matrix(np.array([[1, 0, 2], [0, 3, 0]])))
    (folder / "genes.txt").write_text("ERBB2\nCD74\nERBB2\n")
    (folder / "spots.csv").write_text(
        "spot_id,array_x,array_y,pixel_x,pixel_y,label\n7x3,7,3,70.5,30,tumour\n8x3,8,3,80.5,30,\n"
    )
    meta = {"patient": "Z (assumed)", "technology": "legacy ST 1k array", "spot_diameter_px": 5.0, "um_per_px": None}
    (folder / "meta.json").write_text(json.dumps(meta))
    with st.settings.override(data_dir=tmp_path):
        yield folder


def test_a_section_added_later_is_found_and_read(data_dir):
    assert st.datasets.available() == ["her2st/Z9"]
    adata = st.datasets.her2st("Z9")
    assert adata.obs_names.tolist() == ["her2st_Z9_7x3", "her2st_Z9_8x3"]
    assert adata.var_names.tolist() == ["ERBB2", "CD74", "ERBB2-1"]
    np.testing.assert_array_equal(adata.X.toarray(), [[1, 0, 2], [0, 3, 0]])
    np.testing.assert_array_equal(adata.obsm["spatial"], [[70.5, 30], [80.5, 30]])
    assert adata.obsm["spatial"].flags.writeable
    assert adata.obs["array_col"].tolist() == [7, 8]
    assert adata.obs["array_row"].tolist() == [3, 3]
    assert adata.obs["patient"].tolist() == ["Z", "Z"]
    assert adata.obs["label"].tolist()[0] == "tumour"
    assert adata.obs["label"].isna().tolist() == [False, True]
    library = adata.uns["spatial"]["her2st_Z9"]
    assert library["scalefactors"] == {"spot_diameter_fullres": 5.0}
    assert "source_image_path" not in library["metadata"]


def test_unknown_section_lists_those_there(data_dir):
    with pytest.raises(ValueError, match=r"no section 'C2' .* it has Z9"):
        st.datasets.her2st("C2")


def test_absent_data_say_how_to_set_the_folder(tmp_path):
    with st.settings.override(data_dir=tmp_path):
        assert st.datasets.available() == []
        with pytest.raises(FileNotFoundError, match="STPREDICT_DATA"):
            st.datasets.mouse_colon()


def test_counts_that_do_not_fit_are_refused(data_dir):
    (data_dir / "genes.txt").write_text("ERBB2\n")
    with pytest.raises(ValueError, match="damaged"):
        st.datasets.her2st("Z9")


@needs_data
@pytest.mark.parametrize(
    ("reader", "section", "spots", "mpp"),
    [
        (st.datasets.her2st, "C2", 187, 0.688),
        (st.datasets.her2st_midres, "A1", 346, 3.19),
        (st.datasets.her2st_counts_only, "H1", 613, 0.6886),
        (st.datasets.mouse_colon, "d0", 2604, 0.9707),
        (st.datasets.mob, "MOB2", 280, 3.4376),
        (st.datasets.mob_stutility, "MOB1", 379, None),
    ],
)
def test_real_sections_follow_the_data_contract(reader, section, spots, mpp, tmp_path):
    adata = reader(section)
    assert adata.n_obs == spots
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert np.array_equal(adata.X.data, np.rint(adata.X.data))
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    (library,) = adata.uns["spatial"].values()
    if mpp is None:
        assert "microns_per_pixel" not in library["scalefactors"]
        assert "spot_pitch_um" not in library["metadata"]
    else:
        assert library["scalefactors"]["microns_per_pixel"] == pytest.approx(mpp, rel=1e-3)
    adata.write_h5ad(tmp_path / "section.h5ad")
    again = ad.read_h5ad(tmp_path / "section.h5ad")
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"])


@pytest.mark.parametrize(("section", "spots"), [("MOB1", 379), ("MOB2", 407)])
def test_two_real_sections_come_with_the_package(section, spots, tmp_path):
    with st.settings.override(data_dir=tmp_path):
        adata = st.datasets.mob_stutility(section)
        with pytest.raises(FileNotFoundError, match="STPREDICT_DATA"):
            st.datasets.mob_stutility("MOB3")
    assert adata.shape == (spots, 1000)
    metadata = adata.uns["spatial"][f"mob_stutility_{section}"]["metadata"]
    assert metadata["licence"].startswith("MIT")
    st.pp.tiles(adata, mpp=4.0)  # (a scale as good as any)
    st.pp.encode(adata, show_progress=False)
    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    names = list(adata.uns["X_morphology"]["feature_names"])
    stained = adata.obsm["X_morphology"][:, names.index("hematoxylin")]
    assert np.corrcoef(stained, depth)[0, 1] > 0.6  # the image belongs to the counts


def test_what_comes_with_the_package_is_small_and_says_whose_it_is():
    folder = Path(st.datasets.__file__).parent / "resources" / "mob_stutility"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2_000_000
    told = (folder / "SOURCES.md").read_text(encoding="utf-8")
    assert "Copyright (c) 2019 Joseph Bergenstråhle" in told
    assert "Permission is hereby granted, free of charge" in told


@needs_data
def test_labels_and_sisters():
    labels = st.datasets.her2st_midres("A1").obs["label"].value_counts()
    assert labels["invasive cancer"] == 282
    assert st.datasets.mouse_colon().obs["label"].nunique() == 17
    both = ad.concat([st.datasets.mob("MOB1"), st.datasets.mob("MOB2")])
    assert both.obs_names.is_unique
    assert both.obs["patient"].nunique() == 1  # replicates of one animal are not two subjects
