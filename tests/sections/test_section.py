"""`Section`: the same slide from either container, every scale rule, and every guard against mixed-up images."""

from __future__ import annotations

import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image
from scipy import sparse

import stpredict as st
from stpredict._sections.anndata import section_from_anndata
from stpredict._sections.open import Where, one_section, open_sections, separate
from stpredict._sections.scale import find_lattice

PITCH, SIDE = 50.0, 480


def hexagonal(n=8, pitch=PITCH, start=30.0):
    row, column = np.divmod(np.arange(n * n), n)
    return start + pitch * np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(0.75)])


def square(n=8, pitch=PITCH, start=30.0):
    row, column = np.divmod(np.arange(n * n), n)
    return start + pitch * np.column_stack([column, row])


@pytest.fixture
def picture(tmp_path):
    """A full-resolution image file."""
    path = tmp_path / "full.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return path


def section_of(centres, path=None, *, hires=None, name="s", scalefactors=None, metadata=None, seed=0):
    counts = np.random.default_rng(seed).poisson(2.0, (len(centres), 5)).astype(np.float32)
    adata = AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(index=[f"{name}_{i}" for i in range(len(centres))]),
        var=pd.DataFrame(index=["ERBB2", "CD74", "MKI67", "FN1", "B2M"]),
        obsm={"spatial": np.asarray(centres, dtype=float)},
    )
    metadata = {**(metadata or {}), **({"source_image_path": str(path)} if path else {})}
    images = {} if hires is None else {"hires": hires}
    adata.uns["spatial"] = {name: {"images": images, "scalefactors": scalefactors or {}, "metadata": metadata}}
    return adata


# ---------------------------------------------------------------------- scale: where it comes from


def test_lattice_of_visium_is_100_um(picture):
    section = section_from_anndata(section_of(hexagonal(), picture))
    assert section.mpp == pytest.approx(2.0)
    assert section.mpp_source == "spot lattice"
    assert section.lattice.kind == "hexagonal"


@pytest.mark.parametrize("pitch_um", [200.0, 8.0])
def test_lattice_of_known_pitch(picture, pitch_um):
    section = section_from_anndata(section_of(square(), picture, metadata={"spot_pitch_um": pitch_um}))
    assert section.lattice.kind == "square"
    assert section.mpp == pytest.approx(pitch_um / PITCH)


def test_square_lattice_of_unknown_pitch_is_no_scale(picture):
    with pytest.raises(ValueError, match=r"scale of section 's' is unknown.*mpp="):
        _ = section_from_anndata(section_of(square(), picture)).mpp


def test_order_of_sources(tmp_path):
    path = tmp_path / "full.tif"
    tifffile.imwrite(
        path,
        np.zeros((SIDE, SIDE, 3), np.uint8),
        photometric="rgb",
        resolution=(1e4 / 2.1, 1e4 / 2.1),
        resolutionunit="CENTIMETER",
    )
    adata = section_of(hexagonal(), path)
    assert section_from_anndata(adata).mpp == pytest.approx(2.1)
    assert section_from_anndata(adata).mpp_source == "image file"
    adata.uns["spatial"]["s"]["scalefactors"]["microns_per_pixel"] = 1.9
    assert section_from_anndata(adata).mpp == pytest.approx(1.9)
    st.pp.tiles(adata, mpp=2.2)
    remembered = section_from_anndata(adata)
    assert (remembered.mpp, remembered.mpp_source) == (pytest.approx(2.2), "argument")
    assert section_from_anndata(adata, mpp=1.8).mpp == pytest.approx(1.8)


def test_the_image_file_contradicts_a_scale_that_no_lattice_confirms(tmp_path):
    """As of cells, whose distances tell nothing."""
    path = tmp_path / "full.tif"
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(5e3, 5e3), resolutionunit="CENTIMETER")
    cells = section_of(np.random.default_rng(0).uniform(100, SIDE - 100, (60, 2)), path)
    factors = cells.uns["spatial"]["s"]["scalefactors"]
    factors["microns_per_pixel"] = 2.04
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        st.pp.tiles(cells.copy())
    factors["microns_per_pixel"] = 2.2
    with pytest.warns(
        UserWarning, match=r"says 2\.2 µm per pixel, and the image file says 2; there is no lattice .* is taken"
    ):
        st.pp.tiles(cells.copy())
    factors["microns_per_pixel"] = 0.5
    with pytest.raises(
        ValueError, match=r"says 0\.5 µm per pixel, and the image file says 2; .* Pass mpp= where you know"
    ):
        st.pp.tiles(cells)
    with pytest.warns(UserWarning, match="The scale of the argument is taken"):
        st.pp.tiles(cells, mpp=0.5)


