"""Nuclei against the simulated truth, on block borders, through files, and where they cannot be found."""

from __future__ import annotations

import sys
import time
from types import ModuleType

import anndata as ad
import numpy as np
import pytest
from scipy.spatial import cKDTree

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.pp._nuclei import CHANNELS, check_nuclei, nuclei_maps
from stpredict.pp._nuclei_detection import blocks, watershed


@pytest.fixture(autouse=True)
def _quiet():
    with st.settings.override(progress=False):
        yield


def slide(pixels, spots, *, mpp=0.5, name="slide", pitch=100.0):
    """A section whose spots are 55 µm wide, at `spots` in pixels."""
    adata = ad.AnnData(np.zeros((len(spots), 0), np.float32))
    adata.obsm["spatial"] = np.asarray(spots, float)
    adata.uns["spatial"] = {
        name: {
            "images": {"hires": pixels},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": mpp},
            "metadata": {"spot_diameter_um": 55.0},
        }
    }
    return adata


def paint(ellipses, side=600, *, mpp=0.5, stain=(90, 60, 140), ground=(225, 170, 205), noise=3.0):
    """Blue ellipses (x, y, long, short, angle; µm) on pink."""
    y, x = (np.mgrid[:side, :side] + 0.5) * mpp
    cover = np.zeros((side, side))
    for cx, cy, long, short, angle in ellipses:
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        cover = np.maximum(cover, np.clip((1 - np.hypot(u / long, v / short)) * short / mpp + 0.5, 0, 1))
    rgb = np.exp(np.log(ground) * (1 - cover[..., None]) + np.log(stain) * cover[..., None])
    return np.uint8(np.clip(rgb + noise * np.random.default_rng(0).standard_normal(rgb.shape), 1, 255))


def lattice(side_um=300, step=25.0):
    at = np.arange(step, side_um - step / 2, step)
    return np.array([(x, y) for y in at for x in at])


def table_of(adata):
    (record,) = adata.uns["nuclei"].values()
    return record["table"]


@pytest.fixture(scope="module")
def simulated(_simulated):
    sections = [
        adata.copy() for adata in (*_simulated, st.datasets.simulate(seed=1))
    ]  # three patients: three stains, three scanners
    for adata in sections:
        st.pp.nuclei(adata, show_progress=False)
    return sections


@pytest.fixture
def with_nuclei(simulated):
    """A simulated section whose nuclei were looked for."""
    return simulated[0].copy()


@pytest.fixture
def part(section):
    """The middle of a simulated section."""
    low, high = 700, 1500
    inside = ((section.obsm["spatial"] > low + 60) & (section.obsm["spatial"] < high - 60)).all(axis=1)
    adata = section[inside].copy()
    adata.obsm["spatial"] = adata.obsm["spatial"] - low
    images = adata.uns["spatial"]["sim_1"]["images"]
    images["hires"] = images["hires"][low:high, low:high]
    truth = adata.uns["truth"]["nuclei"]
    truth[:, :2] -= low
    adata.uns["truth"]["nuclei"] = truth[((truth[:, :2] > 0) & (truth[:, :2] < high - low)).all(axis=1)]
    return adata


# ------------------------------------------------------------------ accuracy


def test_number_and_area_are_those_of_the_simulation_whatever_its_stain(simulated):
    for adata in simulated:
        truth, found = adata.uns["truth"]["nuclei"], table_of(adata)
        assert 0.88 < len(found) / len(truth) < 1.12
        assert 0.88 < found[:, 2].mean() / truth[:, 2].mean() < 1.12
        counts = adata.obs[["nuclei_count", "truth_nuclei"]]
        assert counts.corr().iloc[0, 1] > 0.95
        assert 0.88 < counts["nuclei_count"].sum() / counts["truth_nuclei"].sum() < 1.12
        near, _ = cKDTree(found[:, :2]).query(truth[:, :2])
        assert (near < 4).mean() > 0.85


@pytest.mark.parametrize("strength", [0.6, 1.6])
def test_a_pale_and_a_dark_stain_are_counted_alike(part, strength):
    images = part.uns["spatial"]["sim_1"]["images"]
    images["hires"] = np.uint8(np.clip(245 * (images["hires"] / 245.0) ** strength, 1, 255))
    st.pp.nuclei(part)
    truth, found = part.uns["truth"]["nuclei"], table_of(part)
    assert 0.85 < len(found) / len(truth) < 1.15
    assert 0.85 < found[:, 2].mean() / truth[:, 2].mean() < 1.15


