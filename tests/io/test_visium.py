"""`read_visium`: every version of Space Ranger, and one clear error for every broken one."""

from __future__ import annotations

import json
import os

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

import stpredict as st
from stpredict._sections.anndata import section_from_anndata
from stpredict.io._run import VisiumFiles
from stpredict.io._visium import POSITION_COLUMNS, read_positions

REAL = st.settings.data_dir / "visium_reader_test" / "CoexpressDeconvolve"
HIRES = sorted((st.settings.data_dir / "unlabelled_HE" / "visium_hires").glob("*"))


@pytest.fixture
def run(tmp_path, write_visium):
    write_visium(tmp_path / "sample")
    return tmp_path / "sample"


# ---------------------------------------------------------------------- what is read


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("h5", [True, False])
def test_every_version_gives_the_same_section(tmp_path, write_visium, version, h5):
    truth = write_visium(tmp_path / "sample", version=version, h5=h5)
    adata = st.read_visium(tmp_path / "sample")
    assert adata.obs_names.tolist() == truth.index.tolist()
    np.testing.assert_array_equal(adata.X.toarray(), truth.to_numpy())
    assert adata.X.dtype == np.float32
    assert adata.X.format == "csr"
    assert adata.var_names.tolist() == ["ERBB2", "CD74", "CD74-1", "MKI67"]
    assert adata.var["gene_ids"].tolist() == [f"ENSG{i:011d}" for i in range(4)]
    number = adata.obs_names.str[2:5].astype(int).to_numpy()
    row, column = np.divmod(number, 8)
    np.testing.assert_array_equal(adata.obs["array_row"], row)
    np.testing.assert_array_equal(adata.obs["array_col"], 2 * column + row % 2)
    # x grows with the column, y with the row.
    np.testing.assert_allclose(adata.obsm["spatial"][:, 0], 80 + (column + 0.5 * (row % 2)) * 90)
    np.testing.assert_allclose(adata.obsm["spatial"][:, 1], 60 + row * 90 * np.sqrt(0.75))
    assert adata.obsm["spatial"].flags.writeable
    library = adata.uns["spatial"]["sample"]
    assert library["images"]["hires"].shape == (180, 200, 3)
    assert library["images"]["lowres"].shape == (90, 100, 3)
    assert library["images"]["hires"].dtype == np.uint8
    assert library["scalefactors"]["tissue_hires_scalef"] == 0.2
    assert library["metadata"] == {"technology": "10x Visium", "spot_pitch_um": 100.0, "spot_diameter_um": 55.0}
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["spatial"]["sample"]["metadata"]["spot_pitch_um"] == 100.0


def test_full_resolution_image_is_kept_as_a_path(run, write_full, tmp_path, monkeypatch):
    from stpredict._images.whole import WholeImage

    full = write_full(tmp_path / "slide.png")
    decode = WholeImage._decode
    monkeypatch.setattr(
        WholeImage, "_decode", lambda self: pytest.fail("decoded") if self.path == full else decode(self)
    )
    adata = st.read_visium(run, image=full)
    assert adata.uns["spatial"]["sample"]["metadata"]["source_image_path"] == str(full)
    section = section_from_anndata(adata)
    assert section.image.shape == (900, 1000)
    assert section.mpp == pytest.approx(100 / 90)


def test_hires_image_stands_in(run):
    section = section_from_anndata(st.read_visium(run))
    assert section.image.shape == (180, 200)
    assert section.mpp == pytest.approx(100 / 18)
    assert section.mpp_of_coordinates == pytest.approx(100 / 90)


def test_names(run, tmp_path):
    assert list(st.read_visium(run, library_id="C1").uns["spatial"]) == ["C1"]
    run.rename(tmp_path / "outs")
    (tmp_path / "patient7").mkdir()
    (tmp_path / "outs").rename(tmp_path / "patient7" / "outs")
    for path in (tmp_path / "patient7", tmp_path / "patient7" / "outs", str(tmp_path / "patient7")):
        assert list(st.read_visium(path).uns["spatial"]) == ["patient7"]
    with pytest.raises(ValueError, match="name without '/'"):
        st.read_visium(tmp_path / "patient7", library_id="a/b")


