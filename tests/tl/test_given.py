"""Models by path, genes by any name, and calls in the words of the release before."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import stpredict as st
from stpredict._sections.open import Opened, Where, open_sections

GENES = ["GENE0", "GENE1", "GENE5"]
VERBS = {
    "predict_expression": lambda data, model: st.tl.predict_expression(data, model),
    "embed": lambda data, model: st.tl.embed(data, model),
    "retrieve": lambda data, model: st.tl.retrieve(data, model),
    "adapt": lambda data, model: st.tl.adapt(data, model),
}


@pytest.fixture
def model(paired):
    return st.tl.train(paired(2), method="knn", genes=GENES)


@pytest.fixture
def new(paired):
    return paired(3)[2]


def renamed(adata, **names):
    adata = adata.copy()
    adata.var_names = [names.get(name, name) for name in adata.var_names]
    return adata


@pytest.mark.parametrize("kind", [str, None])
@pytest.mark.parametrize("verb", VERBS)
def test_a_path_stands_for_the_saved_model(model, new, tmp_path, verb, kind):
    model.save(tmp_path / "model")
    path = tmp_path / "model" if kind is None else kind(tmp_path / "model")
    by_path, by_model = new.copy(), new.copy()
    results = VERBS[verb](by_path, path), VERBS[verb](by_model, model)
    if verb == "adapt":
        found, expected = (adapted.predict(open_sections(new)[0]).mean for adapted in results)
    else:
        slot, key = {"predict_expression": ("layers", "predicted"), "embed": ("obsm", "X_knn")}.get(
            verb, ("obsm", "retrieved")
        )
        found, expected = getattr(by_path, slot)[key], getattr(by_model, slot)[key]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("verb", [*VERBS, "recall"])
def test_what_is_no_model_is_refused_and_nothing_is_written(new, assert_same, tmp_path, verb):
    act = VERBS.get(verb, st.tl.recall)
    before = new.copy()
    for wrong in (None, 5, new, {"model": 1}):
        with pytest.raises(TypeError, match=r"model must be a trained model \(stpredict\.tl\.train, .*path of a saved"):
            act(new, wrong)
    with pytest.raises(FileNotFoundError, match="nothing here"):
        act(new, tmp_path / "nothing here")
    assert_same(new, before)


def test_a_section_that_was_not_encoded_is_told_what_to_run(model, new):
    bare = new.copy()
    bare.obsm, bare.uns = {"spatial": new.obsm["spatial"]}, {"spatial": new.uns["spatial"]}
    for act in VERBS.values():
        with pytest.raises(
            ValueError, match=r"Run stpredict\.pp\.tiles\(adata, spot_um=112, niche_um=560\) and stpredict\.pp\.encode"
        ):
            act(bare, model)


def test_genes_by_any_name_are_the_same_to_all(paired):
    """HER2 is an alias, ENSG00000119888 the id of EPCAM."""
    known = {"GENE0": "ERBB2", "GENE1": "EPCAM", "GENE5": "KRT8"}
    train = [renamed(adata, **known) for adata in paired(2)]
    base = st.tl.train(train, genes=["ERBB2", "EPCAM", "KRT8"], method="ridge")
    new = renamed(paired(3)[2], **known)
    asked = ["HER2", "ENSG00000119888"]
    right = st.tl.adapt(new, base, genes=["ERBB2", "EPCAM"])
    found = st.tl.adapt(new, base, genes=asked)
    assert found.genes == ["ERBB2", "EPCAM"]
    for name, array in right.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    st.tl.predict_expression(new, found, genes=asked)
    assert new.var_names[new.var["predicted"]].tolist() == ["ERBB2", "EPCAM"]


def test_a_gene_that_sections_call_otherwise_is_corrected_as_measured(paired):
    known = {"GENE0": "ERBB2", "GENE5": "KRT8"}
    base = st.tl.train([renamed(adata, **known) for adata in paired(2)], genes=["ERBB2", "KRT8"], method="ridge")
    same, other = renamed(paired(3)[2], **known), renamed(paired(3)[2], GENE0="HER2", GENE5="KRT8")
    other.obs["total_counts"] = other.X.sum(axis=1)  # (else the few genes are told of)
    right = st.tl.adapt(same, base)
    for genes in (None, ["HER2", "KRT8"]):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            found = st.tl.adapt(other, base, genes=genes)
        assert found.genes == ["ERBB2", "KRT8"]
        np.testing.assert_array_equal(found.arrays["beside"], right.arrays["beside"])
    only = st.tl.adapt(renamed(same, GENE1="MS4A1"), base, genes=["ENSG00000156738"])
    assert only.genes == ["MS4A1"]


def test_a_gene_measured_in_some_sections_only_is_refused_unless_the_model_knows_it(paired, model):
    both = paired(2)
    both[1] = both[1][:, both[1].var_names != "GENE14"].copy()
    with pytest.raises(ValueError, match="GENE14: neither known to the model nor measured in all sections"):
        st.tl.adapt(both, model, genes=["GENE0", "GENE14"])


def test_the_old_order_and_the_old_names_still_work_and_point_at_the_callers_line(model, new, attentive):
    prepared, attending = attentive
    (section,) = open_sections(prepared)
    calls = [
        (lambda: st.tl.adapt(model, new).arrays["along"], r"tl\.adapt\(data, model\)"),
        (lambda: attending.gene_graph("ERBB2", section), r"gene_graph\(section, genes\)"),
        (
            lambda: lines_of(st.pl.gene_graph(attending, "ERBB2", prepared, show=False)),
            r"gene_graph\(data, model, genes",
        ),
        (
            lambda: lines_of(st.pl.gene_graph(prepared, attending, "ERBB2", n=8, show=False)),
            "n= is called n_neighbors=",
        ),
        (lambda: retrieved(new, model, k=4), "k= is called n_neighbors= now"),
    ]
    now = [
        st.tl.adapt(new, model).arrays["along"],
        attending.gene_graph(section, "ERBB2"),
        *[lines_of(st.pl.gene_graph(prepared, attending, "ERBB2", show=False))] * 2,
        retrieved(new, model, n_neighbors=4),
    ]
    for (call, message), expected in zip(calls, now, strict=True):
        with pytest.warns(FutureWarning, match=message) as caught:
            found = call()
        assert [one.filename for one in caught if one.category is FutureWarning] == [__file__]
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    with pytest.raises(TypeError, match="pass n_neighbors= only"):
        retrieved(new, model, n_neighbors=4, k=4)


def lines_of(ax):
    return sorted(text.get_text() for text in ax.texts)


def retrieved(adata, model, **options):
    return st.tl.retrieve(adata, model, copy=True, **options).obsm["retrieved"]


def test_a_copy_is_made_when_something_is_written_and_only_if_asked_for(new, assert_same):
    before, made = new.copy(), []
    new.copy = lambda: made.append(1) or before.copy()
    opened = Opened(new, Where(), copy=True)
    assert (len(opened.sections), made) == (1, [])
    opened.target.obs["written"] = 1
    assert (len(made), "written" in opened.result.obs, opened.result is opened.written) == (1, True, True)
    del new.copy
    assert_same(new, before)
    in_place = Opened(new, Where())
    in_place.target.obs["written"] = 1
    assert (in_place.result, in_place.written is new, "written" in new.obs) == (None, True, True)


def test_no_copy_is_made_for_input_that_is_refused(new, model, monkeypatch):
    monkeypatch.setattr(type(new), "copy", lambda _: pytest.fail("copied"))
    del new.obsm["X_fake"]
    for act in (st.tl.predict_expression, st.tl.embed, st.tl.retrieve):
        with pytest.raises(ValueError, match="Run stpredict"):
            act(new, model, copy=True)
    with pytest.raises(ValueError, match="Tiles are not laid out"):
        st.pp.encode(new, copy=True)
    with pytest.raises(ValueError, match="no H&E image"):
        st.pp.tiles(new, copy=True)
    with pytest.raises(KeyError, match="no layers"):
        st.tl.localize_tumor(new, copy=True)
