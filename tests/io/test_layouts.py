"""Layouts of the places that people download from, and files that other programs wrote."""

from __future__ import annotations

import gzip
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import stpredict as st
from stpredict._sections.anndata import section_from_anndata
from stpredict._sections.open import open_sections

MPP = 100 / 90
"""Of the runs that the fixture writes: spots 90 px apart are 100 µm apart."""


@pytest.fixture
def run(tmp_path, write_visium):
    write_visium(tmp_path / "S1" / "outs")
    return tmp_path / "S1" / "outs"


@pytest.fixture
def adata(run):
    return st.read_visium(run)


def test_flags_of_cellxgene_are_no_sections(adata):
    library = next(iter(adata.uns["spatial"]))
    adata.uns["spatial"]["is_single"] = True
    assert [section.name for section in open_sections(adata)] == [library]
    adata.uns["spatial"] = {"is_single": True}
    assert len(open_sections(adata)) == 1
    assert len(st.pp.gene_panel(adata, n_top=2, min_counts=1)) == 2


def test_an_empty_entry_beside_the_section_is_no_section(adata):
    (library,) = adata.uns["spatial"].values()
    adata.uns["spatial"] = {"S1": {"metadata": {}}, "S1_hires_image": library}
    assert [section.name for section in open_sections(adata)] == ["S1_hires_image"]


def test_scale_factors_that_r_wrote_are_numbers(adata):
    right = section_from_anndata(adata.copy())
    factors = next(iter(adata.uns["spatial"].values()))["scalefactors"]
    for key in factors:
        factors[key] = np.array([factors[key]])
    section = section_from_anndata(adata)
    assert (section.image_scale, section.mpp) == (right.image_scale, right.mpp)
    factors["microns_per_pixel"] = np.array([1.1])
    assert section_from_anndata(adata).mpp_of_coordinates == pytest.approx(1.1)


def test_a_scale_factor_in_place_of_the_diameter_is_not_believed(adata):
    factors = next(iter(adata.uns["spatial"].values()))["scalefactors"]
    factors["spot_diameter_fullres"] = factors["tissue_hires_scalef"]
    assert section_from_anndata(adata).mpp_of_coordinates == pytest.approx(MPP, rel=1e-3)


def test_a_wrong_diameter_does_not_overrule_scale_and_lattice_that_agree(adata):
    factors = next(iter(adata.uns["spatial"].values()))["scalefactors"]
    factors["spot_diameter_fullres"] = 12.0
    with pytest.raises(ValueError, match="spot_diameter_fullres is 12"):
        _ = section_from_anndata(adata).mpp
    assert section_from_anndata(adata, mpp=MPP).mpp_of_coordinates == pytest.approx(MPP)


def test_exchanged_coordinates_are_named_and_the_advice_works(adata):
    adata.obsm["spatial"][:, 0] += 900  # off the square
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1].copy()
    library = next(iter(adata.uns["spatial"].values()))
    library["images"]["hires"] = np.full((200, 400, 3), 200, np.uint8)
    with pytest.raises(ValueError, match=r"x and y exchanged .*obsm\['spatial'\]\[:, ::-1\]"):
        _ = section_from_anndata(adata).image
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1]
    assert section_from_anndata(adata).image.shape == (200, 400)


@pytest.mark.parametrize("names", [("pxl_col_in_fullres", "pxl_row_in_fullres"), ("imagecol", "imagerow"), ("x", "y")])
def test_columns_of_coordinates_are_taken_by_name(adata, names):
    right = section_from_anndata(adata).centres
    table = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names, columns=names)
    adata.obsm["spatial"] = table[list(names[::-1])]
    np.testing.assert_array_equal(section_from_anndata(adata).centres, right)


def test_a_tag_that_is_off_the_lattice_gives_way_and_says_so(run, tmp_path):
    adata = st.read_visium(run)
    image = tmp_path / "full.tif"
    dots = (1e4 / (MPP * 1.15),) * 2
    tifffile.imwrite(
        image, np.full((900, 1000, 3), 200, np.uint8), photometric="rgb", resolution=dots, resolutionunit=3
    )
    adata = st.read_visium(run, image=image)
    with pytest.warns(UserWarning, match="spot lattice is taken"):
        assert section_from_anndata(adata).mpp == pytest.approx(MPP, rel=1e-3)


def test_a_moved_image_names_section_slot_and_mend(run, tmp_path):
    image = tmp_path / "full.tif"
    tifffile.imwrite(image, np.full((900, 1000, 3), 200, np.uint8), photometric="rgb")
    adata = st.read_visium(run, image=image)
    image.rename(tmp_path / "moved.tif")
    with pytest.raises(FileNotFoundError, match=r"section 'S1'.*source_image_path.*hires image knowingly"):
        _ = section_from_anndata(adata).image
    adata.uns["spatial"]["S1"]["metadata"]["source_image_path"] = str(tmp_path / "moved.tif")
    assert section_from_anndata(adata).image.shape == (900, 1000)
    del adata.uns["spatial"]["S1"]["metadata"]["source_image_path"]
    assert section_from_anndata(adata).image_scale < 1


@pytest.mark.parametrize("plain", [("matrix.mtx",), ("matrix.mtx", "features.tsv", "barcodes.tsv")])
def test_a_matrix_is_read_gzipped_or_not(tmp_path, write_visium, plain):
    write_visium(tmp_path / "a", h5=False)
    right = st.read_visium(tmp_path / "a")
    folder = tmp_path / "a" / "filtered_feature_bc_matrix"
    for name in plain:
        packed = folder / f"{name}.gz"
        (folder / name).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    again = st.read_visium(tmp_path / "a")
    assert (again.X != right.X).nnz == 0
    assert again.var_names.tolist() == right.var_names.tolist()


