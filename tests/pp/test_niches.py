"""Niches: who belongs to them, where their image lies, and that encoders read exactly that."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import stpredict as st
from stpredict._sections.niches import call, niche_matrix
from stpredict._sections.open import open_sections
from stpredict.models._data.features import check_features, describe_features
from stpredict.pp._encoders.windows import plan_cuts

PITCH = 100.0


def grid(side=5, *, gap=None, library="s", mpp=1.0, start=400.0, seed=0, kind="square"):
    """A lattice of spots on random coloured squares of 10 px; `gap` removes spots."""
    rows, columns = np.divmod(np.arange(side * side), side)
    centres = np.column_stack([columns, rows]) * PITCH
    if kind == "hexagonal":
        centres = np.column_stack([columns + 0.5 * (rows % 2), rows * np.sqrt(0.75)]) * PITCH
    centres = np.delete(centres + start, [] if gap is None else gap, axis=0)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(60, 255, (130, 130, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    adata = ad.AnnData(rng.poisson(3.0, (len(centres), 4)).astype(np.float32), obsm={"spatial": centres})
    adata.obs_names = [f"{library}{i}" for i in range(len(centres))]
    adata.uns["spatial"] = {
        library: {
            "images": {"hires": pixels},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": mpp},
            "metadata": {"spot_pitch_um": PITCH * mpp},
        }
    }
    return adata


def named_members(adata, row):
    return set(adata.obsp["niches"][[row]].indices)


def opened(adata):
    return open_sections(adata)[0]


# ---------------------------------------------------------------------------------------------- members


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("square", {"members": "nearest", "n_neighbors": 4}, {7, 11, 12, 13, 17}),
        ("square", {"members": "ring"}, {6, 7, 8, 11, 12, 13, 16, 17, 18}),
        ("square", {"members": "ring", "rings": 2}, set(range(25))),
        ("square", {"members": "window", "um": 200.0}, {6, 7, 8, 11, 12, 13, 16, 17, 18}),  # borders belong to it
        ("square", {"members": "window", "um": 190.0}, {12}),
        ("hexagonal", {"members": "nearest", "n_neighbors": 6}, {6, 7, 11, 12, 13, 16, 17}),
        ("hexagonal", {"members": "ring"}, {6, 7, 11, 12, 13, 16, 17}),
        ("hexagonal", {"members": "window", "um": 200.0}, {6, 7, 11, 12, 13, 16, 17}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*alone in their niche")
def test_members_of_the_middle_spot(kind, options, expected):
    adata = grid(kind=kind)
    assert st.pp.niches(adata, **options) is None
    assert named_members(adata, 12) == expected
    niches = adata.obsp["niches"]
    assert niches.format == "csr"
    assert niches.dtype == np.float32
    np.testing.assert_allclose(niches.sum(axis=1), 1, rtol=1e-6)
    assert (niches.diagonal() > 0).all()
    mean = (niches @ adata.X)[12]
    np.testing.assert_allclose(mean, adata.X[sorted(expected)].mean(axis=0), rtol=1e-6)


def test_without_niches_the_niche_window_decides():
    adata = grid(7)
    assert np.diff(niche_matrix(opened(adata)).indptr).max() == 25  # 560 µm, 100 µm pitch
    st.pp.tiles(adata, niche_um=300)
    default = niche_matrix(opened(adata))
    assert np.diff(default.indptr).max() == 9
    st.pp.niches(adata)
    assert adata.uns["niches"]["um"] == 300
    assert (adata.obsp["niches"] != default).nnz == 0
    st.pp.niches(adata, members="nearest")
    assert (niche_matrix(opened(adata)) != adata.obsp["niches"]).nnz == 0


def test_niche_window_is_in_microns_and_holds_what_its_image_shows():
    adata = grid(7, mpp=2.0)
    st.pp.tiles(adata)
    section = opened(adata)
    inside = (np.abs(section.centres - section.centres[24]) < 140).all(axis=1)
    np.testing.assert_array_equal(niche_matrix(section)[[24]].indices, np.flatnonzero(inside))


def test_boxes_hold_the_tiles_of_all_members():
    adata = grid()
    st.pp.tiles(adata, spot_um=60)
    st.pp.niches(adata, members="ring")
    np.testing.assert_allclose(adata.obsm["niches"][12], [470, 470, 730, 730])  # centre 600 ± 100 ± 30
    np.testing.assert_allclose(adata.obsm["niches"][0], [370, 370, 530, 530])
    st.pp.niches(adata, members="window", um=250)
    np.testing.assert_allclose(adata.obsm["niches"][12], [475, 475, 725, 725])
    record = adata.uns["niches"]
    assert (record["members"], record["um"]) == ("window", 250.0)
    assert record["libraries"]["s"] == {"mean": pytest.approx(6.76), "min": 4, "max": 9, "image_um": 250.0}


def test_counts_and_order_do_not_matter_and_subsets_stay_means():
    adata = grid()
    st.pp.niches(adata, members="ring")
    half = adata[adata.obs_names[::-1]][:15].copy()
    members = niche_matrix(opened(half))
    np.testing.assert_allclose(members.sum(axis=1), 1, rtol=1e-6)
    row = list(half.obs_names).index("s12")
    assert {half.obs_names[i] for i in members[[row]].indices} == {"s11", "s12", "s13", "s16", "s17", "s18"}
    assert (niche_matrix(opened(adata).without_counts()) != adata.obsp["niches"]).nnz == 0


def test_niches_never_reach_into_another_section():
    both = ad.concat(
        [grid(library="a"), grid(library="b", seed=1)], label="library_id", keys=["a", "b"], uns_merge="unique"
    )
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    for options in ({"um": 250}, {"members": "nearest"}, {"members": "ring"}):
        st.pp.niches(both, **options)
        ends = both.obsp["niches"].nonzero()
        library = both.obs["library_id"].to_numpy()
        assert (library[ends[0]] == library[ends[1]]).all()
        assert set(both.uns["niches"]["libraries"]) == {"a", "b"}
    first = opened(both)
    alone = grid(library="a")
    st.pp.niches(alone, members="ring")
    order = [list(alone.obs_names).index(name) for name in first.obs_names]
    assert (niche_matrix(first) != alone.obsp["niches"][order][:, order]).nnz == 0


def test_concatenation_loses_the_pairs_but_not_the_definition():
    parts = [grid(library="a"), grid(library="b", seed=1)]
    for part in parts:
        st.pp.niches(part, members="ring")
    both = ad.concat(parts, label="library_id", keys=["a", "b"], uns_merge="unique")
    assert "niches" not in both.obsp
    for section, part in zip(open_sections(both), parts, strict=True):
        assert (niche_matrix(section) != part.obsp["niches"]).nnz == 0
    st.pp.niches(parts[1], members="nearest")
    mixed = ad.concat(parts, label="library_id", keys=["a", "b"], uns_merge="unique")
    with pytest.raises(ValueError, match=r"sections with different ones. Run stpredict.pp.niches again"):
        niche_matrix(opened(mixed))


def test_spatialdata(section):
    sdata = st.io.to_spatialdata(section)
    st.pp.niches(section, members="ring")
    assert st.pp.niches(sdata, members="ring") is None
    table = next(iter(sdata.tables.values()))
    assert (table.obsp["niches"] != section.obsp["niches"]).nnz == 0
    np.testing.assert_allclose(table.obsm["niches"], section.obsm["niches"], atol=0.5)


def test_copy_and_files_round_trip(tmp_path, assert_same):
    adata = grid()
    before = adata.copy()
    changed = st.pp.niches(adata, members="nearest", copy=True)
    assert_same(adata, before)
    changed.write_h5ad(tmp_path / "niches.h5ad")
    back = ad.read_h5ad(tmp_path / "niches.h5ad")
    assert (back.obsp["niches"] != changed.obsp["niches"]).nnz == 0
    assert (niche_matrix(opened(back)) != changed.obsp["niches"]).nnz == 0
    st.pp.tiles(back)
    st.pp.encode(back, show_progress=False)
    assert back.uns["X_morphology_niche"]["niche"] == "nearest 3"


# ---------------------------------------------------------------------------------------------- fallbacks


def test_an_isolated_spot_is_its_own_niche():
    adata = grid(gap=[6, 7, 8, 11, 13, 16, 17, 18])  # a hole of 8 around spot 12, which is now row 8
    with pytest.warns(UserWarning, match=r"^1 of 17 spots are alone in their niche"):
        st.pp.niches(adata, members="window", um=250)
    assert named_members(adata, 8) == {8}
    np.testing.assert_allclose(adata.obsp["niches"][8].toarray()[0] @ adata.X, adata.X[8])


def test_a_section_smaller_than_k_gives_all_its_spots():
    adata = grid(2)
    with pytest.warns(UserWarning, match=r"no 5 other spots: s \(4\)"):
        st.pp.niches(adata, members="nearest", n_neighbors=5)
    np.testing.assert_allclose(adata.obsp["niches"].toarray(), 0.25)
    lone = grid(1)
    with pytest.warns(UserWarning, match="1 of 1 spots are alone"), pytest.warns(UserWarning, match="no 3 other"):
        st.pp.niches(lone, members="nearest")
    np.testing.assert_allclose(lone.obsm["niches"][0], [344, 344, 456, 456])


# ---------------------------------------------------------------------------------------------- encode


def mean_network():
    """Stand for a network: the mean colour of a tile."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0, 0, 0), "std": (1, 1, 1)}

        def forward(self, tiles):
            return tiles.mean(dim=(2, 3))

    return Network()