def test_place_size_and_direction_of_single_nuclei():
    ellipses = [(75, 150, 7, 3, 0.5), (150, 150, 5, 5, 0), (225, 150, 9, 3, -1.0), (150, 75, 4, 2.5, np.pi / 2)]
    adata = slide(paint(ellipses), [(300, 300)])
    adata.uns["tiles"] = {"slide": {"mpp": 0.5, "mpp_source": "test", "spot_um": 250.0, "niche_um": 250.0}}
    st.pp.nuclei(adata)
    found = table_of(adata)[np.lexsort(table_of(adata)[:, :2].T)]
    want = np.array(sorted(ellipses, key=lambda e: (e[1], e[0])))
    assert len(found) == 4
    found = found[cKDTree(found[:, :2]).query(want[:, :2] / 0.5)[1]]
    np.testing.assert_allclose(found[:, :2] * 0.5, want[:, :2], atol=0.5)
    np.testing.assert_allclose(found[:, 2], np.pi * want[:, 2] * want[:, 3], rtol=0.15)
    np.testing.assert_allclose(found[:, 3], np.sqrt(1 - (want[:, 3] / want[:, 2]) ** 2), atol=0.12)
    long = want[:, 2] > want[:, 3]
    turn = (found[long, 4] - want[long, 4] + np.pi / 2) % np.pi - np.pi / 2
    np.testing.assert_allclose(turn, 0, atol=0.1)
    assert adata.obs["nuclei_density"].iloc[0] == pytest.approx(4 / 0.25**2)
    assert adata.obs["nuclei_area"].iloc[0] == pytest.approx(found[:, 2].mean(), rel=1e-5)


def test_touching_nuclei_are_told_apart_and_long_ones_stay_whole():
    pair = [(140, 150, 4, 4, 0), (147.4, 150, 4, 4, 0)]
    long = [(150, 180, 14, 2, 0.4)]
    adata = slide(paint(pair + long), [(300, 300)])
    st.pp.nuclei(adata)
    assert len(table_of(adata)) == 3


def test_dirt_and_red_blood_are_no_nuclei():
    pixels = paint([(x, y, 5, 5, 0) for x, y in lattice()])
    pixels[268:282, 268:282] = 60  # black, between nuclei
    pixels[318:332, 318:332] = (205, 60, 90)
    adata = slide(pixels, [(300, 300)])
    st.pp.nuclei(adata)
    np.testing.assert_allclose(cKDTree(lattice() / 0.5).query(table_of(adata)[:, :2])[0], 0, atol=1)
    assert len(table_of(adata)) == len(lattice())


# ------------------------------------------------------------------ blocks and resolution


def test_nuclei_on_block_borders_are_counted_once(part, monkeypatch):
    st.pp.nuclei(part)
    whole = table_of(part)
    monkeypatch.setattr(blocks, "BLOCK_PX", 200)
    st.pp.nuclei(part)
    cut = table_of(part)
    assert abs(len(cut) - len(whole)) < 0.003 * len(whole)
    far, _ = cKDTree(cut[:, :2]).query(whole[:, :2])
    assert (far < 1).mean() > 0.985
    gap, _ = cKDTree(cut[:, :2]).query(cut[:, :2], k=2)
    assert (gap[:, 1] < 1).sum() == 0


