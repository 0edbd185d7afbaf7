from __future__ import annotations

import numpy as np
import pytest

import stpredict as st
from stpredict._evaluation.metrics import pearson
from stpredict._sections.open import open_sections
from stpredict.models._aligned.training import _recalled
from stpredict.models._data import pixels
from stpredict.models._data.rows import DiskRows
from stpredict.models._retrieval import search
from stpredict.models.cmrcnet import PRESETS, Options

FAST = {"method": "cmrcnet", "show_progress": False, "epochs": 12, "width": 64, "feature_dropout": 0.1}
FAST["members"] = 1


@pytest.fixture
def sections(paired):
    return paired(4, patients=["A", "A", "B", "B"])


def train(sections, **kwargs):
    return st.tl.train(sections, **{"genes": list(sections[0].var_names), **FAST, **kwargs})


def predicted(model, adata):
    return model.predict(open_sections(adata)[0])


# ---------------------------------------------------------------------- what it learns


def test_an_unseen_section_is_predicted_near_the_truth(sections):
    model = train(sections[:3])
    mean = predicted(model, sections[3]).mean
    assert pearson(sections[3].layers["truth"], mean)[0].mean() > 0.7


def test_history_tells_loss_recall_and_chance(sections):
    history = train(sections[:3]).history
    values = history.values
    best = values["best_epoch"][0] - 1
    assert values["val_pcc"][best] == max(values["val_pcc"])
    assert values["chance_contrastive"][0] == pytest.approx(np.log(81))
    assert values["val_contrastive"][best] < 0.8 * values["chance_contrastive"][best]
    assert values["chance_recall"][best] == pytest.approx(10 / 81)
    assert values["val_recall"][best] > 3 * values["chance_recall"][best]
    assert values["train_total"][-1] < values["train_total"][0]
    assert "inner folds hold out sections (3)" in history.notes[0]


def test_images_that_say_nothing_are_reported(sections):
    rng = np.random.default_rng(0)
    for adata in sections:
        order = rng.permutation(adata.n_obs)
        for key in ("X_fake", "X_fake_niche"):
            adata.obsm[key] = adata.obsm[key][order]
    with pytest.warns(UserWarning, match="has not left chance.*guessing finds 12.3%"):
        train(sections[:3], epochs=3)


def test_recall_counts_own_expression_among_the_nearest():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 8)).astype(np.float32)
    assert _recalled(vectors, vectors).all()
    assert _recalled(vectors, rng.standard_normal((50, 8)).astype(np.float32)).mean() < 0.5


def test_members_are_averaged(sections):
    model = train(sections[:2], members=2, epochs=3)
    assert model.embed(open_sections(sections[3])[0]).shape == (81, 128)
    similarity = model.neighbours(open_sections(sections[3])[0], 5)[1]
    first, second = (model.arrays["bank"][:, i * 64 : (i + 1) * 64] for i in (0, 1))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), np.sqrt(0.5), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(second, axis=1), np.sqrt(0.5), rtol=1e-4)
    assert (np.abs(similarity) <= 1 + 1e-5).all()


# ---------------------------------------------------------------------- read-out