def mean_colour(adata, box):
    left, top, right, bottom = np.rint(box).astype(int)
    return adata.uns["spatial"]["s"]["images"]["hires"][top:bottom, left:right].mean(axis=(0, 1)) / 255


def squares(boxes):
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)[:, None] / 2
    return np.hstack([middle - half, middle + half])


@pytest.mark.parametrize("options", [{"members": "nearest"}, {"members": "ring"}, {"members": "window", "um": 320}])
def test_networks_see_exactly_the_niche_image(options):
    adata = grid()
    st.pp.tiles(adata)
    st.pp.niches(adata, **options)
    st.pp.encode(adata, mean_network(), key_added="X_m", batch_size=7, show_progress=False)
    expected = [mean_colour(adata, box) for box in squares(adata.obsm["niches"])]
    np.testing.assert_allclose(adata.obsm["X_m_niche"], expected, atol=3e-3)
    spots = [mean_colour(adata, (x - 56, y - 56, x + 56, y + 56)) for x, y in adata.obsm["spatial"]]
    np.testing.assert_allclose(adata.obsm["X_m"], spots, atol=3e-3)


@pytest.mark.parametrize("members", ["nearest", "ring"])
def test_the_morphology_descriptor_averages_over_the_niche_image(members):
    adata = grid()
    st.pp.tiles(adata)
    st.pp.niches(adata, members=members)
    st.pp.encode(adata, show_progress=False)
    names = list(adata.uns["X_morphology_niche"]["feature_names"])
    dark = adata.obsm["X_morphology_niche"][:, names.index("od_red")]
    expected = [mean_density(adata, box) for box in squares(adata.obsm["niches"])]
    np.testing.assert_allclose(dark, expected, rtol=0.03)
    assert np.corrcoef(dark, expected)[0, 1] > 0.98


