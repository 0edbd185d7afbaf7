"""Regions of a SpatialData: which table, spots and image, and how large their pixels are."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

pytest.importorskip("spatialdata")

from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Scale, set_transformation

from stpredict._sections.spatialdata import (
    _check_square,
    only_image,
    region_centres,
    region_image,
    regions_of,
    section_from_spatialdata,
    slide_image,
    table_in,
)

XY = np.array([[20.0, 30.0], [80.0, 40.0], [60.0, 50.0]])


def scaled(factor, system="global"):
    return {system: Scale([factor, factor], axes=("x", "y"))}


def image(factor=1.0, channels="rgb", system="global"):
    pixels = np.zeros((len(channels), 60, 100), np.uint8)
    how = {"dims": ("c", "y", "x"), "c_coords": list(channels)}
    return Image2DModel.parse(pixels, transformations=scaled(factor, system), **how)


def made(region="spots", instances=(0, 1, 2), elements=None, **images):
    obs = pd.DataFrame({"where": pd.Categorical([region] * 3), "which": list(instances)}, index=list("abc"))
    adata = AnnData(np.ones((3, 2), np.float32), obs=obs)
    adata = TableModel.parse(adata, region=region, region_key="where", instance_key="which")
    shapes = {"spots": ShapesModel.parse(XY, geometry=0, radius=5.0, transformations=scaled(1.0))}
    return SpatialData(images=images, tables={"table": adata}, **({"shapes": shapes} if elements is None else elements))


def test_scale_and_centres_are_those_of_the_finest_image():
    """Two pixels of the image for every unit of the spots."""
    section = section_from_spatialdata(made(he=image(0.5)), mpp=0.25)
    np.testing.assert_allclose(section.centres, 2 * XY)
    assert section.image_scale == pytest.approx(2)
    assert section.mpp == pytest.approx(0.25)
    assert section.mpp_of_coordinates == pytest.approx(0.5)
    bare = section_from_spatialdata(made(), mpp=0.25)
    assert (bare.mpp, bare.has_image, bare.centres.tolist()) == (0.25, False, XY.tolist())
    with pytest.raises(ValueError, match=r"is unknown"):
        _ = section_from_spatialdata(made(he=image())).mpp


def test_which_image_is_taken():
    both = made(a=image(), b=image())
    with pytest.raises(ValueError, match=r"Pass image_key="):
        region_centres(both, both["table"])
    both["table"].uns["tiles"] = {"spots": {"image": "images['b']"}}
    assert region_centres(both, both["table"]).image_key == "b"
    both["table"].uns["tiles"] = {"spots": {"image": "images['gone']"}}
    with pytest.raises(ValueError, match=r"image_key="):
        region_centres(both, both["table"])
    assert only_image(both, "b") == "b"
    one = made(a=image(), dapi=image(channels="d"))
    assert only_image(one, None) == region_centres(one, one["table"]).image_key == "a"
    apart = made(a=image(system="other"))
    assert region_centres(apart, apart["table"]).image_key is None
    with pytest.raises(ValueError, match=r"'a' .in other. and region 'spots' .in global. share no"):
        region_centres(apart, apart["table"], image_key="a")
    for call in (lambda: only_image(one, "b"), lambda: region_centres(one, one["table"], image_key="b")):
        with pytest.raises(KeyError, match=r"no image 'b'.*2 images .a, dapi"):
            call()
    with pytest.raises(ValueError, match=r"is no H&E image"):
        region_centres(one, one["table"], image_key="dapi")
    with pytest.raises(ValueError, match=r"has 2 H&E images .a, b.; pass image_key="):
        only_image(both, None)
    with pytest.raises(ValueError, match=r"has no H&E image"):
        only_image(made(), None)
    with pytest.raises(ValueError, match=r"This SpatialData has 1 image .a.; add"):
        region_image(apart, "spots", None)
    assert slide_image(one, "a").shape == (60, 100)
    assert region_image(one, "spots", "a").source == "images['a']"


@pytest.mark.parametrize(("stretch", "said"), [(1.04, None), (1.06, "told"), (1.24, "told"), (1.26, "refused")])
def test_pixels_that_are_not_square(stretch, said):
    for affine in (np.diag([stretch, 1, 1]), np.diag([1, stretch, 1])):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if said == "refused":
                with pytest.raises(ValueError, match=r"pixels that are not square"):
                    _check_square(affine, "he")
            else:
                _check_square(affine, "he")
        assert len(told) == (said == "told")


def test_an_image_that_is_stretched_is_noticed():
    sdata = made(he=image())
    set_transformation(sdata["he"], Scale([1, 2], axes=("x", "y")), "global")
    with pytest.raises(ValueError, match=r"pixels that are not square, .*: 2 units long in one direction and 1 in"):
        region_centres(sdata, sdata["table"])


def test_rows_and_shapes_fit():
    sdata = made(instances=(2, 0, 1))
    np.testing.assert_array_equal(region_centres(sdata, sdata["table"]).centres, XY[[2, 0, 1]])
    lost = made(instances=(0, 7, 1))
    with pytest.raises(ValueError, match=r"1 of 3 rows of the table have no shape in 'spots': 7"):
        region_centres(lost, lost["table"])
    for column in ("where", "which"):
        lacking = made()
        del lacking["table"].obs[column]
        with pytest.raises(ValueError, match=f"obs lacks '{column}'"):
            region_centres(lacking, lacking["table"])
    twins = made()
    twins["spots"].index = [0, 0, 1]
    with pytest.raises(ValueError, match=r"duplicated names"):
        region_centres(twins, twins["table"])
    nowhere = made()
    del nowhere.shapes["spots"]
    with pytest.raises(KeyError, match=r"no shapes 'spots' .* no shapes element and no labels element"):
        region_centres(nowhere, nowhere["table"])
    with pytest.raises(KeyError, match=r"annotates 1 region .spots."):
        region_centres(nowhere, nowhere["table"], region="x")


def test_cells_that_are_labels():
    numbers = np.zeros((60, 100), np.int32)
    numbers[10:12, 20:24], numbers[30:32, 40:42], numbers[50, 60] = 5, 6, 9
    labels = {"labels": {"cells": Labels2DModel.parse(numbers, dims=("y", "x"), transformations=scaled(1.0))}}
    section = section_from_spatialdata(made("cells", (9, 5, 6), labels, he=image()), mpp=0.5)
    np.testing.assert_allclose(section.centres, [[60.5, 50.5], [22, 11], [41, 31]])
    assert section._hints.coordinates == "labels['cells']"
    assert section_from_spatialdata(made(), mpp=0.5)._hints.coordinates == "shapes['spots']"


def test_tables():
    sdata = made()
    assert table_in(sdata, None) is table_in(sdata, "table") is sdata["table"]
    with pytest.raises(KeyError, match=r"no table 'x'"):
        table_in(sdata, "x")
    with pytest.raises(ValueError, match=r"has no table; the spots"):
        table_in(SpatialData(), None)
    two = SimpleNamespace(tables={"a": 1, "b": 2})
    assert table_in(two, "b") == 2
    with pytest.raises(ValueError, match=r"has 2 tables .a, b.; pass table_key="):
        table_in(two, None)
    for region, names in (("a", ["a"]), (["a", "b"], ["a", "b"])):
        assert regions_of(SimpleNamespace(uns={"spatialdata_attrs": {"region": region}})) == names
    for attrs in ({}, {"spatialdata_attrs": {}}, {"spatialdata_attrs": {"region": None}}):
        with pytest.raises(ValueError, match=r"annotates no region"):
            regions_of(SimpleNamespace(uns=attrs))