def test_mpp_that_the_user_knows(run):
    adata = st.read_visium(run, mpp=1.1)
    assert adata.uns["spatial"]["sample"]["scalefactors"]["microns_per_pixel"] == 1.1
    with pytest.raises(ValueError, match=r"outside of 0\.05–20"):
        st.read_visium(run, mpp=1e-4)


def test_files_as_10x_offers_them_for_download(run):
    matrix = run / "filtered_feature_bc_matrix.h5"
    matrix.rename(run / "Sample_1_filtered_feature_bc_matrix.h5")
    assert st.read_visium(run).n_obs == 56
    assert st.read_visium(run, counts_file="Sample_1_filtered_feature_bc_matrix.h5").n_obs == 56
    (run / "Sample_2_filtered_feature_bc_matrix.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"several count matrices.*counts_file="):
        st.read_visium(run)


def test_raw_matrix_is_cut_to_the_tissue(tmp_path, write_visium):
    everything = [f"BC{i:03d}-1" for i in range(64)]
    write_visium(tmp_path / "sample", barcodes=everything)
    assert st.read_visium(tmp_path / "sample").obs_names.tolist() == everything[8:]


def test_scanpy_and_squidpy_plot_it(run):
    import matplotlib.pyplot as plt
    import squidpy as sq

    sq.pl.spatial_scatter(st.read_visium(run), color="ERBB2")
    plt.close("all")


@pytest.mark.parametrize("bin_um", [None, 8, 16])
def test_visium_hd(tmp_path, write_hd, bin_um):
    adata = st.read_visium(write_hd(tmp_path / "hd"), bin_um=bin_um)
    um = bin_um or 8
    assert adata.n_obs == (160 // um) ** 2
    spot = adata.obs_names.get_loc(f"s_{um:03d}um_00002_00004-1")
    np.testing.assert_allclose(adata.obsm["spatial"][spot], [30 + 4.5 * um * 2, 10 + 2.5 * um * 2])
    library = adata.uns["spatial"]["hd"]
    assert library["metadata"]["spot_pitch_um"] == um
    assert library["metadata"]["spot_diameter_um"] == um
    section = section_from_anndata(adata)
    assert section.mpp == 0.5
    assert section.lattice.kind == "square"
    assert section.lattice.pitch_px == pytest.approx(2 * um)


def test_visium_hd_bin_as_folder(tmp_path, write_hd):
    adata = st.read_visium(write_hd(tmp_path / "hd") / "binned_outputs" / "square_016um")
    assert adata.uns["spatial"]["hd"]["metadata"]["spot_pitch_um"] == 16
    with pytest.raises(ValueError, match="no bins of 2 µm; it has 8, 16"):
        st.read_visium(tmp_path / "hd", bin_um=2)


def test_bins_are_for_visium_hd(run):
    with pytest.raises(ValueError, match="bin_um=8 is for Visium HD"):
        st.read_visium(run, bin_um=8)


@pytest.mark.skipif(not REAL.is_dir(), reason="STPREDICT_DATA holds no Space Ranger output")
def test_a_real_run():
    adata = st.read_visium(REAL)
    assert adata.shape == (2898, 19465)
    assert adata.var_names.is_unique
    assert list(adata.uns["spatial"]["CoexpressDeconvolve"]["images"]) == ["lowres"]
    section = section_from_anndata(adata)
    assert section.lattice.kind == "hexagonal"
    assert section.counts().sum() > 1e6
    # Space Ranger's own figure for the spot agrees with the lattice to its usual 10–20 %.
    diameter = adata.uns["spatial"]["CoexpressDeconvolve"]["scalefactors"]["spot_diameter_fullres"]
    assert diameter * section.mpp == pytest.approx(60, abs=10)
    assert np.ptp(adata.obs["array_row"]) * np.sqrt(0.75) * section.lattice.pitch_px == pytest.approx(
        np.ptp(adata.obsm["spatial"][:, 1]), rel=0.02
    )


@pytest.mark.skipif(not HIRES, reason="STPREDICT_DATA holds no folders of spot positions")
@pytest.mark.parametrize("folder", HIRES, ids=lambda path: path.name)
def test_real_positions_lie_on_the_real_hires_image(folder):
    table = read_positions(VisiumFiles(folder, folder / "spatial"))
    assert len(table) in (4992, 14336)  # 6.5 mm and 11 mm slides
    inside = table[table["in_tissue"] == 1]
    factor = json.loads((folder / "spatial" / "scalefactors_json.json").read_text())["tissue_hires_scalef"]
    width, height = Image.open(folder / "spatial" / "tissue_hires_image.png").size
    # One CytAssist section reaches over the left edge with 20 of its 6,965 spots.
    assert (inside["pxl_col_in_fullres"] * factor).between(0, width).mean() > 0.995
    assert (inside["pxl_row_in_fullres"] * factor).between(0, height).mean() > 0.995


# ---------------------------------------------------------------------- positions


positions = some.lists(
    some.tuples(
        some.integers(0, 1),
        some.integers(0, 77),
        some.integers(0, 127),
        some.floats(-5e4, 5e4).map(lambda v: round(v, 6)),
        some.floats(-5e4, 5e4).map(lambda v: round(v, 6)),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=positions, version=some.sampled_from(["v1", "v1 with header", "v2", "hd"]))
def test_positions_round_trip(tmp_path, rows, version):
    table = pd.DataFrame(rows, columns=POSITION_COLUMNS[1:])
    table.insert(0, "barcode", [f"A{i}-1" for i in range(len(rows))])
    for old in tmp_path.glob("tissue_positions*"):
        old.unlink()
    if version == "hd":
        table.to_parquet(tmp_path / "tissue_positions.parquet", index=False)
    else:
        name = "tissue_positions.csv" if version == "v2" else "tissue_positions_list.csv"
        table.to_csv(tmp_path / name, index=False, header=version != "v1")
    pd.testing.assert_frame_equal(
        read_positions(VisiumFiles(tmp_path, tmp_path)), table.set_index("barcode"), check_dtype=False
    )


# ---------------------------------------------------------------------- what is refused


def test_missing_folders_and_files(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        st.read_visium(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"no folder 'spatial'.*it holds sample"):
        st.read_visium(tmp_path)
    with pytest.raises(FileNotFoundError, match="no count matrix"):
        st.read_visium(run, counts_file="gone.h5")
    (run / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"no count matrix.*counts_file="):
        st.read_visium(run)
    (run / "spatial" / "scalefactors_json.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"scalefactors_json\.json is missing"):
        st.read_visium(run)
    (run / "spatial" / "tissue_positions.csv").unlink()
    with pytest.raises(FileNotFoundError, match="holds no spot positions"):
        st.read_visium(run)


@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
@pytest.mark.parametrize(
    "name",
    [
        "filtered_feature_bc_matrix.h5",
        "spatial/scalefactors_json.json",
        "spatial/tissue_hires_image.png",
        "spatial/tissue_lowres_image.png",
    ],
)
def test_truncated_files(run, name, kept):
    data = (run / name).read_bytes()
    (run / name).write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=name.rpartition("/")[2]):
        st.read_visium(run)


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"])
def test_truncated_mtx(tmp_path, write_visium, name):
    write_visium(tmp_path / "sample", h5=False)
    path = tmp_path / "sample" / "filtered_feature_bc_matrix" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="cannot be read as a count matrix"):
        st.read_visium(tmp_path / "sample")


@pytest.mark.parametrize(
    "text",
    ["", "BC1,1,0,0,5\n", "barcode,in_tissue,array_row\nBC1,1,0\n", "BC1,1,0,0,here,there\n", "BC1,,0,0,5,5\n", "\0\1"],
)
def test_damaged_positions(run, text):
    (run / "spatial" / "tissue_positions.csv").write_text(text)
    with pytest.raises(ValueError, match=r"tissue_positions\.csv is damaged or no table of spot positions"):
        st.read_visium(run)


def test_truncated_parquet(tmp_path, write_hd):
    path = write_hd(tmp_path / "hd") / "binned_outputs/square_008um/spatial/tissue_positions.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"tissue_positions\.parquet is damaged"):
        st.read_visium(tmp_path / "hd")


@pytest.mark.parametrize("text", ["[1, 2]", '{"tissue_hires_scalef": "big"}', '{"tissue_hires_scalef": 0}'])
def test_scale_factors_that_are_none(run, text):
    (run / "spatial" / "scalefactors_json.json").write_text(text)
    with pytest.raises(ValueError, match="scalefactors_json"):
        st.read_visium(run)


def test_duplicated_spots(run):
    path = run / "spatial" / "tissue_positions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(ValueError, match="names 1 spots more than once: BC"):
        st.read_visium(run)


def test_duplicated_barcodes_in_the_matrix(tmp_path, write_visium):
    write_visium(tmp_path / "sample", barcodes=["BC010-1", "BC010-1", "BC011-1"])
    with pytest.raises(ValueError, match="names spots more than once"):
        st.read_visium(tmp_path / "sample")


def test_counts_and_positions_of_different_runs(tmp_path, write_visium):
    write_visium(tmp_path / "a", barcodes=["OTHER1-1", "OTHER2-1"])
    with pytest.raises(ValueError, match=r"2 of 2 barcodes .* no position \(OTHER1-1.*same run"):
        st.read_visium(tmp_path / "a")
    write_visium(tmp_path / "b", barcodes=["BC010-1", "OTHER2-1"])
    with pytest.raises(ValueError, match=r"1 of 2 barcodes .* no position \(OTHER2-1"):
        st.read_visium(tmp_path / "b")
    write_visium(tmp_path / "c", barcodes=["BC000-1"])
    with pytest.raises(ValueError, match="No spot of the count matrix lies in tissue"):
        st.read_visium(tmp_path / "c")


def test_h5_that_is_something_else(run):
    with h5py.File(run / "filtered_feature_bc_matrix.h5", "w") as file:
        file["something"] = [1, 2]
    with pytest.raises(ValueError, match="cannot be read as a count matrix"):
        st.read_visium(run)


def test_images_that_are_not_the_full_one(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no image at"):
        st.read_visium(run, image=tmp_path / "gone.tif")
    with pytest.raises(ValueError, match=r"about 1000 × 900 px, so this is the hires one"):
        st.read_visium(run, image=run / "spatial" / "tissue_hires_image.png")
    Image.new("RGB", (500, 450)).save(tmp_path / "half.png")
    with pytest.raises(ValueError, match="this is another one"):
        st.read_visium(run, image=tmp_path / "half.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    with pytest.raises(ValueError, match="cannot be read as a TIFF"):
        st.read_visium(run, image=tmp_path / "broken.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize(
    "name",
    [
        "spatial/tissue_positions.csv",
        "spatial/scalefactors_json.json",
        "spatial/tissue_hires_image.png",
        "filtered_feature_bc_matrix.h5",
    ],
)
def test_pipes_are_no_files_of_a_run_and_nothing_waits_for_them(tmp_path, write_visium, name):
    write_visium(tmp_path / "outs")
    (tmp_path / "outs" / name).unlink()
    os.mkfifo(tmp_path / "outs" / name)
    with pytest.raises((OSError, ValueError), match="is no file but a folder, a pipe or a device"):
        st.read_visium(tmp_path / "outs")