def mean_density(adata, box):
    left, top, right, bottom = np.rint(box).astype(int)
    red = adata.uns["spatial"]["s"]["images"]["hires"][top:bottom, left:right, 0]
    return -np.log(red / 255).mean()


def test_windows_as_wide_as_those_of_tiles_change_nothing_and_others_are_recorded():
    adata = grid()
    st.pp.tiles(adata)
    st.pp.encode(adata, key_added="X_a", show_progress=False)
    st.pp.niches(adata)
    st.pp.encode(adata, key_added="X_b", show_progress=False)
    for suffix in ("", "_niche"):
        np.testing.assert_array_equal(adata.obsm[f"X_a{suffix}"], adata.obsm[f"X_b{suffix}"])
        assert set(adata.uns[f"X_a{suffix}"]) == set(adata.uns[f"X_b{suffix}"])
    wide = grid()
    st.pp.tiles(wide, niche_um=300)
    st.pp.encode(wide, key_added="X_b", show_progress=False)
    st.pp.niches(adata, um=300)
    st.pp.encode(adata, key_added="X_b", show_progress=False)
    np.testing.assert_array_equal(adata.obsm["X_b_niche"], wide.obsm["X_b_niche"])
    assert adata.uns["X_b_niche"]["niche_um"] == 300
    assert "niche" not in adata.uns["X_b_niche"]


def test_crops_of_different_sides_come_from_the_right_place_and_level():
    adata = grid()
    section = opened(adata)
    sides = np.where(np.arange(25) % 3, 40.0, 91.0)
    centres = section.centres + np.array([3.0, -5.0])
    seen = np.zeros(25, dtype=int)
    pixels = adata.uns["spatial"]["s"]["images"]["hires"]
    for cut in plan_cuts(section, np.arange(25), sides, 1.0, centres=centres):
        for row, crop in zip(cut.rows, cut.crops(section.image), strict=True):
            x, y = np.rint(centres[row] - sides[row] / 2).astype(int)
            side = int(sides[row])
            np.testing.assert_array_equal(crop, pixels[y : y + side, x : x + side])
            seen[row] += 1
    assert (seen == 1).all()


def test_interrupted_encoding_of_other_niches_is_not_resumed(tmp_path, monkeypatch):
    from stpredict.pp import _encode
    from stpredict.pp._encoders import network_encoder

    monkeypatch.setattr(network_encoder, "SPOTS_PER_PART", 10)
    monkeypatch.setattr(_encode.shutil, "rmtree", lambda *args, **kwargs: None)
    adata = grid()
    st.pp.tiles(adata)
    with st.settings.override(cache_dir=tmp_path):
        for members in ("window", "nearest", "ring"):
            st.pp.niches(adata, members=members)
            st.pp.encode(adata, mean_network(), key_added="X_m", show_progress=False)
        assert len(list((tmp_path / "encode").iterdir())) == 3