@pytest.mark.parametrize("key", ["microns_per_pixel", "tissue_hires_scalef"])
@pytest.mark.parametrize("wrong", ["0.5", [0.5, 0.5], {"x": 0.5}, np.array([]), True])
def test_scale_factors_that_are_no_numbers_are_refused(picture, key, wrong):
    """Rather than left out, so that another scale would be taken."""
    adata = section_of(hexagonal(), picture, scalefactors={key: wrong})
    with pytest.raises(ValueError, match=rf"\['scalefactors'\]\['{key}'\] is no number.*Set it to the number"):
        section_from_anndata(adata)
    adata.uns["spatial"]["s"]["scalefactors"][key] = np.array([0.5])
    assert section_from_anndata(adata).centres.shape == (adata.n_obs, 2)


@pytest.mark.parametrize("part", ["images", "scalefactors", "metadata"])
@pytest.mark.parametrize("wrong", [None, 5, "x", [1]])
def test_damaged_parts_of_a_library_are_one_clear_error(picture, part, wrong):
    adata = section_of(hexagonal(), picture)
    adata.uns["spatial"]["s"][part] = wrong
    with pytest.raises(ValueError, match=rf"\['{part}'\] is damaged: .* not a dictionary"):
        section_from_anndata(adata)


def test_spot_diameter_never_sets_the_scale(picture):
    for diameter in (25.0, 27.5, 32.5):  # 50, 55 and 65 µm at 2 µm per pixel: tools disagree
        adata = section_of(hexagonal(), picture, scalefactors={"spot_diameter_fullres": diameter})
        assert section_from_anndata(adata).mpp == pytest.approx(2.0)
    adata = section_of(square(), picture, scalefactors={"spot_diameter_fullres": 27.5})
    with pytest.raises(ValueError, match="unknown"):
        _ = section_from_anndata(adata).mpp


@pytest.mark.parametrize("mpp", [1e-3, 500.0, 0.0, -1.0, np.nan])
def test_absurd_mpp(picture, mpp):
    with pytest.raises(ValueError, match="µm per pixel"):
        _ = section_from_anndata(section_of(square(), picture), mpp=mpp).mpp


def test_the_distance_of_measured_spots_confirms_the_scale_and_nothing_else_does():
    def measured(adata, **hints):
        return section_from_anndata(adata, **hints).is_scale_measured

    assert measured(section_of(hexagonal()))
    assert measured(section_of(square(), metadata={"spot_pitch_um": 200.0}))
    assert not measured(section_of(square()), mpp=2.0)  # of a pitch that nobody knows
    assert not measured(section_of(np.random.default_rng(0).uniform(0, 400, (60, 2))), mpp=2.0)
    assert not measured(section_of(hexagonal())[:, :0].copy())  # laid over a slide


def test_metadata_that_contradicts_the_lattice(picture):
    adata = section_of(hexagonal(), picture, scalefactors={"microns_per_pixel": 0.5})
    with pytest.raises(ValueError, match=r"says 0\.5 µm per pixel, but the spots lie 50\.0 px apart.* 2 µm per pixel"):
        _ = section_from_anndata(adata).mpp
    assert "tiles" not in adata.uns
    with pytest.raises(ValueError, match="px apart"):
        st.pp.tiles(adata)
    assert "tiles" not in adata.uns


# ---------------------------------------------------------------------- guards against the wrong image


def test_centres_off_the_image(picture):
    adata = section_of(hexagonal() + 300, picture)
    with pytest.raises(ValueError, match=r"of 64 spot centres lie outside the image of 480 × 480 px"):
        _ = section_from_anndata(adata).image
    adata = section_of(hexagonal() - 31, picture)
    with pytest.raises(ValueError, match="some are negative"):
        _ = section_from_anndata(adata).image
    adata = section_of(hexagonal(), picture)
    adata.obsm["spatial"][0] = [-3, 20]
    with pytest.raises(ValueError, match=r"1 of 64 .* strays.*drop them"):
        _ = section_from_anndata(adata).image


