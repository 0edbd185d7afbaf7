"""Genes that no training section measures: read off those that are predicted, by how references vary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as st
from stpredict._evaluation.metrics import pearson
from stpredict._sections.open import open_sections
from stpredict.models._data.chunks import Parts
from stpredict.models._data.folds import HeldOut
from stpredict.models._data.table import Table
from stpredict.models._reference.coexpression import learn_reference
from stpredict.models._reference.unseen import UnseenGenes, hidden_in_turn
from stpredict.models.cmrcnet import CmrcNet

SEEN, OTHERS = [f"SEEN{i}" for i in range(40)], [f"OTHER{i}" for i in range(10)]


@pytest.fixture(scope="module")
def tissue():
    """Draws spots whose genes follow three programmes, with what is their own beside."""
    rng = np.random.default_rng(0)
    loads = rng.normal(size=(3, len(SEEN) + len(OTHERS)))

    def draw(n, own=0.5):
        log = rng.normal(size=(n, 3)) @ loads * 0.4 + own * rng.normal(size=(n, loads.shape[1])) + 2
        return np.clip(log, 0, None).astype(np.float32)

    return draw


def counts_of(log):
    """Cells whose log1p counts per 10,000 are about these: a gene for the rest fills the total up."""
    counts = np.random.default_rng(1).poisson(np.expm1(log.astype(float)))
    rest = np.maximum(10_000 - counts.sum(axis=1, keepdims=True), 1)
    return AnnData(np.hstack([counts, rest]).astype(np.float32), var=pd.DataFrame(index=[*SEEN, *OTHERS, "REST"]))


@pytest.fixture(scope="module")
def learned(tissue):
    """Unseen genes, the table they were learned from, what was held out of it, and the reference."""
    reference = learn_reference([counts_of(tissue(2000))], SEEN, min_counts=50, study_key=None)
    log = tissue(400)[:, : len(SEEN)]
    section = np.repeat([0, 1], 200)
    table = Table(
        design=np.zeros((400, 1), np.float32),
        expression=log,
        log_total=np.zeros(400),
        section=section,
        group=section,
        centres=np.zeros((400, 2)),
        row=np.tile(np.arange(200), 2),
    )
    held = HeldOut(np.arange(200, 400), log[200:] + np.random.default_rng(2).normal(size=(200, len(SEEN))) * 0.3)
    return UnseenGenes.learn(reference, SEEN, table, held), table, held, reference


def test_what_is_seen_tells_the_rest(learned, tissue):
    unseen, *_ = learned
    assert set(OTHERS) <= set(unseen.names)
    truth, rows = tissue(300), np.array([unseen.names.index(gene) for gene in OTHERS])
    seen = truth[:, : len(SEEN)]
    (values,) = unseen.of(Parts(lambda part: seen[part], 300, 300), rows)
    pcc = pearson(truth[:, len(SEEN) :], values)[0]
    assert pcc.mean() > 0.6
    np.testing.assert_allclose(values.mean(axis=0), truth[:, len(SEEN) :].mean(axis=0), atol=0.25)
    scrambled = replace(unseen, similar=np.roll(unseen.similar, 1, axis=0))
    (wrong,) = scrambled.of(Parts(lambda part: seen[part], 300, 300), rows)
    assert pearson(truth[:, len(SEEN) :], wrong)[0].mean() < 0.3


def test_an_unseen_gene_is_the_weighted_mean_of_standardised_seen_ones():
    """Two patterns at right angles, of very different strength and level, and a gene that is the same everywhere."""
    patterns = np.array([[1, -1, 1, -1], [1, 1, -1, -1]]).T
    seen = np.column_stack([5 + 0.01 * patterns[:, 0], 2 + 3.0 * patterns[:, 1], np.full(4, 7.0)])
    unseen = UnseenGenes(
        names=["MIXED", "FLAT"],
        similar=np.array([[0, 1], [2, 2]], dtype=np.int32),
        weights=np.array([[0.3, 0.4], [0.5, 0.5]], dtype=np.float32),
        level=np.array([2.0, 1.0], dtype=np.float32),
        sd=np.array([0.5, 0.25], dtype=np.float32),
        reliability=np.zeros(4),
        error=np.ones(2, dtype=np.float32),
    )
    (values,) = unseen.of(Parts(lambda part: seen[part], 4, 4), np.arange(2))
    mixed = 2 + 0.5 * (0.6 * patterns[:, 0] + 0.8 * patterns[:, 1])
    np.testing.assert_allclose(values, np.column_stack([mixed, np.ones(4)]), rtol=1e-5)


def test_parts_put_together_are_the_whole(learned, tissue):
    unseen, *_ = learned
    seen, rows = tissue(300)[:, : len(SEEN)], np.arange(5)
    (whole,) = unseen.of(Parts(lambda part: seen[part], 300, 300), rows)
    parts = unseen.of(Parts(lambda part: seen[part], 300, 70), rows)
    np.testing.assert_allclose(np.concatenate(list(parts)), whole, rtol=1e-4, atol=1e-5)


def test_a_hidden_gene_is_predicted_from_others_alone(learned):
    _, table, held, reference = learned
    alike = reference.correlation.loc[SEEN, SEEN].to_numpy(copy=True)
    np.fill_diagonal(alike, -1)
    similar = np.argsort(-alike, axis=1)[:, :20]
    found = hidden_in_turn(table, held, similar, np.maximum(np.take_along_axis(alike, similar, axis=1), 0))
    gene, predicted = 7, held.predicted
    standard = (predicted - predicted.mean(axis=0)) / predicted.std(axis=0)
    expected = standard[:, similar[gene]] @ np.maximum(alike[gene, similar[gene]], 0)
    assert gene not in similar[gene]
    assert found.pcc[gene] == pytest.approx(np.corrcoef(expected, table.expression[200:, gene])[0, 1], abs=1e-6)
    assert np.nanmean(found.pcc) > 0.5


def test_reliability_is_what_hidden_genes_reach(learned, tissue):
    unseen, *_ = learned
    rows = np.array([unseen.names.index(gene) for gene in OTHERS])
    told = unseen.told(rows)
    assert list(told["genes"]) == OTHERS
    assert ((told["distance"] >= 0) & (told["distance"] < 1)).all()
    truth = tissue(300)
    seen = truth[:, : len(SEEN)] + np.random.default_rng(3).normal(size=(300, len(SEEN))) * 0.3
    (values,) = unseen.of(Parts(lambda part: seen[part], 300, 300), rows)
    reached = pearson(truth[:, len(SEEN) :], values)[0]
    assert told["reliability"].mean() == pytest.approx(reached.mean(), abs=0.1)
    errors = truth[:, len(SEEN) :] - values
    np.testing.assert_allclose(np.median(unseen.error[rows] / errors.std(axis=0)), 1, atol=0.25)


def test_levels_follow_those_of_the_reference_down_to_genes_that_are_next_to_nothing(tissue, learned):
    """Sections twice as deep as the reference, as log counts tell it; rare genes stay rare, and their intervals hold."""
    _, table, held, _ = learned
    rng = np.random.default_rng(4)
    share = np.where(np.arange(50) < 45, 1.0, 0.02)  # the last of the others are rare
    cells = counts_of(np.log1p(np.expm1(tissue(2000)) * share * 0.5))
    reference = learn_reference([cells], SEEN, min_counts=50, study_key=None)
    unseen = UnseenGenes.learn(reference, SEEN, table, held)
    rows = np.array([unseen.names.index(gene) for gene in OTHERS])
    level = dict(zip(OTHERS, unseen.level[rows], strict=True))
    assert (unseen.level >= 0).all()
    truth = np.log1p(rng.poisson(np.expm1(tissue(300)) * share)).mean(axis=0)[len(SEEN) :]
    np.testing.assert_allclose([level[gene] for gene in OTHERS[:5]], truth[:5], rtol=0.35)
    assert all(level[gene] < 0.35 for gene in OTHERS[5:])
    told = unseen.told(rows)["reliability"]
    assert told[5:].max() < 0.6 * told[:5].min()


# ---------------------------------------------------------------------- through the default


@pytest.fixture(scope="module")
def model_and_new():
    """The default, trained without four genes that references measure, and a section of another patient."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CmrcNet, "presets", {"default": replace(CmrcNet.presets["default"], epochs=4, width=32)})
        sections = st.datasets.simulate(5)
        for adata in sections[:3]:
            st.pp.tiles(adata)
            st.pp.encode(adata, show_progress=False)
        genes = [gene for gene in sections[0].var_names if gene not in UNSEEN]
        model = st.tl.train(sections[:2], genes=genes, reference=sections[3:], seed=0, show_progress=False)
        yield model, sections[2]


