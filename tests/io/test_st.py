"""`read_st`: tables as laboratories share them, and one clear error for every broken one."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

import stpredict as st
from stpredict._sections.anndata import section_from_anndata

PITCH = 40.0


@pytest.fixture
def truth():
    """A 5 × 4 grid: counts by spot, and the pixels of each spot."""
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(3, 8), np.arange(2, 6)))
    names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    counts = np.random.default_rng(0).poisson(3.0, (20, 3))
    table = pd.DataFrame(counts, index=names, columns=["ERBB2", "CD74", "B2M"])
    spots = pd.DataFrame({"x": x, "y": y, "new_x": x + 0.004, "new_y": y - 0.003})
    spots["pixel_x"], spots["pixel_y"] = 10 + x * PITCH, 5 + y * PITCH + 0.25
    return table, spots


@pytest.fixture
def files(tmp_path, truth):
    """Count table, spot table (in another order, and one spot outside of the tissue) and image."""
    table, spots = truth
    table.to_csv(tmp_path / "C1.tsv", sep="\t")
    spots = spots.sample(frac=1, random_state=0)
    spots["selected"] = (spots["x"] != 7).astype(int)
    spots.to_csv(tmp_path / "C1_selection.tsv", sep="\t", index=False)
    Image.new("RGB", (400, 300), "pink").save(tmp_path / "C1.jpg")
    return tmp_path / "C1.tsv", tmp_path / "C1_selection.tsv", tmp_path / "C1.jpg"


def check(adata, truth, *, n=20):
    table, spots = truth
    assert adata.n_obs == n
    np.testing.assert_array_equal(adata.X.toarray(), table.loc[adata.obs_names].to_numpy())
    assert adata.var_names.tolist() == ["ERBB2", "CD74", "B2M"]
    places = spots.assign(name=table.index).set_index("name").loc[adata.obs_names]
    np.testing.assert_allclose(adata.obsm["spatial"], places[["pixel_x", "pixel_y"]])
    np.testing.assert_array_equal(adata.obs["array_col"], places["x"])
    np.testing.assert_array_equal(adata.obs["array_row"], places["y"])


def test_three_files_make_a_section(files, truth, tmp_path):
    adata = st.read_st(*files)
    check(adata, truth, n=16)
    assert adata.X.dtype == np.float32
    library = adata.uns["spatial"]["C1"]
    assert library["metadata"] == {
        "technology": "Spatial Transcriptomics",
        "spot_pitch_um": 200.0,
        "spot_diameter_um": 100.0,
        "source_image_path": str(files[2]),
    }
    assert library["scalefactors"]["spot_diameter_fullres"] == pytest.approx(PITCH / 2)
    assert library["images"]["hires"].shape == (300, 400, 3)
    section = section_from_anndata(adata)
    assert section.mpp == pytest.approx(200 / PITCH)
    assert section.image.shape == (300, 400)
    adata.write_h5ad(tmp_path / "a.h5ad")


@pytest.mark.parametrize("layout", ["genes as rows", "csv", "gzipped", "R", "no corner", "fractional names", "spot_id"])
def test_layouts(files, truth, tmp_path, layout):
    table, spots = truth
    counts, selection = tmp_path / "c.tsv", tmp_path / "s.tsv"
    table.to_csv(counts, sep="\t")
    spots.to_csv(selection, sep="\t", index=False)
    if layout == "genes as rows":
        table.T.to_csv(counts, sep="\t")
    elif layout == "csv":
        table.to_csv(counts := tmp_path / "c.csv")
        spots.to_csv(selection := tmp_path / "s.csv", index=False)
    elif layout == "gzipped":
        table.to_csv(counts := tmp_path / "c.tsv.gz", sep="\t")
        spots.to_csv(selection := tmp_path / "s.tsv.gz", sep="\t", index=False)
    elif layout == "R":
        table.rename(index="X{}".format).to_csv(counts, sep="\t", quoting=2)
        table = table.rename(index="X{}".format)
    elif layout == "no corner":
        lines = counts.read_text().splitlines()
        counts.write_text("\n".join([lines[0].lstrip("\t"), *lines[1:]]))
    elif layout == "fractional names":
        table.index = [f"{a:.3f}x{b:.3f}" for a, b in zip(spots["new_x"], spots["new_y"], strict=True)]
        table.to_csv(counts, sep="\t")
        spots[["new_x", "new_y", "pixel_x", "pixel_y"]].to_csv(selection, sep="\t", index=False)
    elif layout == "spot_id":
        named = spots.assign(spot_id=table.index)[["spot_id", "pixel_x", "pixel_y"]]
        named.to_csv(selection, sep="\t", index=False)
    adata = st.read_st(counts, selection)
    if layout == "fractional names":
        np.testing.assert_allclose(adata.obs["array_col"], spots["x"], atol=0.01)
        np.testing.assert_allclose(adata.obsm["spatial"], spots[["pixel_x", "pixel_y"]])
    else:
        check(adata, (table, spots))
    assert not section_from_anndata(adata).has_image


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=some.lists(
        some.tuples(some.integers(0, 40), some.integers(0, 40), some.floats(0, 1e4), some.floats(0, 1e4)),
        min_size=1,
        max_size=20,
        unique_by=lambda row: row[:2],
    )
)
def test_x_and_y_are_never_swapped(tmp_path, data):
    frame = pd.DataFrame(data, columns=["x", "y", "pixel_x", "pixel_y"]).round(3)
    frame.iloc[::-1].to_csv(tmp_path / "s.tsv", sep="\t", index=False)
    names = [f"{x}x{y}" for x, y in zip(frame["x"], frame["y"], strict=True)]
    pd.DataFrame({"G": 1, "H": 2}, index=names).to_csv(tmp_path / "c.tsv", sep="\t")
    adata = st.read_st(tmp_path / "c.tsv", tmp_path / "s.tsv")
    assert adata.obs_names.tolist() == names
    np.testing.assert_allclose(adata.obsm["spatial"], frame[["pixel_x", "pixel_y"]])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("rest", ["one long line", "many lines", "all of it"])
def test_small_files_that_unfold_to_fill_the_memory_are_refused(files, tmp_path, monkeypatch, which, rest):
    """Whether it is the first line or a later one; the limits are lowered, so that the test is fast."""
    limit = {"one long line": "LONGEST_LINE", "many lines": "MOST_LINES", "all of it": "LARGEST_TABLE"}[rest]
    monkeypatch.setattr(f"stpredict.io._st.{limit}", 2**21)
    bomb = tmp_path / "bomb.tsv.gz"
    zeros = b"\n" if rest == "many lines" else b"0\t0\n" if rest == "all of it" else b"0\t"
    first = (
        files[which].read_bytes()
        if not str(files[which]).endswith(".gz")
        else gzip.decompress(files[which].read_bytes())
    )
    bomb.write_bytes(gzip.compress(first + zeros * 2**22, 1))
    given_files = [*files[:which], bomb, *files[which + 1 :]]
    with pytest.raises(ValueError, match=r"bomb.tsv.gz cannot be read as a table \(tables of spots have at most"):
        st.read_st(*given_files)


def test_scale_and_name_of_the_user(files):
    adata = st.read_st(*files, library_id="mine", mpp=4.9, spot_pitch_um=None, spot_diameter_um=None)
    library = adata.uns["spatial"]["mine"]
    assert "spot_pitch_um" not in library["metadata"]
    assert library["scalefactors"]["microns_per_pixel"] == 4.9
    assert section_from_anndata(adata).mpp == 4.9
    unknown = st.read_st(*files, spot_pitch_um=None)
    with pytest.raises(ValueError, match="scale of section 'C1' is unknown"):
        _ = section_from_anndata(unknown).mpp
    with pytest.raises(ValueError, match=r"outside of 0\.05–20"):
        st.read_st(*files, mpp=300)


def test_spots_that_one_table_lacks_are_left_out(files, truth):
    table, _ = truth
    table.iloc[3:].to_csv(files[0], sep="\t")
    assert "3x2" not in st.read_st(*files).obs_names
    assert st.read_st(*files).n_obs == 13


@pytest.mark.skipif("C2" not in st.datasets.available("her2st"), reason="STPREDICT_DATA holds no real sections")
def test_real_section_through_its_tables(tmp_path):
    truth = st.datasets.her2st("C2")[:, :50]
    folder = st.settings.data_dir / "her2st" / "C2"
    names = truth.obs_names.str.removeprefix("her2st_C2_")
    with gzip.open(tmp_path / "C2.tsv.gz", "wt") as file:
        pd.DataFrame(truth.X.toarray().astype(int), index=names, columns=truth.var_names).to_csv(file, sep="\t")
    adata = st.read_st(tmp_path / "C2.tsv.gz", folder / "spots.csv", folder / "image.jpg")
    np.testing.assert_array_equal(adata.X.toarray(), truth.X.toarray())
    np.testing.assert_allclose(adata.obsm["spatial"], truth.obsm["spatial"])
    assert section_from_anndata(adata).mpp == pytest.approx(0.688, rel=0.02)


# ---------------------------------------------------------------------- what is refused


def test_missing_files(files, tmp_path):
    for position in range(3):
        broken = list(files)
        broken[position] = tmp_path / "gone"
        with pytest.raises(FileNotFoundError, match="gone"):
            st.read_st(*broken)


def test_truncated_files(files, tmp_path):
    counts = tmp_path / "c.tsv.gz"
    counts.write_bytes(gzip.compress(files[0].read_bytes())[:60])
    with pytest.raises(ValueError, match=r"c\.tsv\.gz .*(cannot be read|damaged)"):
        st.read_st(counts, *files[1:])
    files[2].write_bytes(files[2].read_bytes()[:500])
    with pytest.raises(ValueError, match=r"C1\.jpg (is truncated|cannot be read)"):
        st.read_st(*files)
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(ValueError, match="cannot be read as a table of counts"):
        st.read_st(tmp_path / "empty.tsv", *files[1:])
    with pytest.raises(ValueError, match="cannot be read as a table of spots"):
        st.read_st(files[0], tmp_path / "empty.tsv")


def rewrite(path, change):
    change(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False)


def test_spot_tables_that_do_not_serve(files):
    good = files[1].read_text()
    cases = [
        (lambda t: t.drop(columns=["pixel_x", "pixel_y"]), "no column pixel_x and pixel_y .*Spot Detector"),
        (lambda t: t[["pixel_x", "pixel_y", "selected"]], "does not say which spot is which"),
        (lambda t: pd.concat([t, t[t["selected"] == 1].iloc[:1]]), "duplicated spots"),
        (lambda t: t.assign(pixel_x="far"), "empty or no numbers"),
        (lambda t: t.assign(pixel_x=np.nan), "empty or no numbers"),
        (lambda t: t.assign(new_x=np.inf), "empty or no numbers, or too large"),
        (lambda t: t.assign(x=t["x"] + 30, new_x=t["new_x"] + 30), "share no spot: the first are called 3x2"),
        (lambda t: t.assign(selected=0), "has no selected spot"),
    ]
    for change, told in cases:
        files[1].write_text(good)
        rewrite(files[1], change)
        with pytest.raises(ValueError, match=told):
            st.read_st(*files)


def test_count_tables_that_do_not_serve(files):
    good = files[0].read_text()
    lines = good.splitlines()
    cases = [
        ("\n".join([*lines, lines[1]]), r"duplicated spots \(3x2\)"),
        (good.replace("3x2", "spot"), "Neither rows nor columns"),
        (good.replace("\t" + lines[1].split("\t")[1], "\tmany", 1), "empty or no numbers"),
        (good.replace("\t" + lines[1].split("\t")[1] + "\t", "\t\t", 1), "empty or no numbers"),
        (good.replace("\t" + lines[1].split("\t")[1] + "\t", "\t1e308\t", 1), "or too large"),
        (good.replace("ERBB2", "", 1), r"1 gene\(s\) without a name"),
        (good.replace("3x2", f"3x{'9' * 400}", 1), "Neither rows nor columns"),
        (good.replace("ERBB2", "ERBB2\tmore\tnames", 1), "names in its first line"),
        (lines[0], "cannot be read as a table of counts"),
    ]
    for text, told in cases:
        files[0].write_text(text)
        with pytest.raises(ValueError, match=told):
            st.read_st(*files)