def test_full_resolution_centres_on_a_downscaled_image(picture):
    factors = {"tissue_hires_scalef": 0.1}
    adata = section_of(hexagonal() * 10, picture, scalefactors=factors)
    with pytest.raises(ValueError, match=r"tissue_hires_scalef=0\.1 they would fit: this looks like the downscaled"):
        _ = section_from_anndata(adata).image


def test_downscaled_centres_on_the_full_image(picture):
    factors = {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": 27.5}
    adata = section_of(hexagonal() * 0.1, picture, scalefactors=factors)
    with pytest.raises(
        ValueError, match=r"coordinates of the downscaled image \(tissue_hires_scalef=0\.1\)\. Divide obsm"
    ):
        _ = section_from_anndata(adata).mpp
    factors = {"tissue_hires_scalef": 0.1, "microns_per_pixel": 2.0}
    adata = section_of(hexagonal() * 0.1, picture, scalefactors=factors)
    with pytest.raises(ValueError, match=r"Divide obsm\['spatial'\] by tissue_hires_scalef"):
        _ = section_from_anndata(adata).mpp


def test_hires_image_given_as_the_full_one(picture):
    hires = np.zeros((SIDE, SIDE, 3), np.uint8)
    adata = section_of(hexagonal(), picture, hires=hires, scalefactors={"tissue_hires_scalef": 0.1})
    with pytest.raises(
        ValueError, match=r"480 × 480 px.*tissue_hires_scalef=0\.1.*about 4800 × 4800 px.*the hires one"
    ):
        _ = section_from_anndata(adata).image


def test_another_downscaled_image_given_as_the_full_one(picture):
    hires = np.zeros((SIDE // 4, SIDE // 4, 3), np.uint8)
    adata = section_of(hexagonal(), picture, hires=hires, scalefactors={"tissue_hires_scalef": 0.25})
    assert section_from_anndata(adata).image.shape == (SIDE, SIDE)
    adata.uns["spatial"]["s"]["scalefactors"]["tissue_hires_scalef"] = 0.125
    with pytest.raises(ValueError, match="this is another one"):
        _ = section_from_anndata(adata).image


def test_hires_image_stands_in_knowingly():
    rng = np.random.default_rng(0)
    hires = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    adata = section_of(hexagonal() * 10, hires=hires, scalefactors={"tissue_hires_scalef": 0.1})
    section = section_from_anndata(adata)
    np.testing.assert_allclose(section.centres, hexagonal())
    assert section.mpp_of_coordinates == pytest.approx(0.2)
    assert section.mpp == pytest.approx(2.0)
    assert section.lattice.pitch_px == pytest.approx(PITCH)
    np.testing.assert_array_equal(section.image.read(0, 0, 50, 50), hires[:50, :50])
    assert section_from_anndata(adata, mpp=0.21).mpp == pytest.approx(2.1)  # mpp= means the coordinates' pixels


@pytest.mark.skipif("C2" not in st.datasets.available("her2st"), reason="STPREDICT_DATA holds no real sections")
def test_real_section_with_its_own_thumbnail_as_image(tmp_path):
    adata = st.datasets.her2st("C2")
    (library,) = adata.uns["spatial"].values()
    small = section_from_anndata(adata).image.thumbnail(1000)
    Image.fromarray(small).save(tmp_path / "small.png")
    library["metadata"]["source_image_path"] = str(tmp_path / "small.png")
    library["images"] = {}
    library["scalefactors"]["tissue_hires_scalef"] = 1000 / 9911
    with pytest.raises(ValueError, match=r"187 of 187 spot centres lie outside .* tissue_hires_scalef"):
        _ = section_from_anndata(adata).image
    adata.obsm["spatial"] *= 1000 / 9911
    with pytest.raises(ValueError, match=r"Divide obsm\['spatial'\] by tissue_hires_scalef"):
        st.pp.tiles(adata)


@pytest.mark.parametrize("turned", [False, True])
def test_the_image_must_show_what_the_small_one_shows(tmp_path, turned):
    blocks = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "full.tif", blocks.repeat(40, axis=0).repeat(40, axis=1))
    small = blocks.repeat(10, axis=0).repeat(10, axis=1)
    hires = small[::-1, ::-1] if turned else small
    adata = section_of(hexagonal(), tmp_path / "full.tif", hires=hires, scalefactors={"tissue_hires_scalef": 0.25})
    section = section_from_anndata(adata)
    if turned:
        with pytest.raises(ValueError, match="is turned by 180° beside the hires image"):
            _ = section.image
    else:
        assert section.image.read(0, 0, 50, 50).shape == (50, 50, 3)


# ---------------------------------------------------------------------- images and spots that are not there


def test_no_image_and_image_gone(picture):
    bare = section_from_anndata(section_of(hexagonal()))
    assert not bare.has_image
    assert bare.mpp == pytest.approx(2.0)
    with pytest.raises(ValueError, match=r"no H&E image.*source_image_path"):
        _ = bare.image
    picture.unlink()
    adata = section_of(hexagonal())
    adata.uns["spatial"]["s"]["metadata"]["source_image_path"] = str(picture)
    with pytest.raises(FileNotFoundError, match="no image at"):
        _ = section_from_anndata(adata).image


def test_zero_spots_and_one_spot(picture):
    adata = section_of(hexagonal(), picture)
    (empty,) = open_sections(adata[:0])
    assert len(empty) == 0
    with pytest.raises(ValueError, match="has no spots"):
        _ = empty.image
    (single,) = open_sections(adata[:1].copy(), mpp=2.0)
    assert single.mpp == 2.0
    assert single.lattice is None
    assert single.neighbours().shape == (1, 1)
    assert single.neighbours().nnz == 0
    with pytest.raises(ValueError, match="unknown"):
        _ = section_from_anndata(adata[:1]).mpp


def test_coordinates_that_cannot_be(picture):
    adata = section_of(hexagonal(), picture)
    adata.obsm["spatial"][3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite coordinates"):
        open_sections(adata)
    adata.obsm["spatial"] = np.zeros((adata.n_obs, 3))
    with pytest.raises(ValueError, match="two columns"):
        open_sections(adata)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="spot centres"):
        open_sections(adata)


def test_wrong_container():
    with pytest.raises(TypeError, match=r"AnnData or a SpatialData, got DataFrame.*read_visium"):
        open_sections(pd.DataFrame())


# ---------------------------------------------------------------------- several sections


@pytest.fixture
def both(picture, tmp_path):
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(tmp_path / "other.png")
    first = section_of(hexagonal(), picture, name="a")
    second = section_of(hexagonal(6), tmp_path / "other.png", name="b", seed=1)
    return ad.concat({"a": first, "b": second}, label="sample", uns_merge="unique")


def test_concatenated_sections(both, picture):
    first, second = open_sections(both, Where("sample"))
    assert (first.name, len(first), second.name, len(second)) == ("a", 64, "b", 36)
    np.testing.assert_allclose(second.centres, hexagonal(6))
    assert list(second.obs_names) == list(both.obs_names[64:])
    assert first.image.source == str(picture)
    assert (second.image.read(0, 0, 9, 9) == 90).all()
    np.testing.assert_array_equal(second.counts().toarray(), both.X[64:].toarray())


def test_interleaved_rows_keep_their_place(both):
    order = np.random.default_rng(0).permutation(both.n_obs)
    shuffled = both[order].copy()
    _, second = open_sections(shuffled, Where("sample"))
    assert list(second.obs_names) == list(shuffled.obs_names[shuffled.obs["sample"] == "b"])
    np.testing.assert_allclose(second.centres, shuffled.obsm["spatial"][shuffled.obs["sample"] == "b"])


def test_subset_to_one_section_leaves_the_other_out(both):
    (only,) = open_sections(both[both.obs["sample"] == "b"], Where("sample"))
    assert only.name == "b"


def test_sections_taken_apart_keep_their_own_slide(both):
    st.pp.tiles(both, library_key="sample")
    parts = separate(both, Where("sample", None))
    assert [set(part.obs["sample"]) for part in parts] == [{"a"}, {"b"}]
    for part, name in zip(parts, "ab", strict=True):
        assert list(part.uns["spatial"]) == list(part.uns["tiles"]) == [name]
        (alone,) = open_sections(part)
        assert alone.name == name
        assert (alone.image.read(0, 0, 9, 9) == 90).all() == (name == "b")


def test_library_key_must_be_told(both):
    with pytest.raises(KeyError, match="pass library_key="):
        open_sections(both)
    both.obs["sample"] = "c"
    with pytest.raises(KeyError, match=r"names sections that uns\['spatial'\] lacks: c"):
        open_sections(both, Where("sample"))
    both.obs.loc[both.obs_names[:3], "sample"] = np.nan
    with pytest.raises(KeyError, match=r"obs\['sample'\] names no section for 3 of 100 spots"):
        open_sections(both, Where("sample"))
    with pytest.raises(ValueError, match="pass library_id="):
        section_from_anndata(both)
    with pytest.raises(KeyError, match="no section 'z'"):
        section_from_anndata(both, library_id="z")


def test_one_of_several_sections_is_chosen_by_its_name(both):
    where = Where("sample")
    assert one_section(both, "b", where).name == "b"
    with pytest.raises(ValueError, match=r"There are 2 sections \(a, b\); pass library_id="):
        one_section(both, None, where)
    with pytest.raises(KeyError, match=r"no section 'z'; there is a, b"):
        one_section(both, "z", where)
    only = both[both.obs["sample"] == "b"].copy()
    assert one_section(only, None, where).name == one_section(only, "b", where).name == "b"


# ---------------------------------------------------------------------- the two containers agree


@pytest.mark.parametrize("kind", ["full", "hires", "simulated"])
def test_containers_agree(picture, section, kind):
    if kind == "full":
        adata = section_of(hexagonal(), picture, metadata={"spot_pitch_um": 120.0})
    elif kind == "hires":
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        adata = section_of(hexagonal() * 10, hires=pixels, scalefactors={"tissue_hires_scalef": 0.1})
    else:
        adata = section
    (one,), (other,) = open_sections(adata), open_sections(st.io.to_spatialdata(adata))
    assert other.name == one.name
    np.testing.assert_allclose(other.centres, one.centres, rtol=1e-12)
    assert other.image.shape == one.image.shape
    np.testing.assert_array_equal(other.image.read(-10, 5, 300, 200), one.image.read(-10, 5, 300, 200))
    assert other.mpp == pytest.approx(one.mpp)
    assert other.mpp_of_coordinates == pytest.approx(one.mpp_of_coordinates)
    assert other.mpp_source == one.mpp_source
    assert other.lattice.kind == one.lattice.kind
    assert list(other.obs_names) == list(one.obs_names)
    np.testing.assert_array_equal(other.counts().toarray(), one.counts().toarray())
    assert (other.neighbours() != one.neighbours()).nnz == 0


# ---------------------------------------------------------------------- lattice


@settings(max_examples=60, deadline=None)
@given(
    pitch=some.floats(2, 300),
    angle=some.floats(0, np.pi),
    jitter=some.floats(0, 0.03),
    layout=some.sampled_from(["hexagonal", "square"]),
    kept=some.floats(0.7, 1),
)
def test_lattice_is_found_however_it_is_turned_and_thinned(pitch, angle, jitter, layout, kept):
    rng = np.random.default_rng(0)
    centres = (hexagonal if layout == "hexagonal" else square)(15, pitch)
    centres = centres[rng.random(len(centres)) < kept]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lattice = find_lattice(centres @ turn + rng.normal(0, jitter * pitch, centres.shape))
    assert lattice.pitch_px == pytest.approx(pitch, rel=0.03)
    if kept > 0.95:
        assert lattice.kind == layout


def test_neighbours():
    inner = section_from_anndata(section_of(hexagonal(9))).neighbours().sum(axis=1)
    assert inner.max() == 6
    inner = section_from_anndata(section_of(square(9))).neighbours()
    assert inner.sum(axis=1).max() == 8
    assert (inner != inner.T).nnz == 0


def test_diameter_of_spots_to_be_drawn():
    """As stated, in pixels of the image; a little more than half of the spots' distance; 55 µm where there is one spot."""
    stated = {"spot_diameter_fullres": 30.0, "tissue_hires_scalef": 0.5}
    pixels = np.full((240, 240, 3), 200, np.uint8)
    assert section_from_anndata(section_of(hexagonal(), scalefactors=stated)).spot_diameter == 30
    shown = section_of(hexagonal(), hires=pixels, scalefactors=stated)
    assert section_from_anndata(shown).spot_diameter == 15
    assert section_from_anndata(section_of(hexagonal())).spot_diameter == pytest.approx(0.55 * PITCH)
    alone = section_of(np.array([[100.0, 100.0]]))
    assert section_from_anndata(alone, mpp=0.5).spot_diameter == pytest.approx(110)
    assert section_from_anndata(alone).neighbours().shape == (1, 1)
    assert section_from_anndata(alone).neighbours().nnz == 0


def test_scattered_or_coinciding_spots_are_no_lattice():
    assert find_lattice(np.random.default_rng(0).uniform(0, 1000, (300, 2))).kind == "irregular"
    assert find_lattice(np.zeros((10, 2))) is None
    assert find_lattice(np.zeros((2, 2))) is None


# ---------------------------------------------------------------------- expression and features


def test_counts_come_from_the_counts_layer_first(picture):
    adata = section_of(hexagonal(), picture)
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    counts = section_from_anndata(adata).counts()
    np.testing.assert_array_equal(counts.toarray(), adata.layers["counts"].toarray())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda x: x * np.nan, "NaN"),
        (lambda x: -x, "negative"),
        (lambda x: np.log1p(x), "log-normalised"),
        (lambda x: x + np.inf, "infinite"),
    ],
)
@pytest.mark.parametrize("as_sparse", [True, False])
def test_counts_that_are_none(spoil, told, as_sparse):
    adata = section_of(hexagonal())
    spoilt = spoil(adata.X.toarray())
    adata.X = sparse.csr_matrix(spoilt) if as_sparse else spoilt
    with pytest.raises(ValueError, match=told):
        section_from_anndata(adata).counts()


