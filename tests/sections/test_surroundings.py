"""Niches of a section: their names, members and boxes, on spots 10 px apart of an image of 0.5 µm per pixel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stpredict._sections import niches
from stpredict._sections.niches import (
    Niche,
    boxes_of,
    call,
    find_boxes,
    find_members,
    is_niche,
    is_wider,
    niche_matrix,
    niche_windows,
    spot_key,
)
from stpredict._sections.scale import ScaleHints
from stpredict._sections.section import Section


def section_of(side=5, scale=2.0, apart=5.0, rows=None):
    row, column = np.divmod(np.arange(side * side), side)
    rows = np.arange(side * side) if rows is None else rows
    adata = AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(side * side)]))
    return Section(
        name="s",
        adata=adata,
        rows=rows,
        centres=apart * np.column_stack([column, row])[rows],
        open_image=lambda: None,
        hints=ScaleHints(argument=1.0),
        image_scale=scale,
    )


@pytest.mark.parametrize(
    ("key", "niche", "wider", "spots"),
    [
        ("X_a", False, False, "X_a"),
        ("X_a_niche", True, False, "X_a"),
        ("X_a_niche_1120", True, True, "X_a"),
        ("X_a_niche_11.5", True, True, "X_a"),
        ("X_niche_a", False, False, "X_niche_a"),
    ],
)
def test_names_of_features(key, niche, wider, spots):
    assert (is_niche(key), is_wider(key), spot_key(key)) == (niche, wider, spots)


@pytest.mark.parametrize(
    ("niche", "record", "text"),
    [
        (Niche(), {"members": "window", "um": 560.0}, "window 560"),
        (Niche("nearest"), {"members": "nearest", "k": 3}, "nearest 3"),
        (Niche("nearest", k=6), {"members": "nearest", "k": 6}, "nearest 6"),
        (Niche("ring"), {"members": "ring", "rings": 1}, "ring 1"),
    ],
)
def test_records_of_niches(niche, record, text):
    assert niche.record() == record
    assert str(niche) == text
    assert Niche.from_record(record) == niche


@pytest.mark.parametrize(
    ("niche", "um", "arguments"),
    [
        ("window", 300.0, "members='window', um=300"),
        ("window", None, "members='window'"),
        ("nearest 4", None, "members='nearest', n_neighbors=4"),
        ("ring 2", 300.0, "members='ring', rings=2"),
    ],
)
def test_calls_that_make_niches(niche, um, arguments):
    assert call(niche, um) == f"stpredict.pp.niches(adata, {arguments})"


def test_which_niches_a_section_has():
    section = section_of()
    assert Niche.of(section) == Niche()
    section.adata.uns["tiles"] = {"s": {"niche_um": 30}, "t": {"niche_um": 40}}
    assert Niche.of(section) == Niche(um=30.0)
    section.adata.uns["niches"] = {"members": "ring", "rings": 2}
    assert Niche.of(section) == Niche("ring", rings=2)
    section.adata.uns["niches"] = {"libraries": {}}
    with pytest.raises(ValueError, match="does not say of which kind"):
        Niche.of(section)
    section.adata.uns["niches"] = {}
    assert Niche.of(section) == Niche(um=30.0)
    section.adata.obsm["niches"] = np.zeros((25, 4))
    with pytest.raises(ValueError, match="does not say of which kind"):
        Niche.of(section)


@pytest.mark.parametrize(
    ("niche", "middle", "corner"),
    [
        (Niche("nearest", k=4), 5, 5),
        (Niche("nearest", k=99), 25, 25),
        (Niche("ring"), 9, 4),
        (Niche("ring", rings=2), 25, 9),
        (Niche(um=9.9), 9, 4),  # 5 µm on each side, and 1 % of the width more
        (Niche(um=9.7), 1, 1),
        (Niche(um=20.0), 25, 9),
    ],
)
def test_how_many_spots_a_niche_has(niche, middle, corner):
    members = find_members(section_of(), niche)
    assert np.diff(members.indptr)[[12, 0]].tolist() == [middle, corner]
    np.testing.assert_allclose(members[[12]].data, 1 / middle, rtol=1e-6)
    np.testing.assert_allclose(members.sum(axis=1), 1, rtol=1e-6)
    assert (members.diagonal() > 0).all()
    assert members.dtype == np.float32


def test_one_spot_is_its_own_niche():
    assert find_members(section_of(1), Niche("nearest")).toarray().tolist() == [[1.0]]
    with pytest.raises(ValueError, match="lie on no lattice"):
        find_members(section_of(1), Niche("ring"))


@pytest.mark.parametrize(("most", "fits"), [(169, True), (168, False)])
def test_members_of_all_windows_are_counted_first(monkeypatch, most, fits):
    """Corners have 4, borders 6, the rest 9: 4 · 4 + 12 · 6 + 9 · 9 = 169."""
    monkeypatch.setattr(niches, "MOST_LINKS", most)
    if fits:
        assert find_members(section_of(), Niche(um=10.0)).nnz == 169
    else:
        with pytest.raises(ValueError, match="Windows of 10 µm hold 7 of the 25 spots"):
            find_members(section_of(), Niche(um=10.0))


def test_stored_members_of_a_part_stay_means():
    section = section_of(2, rows=np.array([1, 2]))
    section.adata.uns["niches"] = {"members": "nearest", "k": 2}
    section.adata.obsp["niches"] = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1.0]])
    assert niche_matrix(section).toarray().tolist() == [[0.5, 0.5], [0, 1]]


def test_boxes_around_windows_and_around_members():
    """In units of the coordinates where they are written, in pixels where they are read; 1 µm is one unit and two pixels."""
    section = section_of()
    window = Niche(um=8.0)
    assert find_boxes(section, window, None)[12].tolist() == [6, 6, 14, 14]
    section.adata.uns["niches"] = window.record()
    assert boxes_of(section)[12].tolist() == [12, 12, 28, 28]
    side, centres = niche_windows(section)
    assert (side, centres[12].tolist()) == (8, [20, 20])
    section.adata.uns["tiles"] = {"s": {"spot_um": 4.0}}
    section.adata.uns["niches"] = Niche("ring").record()
    boxes = find_boxes(section, Niche("ring"), find_members(section, Niche("ring")))
    assert boxes[[0, 2, 12]].tolist() == [[-2, -2, 7, 7], [3, -2, 17, 7], [3, 3, 17, 17]]
    section.adata.obsm["niches"] = boxes
    assert boxes_of(section)[2].tolist() == [6, -4, 34, 14]
    sides, centres = niche_windows(section)
    assert (sides[[0, 2]].tolist(), centres[2].tolist()) == ([9, 14], [20, 5])
    part = section_of(rows=np.array([2, 12]))
    part.adata = section.adata
    assert boxes_of(part).tolist() == [[6, -4, 34, 14], [6, 6, 34, 34]]
    for wrong in (boxes - 10, boxes + 10, boxes * [1, 1, 1, 0]):
        section.adata.obsm["niches"] = wrong
        with pytest.raises(ValueError, match="lie apart"):
            boxes_of(section)
    del section.adata.obsm["niches"]
    with pytest.raises(ValueError, match="has lost"):
        boxes_of(section)


def test_tiles_are_112_microns_wide_where_nobody_said():
    section = section_of(1)
    assert find_boxes(section, Niche("nearest"), find_members(section, Niche("nearest"))).tolist() == [
        [-56, -56, 56, 56]
    ]