def test_genes_of_one_symbol_are_numbered_by_their_ids(run):
    var = st.read_visium(run).var["gene_ids"]
    assert var["CD74"] < var["CD74-1"]


def test_a_name_that_is_another_gene_elsewhere_is_refused(two_sections):
    for adata, ids in zip(two_sections, ("ENSG1", "ENSG2"), strict=True):
        adata.var["gene_ids"] = [f"ENSG00{i}" for i in range(adata.n_vars)]
        adata.var.loc["ERBB2", "gene_ids"] = ids
        adata.obsm["X_f"] = np.random.default_rng(0).normal(size=(adata.n_obs, 3)).astype(np.float32)
    with pytest.raises(ValueError, match="ERBB2 is ENSG1 in section 'sim_1' and ENSG2 in section 'sim_2'"):
        st.tl.train(two_sections, method="mean", genes=["ERBB2"])
    assert st.tl.train(two_sections, method="mean", genes=["KRT8"]).genes == ["KRT8"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_of_european_spreadsheets(tmp_path, mark):
    counts = pd.DataFrame(
        np.arange(12).reshape(4, 3), index=["1x1", "1x2", "2x1", "2x2"], columns=["ERBB2", "CD74", "KRT8"]
    )
    counts.to_csv(tmp_path / "c.csv", sep=";")
    rows = "".join(f"{x};{y};{x}00,5;{y}00,25\n" for x in (1, 2) for y in (1, 2))
    (tmp_path / "s.csv").write_text(f"{mark}x;y;pixel_x;pixel_y\n{rows}", encoding="utf-8")
    adata = st.read_st(tmp_path / "c.csv", tmp_path / "s.csv")
    assert adata.obsm["spatial"][1].tolist() == [100.5, 200.25]
    assert adata.X.toarray().tolist() == counts.to_numpy().tolist()
    (tmp_path / "s.csv").write_text(f"{mark}x;y;pixel_x;pixel_y\n{rows.replace(',', '.')}", encoding="utf-8")
    assert st.read_st(tmp_path / "c.csv", tmp_path / "s.csv").obsm["spatial"][1].tolist() == [100.5, 200.25]


def test_backed_and_lazy_counts_say_how_to_load_them(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"adata = adata\.to_memory\(\)"):
        st.pp.gene_panel(backed, min_counts=1)
    assert len(st.pp.gene_panel(backed.to_memory(), n_top=2, min_counts=1)) == 2


def test_another_picture_or_a_turned_one_is_refused(section, tmp_path):
    """The hires image of the run tells which image the spots were placed on."""
    picture = next(iter(section.uns["spatial"].values()))["images"]["hires"]
    other = next(iter(st.datasets.simulate(seed=5).uns["spatial"].values()))["images"]["hires"]
    shown = {
        "same": picture,
        r"turned by 180°": picture[::-1, ::-1],
        "mirrored from left to right": picture[:, ::-1],
        "does not show what the hires image shows": other,
    }
    library = next(iter(section.uns["spatial"].values()))
    library["scalefactors"]["tissue_hires_scalef"] = 0.25
    library["images"] = {"hires": picture[::4, ::4]}
    for number, (words, pixels) in enumerate(shown.items()):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, np.ascontiguousarray(pixels), photometric="rgb", tile=(256, 256))
        library["metadata"] = {"source_image_path": str(path), "spot_pitch_um": 100.0}
        if words == "same":
            assert section_from_anndata(section).slide.shape == picture.shape[:2]
            continue
        told = pytest.warns(UserWarning, match=words) if pixels is other else pytest.raises(ValueError, match=words)
        with told:
            _ = section_from_anndata(section).slide
    stripes = np.zeros_like(picture)
    stripes[::200] = stripes[1::200] = 255
    stripes[: len(picture) // 2] += 100
    tifffile.imwrite(path, stripes, photometric="rgb", tile=(256, 256))
    with pytest.raises(ValueError, match="another slide"):
        _ = section_from_anndata(section).slide


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_copies_of_one_picture_show_the_same_whatever_black_became_in_them(section, tmp_path, format):
    """Tools blacken the glass; JPEG leaves it nearly black, PNG exactly, and so may either copy be."""
    library = next(iter(section.uns["spatial"].values()))
    picture = library["images"]["hires"].copy()
    rows, columns = np.ogrid[: len(picture), : picture.shape[1]]
    middle = np.array(picture.shape[:2]) / 2
    picture[np.hypot(rows - middle[0], columns - middle[1]) > 0.45 * len(picture)] = 0
    Image.fromarray(picture[::4, ::4]).save(tmp_path / "small", format=format)
    library["scalefactors"]["tissue_hires_scalef"] = 0.25
    compressions = {"tiles.tif": {}, "jpeg.tif": {"compression": "jpeg", "compressionargs": {"level": 80}}}
    for name, how in compressions.items():
        tifffile.imwrite(tmp_path / name, picture, photometric="rgb", tile=(256, 256), **how)
        with Image.open(tmp_path / "small") as small:
            library["images"] = {"hires": np.asarray(small)}
        library["metadata"] = {"source_image_path": str(tmp_path / name), "spot_pitch_um": 100.0}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert section_from_anndata(section).slide.shape == picture.shape[:2]