def test_missing_counts():
    adata = AnnData(obs=pd.DataFrame(index=["a", "b", "c"]), obsm={"spatial": np.eye(3)[:, :2]})
    with pytest.raises(ValueError, match="no expression matrix"):
        section_from_anndata(adata).counts()


def test_log_expression_normalises_by_all_genes():
    adata = section_of(hexagonal())
    adata.X = np.array([[1.0, 3, 0, 0, 6]] * 63 + [[0.0] * 5], dtype=np.float32)
    section = section_from_anndata(adata)
    values = section.log_expression(name for name in ("B2M", "MKI67", "ERBB2"))
    np.testing.assert_allclose(values[0], np.log1p([6e3, 0, 1e3]), rtol=1e-6)
    np.testing.assert_array_equal(values[-1], 0)  # a spot without counts
    assert values.dtype == np.float32
    with pytest.raises(KeyError, match="does not measure TP53"):
        section.log_expression(["ERBB2", "TP53"])


def test_duplicated_genes():
    adata = section_of(hexagonal())
    adata.var_names = ["ERBB2", "ERBB2", "MKI67", "FN1", "B2M"]
    with pytest.raises(ValueError, match=r"duplicated gene names \(ERBB2, …\).*var_names_make_unique"):
        section_from_anndata(adata).log_expression(["ERBB2"])


