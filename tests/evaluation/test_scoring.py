from __future__ import annotations

import pytest

import stpredict as st
from stpredict._evaluation.scoring import score
from stpredict._sections.open import open_sections


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
