"""Consensus: who counts how much, where only the linear parts count, and how it is stored."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import stpredict as st
from stpredict._evaluation.metrics import pearson
from stpredict._sections.open import open_sections
from stpredict.models.cmrcnet import CmrcNet
from stpredict.models.consensus import model as consensus
from stpredict.models.consensus.weights import learn_weights, levels_and_spreads

GENES = [f"GENE{i}" for i in range(15)]


@pytest.fixture(scope="module", autouse=True)
def _small_networks():
    """Networks that take a second to train: how well they learn is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CmrcNet, "presets", {"default": replace(CmrcNet.presets["default"], epochs=4, width=32)})
        yield


def trained(sections, **options):
    return st.tl.train(sections, **{"genes": GENES, "show_progress": False, **options})


def predicted(model, adata):
    return model.predict(open_sections(adata)[0])


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


# ---------------------------------------------------------------------- weights


def test_the_part_that_is_right_gets_most_of_the_weight(rng):
    truth = rng.normal(size=(400, 50))
    parts = [truth + rng.normal(size=truth.shape) * noise for noise in (0.3, 3.0, 3.0)]
    weights = learn_weights(parts, truth, np.zeros(400))
    assert weights[0] > 0.8
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-6)


def test_parts_that_are_equally_good_count_the_same_and_make_each_other_better(rng):
    truth = rng.normal(size=(300, 50))
    parts = [truth + rng.normal(size=truth.shape) for _ in range(3)]
    weights = learn_weights(parts, truth, np.zeros(300))
    np.testing.assert_allclose(weights, 1 / 3, atol=0.03)


def test_no_part_counts_negatively(rng):
    truth = rng.normal(size=(300, 50))
    weights = learn_weights([truth, -truth, truth + rng.normal(size=truth.shape)], truth, np.zeros(300))
    assert (weights >= 0).all()
    assert weights[1] < weights[0] / 3


def test_few_spots_move_weights_less_than_many(rng):
    truth = rng.normal(size=(2000, 30))
    parts = [truth + rng.normal(size=truth.shape) * noise for noise in (0.7, 1.5)]
    few, many = (learn_weights([part[:n] for part in parts], truth[:n], np.zeros(n)) for n in (25, 2000))
    assert 0.5 < few[0] < many[0] - 0.03


def test_levels_and_sizes_of_sections_and_genes_do_not_move_weights(rng):
    truth = rng.normal(size=(400, 20))
    parts = [truth + rng.normal(size=truth.shape) * noise for noise in (0.5, 1.0)]
    section = np.repeat([0, 1], 200)
    shift, size = rng.normal(size=(2, 20)) * 5, rng.uniform(0.1, 10, size=20)
    moved = [(part + shift[section]) * size for part in parts]
    np.testing.assert_allclose(
        learn_weights(moved, truth * size, section), learn_weights(parts, truth, section), atol=1e-5
    )


def test_genes_without_values_are_left_out_and_nothing_to_learn_from_gives_equal_weights(rng):
    truth = rng.normal(size=(100, 10))
    parts = [truth + rng.normal(size=truth.shape) * noise for noise in (0.5, 2.0)]
    expected = learn_weights([part[:, 1:] for part in parts], truth[:, 1:], np.zeros(100))
    parts[0][3, 0] = np.nan
    np.testing.assert_allclose(learn_weights(parts, truth, np.zeros(100)), expected, atol=1e-6)
    np.testing.assert_array_equal(learn_weights(parts, np.zeros((100, 10)), np.zeros(100)), [0.5, 0.5])
    np.testing.assert_array_equal(learn_weights([part[:5] for part in parts], truth[:5], np.zeros(5)), [0.5, 0.5])


def test_levels_are_over_all_spots_and_spreads_within_sections(rng):
    section = np.repeat([0, 1], 30)
    values = rng.normal(size=(60, 1)) + 10 * section[:, None]
    levels, spreads = levels_and_spreads([values, 2 * values], section)
    within = np.sqrt(np.mean([values[section == s].var() for s in (0, 1)]))
    np.testing.assert_allclose(levels[:, 0], [values.mean(), 2 * values.mean()], rtol=1e-5)
    np.testing.assert_allclose(spreads[:, 0], [within, 2 * within], rtol=1e-5)