def test_retrieval_weighs_by_similarity():
    bank = np.eye(3, dtype=np.float32)
    expression = np.array([[1.0], [2.0], [3.0]], dtype=np.float32)
    query = np.array([[0.8, 0.6, 0.0]], dtype=np.float32)
    weights = np.exp(np.array([0.8, 0.6, 0.0]) / 0.5)
    mean, spread = search.retrieve(query, bank, expression, k=9, temperature=0.5)
    expected = weights @ expression[:, 0] / weights.sum()
    assert mean[0, 0] == pytest.approx(expected, rel=1e-5)
    assert spread[0, 0] == pytest.approx(
        np.sqrt(weights @ (expression[:, 0] - expected) ** 2 / weights.sum()), rel=1e-4
    )
    assert search.retrieve(query, bank, expression, k=2, temperature=None)[0][0, 0] == pytest.approx(1.5)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_hold_what_they_claim(sections, shift):
    for number, adata in enumerate(sections):  # patients differ in the level of half of the genes
        change = np.random.default_rng(number).normal(0, shift, adata.n_vars // 2)
        adata.X[:, : adata.n_vars // 2] = np.rint(adata.X[:, : adata.n_vars // 2] * np.exp(change))
    model = train(sections[:3])
    out = predicted(model, sections[3])
    measured = open_sections(sections[3])[0].log_expression(model.genes)
    inside = np.abs(measured - out.mean) < 1.645 * out.std
    assert 0.8 < inside.mean() < 0.99


# ---------------------------------------------------------------------- seeds, storage, resuming


def test_the_same_seed_gives_the_same_model_and_another_another(sections):
    one, same, other = (predicted(train(sections[:2], epochs=2, seed=s), sections[3]).mean for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_mixed_precision_learns_the_same(sections):
    exact = predicted(train(sections[:3]), sections[3]).mean
    with st.settings.override(precision="bfloat16"):
        mixed = predicted(train(sections[:3]), sections[3]).mean
    assert np.abs(mixed - exact).max() > 0
    assert pearson(exact, mixed)[0].mean() > 0.9


def test_training_leaves_global_randomness_alone(sections):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(sections[:2], epochs=1)
    torch.testing.assert_close(torch.rand(3), expected)


def test_a_saved_model_predicts_the_same(sections, tmp_path):
    model = train(sections[:2], epochs=2, members=2, temperature=0.2)
    model.save(tmp_path / "model")
    loaded = st.models.load(tmp_path / "model")
    assert loaded.options == model.options
    before, after = predicted(model, sections[3]), predicted(loaded, sections[3])
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.std, after.std)


@pytest.mark.parametrize(("cut_at", "left"), [(3, [2, 3, 4, 0, 1, 2, 3, 4]), (8, [2, 3, 4])])
def test_an_interrupted_training_goes_on_to_the_same_numbers(sections, tmp_path, monkeypatch, cut_at, left):
    from stpredict.models._training.loop import _Module

    how = {"epochs": 5, "learning_rate": 1e-4}  # so low that the fifth epoch is the best
    expected = predicted(train(sections[:2], **how), sections[3]).mean
    start, epochs = _Module.on_train_epoch_start, []

    def cut_short(self):
        epochs.append(self.current_epoch)
        if len(epochs) == cut_at:
            raise OSError(28, "No space left")
        start(self)

    monkeypatch.setattr(_Module, "on_train_epoch_start", cut_short)
    with pytest.raises(OSError, match="No space left"):
        train(sections[:2], checkpoint=tmp_path / "run", **how)
    cut_at = 99
    epochs.clear()
    resumed = predicted(train(sections[:2], checkpoint=tmp_path / "run", **how), sections[3]).mean
    np.testing.assert_array_equal(resumed, expected)
    assert epochs == left


def test_progress_goes_to_the_error_stream_and_only_if_wanted(sections, capfd):
    train(sections[:2], epochs=2)
    assert capfd.readouterr() == ("", "")
    train(sections[:2], epochs=2, show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "val_pcc" in err


def test_a_checkpoint_of_other_options_is_refused(sections, tmp_path):
    train(sections[:2], epochs=2, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="is of a run on other data or with other options"):
        train(sections[:2], epochs=2, temperature=0.2, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="is of a run on other data or with other options"):
        train(sections[1:3], epochs=2, checkpoint=tmp_path / "run")


# ---------------------------------------------------------------------- presets and pixels


def test_presets_are_what_they_say():
    assert PRESETS["default"] == Options()
    published = PRESETS["published"]
    assert (published.image_encoder, published.depth, published.epochs) == ("vit_base_patch32_224", 8, 60)
    assert (published.temperature, published.normalise, published.neighbours) == (1.0, False, 50)
    assert (published.mask, published.shared_fusion, published.decoder) == ("elements", True, 0.0)
    assert (published.heads, published.log_each, published.released_fusion) == (8, True, True)


def test_the_published_recipe_runs_on_frozen_features(sections):
    model = train(sections[:2], preset="published", image_encoder=None, epochs=3)
    assert model.options.weighted is False
    assert pearson(sections[3].layers["truth"], predicted(model, sections[3]).mean)[0].mean() > 0.1


def test_a_vision_transformer_is_trained_end_to_end(two_sections, tmp_path):
    small = [adata[::12].copy() for adata in two_sections]
    genes = list(small[0].var_names[:20])
    how = {"genes": genes, "epochs": 1, "image_encoder": "vit_tiny_patch16_224", "depth": 1, "batch_size": 8}
    model = train(small[:1], **how)
    assert model.config["features"] == {}
    model.save(tmp_path / "model")
    out = predicted(st.models.load(tmp_path / "model"), small[1])
    np.testing.assert_array_equal(out.mean, predicted(model, small[1]).mean)
    assert out.mean.shape == (small[1].n_obs, 20)
    st.tl.predict_expression(small[1], model)
    assert small[1].uns["predicted"]["encoder"] == "vit_tiny_patch16_224, trained along"


def test_many_tiles_are_kept_in_a_file_and_teach_the_same(two_sections, monkeypatch, tmp_path):
    small = [adata[::30].copy() for adata in two_sections]
    counts = small[0].X.toarray()
    counts[5] = 0  # a spot that is not learned from
    small[0].X = counts
    small[0].obs["total_counts"] = counts.sum(axis=1)
    how = {"genes": list(small[0].var_names[:20]), "epochs": 1, "image_encoder": "vit_tiny_patch16_224", "depth": 1}
    held = train(small, **how, batch_size=8)
    appended = []
    append = DiskRows.append
    monkeypatch.setattr(pixels, "MOST_HELD", 0)
    monkeypatch.setattr(pixels, "AT_ONCE", 7)
    monkeypatch.setattr(DiskRows, "append", lambda rows, values: appended.append(len(values)) or append(rows, values))
    with st.settings.override(cache_dir=tmp_path):
        kept = train(small, **how, batch_size=8)
    assert max(appended) == 7
    assert kept.config["n_spots"] == sum(adata.n_obs for adata in small) - 1
    assert sum(appended) == kept.config["n_spots"] + small[0].n_obs  # of which the spread is learned
    for name, values in held.arrays.items():
        np.testing.assert_array_equal(kept.arrays[name], values, err_msg=name)
    appended.clear()
    with st.settings.override(cache_dir=tmp_path):
        from_file = predicted(kept, small[1]).mean, st.tl.embed(small[1], kept, copy=True).obsm["X_cmrcnet"]
    assert (max(appended), sum(appended)) == (7, 2 * small[1].n_obs)
    monkeypatch.undo()
    np.testing.assert_array_equal(from_file[0], predicted(held, small[1]).mean)
    np.testing.assert_array_equal(from_file[1], st.tl.embed(small[1], held, copy=True).obsm["X_cmrcnet"])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"preset": "magic"}, ValueError, "preset must be one of 'default', 'published'"),
        ({"temprature": 1}, TypeError, "no option temprature; it has .*temperature"),
        ({"temperature": 0}, ValueError, "temperature must be positive"),
        ({"mask": "pixels"}, ValueError, "mask must be one of"),
        ({"heads": 8, "pretrained": True}, ValueError, "pass heads=None with pretrained=True, not 8"),
        ({"mask_share": 1.0}, ValueError, r"mask_share must lie in \[0, 1\)"),
        ({"width": 12}, ValueError, "width must be a multiple of 8"),
        ({"seed": -1}, ValueError, "seed must be a non-negative integer"),
        ({"decoder": -1}, ValueError, "decoder must not be negative"),
    ],
)
def test_bad_options_are_refused_before_work(sections, kwargs, error, message):
    with pytest.raises(error, match=message):
        train(sections[:2], **kwargs)


