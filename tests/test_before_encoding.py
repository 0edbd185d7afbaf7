"""What comes before tiles and features are there ends in one error that names the calls to make, and they mend it."""

from __future__ import annotations

import re

import numpy as np
import pytest

import stpredict as st

SHORT = {"epochs": 1, "members": 1, "show_progress": False}
NETWORKS = ("cmrcnet", "st_align", "align_st")
LOOKING = [name for name, method in st.models.METHODS.items() if method.uses_features]


def options(method):
    return SHORT if method in NETWORKS else {}


@pytest.fixture(scope="module")
def encoded(_simulated):
    train = [adata.copy() for adata in _simulated]
    for adata in train:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    return train


@pytest.fixture(scope="module")
def genes(encoded):
    return list(encoded[0].var_names[:30])


@pytest.fixture
def raw(section):
    """A section that only was read, of another patient and name than those of training."""
    section.obs["patient"] = "new"
    section.uns["spatial"]["new"] = section.uns["spatial"].pop("sim_1")
    section.X = section.X[:, ::-1].copy()  # (else it is found out as one of training)
    return section


@pytest.fixture
def tiled(raw):
    st.pp.tiles(raw)
    return raw


def names_the_calls(error):
    """Whether one error says to run both, and is no bare KeyError."""
    return isinstance(error.value, ValueError) and re.search(r"pp\.tiles.* and stpredict\.pp\.encode", str(error.value))


@pytest.fixture(scope="module")
def trained(encoded, genes):
    """A model of every method, by name; made when asked for."""
    made = {}

    def model(method):
        if method not in made:
            made[method] = st.tl.train(encoded, method=method, genes=genes, **options(method))
        return made[method]

    return model


@pytest.mark.filterwarnings("ignore:Fewer than 20 genes")
@pytest.mark.parametrize("method", LOOKING)
def test_prediction_and_embedding(trained, method, raw, tmp_path):
    model = trained(method)
    before = set(raw.obsm), set(raw.layers), set(raw.uns)
    for call in (
        lambda: st.tl.predict_expression(raw, model),
        lambda: st.tl.predict_expression(raw, model, out=tmp_path / "a.zarr"),
        lambda: st.tl.embed(raw, model),
    ):
        with pytest.raises(ValueError, match="has no features") as error:
            call()
        assert names_the_calls(error)
    assert (set(raw.obsm), set(raw.layers), set(raw.uns)) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Fewer than 20 genes")
@pytest.mark.parametrize("method", LOOKING)
def test_training(encoded, genes, method, raw):
    for sections in (raw, [encoded[0], raw]):
        with pytest.raises(ValueError, match="image features") as error:
            st.tl.train(sections, method=method, genes=genes, **options(method))
        assert names_the_calls(error)


def test_other_verbs(encoded, trained, raw, tmp_path):
    raw.obs["measured"] = np.arange(raw.n_obs) < 30
    encoded[0].copy().write_h5ad(tmp_path / "one.h5ad")
    raw.write_h5ad(tmp_path / "two.h5ad")
    for call in (
        lambda: st.tl.adapt(raw, trained("ridge"), measured="measured"),
        lambda: st.tl.retrieve(raw, trained("knn")),
        lambda: st.tl.recall(raw, trained("cmrcnet")),
        lambda: st.tl.embed(raw, trained("st_align"), use="fused"),
        lambda: st.tl.cross_validate([encoded[0], raw], methods=["ridge"]),
        lambda: st.tl.learning_curve([encoded[0], raw], methods=["ridge"]),
        lambda: st.tl.train(tmp_path, method="cmrcnet", **SHORT),
    ):
        with pytest.raises(ValueError, match="features") as error:
            call()
        assert names_the_calls(error)


def test_tiles_alone_are_not_enough(trained, tiled):
    with pytest.raises(ValueError, match="has no features") as error:
        st.tl.predict_expression(tiled, trained("ridge"))
    assert names_the_calls(error)


def test_the_calls_that_prediction_names_make_it_work(trained, raw):
    with pytest.raises(ValueError, match="has no features") as error:
        st.tl.predict_expression(raw, trained("ridge"))
    calls = re.search(r"Run (.*) and (.*) on it first", str(error.value)).groups()
    for call in calls:
        exec(call.replace("stpredict", "st"), {"st": st, "adata": raw})
    st.tl.predict_expression(raw, trained("ridge"))
    assert np.isfinite(raw.layers["predicted"][:, raw.var["predicted"]]).all()


def test_figures_of_features_name_what_makes_them(raw):
    with pytest.raises(KeyError, match=r"stpredict\.pp\.encode"):
        st.pl.embedding(raw, "X_morphology", show=False)
    for draw in (st.pl.expression, st.pl.compare):
        with pytest.raises(KeyError, match=r"tl\.predict_expression"):
            draw(raw, "ERBB2", show=False)