def test_predictions_are_added_as_they_are_where_their_spread_is_not_known(rng):
    varies, constant, missing = rng.normal(size=(3, 40, 1))
    constant[:] = 5
    missing[:25] = np.nan
    one, other = np.hstack([varies, constant, varies, varies]), np.hstack([varies, varies, missing, 100 * varies])
    levels, spreads = levels_and_spreads([one, other], np.zeros(40))
    np.testing.assert_array_equal(levels[:, 1:3], 0)
    np.testing.assert_array_equal(spreads[:, 1:3], 1)
    assert spreads[1, 3] / spreads[0, 3] <= 9
    few = levels_and_spreads([one[:10], other[:10]], np.zeros(10))
    np.testing.assert_array_equal(few, [np.zeros((2, 4)), np.ones((2, 4))])


# ---------------------------------------------------------------------- the model


@pytest.fixture(scope="module")
def sections(paired):
    return paired(4, side=12)


@pytest.fixture(scope="module")
def model(sections):
    return trained(sections[:3])


def test_it_is_what_is_trained_by_default(model):
    assert model.method == "consensus"
    assert list(model.parts) == ["ridge", "knn", "cmrcnet"]


def test_its_prediction_is_the_weighted_sum_of_its_parts(model, sections):
    new = open_sections(sections[3])[0]
    model_weights, names = model.arrays["weights"], list(model.parts)
    kept = model.judge(new).kept
    weights = {name: kept * weight for name, weight in zip(names, model_weights, strict=True)}
    weights["ridge"] += 1 - kept
    patterns = {}
    for number, (name, part) in enumerate(model.parts.items()):
        own = part.predict(new).mean
        patterns[name] = (own - model.arrays["levels"][number]) / model.arrays["spreads"][number]
    together = np.array([weights[name] for name in names], dtype=np.float32)
    spread, level = together @ model.arrays["spreads"], together @ model.arrays["levels"]
    expected = sum(weights[name] * patterns[name] for name in names) * spread + level
    np.testing.assert_allclose(predicted(model, sections[3]).mean, expected, atol=1e-4)


def test_far_from_training_the_linear_part_alone_counts(model, sections):
    far = sections[3].copy()
    far.obsm["X_fake"] = far.obsm["X_fake"] * 1000 + 5000
    new = open_sections(far)[0]
    assert model.judge(new).kept == 0
    ridge = model.parts["ridge"].predict(new).mean
    np.testing.assert_allclose(predicted(model, far).mean, ridge, atol=1e-4)


def test_the_gene_structure_is_that_of_the_training_sections_unless_references_are_passed(model, sections):
    own = model.parts["ridge"].structure
    assert model.parts["cmrcnet"].structure is None
    assert own.record["n_spots"] == sum(part.n_obs for part in sections[:3])
    assert "reference" not in model.config
    assert model.compares_spots
    other = trained(sections[:2], reference=[sections[3]])
    assert other.config["reference"]["n_spots"] == sections[3].n_obs
    assert other.parts["knn"].structure.record["n_spots"] == sections[3].n_obs


def test_the_structure_of_a_table_is_that_of_the_same_sections_as_references(model, sections):
    from stpredict.models._reference.gene_correlation import GeneStructure

    learned = GeneStructure.learn(sections[:3], GENES)
    own = model.parts["ridge"].structure
    matrices = [(one.axes * one.variances) @ one.axes.T for one in (own, learned)]
    np.testing.assert_allclose(*matrices, atol=1e-3)


def test_it_states_the_error_on_sections_it_has_not_seen(model, sections):
    measured = open_sections(sections[3])[0].log_expression(GENES)
    error = np.sqrt(np.square(predicted(model, sections[3]).mean - measured).mean(axis=0))
    np.testing.assert_allclose(model.arrays["residual_sd"].mean(), error.mean(), rtol=0.4)


def test_its_space_and_reference_spots_are_those_of_its_network(model, sections):
    new = sections[3].copy()
    network = model.parts["cmrcnet"]
    st.tl.embed(new, model)
    np.testing.assert_array_equal(new.obsm["X_consensus"], network.embed(open_sections(new)[0]))
    st.tl.retrieve(new, model, n_neighbors=3)
    np.testing.assert_array_equal(new.obsm["retrieved"], network.neighbours(open_sections(new)[0], 3)[0])
    recalled = st.tl.recall(new, model, k=[10])
    assert recalled["recall"].min() > recalled["chance"].max()


def test_it_can_be_adapted(model, sections):
    new = sections[3].copy()
    new.obs["measured"] = np.arange(new.n_obs) % 4 == 0
    new.X[:, 0] *= 8  # a gene that this section has eight times more of than training sections
    others = ~new.obs["measured"].to_numpy()
    measured = open_sections(new)[0].log_expression(GENES[:1])[others]
    before = predicted(model, new).mean[others, :1]
    st.tl.predict_expression(new, st.tl.adapt(new, model, measured="measured"))
    after = new[:, GENES[:1]].layers["predicted"][others]
    assert abs((after - measured).mean()) < 0.7 * abs((before - measured).mean())


