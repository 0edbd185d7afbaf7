"""Folders as they are downloaded: flat, behind a sample's name, gzipped, packed, joined; and what readers leave out."""

from __future__ import annotations

import gzip
import subprocess
import tarfile
import warnings
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest

import stpredict as st


def same(one, other):
    assert one.obs_names.tolist() == other.obs_names.tolist()
    assert one.var_names.tolist() == other.var_names.tolist()
    assert (one.X != other.X).nnz == 0
    np.testing.assert_array_equal(one.obsm["spatial"], other.obsm["spatial"])
    (mine,), (its,) = one.uns["spatial"].values(), other.uns["spatial"].values()
    assert mine["scalefactors"] == its["scalefactors"]
    np.testing.assert_array_equal(mine["images"]["hires"], its["images"]["hires"])


def lay_flat(run, folder, sample, packed=()):
    """Write every file of a run beside each other, behind the sample's name; `packed` are gzipped."""
    folder.mkdir(exist_ok=True)
    for path in [p for p in run.rglob("*") if p.is_file()]:
        data, name = path.read_bytes(), f"{sample}{path.name}"
        if any(part in name for part in packed):
            data, name = gzip.compress(data), f"{name}.gz"
        (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    "packed",
    [(), ("positions", "scalefactors"), ("hires", "lowres", "matrix.h5"), ("positions", "scalefactors", "png", "h5")],
)
@pytest.mark.parametrize("version", [1, 2])
def test_flat_folders_of_geo(tmp_path, write_visium, version, packed):
    write_visium(tmp_path / "run", version=version)
    right = st.read_visium(tmp_path / "run")
    lay_flat(tmp_path / "run", tmp_path / "GSE1", "GSM123_A1_", packed)
    adata = st.read_visium(tmp_path / "GSE1")
    same(adata, right)
    assert list(adata.uns["spatial"]) == ["GSM123_A1"]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("features", ["features.tsv", "genes.tsv"])
def test_three_files_of_a_matrix_in_a_flat_folder(tmp_path, write_visium, packed, features):
    write_visium(tmp_path / "run", h5=False)
    right = st.read_visium(tmp_path / "run")
    lay_flat(tmp_path / "run", tmp_path / "GSE1", "GSM1_A-")
    for name in ("matrix.mtx", "features.tsv", "barcodes.tsv"):
        path = tmp_path / "GSE1" / f"GSM1_A-{name}.gz"
        text = gzip.decompress(path.read_bytes())
        path.unlink()
        if name == "features.tsv" and features == "genes.tsv":
            text = b"".join(line.rpartition(b"\t")[0] + b"\n" for line in text.splitlines())
        path = path.with_name(path.name.replace("features.tsv", features))
        if packed:
            path.write_bytes(gzip.compress(text))
        else:
            path.with_suffix("").write_bytes(text)
    same(st.read_visium(tmp_path / "GSE1"), right)


def test_several_samples_in_one_folder_are_read_by_name_as_the_message_says(tmp_path, write_visium):
    write_visium(tmp_path / "run")
    for sample in ("GSM1_A_", "GSM2_AB_", "GSM1_A2_"):
        lay_flat(tmp_path / "run", tmp_path / "GSE1", sample, packed=["csv"])
    with pytest.raises(ValueError, match=r"3 sections \(GSM1_A, GSM1_A2, GSM2_AB\)") as error:
        st.read_visium(tmp_path / "GSE1")
    told = str(error.value).partition("read_visium('")[2].partition("')")[0]
    adata = st.read_visium(told)
    same(adata, st.read_visium(tmp_path / "run"))
    assert list(adata.uns["spatial"]) == ["GSM1_A"]
    assert list(st.read_visium(tmp_path / "GSE1" / "GSM2_AB").uns["spatial"]) == ["GSM2_AB"]
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        st.read_visium(tmp_path / "GSE1" / "GSM")


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archives_say_how_to_unpack_them_and_the_command_works(tmp_path, write_visium, kind):
    write_visium(tmp_path / "run")
    right = st.read_visium(tmp_path / "run")
    folder = tmp_path / "new one"
    folder.mkdir()
    archive = folder / f"S1_spatial.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as out:
            for path in (tmp_path / "run" / "spatial").iterdir():
                out.write(path, f"spatial/{path.name}")
    else:
        with tarfile.open(archive, "w:gz") as out:
            out.add(tmp_path / "run" / "spatial", "spatial")
    with pytest.raises(FileNotFoundError, match=r"is an archive\. Unpack it"):
        st.read_visium(archive)
    (tmp_path / "run" / "filtered_feature_bc_matrix.h5").rename(folder / "S1_filtered_feature_bc_matrix.h5")
    with pytest.raises(FileNotFoundError, match="Unpack the archive, then read again") as error:
        st.read_visium(folder)
    command = str(error.value).partition("read again: ")[2]
    if kind == "zip":  # (not every system has the command)
        assert command == f'unzip "{archive}" -d "{folder}"'
        zipfile.ZipFile(archive).extractall(folder)
    else:
        subprocess.run(command, shell=True, check=True)
    same(st.read_visium(folder), right)