def test_only_blocks_with_spots_are_read(section, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_PX", 256)
    few = section[:3].copy()
    st.pp.nuclei(few)
    spots = cKDTree(few.obsm["spatial"])
    assert spots.query(table_of(few)[:, :2])[0].max() < 256 * 1.5 + 56
    assert 0 < len(table_of(few)) < 2000


def test_a_finer_image_gives_the_same_nuclei():
    points = lattice(150)
    ellipses = [(x, y, 5, 4, 0.3) for x, y in points]
    for mpp, side in ((0.25, 600), (0.5, 300), (1.0, 150)):
        adata = slide(paint(ellipses, side, mpp=mpp), [(75 / mpp, 75 / mpp)], mpp=mpp)
        st.pp.nuclei(adata)
        record = adata.uns["nuclei"]["slide"]
        assert record["working_mpp"] == pytest.approx(max(mpp, 0.5))
        assert len(record["table"]) == len(points)
        np.testing.assert_allclose(cKDTree(record["table"][:, :2] * mpp).query(points)[0], 0, atol=0.4)
        np.testing.assert_allclose(record["table"][:, 2].mean(), 20 * np.pi, rtol=0.1)


def test_coarse_images_are_warned_about_or_refused(section):
    few = section[:2].copy()
    with pytest.warns(UserWarning, match="run together"):
        st.pp.nuclei(_coarser(few, 1.5))
    coarse = _coarser(section, 3.0)
    with pytest.raises(ValueError, match=r"3 µm per pixel.*full-resolution image"):
        st.pp.nuclei(coarse)
    assert "nuclei" not in coarse.uns


def _coarser(section, mpp):
    library = section.uns["spatial"]["sim_1"]
    library["scalefactors"] = {"tissue_hires_scalef": 1.0, "microns_per_pixel": mpp}
    library["metadata"] = {"spot_diameter_um": 55.0 * mpp, "spot_pitch_um": 100.0 * mpp}
    return section.copy()


# ------------------------------------------------------------------ what is written


def test_results_survive_files_and_copies(part, tmp_path, assert_same):
    before = part.copy()
    changed = st.pp.nuclei(part, copy=True, key_added="cells")
    assert_same(part, before)
    changed.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(back.uns["cells"]["sim_1"]["table"], changed.uns["cells"]["sim_1"]["table"])
    assert list(back.uns["cells"]["sim_1"]["columns"]) == list(blocks.COLUMNS)
    assert back.obs["cells_count"].dtype == np.int64
    one, other = open_sections(changed)[0], open_sections(back)[0]
    np.testing.assert_array_equal(nuclei_maps(one, key="cells"), nuclei_maps(other, key="cells"))


def test_sections_of_one_table_stay_apart(two_sections):
    two_sections = [adata[np.abs(adata.obsm["spatial"] - 512).max(axis=1) < 400].copy() for adata in two_sections]
    alone = [st.pp.nuclei(adata, copy=True) for adata in two_sections]
    both = ad.concat(two_sections, label="slide", keys=["sim_1", "sim_2"], uns_merge="unique")
    st.pp.nuclei(both, library_key="slide")
    for adata, name in zip(alone, ("sim_1", "sim_2"), strict=True):
        np.testing.assert_array_equal(both.uns["nuclei"][name]["table"], table_of(adata))
        np.testing.assert_array_equal(
            both.obs.loc[both.obs["slide"] == name, "nuclei_count"], adata.obs["nuclei_count"]
        )


def test_outlines_become_shapes_of_a_spatialdata():
    ellipses = [(x, y, 6, 3, 0.8) for x, y in lattice()]
    adata = slide(paint(ellipses), [(300, 300), (340, 300), (300, 340)])
    sdata = st.io.to_spatialdata(adata)
    with pytest.raises(ValueError, match="to_spatialdata"):
        st.pp.nuclei(adata, polygons=True)
    st.pp.nuclei(sdata, polygons=True)
    shapes, (record,) = sdata.shapes["nuclei_slide"], sdata.tables["table"].uns["nuclei"].values()
    assert len(shapes) == len(record["table"]) == len(ellipses)
    np.testing.assert_allclose(shapes.geometry.centroid.x, record["table"][:, 0], atol=0.3)
    np.testing.assert_allclose(shapes.geometry.area * 0.25, record["table"][:, 2], rtol=0.1)
    np.testing.assert_allclose(shapes["area"], record["table"][:, 2])


def test_glass_has_no_nuclei_and_means_of_none_are_nan():
    glass = np.full((600, 600, 3), 244, np.uint8)
    glass[:, 300:] = paint([(250, 150, 5, 5, 0)])[:, 300:]
    adata = slide(glass, [(150, 300), (500, 300)])
    st.pp.nuclei(adata)
    assert adata.obs["nuclei_count"].tolist() == [0, 1]
    assert adata.obs["nuclei_density"].iloc[0] == 0
    assert np.isnan(adata.obs["nuclei_area"].iloc[0])
    assert not nuclei_maps(open_sections(adata)[0])[0].any()
    empty = slide(np.full((600, 600, 3), 244, np.uint8), [(300, 300)])
    st.pp.nuclei(empty)
    assert table_of(empty).shape == (0, 6)
    assert not nuclei_maps(open_sections(empty)[0]).any()


def test_pink_tissue_without_nuclei_stays_without():
    rng = np.random.default_rng(0)
    field = watershed._blur(rng.standard_normal((600, 600)), 4.0)
    eosin = 0.5 + 0.2 * field[..., None] / field.std()
    pixels = 243 * np.exp(-eosin * [0.10, 0.94, 0.36]) + 2.5 * rng.standard_normal((600, 600, 3))
    adata = slide(np.uint8(np.clip(pixels, 1, 255)), [(300, 300)])
    st.pp.nuclei(adata)
    assert len(table_of(adata)) < 10  # of 90,000 µm²


# ------------------------------------------------------------------ other segmenters


def test_a_function_takes_the_place_of_the_watershed():
    seen = []

    def halves(rgb, mpp):
        seen.append((rgb.shape, rgb.dtype, mpp))
        labels = np.zeros(rgb.shape[:2], np.int64)
        labels[100:120, 100:130] = 7_000_000_000
        return labels

    adata = slide(paint([]), [(300, 300)])
    st.pp.nuclei(adata, method=halves)
    (shape, dtype, mpp) = seen[0]
    assert (dtype, mpp) == (np.uint8, 0.5)
    assert shape[:2] == (760, 760)  # 600 px and 40 µm around
    np.testing.assert_allclose(table_of(adata)[0, :3], [35, 30, 150])
    assert adata.uns["nuclei"]["slide"]["method"] == "halves"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rgb, mpp: None,
        lambda rgb, mpp: rgb,
        lambda rgb, mpp: rgb[..., 0] / 2,
        lambda rgb, mpp: np.full(rgb.shape[:2], -1),
    ],
)
def test_what_is_no_label_image_is_refused(wrong):
    adata = slide(paint([]), [(300, 300)])
    with pytest.raises(ValueError, match="integer array of the block's height and width"):
        st.pp.nuclei(adata, method=wrong)
    assert not adata.uns.get("nuclei")
    assert not len(adata.obs.columns)


