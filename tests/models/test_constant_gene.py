"""A gene that is nowhere expressed costs the others nothing."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as st
from stpredict._evaluation.metrics import pearson
from stpredict._sections.open import open_sections
from stpredict.datasets._simulated_counts import GENES


@pytest.mark.parametrize(
    ("method", "small"), [("cmrcnet", {"epochs": 2}), ("st_align", {"epochs": 2}), ("align_st", {"width": 32})]
)
def test_the_others_are_predicted_as_well_beside_a_gene_of_zeros(paired, method, small):
    how = {"method": method, "members": 1, "seed": 0, "show_progress": False, **small}
    scores = []
    for zero in (False, True):
        sections = paired(4, n_genes=60, patients=["A", "A", "B", "C"])
        for adata in sections:
            adata.var_names = GENES[:60]
            adata.obs["total_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
            adata.X[:, 0] = 0 if zero else adata.X[:, 0]
        model = st.tl.train(sections[:2], genes=GENES[:50], **how)
        new = open_sections(sections[3])[0]
        predicted = model.predict(new, GENES[:50]).mean
        scores.append(pearson(new.log_expression(GENES[1:50]), predicted[:, 1:])[0].mean())
    np.testing.assert_allclose(predicted[:, 0], 0, atol=0.1)
    assert scores[0] > 0.4
    assert scores[1] > scores[0] - 0.02