def test_baselines_take_no_options(sections):
    with pytest.raises(TypeError, match="method='ridge' takes no temperature"):
        st.tl.train(sections[:2], method="ridge", temperature=0.1)


def test_a_loss_that_is_not_a_number_stops_training(sections):
    with pytest.raises(ValueError, match=r"training loss became nan.*Lower learning_rate"):
        train(sections[:2], learning_rate=1e30)


def test_features_of_another_encoder_are_refused(sections):
    model = train(sections[:2], epochs=1)
    sections[3].uns["X_fake"]["encoder_hash"] = "0ther"
    with pytest.raises(ValueError, match="encoder_hash"):
        predicted(model, sections[3])


def test_constant_genes_are_predicted_as_constant(sections):
    for adata in sections:
        adata.X[:, 0] = 0
    out = predicted(train(sections[:2], epochs=2), sections[3])
    assert np.isfinite(out.mean).all()
    np.testing.assert_allclose(out.mean[:, 0], 0, atol=1e-6)


# ---------------------------------------------------------------------- tissue


def test_nine_tenths_of_the_ceiling_are_reached_where_the_image_shows_all():
    sections = st.datasets.simulate(4, hidden=0.0)
    for adata in sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    genes = list(sections[0].var_names[~sections[0].var["truth_programme"].isin(["housekeeping", "none"])])
    how = {"reconstruction": 0.0, "members": 2, "show_progress": False}
    model = st.tl.train(sections[:3], method="cmrcnet", genes=genes, seed=0, **how)
    st.tl.predict_expression(sections[3], model)
    assert st.tl.evaluate(sections[3], metrics=["pcc_of_ceiling"])["value"].item() > 0.9


def test_a_sister_section_is_predicted_on_real_tissue(real):
    sections = [real("her2st", name) for name in ("C3", "C5", "C4")]
    for adata in sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    *known, new = sections
    genes = st.pp.gene_panel(known, n_top=300)
    how = {"reconstruction": 0.0, "members": 1, "epochs": 20}
    model = st.tl.train(known, method="cmrcnet", genes=genes, seed=0, show_progress=False, **how)
    st.tl.predict_expression(new, model)
    shown = [gene for gene in genes[:50] if gene in set(new.var_names)]
    scores = st.tl.evaluate(new, panels={"HEG": shown}, metrics=["pcc"])
    assert scores["value"].mean() > 0.36
    assert model.history.values["val_recall"][-1] > 3 * model.history.values["chance_recall"][-1]