@pytest.mark.parametrize(
    ("method", "package"), [("instanseg", "instanseg-torch"), ("stardist", "stardist"), ("cellpose", "cellpose")]
)
def test_a_missing_package_is_named(method, package, monkeypatch):
    module = {"instanseg": "instanseg", "stardist": "stardist.models", "cellpose": "cellpose.models"}[method]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        st.pp.nuclei(slide(paint([]), [(300, 300)]), method=method)


def _one_square(rgb):
    labels = np.zeros(rgb.shape[:2], np.int32)
    labels[100:120, 100:130] = 1
    return labels


class _InstanSeg:
    def __init__(self, model, verbosity):
        assert model == "brightfield_nuclei"

    def eval_small_image(self, rgb, mpp):
        assert mpp == 0.5
        return _one_square(rgb)[None, None].astype(np.float32), None


class _StarDist:
    @classmethod
    def from_pretrained(cls, name):
        assert name == "2D_versatile_he"
        return cls()

    def predict_instances(self, pixels, scale):
        assert scale is None
        assert pixels.dtype == np.float32
        return _one_square(pixels), {}


class _Cellpose:
    def eval(self, rgb, diameter):
        assert diameter == 16
        return _one_square(rgb), None, None


@pytest.mark.parametrize(
    ("method", "module", "names"),
    [
        ("instanseg", "instanseg", {"InstanSeg": _InstanSeg}),
        ("stardist", "stardist.models", {"StarDist2D": _StarDist}),
        ("cellpose", "cellpose.models", {"CellposeModel": _Cellpose}),
    ],
)
def test_networks_are_called_as_they_want(method, module, names, monkeypatch):
    for part in (module.split(".")[0], module):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    for name, value in names.items():
        monkeypatch.setattr(sys.modules[module], name, value, raising=False)
    adata = slide(paint([]), [(300, 300)])
    st.pp.nuclei(adata, method=method)
    np.testing.assert_allclose(table_of(adata)[:, :3], [[35, 30, 150]])


# ------------------------------------------------------------------ maps