def test_features_of_the_section_and_their_absence(both):
    both.obsm["X_m"] = np.arange(100.0)[:, None]
    both.uns["X_m"] = {"encoder": "m"}
    second = open_sections(both, Where("sample"))[1]
    np.testing.assert_array_equal(second.features("X_m").ravel(), np.arange(64, 100))
    assert second.record("X_m")["encoder"] == "m"
    with pytest.raises(KeyError, match=r"pp\.encode first"):
        second.features("X_other")


def test_features_that_are_no_real_numbers_are_refused(both):
    both.obsm["X_m"] = np.arange(100.0)[:, None] * 1j
    with pytest.raises(TypeError, match=r"obsm\['X_m'\] .* must be a dense array of real numbers, not complex128"):
        open_sections(both, Where("sample"))[1].features("X_m")


def test_features_in_a_table_with_columns_of_several_kinds(both):
    columns = {"size": np.arange(100.0), "lumen": np.arange(100) % 2 == 0, "n": pd.array([*range(99), None], "Int64")}
    both.obsm["X_m"] = pd.DataFrame(columns, index=both.obs_names)
    features = open_sections(both, Where("sample"))[1].features("X_m")
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[[0, -2]], [[64, 1, 64], [98, 1, 98]])
    np.testing.assert_array_equal(features[-1], [99, 0, np.nan])
    both.obsm["X_m"]["kind"] = "a"
    with pytest.raises(TypeError, match="must be a dense array of real numbers, not object"):
        open_sections(both, Where("sample"))[1].features("X_m")