def test_the_same_seed_gives_the_same_model(sections):
    one, same, other = (trained(sections[:2], seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(predicted(one, sections[3]).mean, predicted(same, sections[3]).mean)
    assert np.abs(predicted(one, sections[3]).mean - predicted(other, sections[3]).mean).max() > 1e-4


def test_networks_learn_from_few_spots_of_large_sections(sections, monkeypatch):
    whole = trained(sections[:3])
    monkeypatch.setattr(consensus, "MOST_SPOTS", 100)
    model = trained(sections[:3])
    assert len(model.parts["cmrcnet"].arrays["bank"]) == 100
    assert len(model.parts["knn"].arrays["bank"]) == len(whole.parts["knn"].arrays["bank"]) > 100
    st.tl.retrieve(new := sections[3].copy(), model, n_neighbors=3)
    assert len(new.uns["retrieved"]["bank_spot"]) == 100
    own = np.log1p(1e4 * (sections[0].X / sections[0].X.sum(axis=1, keepdims=True)))
    row = model.config["bank"]["section"].index(0)
    spot = sections[0].obs_names.get_loc(model.config["bank"]["spots"][row])
    bank = model.arrays["expression"][row]
    np.testing.assert_allclose(bank - bank.mean(), own[spot] - own[spot].mean(), atol=0.5)


def test_held_out_spots_of_all_parts_are_the_same_ones(sections, monkeypatch):
    """Were rows mixed up, parts would not agree with what was measured there."""
    seen = []
    learn = consensus.learn_weights
    monkeypatch.setattr(consensus, "learn_weights", lambda *given: seen.append(given) or learn(*given))
    monkeypatch.setattr(consensus, "MOST_SPOTS", 150)
    trained(sections[:3])
    (parts, measured, section), (without_bank, *same) = seen
    assert len(without_bank) == 2  # ridge, and what the decoder predicts in place of retrieval
    np.testing.assert_array_equal(same[0], measured)
    for part in (*parts, *without_bank):
        within = [np.corrcoef(part[section == s].ravel(), measured[section == s].ravel())[0, 1] for s in set(section)]
        assert min(within) > 0.3


def test_one_gene_and_a_gene_that_is_never_there(sections):
    changed = [adata.copy() for adata in sections]
    for adata in changed:
        adata.X[:, adata.var_names.get_loc("GENE3")] = 0
    model = trained(changed[:2], genes=["GENE1"])
    assert model.parts["ridge"].structure is None
    assert predicted(model, sections[3]).mean.std() > 0
    model = trained(changed[:2])
    result = predicted(model, sections[3]).mean
    np.testing.assert_allclose(result[:, 3], 0, atol=1e-4)
    assert np.isfinite(result).all()


def test_genes_that_a_section_did_not_measure_are_predicted(sections):
    changed = [adata.copy() for adata in sections]
    lacking = GENES[:2]
    for held in (0, 1):
        joined = [adata.copy() for adata in changed[:2]]
        joined[held].X[:, joined[held].var_names.get_indexer(lacking)] = 0
        with pytest.warns(UserWarning, match="learned from the other sections alone"):
            model = trained(joined)
        result = predicted(model, sections[3])
        assert np.isfinite(result.mean).all()
        truth = open_sections(sections[3])[0].log_expression(lacking)
        assert np.corrcoef(result.mean[:, 0], truth[:, 0])[0, 1] > 0.5


def test_a_gene_that_the_held_out_section_alone_shows_is_not_constant(sections):
    two = [adata.copy() for adata in sections[:2]]
    column = two[0].var_names.get_loc("GENE1")
    for zero in (0, 1):
        some = [adata.copy() for adata in two]
        some[zero].X[:, column] = 0
        some[zero].X[0, column] = 1
        assert predicted(trained(some), sections[3]).mean[:, column].std() > 0.05


def test_few_held_out_spots_do_not_blow_predictions_up(paired):
    *train, new = paired(4, side=12)
    train[2] = train[2][:22].copy()
    measured = open_sections(new)[0].log_expression(GENES)
    result = predicted(trained(train), new).mean
    assert result.max() < measured.max() + 1
    assert result.min() > -1
    small = train[0][:14].copy()
    result = predicted(trained(small), new).mean
    assert result.max() < measured.max() + 1
    assert result.min() > -1


def test_sections_without_a_spot_among_the_few_are_left_out(sections, monkeypatch):
    monkeypatch.setattr(consensus, "MOST_SPOTS", 100)
    empty = sections[0].copy()
    empty.X[:] = 0
    empty.X[:, 0] = 1
    model = trained([empty, *sections[1:3]])
    assert len(model.parts["cmrcnet"].config["sections"]) == 2
    assert pearson(sections[3].layers["truth"], predicted(model, sections[3]).mean)[0].mean() > 0.3


def test_its_score_is_that_of_all_parts_together(model):
    scores = {name: part.history.score for name, part in model.parts.items()}
    assert model.history.score > max(scores.values()) - 0.05
    assert model.history.score != scores["cmrcnet"]
    assert repr(model).startswith("Model of method 'consensus'\n")
    assert "method" in model._repr_html_()
    first, *_ = st.pl.history(model, show=False)
    assert first.get_ylabel() == "Pearson r on inner folds"
    np.testing.assert_allclose(first.lines[0].get_ydata(), [model.history.score])


def test_options_of_its_parts_are_refused(sections):
    with pytest.raises(TypeError, match=r"has no temperature.*method='cmrcnet'"):
        trained(sections[:2], temperature=0.2)
    with pytest.raises(ValueError, match="seed"):
        trained(sections[:2], seed=-1)


# ---------------------------------------------------------------------- storage


def test_it_is_stored_and_read(model, sections, tmp_path):
    model.save(tmp_path / "model")
    read = st.models.load(tmp_path / "model")
    one, other = predicted(model, sections[3]), predicted(read, sections[3])
    for name in ("mean", "std", "reached", "errors"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(
        model.neighbours(open_sections(sections[3])[0], 4)[0], read.neighbours(open_sections(sections[3])[0], 4)[0]
    )
    assert read.config == model.config
    read.save(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()


def test_expression_of_reference_spots_is_stored_once(model):
    shape = model.arrays["expression"].shape
    assert [name for name, array in model.arrays.items() if array.shape == shape and array.shape[1] == len(GENES)] == [
        "expression"
    ]
    assert all("bank" not in config for config in model.config["parts"].values())


@pytest.mark.parametrize(
    "damage",
    [
        lambda config: config["parts"].pop("knn"),
        lambda config: config["parts"].update(forest=config["parts"].pop("ridge")),
        lambda config: config["parts"]["ridge"].update(features={}),
        lambda config: config["parts"]["cmrcnet"]["options"].update(width=8),
        lambda config: config.pop("bank"),
        lambda config: config.pop("parts"),
        lambda config: config["bank"]["spots"].pop(),
    ],
)
def test_a_damaged_one_is_refused_when_it_is_read(model, tmp_path, damage):
    from stpredict.models._base import files

    config = json.loads(json.dumps(model.config))
    damage(config)
    files.write(tmp_path / "model", files.Stored(model.method, model.genes, config, model.arrays))
    with pytest.raises(ValueError, match=r"damaged|reference spots"):
        st.models.load(tmp_path / "model")


# ---------------------------------------------------------------------- niche widths and real tissue


def test_every_part_learns_from_the_niche_and_from_all_widths():
    sections = st.datasets.simulate(2)
    for adata in sections:
        st.pp.tiles(adata, niche_um=(560, 1000))
        st.pp.encode(adata, show_progress=False)
    model = trained(sections, genes=["ERBB2", "COL1A1", "CD74"])
    narrow = ["X_morphology", "X_morphology_niche"]
    used = {name: list(part.config["features"]) for name, part in model.parts.items()}
    assert used == dict.fromkeys(("ridge", "knn", "cmrcnet"), narrow) | {
        f"{name}_wide": [*narrow, "X_morphology_niche_1000"] for name in ("ridge", "knn", "cmrcnet")
    }
    np.testing.assert_allclose(model._linear, [0.5, 0, 0, 0.5, 0, 0])


def test_on_real_tissue_it_beats_its_parts(real):
    train, new = [real("her2st", name) for name in ("C2", "C4")], real("her2st", "C5")
    for adata in (*train, new):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    genes = st.pp.gene_panel(train, n_top=200)
    scores = {}
    for method in ("ridge", "knn", "consensus"):
        model = (
            trained(train, genes=genes, method=method)
            if method == "consensus"
            else st.tl.train(train, genes=genes, method=method)
        )
        predicted = st.tl.predict_expression(new, model, copy=True)
        scores[method] = st.tl.evaluate(predicted, panels={"all": genes}, metrics=["pcc"])["value"].mean()
    assert scores["consensus"] > max(scores["ridge"], scores["knn"]) + 0.01