UNSEEN = ["ERBB2", "KRT8", "COL1A1", "CD3D"]


def test_the_default_predicts_genes_that_only_references_measure(model_and_new, tmp_path):
    model, new = model_and_new
    assert set(model.vocabulary) - set(model.genes) == set(UNSEEN)
    st.tl.predict_expression(new, model, genes=[*UNSEEN, "FASN"], std=True, interval=0.9)
    scores = st.tl.evaluate(new, panels={"unseen": UNSEEN}, metrics=["pcc", "interval_coverage", "sd_ratio"])
    mean = scores.groupby("metric")["value"].mean()
    assert mean["pcc"] > 0.55  # (0.62 where they are trained on)
    assert 0.8 < mean["interval_coverage"] <= 1
    assert 0.4 < mean["sd_ratio"] < 1
    unseen = new.uns["predicted"]["unseen"]
    assert sorted(unseen["genes"]) == sorted(UNSEEN)
    assert (unseen["reliability"] > 0.3).all()
    seen = st.tl.predict_expression(new, model, genes=["FASN"], as_anndata=True)
    np.testing.assert_allclose(new[:, "FASN"].layers["predicted"], seen.X, rtol=1e-5)
    for options in ({}, {"share_bank": False}):
        model.save(tmp_path / "model", **options)
        again = st.tl.predict_expression(new, tmp_path / "model", genes=UNSEEN, as_anndata=True)
        if not options:
            np.testing.assert_allclose(again.X, new[:, again.var_names].layers["predicted"], rtol=1e-5)
        truth = open_sections(new)[0].log_expression(UNSEEN)
        assert pearson(truth, again[:, UNSEEN].X)[0].mean() > 0.5


def test_without_being_asked_it_predicts_what_it_learned(model_and_new):
    model, new = model_and_new
    prediction = model.predict(open_sections(new)[0])
    assert prediction.genes == model.genes
    assert prediction.unseen is None


def test_unseen_genes_come_in_parts_too(model_and_new):
    model, new = model_and_new
    (section,) = open_sections(new)
    whole = model.predict(section, ["ERBB2", "FASN", "nothing"])
    parts = list(model.predict_parts(section, ["ERBB2", "FASN", "nothing"], size=100))
    np.testing.assert_allclose(np.vstack([part.mean for _, part in parts]), whole.mean, rtol=1e-4, atol=1e-5)
    assert np.isnan(whole.mean[:, 2]).all()
    assert np.isfinite(whole.std[:, :2]).all()
