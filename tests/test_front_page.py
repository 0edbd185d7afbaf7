"""The code of the README and of the documentation's first page does what it says, from files to figures."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import sparse
from scipy.spatial import cKDTree

import stpredict as st
from stpredict.pp._encoders.catalogue import KNOWN

ROOT = Path(__file__).parents[1]


def code_of(page: str) -> str:
    """The first Python block of a page."""
    return (ROOT / page).read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def write_slide(adata, path):
    """The full-resolution image of a simulated section, with its scale."""
    (library,) = adata.uns["spatial"].values()
    pixels = library["images"]["hires"]
    assert library["scalefactors"]["tissue_hires_scalef"] == 1.0
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(256, 256), resolution=(1e4, 1e4), resolutionunit="CENTIMETER"
    )


def write_outs(adata, folder):
    """A simulated section as Space Ranger writes it; its ``hires`` image is a quarter of the full one."""
    (folder / "spatial").mkdir(parents=True)
    (library,) = adata.uns["spatial"].values()
    Image.fromarray(library["images"]["hires"][::4, ::4]).save(folder / "spatial" / "tissue_hires_image.png")
    factors = {"tissue_hires_scalef": 0.25, "tissue_lowres_scalef": 0.1, "spot_diameter_fullres": 55.0}
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    barcodes = [f"{name}-1" for name in adata.obs_names]
    x, y = adata.obsm["spatial"].T
    columns = {"in_tissue": 1, "array_row": adata.obs["array_row"], "array_col": adata.obs["array_col"]}
    table = pd.DataFrame(columns | {"pxl_row_in_fullres": y, "pxl_col_in_fullres": x})
    table.insert(0, "barcode", barcodes)
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    matrix = sparse.csc_matrix(adata.X.T)
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key).astype(np.int64)
        group["shape"] = matrix.shape
        group["barcodes"] = np.array(barcodes, dtype="S")
        kinds = {"id": adata.var_names, "name": adata.var_names, "feature_type": ["Gene Expression"] * adata.n_vars}
        for key, values in kinds.items():
            group[f"features/{key}"] = np.array(list(values), dtype="S")
        group["features/genome"] = np.array(["GRCh38"] * adata.n_vars, dtype="S")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that the code names, of simulated tissue, in the current folder."""
    *train, new = st.datasets.simulate(4)
    for number, adata in enumerate(train, 1):
        write_outs(adata, tmp_path / f"patient_{number}" / "outs")
        write_slide(adata, tmp_path / f"patient_{number}.tif")
    write_slide(new, tmp_path / "patient_4.svs")
    monkeypatch.chdir(tmp_path)
    return new


def test_the_ten_lines_predict_a_patient_from_files_of_which_the_last_is_an_image_alone(files):
    names: dict[str, object] = {}
    with st.settings.override(progress=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There are only 192 genes")
        exec(code_of("README.md"), names)
        st.tl.localize_tumor(names["predicted"], markers="breast")  # as the text below them says
        st.pl.tumor(names["predicted"])
    for adata in names["train"]:
        ((name, record),) = adata.uns["tiles"].items()
        assert record["image"].endswith(f"{name}.tif")
        assert record["mpp"] == pytest.approx(1, rel=0.01)
    assert list(names["predicted"].var_names) == names["model"].genes
    assert names["new"].uns["tiles"]["patient_4"]["mpp"] == pytest.approx(1, rel=0.01)
    near = cKDTree(files.obsm["spatial"]).query(names["predicted"].obsm["spatial"])
    column = files.var_names.get_loc("ERBB2")
    truth, inside = files.layers["truth"][near[1], column], near[0] < 60
    assert np.corrcoef(names["predicted"][inside, "ERBB2"].X[:, 0], truth[inside])[0, 1] > 0.6


def test_both_front_pages_show_the_same_ten_lines():
    assert code_of("docs/index.md") == code_of("README.md")
    assert len([line for line in code_of("README.md").splitlines() if line.strip()]) == 10


def test_the_default_method_is_the_one_that_the_page_names():
    page = (ROOT / "docs" / "which.md").read_text(encoding="utf-8")
    default = inspect.signature(st.tl.train).parameters["method"].default
    assert f"**The default method is `{default}`" in page


def test_the_table_of_encoders_has_every_known_one_with_its_licence():
    page = (ROOT / "docs" / "which.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith('| `"')]
    for name, encoder in KNOWN.items():
        (row,) = [row for row in rows if f'`"{name}"`' in row]
        assert encoder.licence in row
        assert (row.split("|")[4].strip() == "yes") == encoder.gated


def test_the_table_of_published_models_has_all_of_them_with_their_licence():
    page = (ROOT / "docs" / "which.md").read_text(encoding="utf-8")
    rows = {cells[1]: cells for line in page.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 7}
    for name, card in st.models.available().iterrows():
        row = rows[f'`"{name}"`']
        assert row[2] == card["tissue"]
        assert row[4] == card["licence"]
        assert row[5].startswith("yes" if card["gated"] else "no")
        assert row[6] == ("yes" if card["commercial"] else "no")


def test_the_page_of_methods_to_take_knows_every_method():
    page = (ROOT / "docs" / "which.md").read_text(encoding="utf-8")
    assert [name for name in st.models.METHODS if f"`{name}`" not in page] == []


def test_the_readme_has_at_most_eight_rows_of_numbers():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\|.*\| 0\.\d", page, re.MULTILINE)) <= 8
