"""The scale that a reader's table of cells tells."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from shapely import box
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, Scale

from stpredict._sections.cells import bin_um, mpp_of_bins, mpp_of_microns, refuse_microns

MPP = 0.25
MICRONS = np.random.default_rng(0).permutation(
    np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2) * 10
)
"""Centroids of cells of 10 × 10 µm, side by side."""


def table(microns=MICRONS, area=100.0):
    obs = pd.DataFrame({"transcript_counts": 50, "cell_area": area}, index=[f"c{i}" for i in range(len(microns))])
    return ad.AnnData(obs=obs, obsm={"spatial": microns})


def turned(microns=MICRONS, mpp=MPP):
    """The same cells in pixels of an image that lies otherwise."""
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    return microns @ turn / mpp + [500, 900]


def test_centroids_in_microns_tell_the_scale_however_the_image_lies():
    every = np.arange(len(MICRONS))
    assert mpp_of_microns(table(), every, turned(mpp=200.0)) == pytest.approx(200)
    assert mpp_of_microns(table(), every, turned()) == pytest.approx(MPP)
    some = every[::3]
    assert mpp_of_microns(table(), some, turned()[some]) == pytest.approx(MPP)
    rounded = MICRONS + np.random.default_rng(1).uniform(-0.5, 0.5, MICRONS.shape)
    assert mpp_of_microns(table(rounded), every, turned()) == pytest.approx(MPP, rel=0.01)


def test_three_cells_tell_it_and_two_do_not():
    microns = np.array([[0.0, 0], [10, 0], [0, 10]])
    assert mpp_of_microns(table(microns), np.arange(3), turned(microns)) == pytest.approx(MPP)
    assert mpp_of_microns(table(microns), np.arange(2), turned(microns)[:2]) is None


@pytest.mark.parametrize("spoil", ["columns", "spatial", "nan", "shape", "others", "one place", "stretched"])
def test_where_cells_do_not_tell_there_is_no_scale(spoil):
    adata, centres = table(), turned()
    if spoil == "columns":
        del adata.obs["transcript_counts"]
    elif spoil == "spatial":
        del adata.obsm["spatial"]
    elif spoil == "nan":
        adata.obsm["spatial"] = np.where(np.arange(144)[:, None] == 7, np.nan, MICRONS)
    elif spoil == "shape":
        adata.obsm["spatial"] = np.column_stack([MICRONS, np.zeros(144)])
    elif spoil == "others":
        centres = centres[::-1]
    elif spoil == "stretched":
        centres = centres * [1.06, 1]
    else:
        centres = np.zeros_like(centres)
    assert mpp_of_microns(adata, np.arange(144), centres) is None


@pytest.mark.parametrize(("times", "are_microns"), [(0.25, False), (0.4, True), (2.5, True), (4.0, False)])
def test_distances_in_microns_fit_the_areas_of_cells_and_those_in_pixels_do_not(times, are_microns):
    found = mpp_of_microns(table(MICRONS * times), np.arange(144), turned())
    assert found == (pytest.approx(MPP * times) if are_microns else None)


@pytest.mark.parametrize("missing", [None, "x_centroid", "cell_area", "another place"])
def test_centroids_of_xenium_are_refused_only_where_they_are_the_places(missing):
    adata = table()
    adata.obs[["x_centroid", "y_centroid"]] = MICRONS
    rows = np.arange(5, 40)
    if missing is None:
        with pytest.raises(ValueError, match=r"Section 's': .* in µm of its own image"):
            refuse_microns(adata, MICRONS[rows], rows, "s")
    elif missing == "another place":
        refuse_microns(adata, MICRONS[rows] + 0.1, rows, "s")
    else:
        del adata.obs[missing]
        refuse_microns(adata, MICRONS[rows], rows, "s")


def shapes(frame, times=1.0, system="global"):
    return ShapesModel.parse(frame, transformations={system: Scale([times, times], axes=("x", "y"))})


def bins(side, **where):
    return shapes(gpd.GeoDataFrame(geometry=[box(0, 0, side, side)]), **where)


def circles(radius, **where):
    return ShapesModel.parse(
        np.array([[50.0, 50.0]]), geometry=0, radius=radius, transformations={where.get("system", "global"): Identity()}
    )


@pytest.mark.parametrize(
    ("beside", "mpp"),
    [
        ({"run_square_008um": bins(16.0)}, 0.5),
        ({"run_square_008um": circles(8.0)}, 0.5),
        ({"run_square_008um": bins(16.0, times=4.0)}, 0.25),  # drawn four times as large, and the cells twice
        ({"run_square_002um": bins(40.0), "run_square_016um": bins(32.0)}, 0.5),  # the largest bins
        ({"other_square_008um": bins(16.0)}, None),
        ({"run_square_008um": bins(16.0, system="another")}, None),
        ({"run_square_016um": bins(9.0, system="another"), "run_square_008um": bins(16.0)}, 0.5),
        ({}, None),
    ],
)
def test_bins_of_the_same_sample_tell_the_scale_of_its_cells(beside, mpp):
    drawn = 2.0 if "run_square_008um" in beside and mpp == 0.25 else 1.0
    cells = shapes(gpd.GeoDataFrame(geometry=[box(0, 0, 5, 5)]), times=drawn)
    sdata = SimpleNamespace(shapes={"run_cell_segmentations": cells, "run_outlines": cells, **beside})
    assert mpp_of_bins(sdata, "run_cell_segmentations") == (None if mpp is None else pytest.approx(mpp))
    assert mpp_of_bins(sdata, "run_outlines") is None


def test_bins_say_their_size_by_name():
    assert [bin_um(name) for name in ("s_square_008um", "s_square_016um", "s_square_008um_of", "cells")] == [
        8,
        16,
        None,
        None,
    ]
