"""Damaged files: whatever is done to one, it is read, or refused in one clear error of ours, and nothing waits for ever.

What is read of a model that was damaged is the model: it predicts what it did before.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import traceback
import warnings
from collections import Counter

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import sparse

import stpredict as st
from stpredict._images import open_image
from stpredict._sections.anndata import section_from_anndata
from stpredict.tl._batch.manifest import slides_of

REFUSALS = (FileNotFoundError, OSError, KeyError, TypeError, ValueError)
SECONDS = 20
NODES = ("missing", "folder", "pipe", "zeros", "empty", "loop")
CELLS = ("nan", "inf", "-1", "0", "1e308", "", "text", "1,5", "٣", "=1+1", "..", "\0", "9" * 400)


@pytest.fixture(scope="module")
def files(tmp_path_factory, _simulated):
    """One folder per kind of input."""
    root = tmp_path_factory.mktemp("whole")
    section = _simulated[0][:40].copy()
    pixels = section.uns["spatial"]["sim_1"]["images"]["hires"][:300, :400]
    for name in ("table", "image", "model", "manifest", "store", "visium/spatial"):
        (root / name).mkdir(parents=True)
    spots = [f"{x}x{y}" for x in range(6) for y in range(6)]
    counts = np.random.default_rng(0).poisson(3, (36, 8))
    pd.DataFrame(counts, index=spots, columns=[f"G{i}" for i in range(8)]).to_csv(root / "table/counts.tsv", sep="\t")
    x, y = np.array([spot.split("x") for spot in spots], dtype=int).T
    places = {"x": x, "y": y, "pixel_x": 60.0 * x + 20, "pixel_y": 60.0 * y + 20}
    pd.DataFrame(places).to_csv(root / "table/spots.tsv", sep="\t", index=False)
    scale = {"photometric": "rgb", "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(root / "image/tiles.tif", pixels, tile=(64, 64), compression="zlib", **scale)
    tifffile.imwrite(root / "image/plain.tif", pixels, **scale)
    Image.fromarray(pixels).save(root / "image/a.png")
    Image.fromarray(pixels).save(root / "image/a.jpg")
    st.pp.tiles(section)
    st.pp.encode(section, show_progress=False)
    genes = list(section.var_names[:10])
    ridge = st.tl.train(section, genes=genes, method="ridge")
    network = {"epochs": 1, "members": 1, "width": 16, "show_progress": False}
    section.obs["measured"] = np.arange(section.n_obs) % 2 == 0
    models = {
        "ridge": ridge,
        "network": st.tl.train(section, genes=genes, method="cmrcnet", **network),
        "adapted": st.tl.adapt(section, ridge, measured="measured"),
    }
    for name, model in models.items():
        model.save(root / "model" / name)
    write_visium(root / "visium", pixels, spots, counts, 10.0 * x + 100, 10.0 * y + 100)
    (root / "manifest/a.tif").touch()
    (root / "manifest/slides.csv").write_text("path,slide,mpp,patient\na.tif,one,0.5,P1\na.tif,two,,P2\n")
    section.write_h5ad(root / "store/a.h5ad")
    return root


def write_visium(folder, pixels, spots, counts, x, y):
    """A run of Space Ranger, as small as one can be."""
    barcodes = [f"{'ACGT' * 4}{'ACGT'[i % 4] * (i // 4 + 1)}-1" for i in range(len(spots))]
    columns = ["in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
    places = np.column_stack([np.ones(len(spots)), y // 10, x // 10, y, x]).astype(int)
    pd.DataFrame(places, barcodes, columns).to_csv(folder / "spatial/tissue_positions.csv", index_label="barcode")
    factors = {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.25, "spot_diameter_fullres": 5.5}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    Image.fromarray(pixels).save(folder / "spatial/tissue_hires_image.png")
    matrix = sparse.csr_matrix(counts)
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        parts = {name: getattr(matrix, name) for name in ("data", "indices", "indptr")}
        parts |= {"barcodes": np.array(barcodes, dtype="S"), "shape": np.array(counts.T.shape)}
        n = counts.shape[1]
        features = {"id": [f"ENSG{i}" for i in range(n)], "name": [f"G{i}" for i in range(n)]}
        features |= {"feature_type": ["Gene Expression"] * n, "genome": ["GRCh38"] * n}
        for name, values in parts.items():
            group.create_dataset(name, data=values)
        for name, values in features.items():
            group.create_dataset(f"features/{name}", data=np.array(values, dtype="S"))


@pytest.fixture(scope="module")
def whole(files, _simulated):
    """What the models predict for a section."""
    section = _simulated[0][:40].copy()
    st.pp.tiles(section)
    st.pp.encode(section, show_progress=False)
    view = section_from_anndata(section)
    return view, {path.name: st.models.load(path).predict(view).mean for path in (files / "model").iterdir()}


def read(kind, folder, whole):
    if kind == "table":
        st.read_st(folder / "counts.tsv", folder / "spots.tsv", library_id="s", mpp=3.0)
    elif kind == "image":
        for path in folder.iterdir():
            image = open_image(path)
            image.read(0, 0, image.shape[1], image.shape[0])
    elif kind == "model":
        section, expected = whole
        for path in folder.iterdir():
            mean = st.models.load(path).predict(section).mean
            np.testing.assert_array_equal(mean, expected[path.name])
    elif kind == "visium":
        st.read_visium(folder)
    elif kind == "manifest":
        slides_of(folder / "slides.csv")
    else:
        st.tl.train(folder / "a.h5ad", genes=["ERBB2", "COL1A1"], method="mean")


def damage(chance, folder):
    """Change one file of a folder; returns what was done."""
    path = chance.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    own = {".tsv": "cell", ".csv": "cell", ".json": "fields"}.get(path.suffix, "bytes")
    how = chance.choice(("bytes", "cut", "insert", "node", own))
    data = bytearray(path.read_bytes())
    if how == "node":
        how = chance.choice(NODES)
        path.unlink()
        {
            "missing": lambda: None,
            "folder": path.mkdir,
            "pipe": lambda: os.mkfifo(path),
            "zeros": lambda: path.symlink_to("/dev/zero"),
            "empty": path.touch,
            "loop": lambda: path.symlink_to(path.name),
        }[how]()
    elif how == "cell":
        lines = data.decode().split("\n")
        sign = "\t" if path.suffix == ".tsv" else ","
        number = chance.randrange(len(lines))
        cells = lines[number].split(sign)
        cells[chance.randrange(len(cells))] = chance.choice(CELLS)
        lines[number] = sign.join(cells)
        path.write_text("\n".join(lines))
    elif how == "fields":
        content = json.loads(data)
        how += f" {exchange(chance, content)}"
        path.write_text(json.dumps(content))
    elif data:
        place = chance.randrange(len(data))
        if how == "cut":
            data = data[:place]
        elif how == "insert":
            data[place:place] = chance.randbytes(chance.choice((1, 4, 50)))
        else:
            for _ in range(chance.choice((1, 2, 20))):
                data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
    return f"{path.name}: {how}"


def exchange(chance, content):
    """Exchange two values of an object in some depth, or give one another type."""
    objects = [content]
    for one in objects:
        objects += [value for value in one.values() if isinstance(value, dict) and len(value) > 1]
    one = chance.choice(objects)
    a, b = chance.sample(sorted(one), 2)
    if chance.random() < 0.5:
        one[a], one[b] = one[b], one[a]
    else:
        b, one[a] = "new", chance.choice((None, -1, 1e308, "", "x", [], {}, True, [[1]], {"a": 1}))
    return a, b


def is_ours(error):
    """Whether an error is one that this package raises on purpose."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, REFUSALS) and "/stpredict/" in last.filename and (last.line or "").startswith("raise")


def too_long(*_):
    msg = "it does not end"
    raise TimeoutError(msg)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("n", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused(files, whole, tmp_path, n):
    before = signal.signal(signal.SIGALRM, too_long)
    kinds = sorted(p.name for p in files.iterdir())
    wrong, seen = [], Counter()
    try:
        for number in range(n):
            chance = random.Random(f"11/{number}")
            kind = chance.choice(kinds)
            folder = tmp_path / "case"
            shutil.copytree(files / kind, folder)
            if kind in ("image", "model"):  # one of them
                _, *others = chance.sample(sorted(folder.iterdir()), len(list(folder.iterdir())))
                for path in others:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            what = damage(chance, folder)
            signal.alarm(SECONDS)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(kind, folder, whole)
                seen["read"] += 1
            except Exception as error:  # noqa: BLE001 (each is judged)
                seen["refused"] += 1
                if not is_ours(error):
                    wrong.append(f"{number} {kind} {what}: {type(error).__name__}: {error}")
            finally:
                signal.alarm(0)
            shutil.rmtree(folder)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen["refused"] > n / 4
    assert seen["read"] > n / 10
    assert wrong == []
