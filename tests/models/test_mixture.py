from __future__ import annotations

import numpy as np
import pytest

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._trust.reliability import central
from stpredict.models.baselines.mixture import mix

GENES = [f"GENE{i}" for i in range(15)]


def predicted(model, adata):
    return model.predict(open_sections(adata)[0])


def test_it_is_half_of_each(paired):
    *train, new = paired(4)
    parts = [st.tl.train(train, method=method, genes=GENES) for method in ("ridge", "knn")]
    mixture = st.tl.train(train, method="mixture", genes=GENES)
    assert mixture.config["alpha"] == parts[0].config["alpha"]
    assert mixture.config["k"] == parts[1].config["k"]
    means = [predicted(part, new).mean for part in parts]
    z = [(mean - mean.mean(axis=0)) / mean.std(axis=0) for mean in means]
    expected = (means[0] + means[1]).mean(axis=0) / 2 + (means[0].std(axis=0) + means[1].std(axis=0)) / 2 * sum(z) / 2
    result = predicted(mixture, new)
    np.testing.assert_allclose(result.mean, expected, atol=1e-4)
    np.testing.assert_array_equal(result.std, np.tile(result.std[0], (new.n_obs, 1)))
    low, high = central(mixture.trust.reliability.errors, 0.9)
    np.testing.assert_allclose(result.std[0], (high - low) / 3.29 * result.judgement.widening, rtol=1e-3)


def test_its_error_is_that_on_unseen_sections(paired):
    *train, new = paired(5)
    model = st.tl.train(train, method="mixture", genes=GENES)
    measured = open_sections(new)[0].log_expression(GENES)
    error = np.sqrt(np.square(predicted(model, new).mean - measured).mean(axis=0))
    np.testing.assert_allclose(model.arrays["residual_sd"].mean(), error.mean(), rtol=0.4)


def test_it_is_stored_and_read(paired, tmp_path):
    *train, new = paired(3)
    model = st.tl.train(train, method="mixture", genes=GENES)
    model.save(tmp_path / "model")
    read = st.models.load(tmp_path / "model")
    np.testing.assert_array_equal(predicted(read, new).mean, predicted(model, new).mean)
    assert read.config == model.config


def test_constant_predictions_mix():
    varying = np.arange(6, dtype=np.float32)[:, None]
    np.testing.assert_allclose(mix([varying, np.full((6, 1), 4.0)])[:, 0].mean(), 3.25)
    assert np.isfinite(mix([np.ones((1, 2)), np.zeros((1, 2))])).all()
    np.testing.assert_allclose(mix([varying, varying]), varying, atol=1e-6)


def test_it_beats_its_worse_half_on_real_signal(paired):
    *train, new = paired(3, side=7, depth=800)
    scores = {}
    for method in ("ridge", "knn", "mixture"):
        st.tl.predict_expression(new, st.tl.train(train, method=method, genes=GENES))
        scores[method] = st.tl.evaluate(new, metrics="pcc")["value"].mean()
    assert scores["mixture"] > min(scores["ridge"], scores["knn"])
    assert scores["mixture"] == pytest.approx(max(scores.values()), abs=0.05)
