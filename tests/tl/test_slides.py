"""Manifests: what counts as a slide, and what is refused."""

from __future__ import annotations

import pandas as pd
import pytest

from stpredict.tl._batch.manifest import slides_of


@pytest.fixture
def folder(tmp_path):
    for name in ("b.svs", "a.ome.tif", "c.JPG", "notes.txt", ".hidden.tif", "list.csv"):
        (tmp_path / name).touch()
    (tmp_path / "a.dcm").mkdir()
    return tmp_path


def test_folder_gives_its_images_by_name(folder):
    assert [(slide.name, slide.path.name) for slide in slides_of(folder)] == [
        ("a", "a.ome.tif"),
        ("b", "b.svs"),
        ("c", "c.JPG"),
    ]


def test_folder_without_images_gives_its_stores(tmp_path):
    (tmp_path / "x.h5ad").touch()
    (tmp_path / "y.zarr").mkdir()
    assert [slide.name for slide in slides_of(tmp_path)] == ["x", "y"]
    assert all(slide.is_store for slide in slides_of(str(tmp_path)))
    assert [slide.name for slide in slides_of(tmp_path / "y.zarr")] == ["y"]


def test_table_paths_are_relative_to_it_and_columns_are_kept(folder, tmp_path):
    (tmp_path / "sub").mkdir()
    table = pd.DataFrame({"path": ["../b.svs"], "mpp": ["0.25"], "patient": ["007"], "her2": [""]})
    table.to_csv(tmp_path / "sub" / "x.csv", index=False, sep=";")
    (slide,) = slides_of(tmp_path / "sub" / "x.csv")
    assert slide.path.resolve() == (folder / "b.svs").resolve()
    assert slide.mpp == 0.25
    assert slide.metadata == {"patient": "007", "her2": None}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"file": ["b.svs"]}, "no column 'path'; it has file"),
        ({"path": []}, "lists no slide"),
        ({"path": ["b.svs", None]}, "lacks the path in line 2"),
        ({"path": ["b.svs"], "mpp": ["40x"]}, "mpp='40x', which is no number"),
        ({"path": ["b.svs", "c.JPG"], "slide": ["x", "X"]}, "Several slides are called 'x'"),
        ({"path": ["b.svs", "sub/b.svs"]}, "Several slides are called 'b'"),
        ({"path": ["b.svs"], "slide": ["p1/b"]}, "'p1/b' cannot name a slide"),
        ({"path": ["b.svs"], "slide": [".."]}, "'..' cannot name a slide"),
        ({"path": ["b.svs"], "slide": [" "]}, "'' cannot name a slide"),
        ({"path": ["b.svs"], "library_id": ["x"]}, "cannot take over into obs: 'library_id'"),
        ({"path": ["b.svs"], "a/b": ["x"]}, "cannot take over into obs: 'a/b'"),
        ({"path": ["b.svs"], "..": ["x"]}, r"cannot take over into obs: '\.\.'"),
        ({"path": ["b.svs"], "a\0b": ["x"]}, "cannot take over into obs"),
        ({"path": ["b.svs"], "mpp": [0]}, r"mpp=0.0 µm per pixel is outside of 0.05–20"),
        ({"path": ["b.svs"], "slide": ["x" * 300]}, "too long for a folder"),
        ({"path": ["b.svs"], "slide": ["x\ty"]}, "cannot name a slide"),
        ({"path": ["~nobody_here/b.svs"]}, "Give the path without '~'"),
    ],
)
def test_bad_tables(folder, monkeypatch, table, message):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=message):
        slides_of(pd.DataFrame(table))


def test_what_is_no_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere"):
        slides_of(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"There is no slide in .*no file ends in \.tif"):
        slides_of(tmp_path)
    with pytest.raises(ValueError, match="lists no slide"):
        slides_of([])
    with pytest.raises(FileNotFoundError, match=r"None of the slides exists.*gone\.tif"):
        slides_of([tmp_path / "gone.tif"])
    with pytest.raises(TypeError, match=r"paths of slides; got a int"):
        slides_of([3])
    with pytest.raises(TypeError, match="manifest must be a folder"):
        slides_of(3)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(ValueError, match=r"bad\.csv cannot be read as a table"):
        slides_of(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("path,mpp\nb.svs,0,5\n")
    with pytest.raises(ValueError, match=r"more cells than its header has names; .* write 0\.5 with a point"):
        slides_of(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path\nb.svs\n", [("b", {})]),
        ("\npath,slide\nb.svs,one tumour\n\n,\n", [("one tumour", {})]),
        ("path;note\nb.svs;x\n", [("b", {"note": "x"})]),
        ("path\tslide\nb.svs\tx\n", [("x", {})]),
        ('path,note\nb.svs,"grade 2, old"\n', [("b", {"note": "grade 2, old"})]),
        ("path,note\nb.svs,x;y;z\n", [("b", {"note": "x;y;z"})]),
        ("path,note\nb.svs,x,\n", [("b", {"note": "x"})]),
    ],
)
def test_tables_are_read_as_their_header_says(folder, text, expected):
    (folder / "cohort.csv").write_text(text)
    assert [(slide.name, slide.metadata) for slide in slides_of(folder / "cohort.csv")] == expected