def test_maps_hold_every_nucleus_where_it_lies():
    ellipses = [(152, 152, 7, 3, 0.5), (180, 132, 4, 4, 0), (120, 192, 5, 4, 1.0)]  # each in the middle of a cell
    adata = slide(paint(ellipses), [(300, 300), (30, 30)])
    st.pp.nuclei(adata)
    section = open_sections(adata)[0]
    maps = nuclei_maps(section, um=112.0, size=28)  # cells of 4 µm
    assert maps.shape == (2, len(CHANNELS), 28, 28)
    assert maps.dtype == np.float32
    assert not maps[1].any()
    coverage, centres, size, elongation, stain = maps[0]
    table = table_of(adata)
    np.testing.assert_allclose(coverage.sum() * 16, table[:, 2].sum(), rtol=0.01)
    np.testing.assert_allclose(centres.sum() * 16 / 100, 3, rtol=1e-5)
    assert {tuple(at) for at in np.argwhere(centres)} == {(14, 14), (9, 21), (24, 6)}
    assert coverage[14, 14] > 0.7
    assert coverage.max() <= 1
    y, x = np.nonzero(coverage[12:16, 11:17])
    assert np.corrcoef(x, y)[0, 1] > 0  # the first runs from the upper left to the lower right
    assert elongation[14, 14] > 2 * elongation[9, 21]
    assert size[14, 14] / coverage[14, 14] == pytest.approx(0.92, rel=0.1)  # √(7 · 3) µm · 2 / 10 µm
    assert (stain[coverage > 0.5] > 0.2).all()


def test_maps_do_not_depend_on_how_spots_are_cut(with_nuclei):
    opened = open_sections(with_nuclei)[0]
    maps = nuclei_maps(opened)
    np.testing.assert_allclose(maps[[5, 100]], nuclei_maps(opened, rows=np.array([5, 100])), atol=1e-6)
    inside = maps[:, 1].sum(axis=(1, 2)) * (112 / 32) ** 2 / 100
    np.testing.assert_allclose(
        inside / (0.112**2), with_nuclei.obs["nuclei_density"], rtol=1e-4, atol=81
    )  # one on the rim
    wide = nuclei_maps(opened, um=560.0, rows=np.array([100]))
    assert 0.05 < wide[:, 0].mean() < 0.6


def test_maps_of_thousands_of_spots_take_seconds(with_nuclei):
    start = time.process_time()
    nuclei_maps(open_sections(with_nuclei)[0], rows=np.arange(4000) % with_nuclei.n_obs)
    assert time.process_time() - start < 8


def test_nuclei_must_have_been_looked_for(section):
    with pytest.raises(ValueError, match=r"'sim_1'.*stpredict.pp.nuclei"):
        check_nuclei(open_sections(section)[0])
    with pytest.raises(ValueError, match=r"stpredict.pp.nuclei"):
        nuclei_maps(open_sections(section)[0])


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "hovernet"}, "method"),
        ({"mpp": 5.0}, "0.1–2"),
        ({"key_added": "a/b"}, "key_added"),
    ],
)
def test_wrong_arguments_are_refused(section, change, message):
    with pytest.raises(ValueError, match=message):
        st.pp.nuclei(section, **change)
    assert "nuclei" not in section.uns


def test_a_section_without_image_or_scale_is_refused(section):
    library = section.uns["spatial"]["sim_1"]
    no_image = section.copy()
    no_image.uns["spatial"]["sim_1"]["images"] = {}
    with pytest.raises(ValueError, match="no H&E image"):
        st.pp.nuclei(no_image)
    one = section[:1].copy()
    one.uns["spatial"]["sim_1"] = {"images": library["images"], "scalefactors": {"tissue_hires_scalef": 1.0}}
    with pytest.raises(ValueError, match="scale of section 'sim_1' is unknown"):
        st.pp.nuclei(one)


def test_real_tiles_hold_plausible_nuclei(her2st_c2):
    centre = her2st_c2.obsm["spatial"].mean(axis=0)
    few = her2st_c2[np.abs(her2st_c2.obsm["spatial"] - centre).max(axis=1) < 700].copy()
    section = open_sections(few)[0]
    assert section.mpp == pytest.approx(0.69, abs=0.01)
    st.pp.nuclei(few)
    assert 10 < few.obs["nuclei_count"].mean() < 100
    assert 30 < few.obs["nuclei_area"].mean() < 90
