"""Hashes of spots, by which duplicated sections are found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict._benchmark.duplicates import refuse_duplicates, spot_hashes

GENES = pd.Index([f"G{i}" for i in range(200)])


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(1.0, (300, 200)).astype(np.float32)


def test_hashes_depend_on_the_counts_alone(counts):
    hashes = spot_hashes(counts, GENES, list(GENES), 50)
    assert len(np.unique(hashes)) == 300
    order = np.random.default_rng(1).permutation(200)
    for same in (sparse.csr_matrix(counts), sparse.csc_matrix(counts), counts.astype(int)):
        np.testing.assert_array_equal(spot_hashes(same, GENES, list(GENES), 50), hashes)
    np.testing.assert_array_equal(spot_hashes(counts[:, order], GENES[order], list(GENES), 50), hashes)
    counts[7, 3] += 1
    assert np.flatnonzero(spot_hashes(counts, GENES, list(GENES), 50) != hashes).tolist() == [7]


def test_shallow_spots_are_not_told_apart(counts):
    counts[:5] = 0
    counts[:5, 0] = 1
    assert np.flatnonzero(spot_hashes(counts, GENES, list(GENES), 50) == 0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("n_shared", "refused"), [(0, False), (1, False), (2, True), (20, True)])
def test_a_tenth_of_the_smaller_section_is_enough(n_shared, refused):
    small, large = np.arange(1, 21, dtype=np.uint64), np.arange(1000, 2000, dtype=np.uint64)
    large[:n_shared] = small[:n_shared]
    arguments = [large, small], ["L", "S"], ["A", "B"]
    if refused:
        with pytest.raises(ValueError, match=f"'L'.*'S'.*share {n_shared} spots"):
            refuse_duplicates(*arguments)
    else:
        refuse_duplicates(*arguments)