# ---------------------------------------------------------------------- advice that works, followed to the letter


def advice(message, pattern):
    """The code in a message."""
    return re.search(pattern, message)[1]


@pytest.mark.parametrize("kind", ["array", "unnamed", "xy", "yx", "SpatialData"])
def test_exchanged_coordinates_are_mended_by_the_message(tmp_path, kind):
    path = tmp_path / "wide.png"
    Image.fromarray(np.full((300, 700, 3), 200, np.uint8)).save(path)
    right = np.column_stack([np.linspace(20, 680, 12), np.linspace(20, 280, 12)])
    adata = section_of(right[:, ::-1], path, metadata={"spot_pitch_um": 100})
    if kind == "SpatialData":
        sdata = pytest.importorskip("spatialdata")
        image = sdata.models.Image2DModel.parse(
            np.full((3, 300, 700), 200, np.uint8), dims=("c", "y", "x"), c_coords=["r", "g", "b"]
        )
        spots = sdata.models.ShapesModel.parse(right[:, ::-1], geometry=0, radius=5.0, index=adata.obs_names)
        adata.obs["region"] = pd.Categorical(["spots"] * len(right))
        adata.obs["spot"] = adata.obs_names.to_numpy(dtype=object)
        table = sdata.models.TableModel.parse(adata, region="spots", region_key="region", instance_key="spot")
        data = sdata.SpatialData(images={"he": image}, shapes={"spots": spots}, tables={"table": table})
    else:
        data = adata
        columns = {"array": None, "unnamed": ["a", "b"], "xy": ["x", "y"], "yx": ["y", "x"]}[kind]
        if columns:
            wrong = right[:, ::-1] if kind != "yx" else right
            adata.obsm["spatial"] = pd.DataFrame(wrong, index=adata.obs_names, columns=columns)
    with pytest.raises(ValueError, match="seems to hold \\(y, x\\)") as error:
        st.pp.tiles(data, mpp=0.5)
    exec(advice(str(error.value), r"Write (.*)\.$"), {"adata": data, "sdata": data})
    st.pp.tiles(data, mpp=0.5)
    (section,) = open_sections(data, mpp=0.5)
    np.testing.assert_allclose(section.centres, right)


