"""The simulated sections: same bits, honest structure, learnable from the image and not trivial."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import stpredict as st
from stpredict._sections.anndata import section_from_anndata


def image_of(adata):
    (library,) = adata.uns["spatial"].values()
    return library["images"]["hires"]


def log_cp10k(adata):
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def colours(adata, half=27):
    """(spots, 9): mean, sd and first decile of each colour in a square around the spot, z-scored per section."""
    image = image_of(adata).astype(np.float32)
    rows = []
    for x, y in adata.obsm["spatial"].astype(int):
        pixels = image[max(y - half, 0) : y + half, max(x - half, 0) : x + half].reshape(-1, 3)
        rows.append(np.concatenate([pixels.mean(axis=0), pixels.std(axis=0), np.quantile(pixels, 0.1, axis=0)]))
    features = np.array(rows)
    return (features - features.mean(axis=0)) / features.std(axis=0)


def pearson(a, b):
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def driven(adata):
    return ~adata.var["truth_programme"].isin(["housekeeping", "none"]).to_numpy()


def test_same_seed_same_bits_and_sections_do_not_depend_on_their_number(two_sections):
    alone = st.datasets.simulate()
    first = two_sections[0]
    np.testing.assert_array_equal(image_of(alone), image_of(first))
    np.testing.assert_array_equal(alone.X.toarray(), first.X.toarray())
    np.testing.assert_array_equal(alone.layers["truth"], first.layers["truth"])
    np.testing.assert_array_equal(alone.uns["truth"]["nuclei"], first.uns["truth"]["nuclei"])
    assert alone.obs.equals(first.obs)
    assert alone.obsm["spatial"].flags.writeable


def test_other_seeds_and_sections_differ(two_sections):
    first, second = two_sections
    other = st.datasets.simulate(seed=1)
    for section in (second, other):
        assert (image_of(section) != image_of(first)).mean() > 0.5
        assert section.n_obs != first.n_obs or (section.X != first.X).nnz > 0


def test_structure_follows_the_data_contract(two_sections):
    for i, adata in enumerate(two_sections, start=1):
        assert 400 <= adata.n_obs <= 600
        assert sparse.issparse(adata.X)
        assert adata.X.format == "csr"
        assert adata.X.dtype == np.float32
        assert adata.obs_names.is_unique
        assert adata.var_names.is_unique
        assert (adata.obs["section"] == f"sim_{i}").all()
        assert (adata.obs["patient"] == f"P{i}").all()
        library = adata.uns["spatial"][f"sim_{i}"]
        assert library["images"]["hires"].shape == (2304, 2304, 3)
        assert library["images"]["hires"].dtype == np.uint8
        section = section_from_anndata(adata)
        assert section.mpp == 1.0
        assert section.image.shape == (2304, 2304)
        assert section.lattice.kind == "hexagonal"
        assert section.lattice.pitch_px == pytest.approx(100, rel=1e-3)
    assert set(two_sections[0].obs["region"].cat.categories) == {"tumor", "stroma", "immune", "adipose"}


def test_gene_symbols_are_approved_and_hold_the_tumour_markers(section):
    approved = set(st.datasets.genes()["symbol"])
    assert [gene for gene in section.var_names if gene not in approved] == []
    markers = [
        "ERBB2",
        "GRB7",
        "FASN",
        "SCD",
        "GNAS",
        "XBP1",
        "KRT8",
        "KRT18",
        "KRT19",
        "EPCAM",
        "CD24",
        "MUC1",
        "ESR1",
        "MKI67",
        "COL1A1",
        "CD74",
        "DDX5",
        "B2M",
    ]
    assert set(markers) <= set(section.var_names)


def test_counts_are_integers_of_plausible_depth_that_grows_with_cells(section):
    counts = section.X.toarray()
    np.testing.assert_array_equal(counts, np.rint(counts))
    depth = counts.sum(axis=1)
    assert 2000 < np.median(depth) < 4000
    assert depth.min() > 100
    assert np.corrcoef(np.log(depth), np.log1p(section.obs["truth_nuclei"]))[0, 1] > 0.7


def test_counts_are_molecules_sampled_from_the_truth(section):
    expected = np.expm1(section.layers["truth"]) / 1e4
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-3)
    counts = section.X.toarray()
    mean = expected * counts.sum(axis=1, keepdims=True)
    chi2 = ((counts - mean) ** 2 / mean)[:, mean.mean(axis=0) > 5].mean()
    assert chi2 == pytest.approx(1, abs=0.1)
    ceiling = pearson(section.layers["truth"], log_cp10k(section))[driven(section)]
    assert 0.5 < ceiling.mean() < 0.85


def test_nuclei_agree_with_regions_and_with_the_image(section):
    nuclei = section.obs.groupby("region", observed=True)["truth_nuclei"].median()
    assert nuclei["immune"] > nuclei["tumor"] > nuclei["stroma"] > nuclei["adipose"]
    x, y, area, kind = section.uns["truth"]["nuclei"].T
    area_by_type = [np.median(area[kind == code]) for code in range(4)]
    assert section.uns["truth"]["types"] == ["tumor", "stroma", "immune", "adipose"]
    assert area_by_type[0] > 1.5 * max(area_by_type[1:])
    red = image_of(section)[..., 0].astype(float)
    on_nuclei = red[y.astype(int), x.astype(int)]
    assert on_nuclei[kind == 2].mean() < on_nuclei[kind == 0].mean() < 0.75 * red.mean()
    inside = np.hypot(*(section.obsm["spatial"][0] - np.stack([x, y], axis=1)).T) < 27.5
    assert inside.sum() == section.obs["truth_nuclei"].iloc[0]


def test_regions_express_their_programme(section):
    expression = section.layers["truth"]
    for programme in ("tumor", "stroma", "immune", "adipose"):
        genes = (section.var["truth_programme"] == programme).to_numpy()
        own = (section.obs["region"] == programme).to_numpy()
        assert expression[own][:, genes].mean() > expression[~own][:, genes].mean() + 0.3


def test_undriven_genes_have_no_spatial_signal(section):
    np.testing.assert_allclose(np.ptp(section.layers["truth"][:, ~driven(section)], axis=0), 0, atol=1e-5)


def test_patients_differ_in_expression_and_sisters_do_not():
    first, second, third = st.datasets.simulate(3, sections_per_patient=2, signal=0)
    assert [s.obs["patient"].iloc[0] for s in (first, second, third)] == ["P1", "P1", "P2"]
    np.testing.assert_allclose(first.layers["truth"][0], second.layers["truth"][0], rtol=1e-6)
    assert np.abs(first.layers["truth"][0] - third.layers["truth"][0]).mean() > 0.1


def test_h5ad_round_trip(section, tmp_path):
    section.write_h5ad(tmp_path / "section.h5ad")
    again = ad.read_h5ad(tmp_path / "section.h5ad")
    np.testing.assert_array_equal(image_of(again), image_of(section))
    np.testing.assert_array_equal(again.layers["truth"], section.layers["truth"])
    np.testing.assert_array_equal(again.uns["truth"]["nuclei"], section.uns["truth"]["nuclei"])
    assert section_from_anndata(again).mpp == 1.0


def test_learnable_from_the_image_of_another_patient_and_not_trivially(two_sections):
    from sklearn.linear_model import RidgeCV

    train, test = two_sections
    model = RidgeCV(np.logspace(-1, 4, 11)).fit(colours(train), log_cp10k(train))
    predicted, measured = model.predict(colours(test)), log_cp10k(test)
    informative = driven(test)
    score = pearson(predicted, measured)
    assert score[informative].mean() > 0.4
    assert abs(score[~informative].mean()) < 0.05
    ceiling = pearson(test.layers["truth"][:, informative], measured[:, informative])
    assert score[informative].mean() < ceiling.mean() - 0.1
    shuffle = np.random.default_rng(0).permutation
    shuffled = [pearson(predicted[shuffle(test.n_obs)], measured)[informative].mean() for _ in range(10)]
    assert abs(np.mean(shuffled)) < 0.05


@pytest.mark.parametrize("bad", [{"n_sections": 0}, {"seed": -1}, {"sections_per_patient": 0}, {"signal": -0.5}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        st.datasets.simulate(**bad)


def test_proliferation_shows_in_the_size_of_nuclei_more_than_in_colour(section):
    from scipy.spatial import cKDTree

    nuclei = section.uns["truth"]["nuclei"]
    distance, spot = cKDTree(section.obsm["spatial"]).query(nuclei[:, :2])
    cancer = (distance < 27.5) & (nuclei[:, 3] == 0)
    number = np.bincount(spot[cancer], minlength=section.n_obs)
    size = np.bincount(spot[cancer], nuclei[cancer, 2], minlength=section.n_obs) / np.maximum(number, 1)
    pure = (number > 5) & (section.obs["truth_stroma"] < 0.01).to_numpy()
    proliferation = np.log(section.obs["truth_proliferation"].to_numpy()[pure] + 0.01)
    assert np.corrcoef(size[pure], proliferation)[0, 1] > 0.6
    assert abs(np.corrcoef(colours(section)[pure, 0], proliferation)[0, 1]) < 0.5


def test_a_domain_is_the_region_of_spots_off_its_border(section):
    domain, region = section.obs["domain"], section.obs["region"]
    inside = domain.notna()
    assert (domain[inside] == region[inside]).all()
    assert 0.7 < inside.mean() < 0.8
    around = section_from_anndata(section).neighbours().tocoo()
    foreign = region.to_numpy()[around.row] != region.to_numpy()[around.col]
    touches_another = np.bincount(around.row, foreign, minlength=section.n_obs) > 0
    assert touches_another[~inside].mean() > 0.95


def test_wider_regions_leave_fewer_spots_on_borders(section):
    wide = st.datasets.simulate(region_scale=3)
    assert wide.obs["domain"].isna().mean() < 0.7 * section.obs["domain"].isna().mean()
    assert wide.obs["domain"].nunique() == 4
    with pytest.raises(ValueError, match=r"region_scale must lie between 0\.5 and 4, got 9"):
        st.datasets.simulate(region_scale=9)
