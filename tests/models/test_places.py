from __future__ import annotations

import numpy as np

from stpredict.models._reference.distance import distance_to, section_means_and_scale
from stpredict.models.align_st._genes import GeneSpace


def space(coordinates, variance):
    n = len(coordinates)
    nothing = np.zeros(n, dtype=np.float32)
    return GeneSpace(
        names=[f"G{i}" for i in range(n)],
        coordinates=np.asarray(coordinates, dtype=np.float32),
        variance=np.asarray(variance, dtype=np.float32),
        from_text=nothing,
        level=nothing,
        sd=nothing + 1,
        nearest=nothing,
        by_text=np.full_like(coordinates, np.nan),
    )


def test_distance_is_one_for_a_section_of_the_same_kind_and_grows_squared():
    rng = np.random.default_rng(0)
    places, scale = rng.standard_normal((200, 50)).astype(np.float32), np.ones(50, dtype=np.float32)
    same = distance_to(places, scale, rng.standard_normal((1, 50)))
    assert abs(same - 1) < 0.15
    far = distance_to(places, scale, np.full((1, 50), 10.0))
    assert abs(far - (100 + 1) / 2) < 2


def test_distance_needs_two_places_and_features_that_vary():
    one = np.zeros((1, 3), dtype=np.float32)
    assert distance_to(one, np.ones(3, dtype=np.float32), np.ones((4, 3))) == 1
    assert distance_to(np.zeros((2, 3), dtype=np.float32), np.zeros(3, dtype=np.float32), np.ones((4, 3))) == 1


def test_one_section_is_cut_into_strips(paired):
    from stpredict._sections.open import open_sections

    (section,) = open_sections(paired(2)[0])
    places, scale = section_means_and_scale([section], ["X_fake"])
    assert places.shape == (5, section.adata.obsm["X_fake"].shape[1])
    assert scale.any()


def test_far_away_only_the_main_programmes_count():
    genes = space([[1.0, 1.0], [2.0, -2.0]], [9.0, 1.0])
    np.testing.assert_allclose(genes.trusted(1.0), [[0.9, 0.5], [1.8, -1.0]], rtol=1e-6)
    near, far = genes.trusted(0.0), genes.trusted(99.0)
    np.testing.assert_allclose(near, genes.coordinates, rtol=1e-4)
    np.testing.assert_allclose(far[0, 0] / far[0, 1], (9 / 108) / (1 / 100), rtol=1e-5)