def test_an_unknown_scale_is_mended_by_the_message(picture):
    with pytest.raises(ValueError, match=r"Pass mpp= .* to stpredict\.pp\.tiles, which keeps it") as error:
        st.pp.qc(adata := section_of(square(), picture))
    told = str(error.value)
    st.pp.tiles(by_scale := adata.copy(), mpp=2.0)
    st.pp.qc(by_scale)
    exec(advice(told, r"(adata\.uns.*? = 200)"), {"adata": adata})
    (section,) = open_sections(adata)
    assert section.mpp == pytest.approx(200 / PITCH)
    scattered = np.random.default_rng(0).uniform(20, 400, (60, 2))
    with pytest.raises(ValueError, match=r"which keeps it for all that follows\.$"):
        st.pp.qc(section_of(scattered, picture))


@pytest.mark.parametrize("values", [[0, 1], [0.0, 1.0], [False, True], ["0", "1"], ["False", "True"]])
def test_spots_off_the_tissue_are_dropped_as_the_message_says(picture, values):
    adata = section_of(hexagonal(), picture)
    adata.obs["in_tissue"] = [values[i > 7] for i in range(adata.n_obs)]
    with pytest.warns(UserWarning, match="8 of 64 spots lie off the tissue") as caught:
        st.pp.tiles(adata)
    names = {"adata": adata}
    exec(advice(str(caught[0].message), r"Drop them: (.*)\.$"), names)
    assert list(names["adata"].obs_names) == list(adata.obs_names[8:])


def test_downscaled_coordinates_are_mended_by_the_message(picture):
    adata = section_of(
        hexagonal() * 0.1, picture, scalefactors={"tissue_hires_scalef": 0.1}, metadata={"spot_pitch_um": 100}
    )
    adata.uns["spatial"]["s"]["scalefactors"]["microns_per_pixel"] = 2.0
    with pytest.raises(ValueError, match="Divide obsm\\['spatial'\\] by tissue_hires_scalef"):
        st.pp.tiles(adata)
    adata.obsm["spatial"] /= 0.1
    st.pp.tiles(adata)
    assert adata.uns["tiles"]["s"]["mpp"] == 2.0