def test_models_refuse_features_of_other_niches():
    adata = grid()
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    window = describe_features(opened(adata), ["X_morphology", "X_morphology_niche"])
    assert "niche" not in window["X_morphology_niche"]
    ring = adata.copy()
    st.pp.niches(ring, members="ring")
    st.pp.encode(ring, show_progress=False)
    expected = describe_features(opened(ring), ["X_morphology", "X_morphology_niche"])
    assert expected["X_morphology_niche"]["niche"] == "ring 1"
    check_features(opened(ring), expected)
    with pytest.raises(ValueError, match=r"niches 'ring 1', .* trained on 'window'. Run .*members='window', um=560"):
        check_features(opened(ring), window)
    with pytest.raises(
        ValueError, match=r"trained on 'ring 1'. Run stpredict.pp.niches\(adata, members='ring', rings=1"
    ):
        check_features(opened(adata), expected)


# ---------------------------------------------------------------------------------------------- bad input


def test_the_old_name_of_n_neighbors_still_works():
    """What is stored keeps its name, so files written before and after are alike."""
    old, new = grid(), grid()
    with pytest.warns(FutureWarning, match="k= is called n_neighbors= now"):
        st.pp.niches(old, members="nearest", k=5)
    st.pp.niches(new, members="nearest", n_neighbors=5)
    np.testing.assert_array_equal(old.obsp["niches"].toarray(), new.obsp["niches"].toarray())
    assert old.uns["niches"]["k"] == new.uns["niches"]["k"] == 5
    assert call("nearest 5", None) == "stpredict.pp.niches(adata, members='nearest', n_neighbors=5)"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"members": "cube"}, "members must be one of 'window', 'nearest', 'ring'; got 'cube'"),
        ({"members": "nearest", "n_neighbors": 0}, "n_neighbors must be a whole number of at least 1; got 0"),
        ({"members": "nearest", "n_neighbors": 2.5}, "n_neighbors must be a whole number"),
        ({"members": "ring", "rings": -1}, "rings must be a whole number"),
        ({"um": 0}, "must be positive; got 0"),
        ({"um": float("nan")}, "must be positive"),
        ({"n_neighbors": 6}, "n_neighbors=6 belongs to members='nearest', but members='window'"),
        ({"members": "ring", "um": 200}, "um=200 belongs to members='window'"),
    ],
)
def test_impossible_niches_are_refused(options, match, assert_same):
    adata = grid()
    before = adata.copy()
    with pytest.raises(ValueError, match=match):
        st.pp.niches(adata, **options)
    assert_same(adata, before)


def test_no_coordinates_nan_and_wrong_containers():
    adata = grid()
    adata.obsm["spatial"][3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite coordinates"):
        st.pp.niches(adata)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match=r"obsm\['spatial'\] is missing"):
        st.pp.niches(adata)
    with pytest.raises(TypeError, match="AnnData or a SpatialData"):
        st.pp.niches("slide.tif")
    with pytest.raises(ValueError, match="no spots"):
        st.pp.niches(grid()[:0].copy())


def test_rings_need_a_lattice():
    adata = grid()
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(300, 900, (25, 2))
    with pytest.raises(ValueError, match=r"no lattice.*members='nearest'"):
        st.pp.niches(adata, members="ring")
    assert "niches" not in adata.obsm
    st.pp.niches(adata, members="nearest")
    assert np.diff(adata.obsp["niches"].indptr).tolist() == [4] * 25


def test_niches_too_large_to_list_are_refused(monkeypatch):
    monkeypatch.setattr("stpredict._sections.niches.MOST_LINKS", 200)
    with pytest.raises(ValueError, match=r"Windows of 560 µm hold 14 of the 25 spots.*smaller um=.*'nearest'"):
        st.pp.niches(grid())


def test_boxes_that_lie_elsewhere_than_the_spots_are_refused():
    adata = grid()
    st.pp.tiles(adata)
    st.pp.niches(adata, members="ring")
    adata.obsm["niches"] = adata.obsm["niches"] / 10
    with pytest.raises(ValueError, match=r"lie apart\. Run stpredict.pp.niches again"):
        st.pp.encode(adata, show_progress=False)
    del adata.obsm["niches"]
    with pytest.raises(ValueError, match=r"lost obsm\['niches'\]"):
        st.pp.encode(adata, show_progress=False)


def test_real_sections(real):
    adata = real("mob", "MOB1")
    st.pp.niches(adata, members="ring")
    n_members = np.diff(adata.obsp["niches"].indptr)
    assert np.median(n_members) == 9
    assert isinstance(adata.obsp["niches"], sparse.csr_matrix)
    st.pp.niches(adata, members="nearest")
    centres = adata.obsm["spatial"]
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    farthest = np.sort(distance, axis=1)[:, 3]
    links = adata.obsp["niches"].toarray() > 0
    np.testing.assert_allclose(np.where(links, distance, 0).max(axis=1), farthest)
