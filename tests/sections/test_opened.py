"""Sections of tables in memory and on disk: what is read of a table, and what a section tells of itself."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as st
from stpredict._core.warning import StpredictWarning
from stpredict._images import SlideImage
from stpredict._sections.anndata import libraries_of, scale_hints, section_from_anndata, spot_centres
from stpredict._sections.open import Opened, Where, copy_of, listed, open_sections, separate, table_of, unique_names
from stpredict._sections.scale import ScaleHints
from stpredict._sections.section import Section
from stpredict._sections.stored import Store, StoredSections, are_stored, open_stored, stores_in

SPOTS = np.array([[10.0, 20], [60, 20], [10, 70], [60, 70]])
MANY = np.column_stack([np.tile(np.arange(5), 5), np.repeat(np.arange(5), 5)]) * 50.0 + 20
"""Spots 50 px apart."""

COUNTS = np.array([[1, 0, 3], [0, 1, 0], [2, 0, 2], [0, 5, 5]], np.float32)


def table(names=("s",), *, images=None, factors=None, metadata=None, **obs):
    rows = [name for name in names for _ in SPOTS]
    adata = AnnData(np.tile(COUNTS, (len(names), 1)), obs=pd.DataFrame(index=[f"c{i}" for i in range(len(rows))]))
    adata.obsm["spatial"] = np.tile(SPOTS, (len(names), 1))
    entry = {"images": images or {}, "scalefactors": factors or {}, "metadata": metadata or {}}
    adata.uns["spatial"] = {name: {key: dict(value) for key, value in entry.items()} for name in names}
    if len(names) > 1:
        adata.obs["library_id"] = rows
    for key, value in obs.items():
        adata.obs[key] = value
    return adata


# ---------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("entries", "obs", "found"),
    [
        ({"a": {}, "is_single": True}, [], ["a"]),
        ({"a": {"images": {"hires": 1}}, "b": {}}, [], ["a"]),
        ({"a": {}, "b": {"scalefactors": {"x": 1}, "images": {}}}, [], ["b"]),
        ({"a": {"images": {"hires": 1}}, "b": {}}, ["library_id"], ["a", "b"]),
        ({"a": {"images": {}}, "b": {"images": None}}, [], ["a", "b"]),
        ({"a": {"images": {"hires": 1}}, "b": {"images": {"hires": 1}}}, [], ["a", "b"]),
    ],
)
def test_libraries_with_content(entries, obs, found):
    adata = SimpleNamespace(uns={"spatial": entries}, obs=pd.DataFrame(columns=obs))
    assert list(libraries_of(adata)) == found


@pytest.mark.parametrize(
    ("factors", "diameter"),
    [
        ({"spot_diameter_fullres": 1.0}, 1.0),
        ({"spot_diameter_fullres": 0.9}, None),
        ({"spot_diameter_fullres": 3, "tissue_hires_scalef": 3}, None),  # as Seurat writes it
        ({"spot_diameter_fullres": 3, "tissue_lowres_scalef": 3}, None),
        ({}, None),
    ],
)
def test_recorded_diameter(factors, diameter):
    assert scale_hints(table(factors=factors), "s", None).spot_diameter_px == diameter


def test_hints_of_the_scale():
    adata = table(factors={"microns_per_pixel": np.array([0.5])}, metadata={"spot_pitch_um": "100"})
    hints = scale_hints(adata, "s", 2.0)
    assert (hints.argument, hints.metadata, hints.pitch_um) == (2.0, 0.5, 100.0)
    assert (hints.is_laid, hints.remembered) == (False, None)
    adata.uns["spatial"]["s"]["metadata"] = {"technology": "pseudo-spots"}
    adata.uns["tiles"] = {"s": {"mpp": 0.25, "mpp_source": "argument"}}
    hints = scale_hints(adata, "s", None)
    assert (hints.pitch_um, hints.is_laid, hints.remembered) == (None, True, (0.25, "argument"))


@pytest.mark.parametrize(
    ("columns", "taken"),
    [(["x", "y"], [0, 1]), (["Y", "X"], [1, 0]), (["imagerow", "imagecol", "z"], [1, 0]), (["a", "b"], [0, 1])],
)
def test_columns_of_coordinates_are_taken_by_name(columns, taken):
    adata = table()
    values = np.arange(4.0 * len(columns)).reshape(4, -1)
    adata.obsm["spatial"] = pd.DataFrame(values, index=adata.obs_names, columns=columns)
    np.testing.assert_array_equal(spot_centres(adata, np.array([1, 3]), "s"), values[[1, 3]][:, taken])
    exchange = scale_hints(adata, "s", None).exchange
    assert exchange.endswith("[:, ::-1]") == (taken == [0, 1])


@pytest.mark.parametrize(
    ("rows", "columns", "refused"),
    [
        ([0, 0, 1, 1], [0, 1, 0, 1], False),
        ([0, 0, 1, 1], [0, 1, 0, 0], True),
        ([0, 1, 1, 1], [0, 0, 0, 0], False),
        ([0, 0, np.nan, np.nan], [0, 1, 2, 2], False),
    ],
)
def test_places_of_the_array_that_come_again(rows, columns, refused):
    adata = table(array_row=rows, array_col=columns)
    if refused:
        with pytest.raises(ValueError, match="has 1 of 4 spots at places of the array"):
            section_from_anndata(adata)
    else:
        assert len(section_from_anndata(adata)) == 4


@pytest.mark.parametrize(
    ("column", "fine"), [("a", True), (["a", None, "a", "a"], True), (["a", "b", "a", "a"], False)]
)
@pytest.mark.parametrize("libraries", [True, False])
def test_one_library_for_what_the_table_calls_two_sections(column, fine, libraries):
    adata = table(library_id=column)
    if not libraries:
        del adata.uns["spatial"]
    if fine:
        assert section_from_anndata(adata).name == ("s" if libraries else st._core.keys.DEFAULT_LIBRARY)
    else:
        has = "only 's'" if libraries else "none of them"
        with pytest.raises(ValueError, match=f"names 2 sections \\(a, b\\) but uns\\['spatial'\\] has {has}"):
            section_from_anndata(adata)


def test_the_column_of_the_sections_is_the_one_that_tiles_remember():
    adata = table("ab", slide=list("aabbaabb"))
    assert section_from_anndata(adata, library_id="a").rows.tolist() == [0, 1, 2, 3]
    assert section_from_anndata(adata, library_id="a", library_key="slide").rows.tolist() == [0, 1, 4, 5]
    adata.uns["tiles"] = {"a": {"mpp": 1.0, "mpp_source": "x"}, "b": {"library_key": "slide"}}
    assert section_from_anndata(adata, library_id="a").rows.tolist() == [0, 1, 4, 5]
    one = adata[adata.obs["slide"] == "a"].copy()
    one.uns["spatial"].pop("b")
    assert len(section_from_anndata(one, library_key="slide")) == 4
    one.obs["slide"] = "z"
    with pytest.raises(KeyError, match="names sections that uns"):
        section_from_anndata(one, library_key="slide")


@pytest.mark.parametrize(
    ("uns", "told"),
    [
        ({"spatial": {"s": {"metadata": {}}}}, "one: adata.uns['spatial']['s']['metadata']['source_image_path'] ="),
        ({"spatial": {"s": {}}}, "one: adata.uns['spatial']['s'].setdefault('metadata', {})['source_image_path'] ="),
        ({}, "one: adata.uns.setdefault('spatial', {}).setdefault('"),
    ],
)
def test_where_to_name_the_image(uns, told):
    adata = table()
    adata.uns = uns
    section = section_from_anndata(adata)
    assert not section.has_image
    with pytest.raises(ValueError, match="has no H&E image") as error:
        _ = section.image
    assert told in str(error.value)


def test_the_hires_image_and_centroids_in_microns():
    hires = np.full((100, 100, 3), 200, np.uint8)
    adata = table(images={"hires": hires}, transcript_counts=1, cell_area=9.0)
    section = section_from_anndata(adata)
    assert section.has_image
    assert section.image_scale == 1
    np.testing.assert_array_equal(section.centres, SPOTS)
    adata.obs["x_centroid"], adata.obs["y_centroid"] = SPOTS.T
    with pytest.raises(ValueError, match="centroids that Xenium writes"):
        section_from_anndata(adata)
    adata.uns["spatial"]["s"]["images"] = {}
    assert len(section_from_anndata(adata)) == 4  # without an image, nothing is cut out at them
    adata.uns["spatial"]["s"]["metadata"]["source_image_path"] = "gone.tif"
    with pytest.raises(ValueError, match="centroids that Xenium writes"):
        section_from_anndata(adata)
    del adata.obs["x_centroid"]
    for images, told in (({"hires": hires}, True), ({}, False)):
        adata.uns["spatial"]["s"]["images"] = images
        with pytest.raises(FileNotFoundError, match=r"no image at gone\.tif") as error:
            _ = section_from_anndata(adata).image
        assert ("use the coarse hires image knowingly: del adata" in str(error.value)) == told


# ---------------------------------------------------------------------- one section


def made(centres=SPOTS, *, mpp=None, scale=1.0, adata=None, has_image=True, **hints):
    image = SlideImage([np.full((400, 400, 3), 200, np.uint8)], source="slide.tif")
    image.mpp = mpp
    adata = table() if adata is None else adata
    return Section(
        name="s",
        adata=adata,
        rows=np.arange(len(centres)),
        centres=centres,
        open_image=lambda: image,
        hints=ScaleHints(**hints),
        image_scale=scale,
        has_image=has_image,
    )


def test_the_scale_of_the_image_file_counts_where_nobody_tells_another():
    for known in ({"argument": 3.0}, {"metadata": 3.0}, {"remembered": (3.0, "x")}):
        assert made(mpp=0.5, **known).mpp == 3
    section = made(mpp=0.5, scale=4.0)
    assert (section.mpp, section.mpp_of_coordinates, section.mpp_source) == (0.5, 2.0, "image file")
    assert made(SPOTS[:0], mpp=0.5).mpp == 0.5  # of a slide without spots
    for nothing in (made(mpp=0.5, has_image=False), made()):
        with pytest.raises(ValueError, match="is unknown"):
            _ = nothing.mpp


@pytest.mark.parametrize(("mpp", "said"), [(2.0, None), (2.2, "warning"), (1.0, "error"), (None, None)])
def test_the_image_file_beside_the_metadata(mpp, said):
    section = made(mpp=mpp, scale=2.0, metadata=4.0)
    if said == "error":
        with pytest.raises(ValueError, match="the image file says 2; there is no lattice"):
            section.check_image_file()
        return
    on_a_lattice = made(MANY * 0.6, mpp=mpp, scale=2.0, metadata=4.0, pitch_um=120.0)
    untold = made(mpp=mpp, scale=2.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        section.check_image_file()
        on_a_lattice.check_image_file()
        if mpp:
            untold.check_image_file()
    assert len(told) == (said == "warning")


def test_whether_measured_spots_confirm_the_scale():
    assert made(pitch_um=100.0, argument=2.0).is_scale_measured is False  # too few to be a lattice
    assert made(MANY, pitch_um=100.0).is_scale_measured
    assert made(MANY, pitch_um=100.0, scale=0.5).mpp == 4
    assert not made(MANY, argument=2.0).is_scale_measured
    assert not made(MANY, pitch_um=100.0, is_laid=True).is_scale_measured
    assert not made(
        MANY, pitch_um=100.0, adata=AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(25)]))
    ).is_scale_measured


def test_expression_totals_and_dropped_genes():
    section = made()
    section.adata.obs["total_counts"] = [4.0, 1.0, 4.0, 10.0]
    log = np.log1p(1e4 * COUNTS / [[4], [1], [4], [10]])
    np.testing.assert_allclose(section.log_expression(["2", "0"]), log[:, [2, 0]], rtol=1e-6)
    assert not section.lacks_genes()
    section.adata.obs["total_counts"] = [4.0, 1.0, 5.0, 10.0]
    assert section.lacks_genes()
    assert section.totals().tolist() == [4, 1, 5, 10]
    del section.adata.obs["total_counts"]
    with pytest.warns(StpredictWarning, match="only 3 genes"):
        assert not section.lacks_genes()
    assert section.totals(COUNTS[:, :2]).tolist() == [1, 1, 2, 5]
    with pytest.raises(KeyError, match=r"does not measure a, b\."):
        section.log_expression(["a", "0", "b"])


def test_parts_of_a_section():
    section = made()
    section.adata.obsm["X_a"] = np.arange(8.0).reshape(4, 2)
    section.adata.obs["patient"], section.adata.obs["age"] = "P", 1
    for key in ("niches", "other"):
        section.adata.obsp[key] = np.eye(4)
    assert section.features("X_a", slice(1, 3)).tolist() == [[2, 3], [4, 5]]
    few = section.part(np.array([3, 1]))
    assert few.obs_names.tolist() == ["c3", "c1"]
    assert few.centres.tolist() == [[60, 70], [60, 20]]
    assert few.features("X_a").tolist() == [[6, 7], [2, 3]]
    blind = section.without_counts()
    assert (list(blind.adata.obs), list(blind.adata.obsp), blind.adata.n_vars) == (["patient"], ["niches"], 0)
    assert list(section.without_counts("sex").adata.obs) == []
    assert repr(few) == "Section('s', 2 spots)"


# ---------------------------------------------------------------------- the way in


def test_objects_and_their_copies():
    adata = table("ab")
    sdata = pytest.importorskip("spatialdata").SpatialData(tables={"t": adata}, attrs={"x": 1})
    assert table_of(adata) is adata
    assert table_of(sdata) is adata
    for wrong in (
        5,
        SimpleNamespace(obsm={}),
        SimpleNamespace(uns={}),
        SimpleNamespace(tables={}),
        SimpleNamespace(shapes={}),
    ):
        for call in (table_of, copy_of):
            with pytest.raises(TypeError, match="Expected an AnnData or a SpatialData"):
                call(wrong)
    copied = copy_of(sdata)
    assert copied["t"] is not adata
    assert copied.attrs == {"x": 1}
    opened = Opened(adata, Where(), mpp=0.5, copy=True)
    assert [section.mpp for section in opened.sections] == [0.5, 0.5]
    opened.target.obs["new"] = 1
    assert "new" in opened.result.obs
    assert "new" not in adata.obs
    assert Opened(adata, Where()).result is None
    assert Opened(adata, Where()).target is adata
    assert listed((1, 2)) == [1, 2]
    assert listed("ab") == ["ab"]


def test_sections_that_lost_their_spots_are_left_out_unless_all_did():
    adata = table("ab")
    assert [s.name for s in open_sections(adata[4:].copy())] == ["b"]
    assert [len(s) for s in open_sections(adata[:0].copy())] == [0, 0]


def test_names_that_come_again():
    assert unique_names([SimpleNamespace(name=name) for name in "abaa"]) == ["a", "b", "a-1", "a-2"]


def test_sections_one_by_one():
    alone, both = table(), table("ab")
    both.uns["tiles"] = {name: {"mpp": 1.0, "mpp_source": "argument"} for name in "ab"}
    both.uns["X_f"] = {"encoder_hash": "f", "sections": {"a": 1, "b": 2}}
    both.uns["note"] = {"a": 1, "b": 2}
    first, a, b = separate([alone, both], Where())
    assert first is alone
    assert b.obs_names.tolist() == ["c4", "c5", "c6", "c7"]
    assert (list(a.uns["spatial"]), list(a.uns["tiles"]), a.uns["X_f"]["sections"]) == (["a"], ["a"], {"a": 1})
    assert b.uns["note"] == {"a": 1, "b": 2}
    lost = both[:4].copy()
    (part,) = separate(lost, Where())
    assert part is lost
    lost.uns["spatial"].pop("b")
    assert separate(lost, Where())[0] is lost


# ---------------------------------------------------------------------- stores


@pytest.fixture
def folder(tmp_path):
    table("ab").write_h5ad(tmp_path / "1.h5ad")
    table().write_zarr(tmp_path / "2.zarr")
    logged = table()
    logged.layers["counts"] = logged.X * 2
    logged.X = np.log1p(logged.X)
    logged.write_h5ad(tmp_path / "3.h5ad")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_sections_in_stores(folder):
    sections = StoredSections([folder])
    assert [path.name for path in sections.stores] == ["1.h5ad", "2.zarr", "3.h5ad"]
    assert [section.name for section in sections] == ["a", "b", "s", "s"]
    assert (len(sections), len(sections[1:3]), sections[-1].name) == (4, 2, "s")
    assert [section.counts().sum() for section in sections[1:]] == [19, 19, 38]
    assert sections[1].rows.tolist() == [4, 5, 6, 7]
    assert sections[0].store is sections[1].store  # a store is read once for all of its sections
    assert sections[2].adata.X is None
    assert are_stored(sections)
    assert are_stored([folder])
    assert are_stored(str(folder))
    assert not are_stored([table()])
    assert open_stored(sections, Where()) is sections
    assert len(open_stored(str(folder), Where())) == 4
    with pytest.raises(TypeError, match="not both"):
        are_stored([folder, table()])


def test_what_is_no_store(folder):
    assert stores_in(folder / "2.zarr") == [folder / "2.zarr"]
    with pytest.raises(FileNotFoundError, match="There is no"):
        stores_in(folder / "4.h5ad")
    (folder / "empty").mkdir()
    for nothing in (folder / "empty", folder / "notes.txt"):
        with pytest.raises(FileNotFoundError, match="nor a folder of such"):
            stores_in(nothing)
    for elements in (("obs",), ("var",), ()):
        with pytest.raises(ValueError, match="is no AnnData store"):
            Store(folder / "1.h5ad", elements)
    (folder / "bad.h5ad").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"The store .*bad\.h5ad cannot be read"):
        Store(folder / "bad.h5ad")
    AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["g"])).write_h5ad(folder / "none.h5ad")
    with pytest.raises(ValueError, match="no expression matrix"):
        _ = Store(folder / "none.h5ad").counts