def test_sections_that_aggr_joined_are_told_apart(tmp_path, write_visium):
    write_visium(tmp_path / "agg" / "outs")
    (tmp_path / "agg" / "outs" / "aggregation.csv").write_text("library_id,molecule_h5,cloupe_file,spatial_folder\n")
    with pytest.raises(ValueError, match=r"aggr joined.*own spaceranger count"):
        st.read_visium(tmp_path / "agg")
    write_visium(tmp_path / "b", barcodes=["ACGT-1", "ACGT-2"])
    with pytest.raises(ValueError, match=r"aggr joined.*own spaceranger count"):
        st.read_visium(tmp_path / "b")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_positions_that_r_or_a_spreadsheet_wrote(tmp_path, write_visium, separator):
    write_visium(tmp_path / "run")
    right = st.read_visium(tmp_path / "run")
    path = tmp_path / "run" / "spatial" / "tissue_positions.csv"
    table = pd.read_csv(path)
    decimal = "," if separator == ";" else "."
    table.to_csv(path, sep=separator, decimal=decimal, index=False, encoding="utf-8-sig")
    same(st.read_visium(tmp_path / "run"), right)
    names = ["tissue", "row", "col", "imagerow", "imagecol"]
    of_r = table.set_index("barcode").set_axis(names, axis=1)
    of_r.rename_axis(None).to_csv(path, sep=separator, decimal=decimal)
    same(st.read_visium(tmp_path / "run"), right)


def test_scale_factors_that_r_wrote_into_the_file(tmp_path, write_visium):
    write_visium(tmp_path / "run")
    right = st.read_visium(tmp_path / "run")
    path = tmp_path / "run" / "spatial" / "scalefactors_json.json"
    path.write_text(path.read_text().replace(": ", ": [").replace(",", "],").replace("}", "]}"))
    same(st.read_visium(tmp_path / "run"), right)


@pytest.mark.parametrize("part", ["positions", "scalefactors", "hires", "h5"])
def test_damaged_gzipped_files_name_themselves(tmp_path, write_visium, part):
    write_visium(tmp_path / "run")
    lay_flat(tmp_path / "run", tmp_path / "GSE1", "GSM1_", packed=[part])
    (path,) = (tmp_path / "GSE1").glob("*.gz")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
        st.read_visium(tmp_path / "GSE1")


# ---------------------------------------------------------------------- what is left out is told


def test_visium_tells_spots_off_the_tissue_and_other_features(tmp_path, write_visium):
    everything = [f"BC{i:03d}-1" for i in range(64)]
    write_visium(tmp_path / "run", barcodes=everything)
    path = tmp_path / "run" / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "r+") as file:
        del file["matrix/features/feature_type"]
        file["matrix/features/feature_type"] = np.array(["Gene Expression"] * 3 + ["Antibody Capture"], dtype="S")
    with pytest.warns(UserWarning, match="read without") as told:
        adata = st.read_visium(tmp_path / "run", library_id="S1")
    assert adata.shape == (56, 3)
    assert [str(w.message) for w in told if "read without" in str(w.message)] == [
        "Section 'S1' is read without 1 of 4 features, which are no genes (Antibody Capture); "
        "8 of 64 spots, which lie off the tissue (in_tissue is 0)."
    ]


def test_a_raw_matrix_alone_is_cut_to_the_tissue(tmp_path, write_visium):
    write_visium(tmp_path / "run", barcodes=[f"BC{i:03d}-1" for i in range(64)])
    path = tmp_path / "run" / "filtered_feature_bc_matrix.h5"
    path.rename(path.with_name("raw_feature_bc_matrix.h5"))
    with pytest.warns(UserWarning, match="8 of 64 spots"):
        assert st.read_visium(tmp_path / "run").n_obs == 56


def test_st_tells_spots_that_one_table_lacks(tmp_path):
    names = ["1x1", "1x2", "2x1", "2x2"]
    pd.DataFrame({"A": range(4), "B": 1}, index=names).to_csv(tmp_path / "c.tsv", sep="\t")
    rows = "".join(f"{n[0]}\t{n[2]}\t{n[0]}00\t{n[2]}00\t{int(n != '1x1')}\n" for n in [*names, "3x3", "4x4"])
    (tmp_path / "s.tsv").write_text(f"x\ty\tpixel_x\tpixel_y\tselected\n{rows}")
    with pytest.warns(UserWarning, match="read without") as told:
        adata = st.read_st(tmp_path / "c.tsv", tmp_path / "s.tsv")
    assert adata.obs_names.tolist() == names[1:]
    assert [str(w.message) for w in told if "read without" in str(w.message)] == [
        "Section 'c' is read without 1 of 4 spots with counts, which s.tsv does not name or select; "
        "2 of 5 places, for which c.tsv has no counts."
    ]


def test_nothing_is_told_where_nothing_is_left_out(tmp_path, write_visium):
    write_visium(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        st.read_visium(tmp_path / "run")


def test_spots_off_the_tissue_that_another_reader_left_are_told_and_the_advice_works(tmp_path, write_visium):
    sc = pytest.importorskip("scanpy")
    write_visium(tmp_path / "run", barcodes=[f"BC{i:03d}-1" for i in range(64)])
    with h5py.File(tmp_path / "run" / "filtered_feature_bc_matrix.h5", "r+") as file:
        file.attrs["library_ids"] = np.array(["S1"], dtype="S")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = sc.read_visium(tmp_path / "run")
    adata.var_names_make_unique()
    with pytest.warns(UserWarning, match=r"8 of 64 spots lie off the tissue.*== 1\]\.copy"):
        st.pp.tiles(adata)
    adata = adata[adata.obs["in_tissue"] == 1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        st.pp.tiles(adata)
