from __future__ import annotations

import warnings

import pytest

import stpredict as st
from stpredict._evaluation.scoring import score
from stpredict._sections.open import open_sections


@pytest.mark.parametrize(("n", "by_chance"), [(30, None), (29, "0.37"), (10, "0.63"), (3, "1.00")])
def test_correlations_over_few_spots_come_with_what_chance_gives(section, n, by_chance):
    """±.37, .63 and 1 are the critical values of Pearson's r for 29, 10 and 3 pairs, two-sided, at 5 %."""
    deepest = section.obs["total_counts"].nlargest(n).index
    (section,) = open_sections(section[deepest].copy())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        score(
            section,
            section.log_expression(section.genes),
            section.genes,
            panels=None,
            metrics=["pcc"],
            min_counts=1,
            seed=0,
        )
    of_few = [str(one.message) for one in told if "evaluated on" in str(one.message)]
    assert len(of_few) == (by_chance is not None)
    assert by_chance is None or (f"on {n} spots" in of_few[0] and f"±{by_chance} " in of_few[0])


def test_cross_validation_over_few_spots_says_so_of_each_section(two_sections):
    few = [adata[adata.obs["total_counts"].nlargest(20).index].copy() for adata in two_sections]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        st.tl.cross_validate(few, methods=["mean"], n_genes=10)
    assert sum("is evaluated on 20 spots" in str(one.message) for one in told) == 2


@pytest.mark.parametrize("metric", ["coverage", "interval_width"])
def test_intervals_without_their_width_are_refused(metric):
    (section,) = open_sections(st.datasets.simulate(1)[0])
    with pytest.raises(ValueError, match=f"{metric} need.* std"):
        score(
            section,
            section.log_expression(section.genes),
            section.genes,
            panels=None,
            metrics=[metric],
            min_counts=1,
            seed=0,
        )
