from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict._sections.spread import _can_be_part, moments
from stpredict.models._data.chunks import Parts, rows_of

GENES = [f"GENE{i}" for i in range(15)]
QUICK = {"epochs": 2, "members": 1, "show_progress": False}


def test_moments_are_those_of_the_whole():
    values = np.random.default_rng(0).gamma(2, size=(1003, 5)).astype(np.float32) + 1e4
    mean, sd = moments(Parts(lambda rows: values[rows], 1003, 17))
    np.testing.assert_allclose(mean, values.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(sd, values.std(axis=0, dtype=np.float64), rtol=1e-9)


def test_a_part_cannot_vary_more_or_lie_further_off_than_the_whole_allows():
    values = np.random.default_rng(0).standard_normal((100, 3)) + 5
    n, mean, sd = 99, values[:99].mean(axis=0), values[:99].std(axis=0)
    whole = 100, values.mean(axis=0), values.std(axis=0)
    assert _can_be_part(n, mean, sd, *whole)
    assert _can_be_part(n, mean, 0.5 * sd, *whole)
    assert not _can_be_part(n, mean, 1.1 * sd, *whole)
    assert not _can_be_part(n, mean + 0.2, sd, *whole)
    assert not _can_be_part(n, mean[:2], sd[:2], *whole)


def test_a_feature_that_does_not_vary_can_be_of_a_part():
    zero = np.zeros(1)
    assert _can_be_part(2, zero, zero, 5, zero, zero)
    assert _can_be_part(2, zero + 5, zero, 5, zero + 5 + 1e-6, zero)  # but for rounding
    assert not _can_be_part(2, zero + 5, zero, 5, zero + 5.001, zero)


def test_one_part_is_made_once_and_several_as_often_as_asked():
    for size, times in ((10, 1), (4, 6)):
        made = []
        parts = Parts(lambda rows, made=made: made.append(rows) or np.ones(rows.stop - rows.start), 10, size)
        doubled = parts.map(lambda part: 2 * part)
        assert np.concatenate(list(doubled)).sum() == np.concatenate(list(doubled)).sum() == 20
        assert len(made) == times


def test_what_parts_are_made_of_is_let_go_with_them():
    class Rows:
        def __call__(self, rows):
            return np.ones(rows.stop - rows.start)

    source = Rows()
    seen = weakref.ref(source)
    assert len(list(Parts(source, 10, 4).map(np.sum))) == 3
    gc.disable()
    try:
        del source
        assert seen() is None
    finally:
        gc.enable()


def test_parts_hold_a_bounded_number_of_values():
    assert rows_of(1000) * 1000 <= 2**23
    assert rows_of(10**9) == 256


@pytest.fixture
def adapted(paired):
    train, new = paired(2)
    new.obs["measured"] = np.arange(new.n_obs) % 9 == 0
    return st.tl.adapt(new, st.tl.train(train, genes=GENES, method="ridge"), measured="measured"), new


def check(model, adata, genes=None):
    """Parts of 17 spots put together are the prediction; returns how many there were."""
    (section,) = open_sections(adata)
    whole = model.predict(section, genes)
    rows, parts = zip(*model.predict_parts(section, genes, size=17), strict=True)
    assert [r.start for r in rows] == [0, *(r.stop for r in rows[:-1])]
    assert rows[-1].stop == len(section)
    assert all(len(part.mean) == r.stop - r.start for r, part in zip(rows, parts, strict=True))
    np.testing.assert_allclose(np.concatenate([part.mean for part in parts]), whole.mean, atol=2e-6)
    np.testing.assert_allclose(np.concatenate([part.std for part in parts]), whole.std, atol=2e-6)
    assert all(part.genes == whole.genes for part in parts)
    return len(parts)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("method", ["mean", "density", "ridge", "knn", "mixture"])
def test_parts_are_the_whole(paired, method, reference):
    *train, new, other = paired(4)
    more = {"reference": other} if reference else {}
    model = st.tl.train(train, method=method, genes=GENES, **more)
    assert check(model, new) == 5
    assert check(model, new, ["GENE3", "NOPE", "GENE1"]) == 5


@pytest.mark.parametrize("method", ["cmrcnet", "st_align", "align_st"])
def test_parts_of_trained_networks(paired, method):
    *train, new, other = paired(4)
    model = st.tl.train(train, method=method, genes=GENES, reference=other, **QUICK)
    assert check(model, new) == 5


def test_parts_of_an_adapted_model(adapted):
    assert check(*adapted) == 5


def test_unfit_features_are_refused_before_the_first_part(paired):
    train, new = paired(2)
    model = st.tl.train(train, genes=GENES, method="ridge")
    new.uns["X_fake"]["encoder_hash"] = "beef"
    with pytest.raises(ValueError, match="encoder_hash=beef"):
        model.predict_parts(open_sections(new)[0])


def test_features_are_standardised_over_the_whole_section(paired):
    """A part of which all spots look alike is not taken for a section without contrast."""
    train, new = paired(2)
    model = st.tl.train(train, genes=GENES, method="ridge")
    order = np.argsort(new.obsm["X_fake"][:, 0])
    sorted_new = new[order].copy()
    (section,) = open_sections(new)
    (other,) = open_sections(sorted_new)
    parts = np.concatenate([part.mean for _, part in model.predict_parts(other, size=9)])
    np.testing.assert_allclose(parts, model.predict(section).mean[order], atol=2e-6)
