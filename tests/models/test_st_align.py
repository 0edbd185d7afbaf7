from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import stpredict as st
from stpredict._evaluation.metrics import pearson
from stpredict._sections.niches import niche_matrix
from stpredict._sections.open import open_sections
from stpredict.models._aligned.hard_negatives import HardNegatives
from stpredict.models.nn._losses import info_nce
from stpredict.models.st_align import PRESETS, Options
from stpredict.models.st_align._niches import check_niches, expression_clusters, niche_mean, niche_mean_of

FAST = {"method": "st_align", "show_progress": False, "epochs": 10, "width": 64, "feature_dropout": 0.1, "members": 1}


@pytest.fixture
def sections(paired):
    return paired(4, patients=["A", "A", "B", "B"])


def train(sections, **kwargs):
    return st.tl.train(sections, **{"genes": list(sections[0].var_names), **FAST, **kwargs})


def opened(adata):
    return open_sections(adata)[0]


def embedded(model, adata, use):
    return model.embed(opened(adata), use=use)


# ---------------------------------------------------------------------- what it learns


def test_an_unseen_section_is_predicted_near_the_truth(sections):
    model = train(sections[:3])
    assert pearson(sections[3].layers["truth"], model.predict(opened(sections[3])).mean)[0].mean() > 0.55


def test_image_and_expression_of_an_unseen_spot_find_each_other(sections):
    table = st.tl.recall(sections[3], train(sections[:3]), k=[1, 10])
    at10 = table[table["k"] == 10]
    np.testing.assert_allclose(at10["chance"], 10 / 81)
    assert (at10["recall"] > 3 * at10["chance"]).all()
    assert set(table["n"]) == {81}


def test_recall_counts_what_is_known_by_construction(sections, monkeypatch):
    """Expression embeddings that are a turn of the image embeddings by one spot: rank 1 finds none, rank 81 all."""
    model = train(sections[:2], epochs=1)
    image = embedded(model, sections[3], "image")
    monkeypatch.setattr(
        type(model), "embed", lambda self, section, use="image": image if use == "image" else np.roll(image, 1, axis=0)
    )
    table = st.tl.recall([sections[3], sections[2]], model, k=[1, 81, 162])
    found = table.groupby(["among", "k"])[["recall", "chance"]].mean()
    assert found["recall"]["section", 1] == 0
    assert found["recall"]["section", 81] == found["recall"]["all", 162] == 1
    assert found["chance"]["all", 1] == pytest.approx(1 / 162)


def test_fused_distances_are_those_of_what_is_rebuilt(sections):
    from scipy.spatial.distance import pdist

    from stpredict.models._base.network import network_state

    model = train(sections[:3])
    network = model.build_network(model.options, model.config, 15).eval()
    network.load_state_dict(network_state(model.arrays, 0))
    section = opened(sections[3])
    inputs = [torch.from_numpy(np.ascontiguousarray(a)) for a in (*model.design(section), *model.expression(section))]
    with torch.inference_mode():
        known = torch.ones(81, dtype=torch.bool)
        parts = [
            network.spot.align(inputs[0], inputs[2], known)[2],
            network.niche.align(inputs[1], inputs[3], known)[2],
        ]
        rebuilt = [part(torch.cat(parts, dim=1)) for part in network.rebuild]
    same_weight = np.concatenate([part.numpy() / part.shape[1] ** 0.5 for part in rebuilt], axis=1)
    np.testing.assert_allclose(pdist(model.embed(section, use="fused")), pdist(same_weight), rtol=1e-3)
    spot_expression = float(torch.corrcoef(torch.stack([rebuilt[1].ravel(), inputs[2].ravel()]))[0, 1])
    assert spot_expression > 0.5


def test_same_seed_same_model_and_another_one_differs(sections):
    first, second, third = (train(sections[:2], epochs=2, seed=seed) for seed in (1, 1, 2))
    for use in ("image", "expression", "fused"):
        one, same, other = (embedded(model, sections[3], use) for model in (first, second, third))
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, other)


def test_a_stored_model_does_what_it_did(sections, tmp_path):
    model = train(sections[:2], epochs=2, members=2, niche_layers=1)
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    assert again.options == model.options
    for use in ("image", "expression", "fused"):
        np.testing.assert_array_equal(embedded(again, sections[3], use), embedded(model, sections[3], use))
    np.testing.assert_array_equal(again.predict(opened(sections[3])).mean, model.predict(opened(sections[3])).mean)


def test_image_and_expression_embeddings_have_length_one(sections):
    model = train(sections[:2], epochs=1, members=2)
    for use in ("image", "expression"):
        rows = embedded(model, sections[3], use)
        assert rows.shape == (81, 2 * 2 * 64)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


# ---------------------------------------------------------------------- expression that is missing


def test_without_expression_the_fused_path_takes_the_image_and_says_so(sections):
    model = train(sections[:3], epochs=4)
    blind = opened(sections[3]).without_counts()
    with pytest.warns(UserWarning, match="has no expression; its fused embedding comes from the image alone"):
        alone = model.embed(blind, use="fused")
    assert np.isfinite(alone).all()
    assert np.ptp(alone, axis=0).max() > 0
    with pytest.raises(ValueError, match="measures none of the model's 15 genes"):
        model.embed(blind, use="expression")


def test_a_spot_without_counts_is_fused_from_its_image(sections):
    model = train(sections[:3], epochs=2)
    new = sections[3].copy()
    new.X[4] = 0
    changed, whole = embedded(model, new, "fused"), embedded(model, sections[3], "fused")
    with pytest.warns(UserWarning, match="no expression"):
        alone = model.embed(opened(sections[3]).without_counts(), use="fused")
    np.testing.assert_allclose(changed[4], alone[4], rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(changed[4] - whole[4]) > np.linalg.norm(changed[50] - whole[50])


def test_genes_that_a_section_lacks_count_as_average(sections):
    model = train(sections[:3])
    whole = embedded(model, sections[3], "expression")
    fewer = sections[3][:, :12].copy()
    similarity = (whole * embedded(model, fewer, "expression")).sum(axis=1)
    assert similarity.mean() > 0.7
    with pytest.warns(UserWarning, match="measures 5 of the model's 15 genes"):
        embedded(model, sections[3][:, :5].copy(), "expression")


def test_niches_of_another_kind_are_refused(sections):
    model, new = train(sections[:3], epochs=1), sections[3]
    st.pp.niches(new, members="nearest", n_neighbors=6)
    with pytest.raises(ValueError, match=r"niches 'nearest 6', where .* 'window 560'.*members='window', um=560"):
        st.tl.embed(new, model, use="expression")
    assert "X_st_align" not in new.obsm
    with pytest.raises(ValueError, match="niches 'nearest 6'"):
        train([sections[0], new], epochs=1)


def test_windows_may_differ_by_a_little_and_numbers_of_spots_by_none(paired):
    adata = paired()
    st.pp.niches(adata, um=560)
    check_niches(opened(adata), "window 570.5")
    with pytest.raises(ValueError, match="niches 'window 560', where the model was trained on 'window 600'"):
        check_niches(opened(adata), "window 600")
    st.pp.niches(adata, members="nearest", n_neighbors=40)
    check_niches(opened(adata), "nearest 40")
    with pytest.raises(ValueError, match="niches 'nearest 40', where the model was trained on 'nearest 41'"):
        check_niches(opened(adata), "nearest 41")


def test_cell_embeddings_take_the_place_of_expression(sections, tmp_path):
    for adata in sections:
        adata.obsm["X_cells"] = adata.layers["truth"][:, :7]
    model = train(sections[:2], epochs=2, expression_key="X_cells")
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    moved = sections[3].copy()
    moved.obsm["X_cells"] = moved.obsm["X_cells"][::-1].copy()
    assert not np.allclose(embedded(again, moved, "expression"), embedded(again, sections[3], "expression"))
    moved.obsm["X_cells"] = moved.obsm["X_cells"][:, :3]
    with pytest.raises(ValueError, match="must have 7 columns"):
        embedded(again, moved, "expression")
    del moved.obsm["X_cells"]
    with pytest.raises(KeyError, match="no obsm\\['X_cells'\\]"):
        embedded(again, moved, "expression")


# ---------------------------------------------------------------------- niches and negatives


def test_niche_expression_is_the_mean_over_usable_members(paired):
    section = opened(paired())
    values, usable = np.arange(81.0)[:, None] * [1, 2], np.ones(81, dtype=bool)
    usable[0] = False
    members = niche_matrix(section).toarray() > 0
    expected = [values[members[i] & usable].mean(axis=0) for i in range(81)]
    np.testing.assert_allclose(niche_mean(section, values, usable), expected, rtol=1e-5)


def test_spots_left_out_count_in_no_niche(sections):
    section = opened(sections[0])
    rows = np.arange(0, 81, 2)
    values = np.where(rows < 40, 1.0, 5.0)[:, None]
    usable = np.zeros(81, dtype=bool)
    usable[rows] = True
    whole = np.zeros((81, 1))
    whole[rows] = values
    found = niche_mean_of(section, rows, values)
    np.testing.assert_allclose(found, niche_mean(section, whole, usable)[rows], rtol=1e-5)
    assert 1 - 1e-5 < found.min() < found.max() < 5 + 1e-5


def test_clusters_are_found():
    noise = np.random.default_rng(0).standard_normal((81, 15))
    low = np.arange(81) < 40
    found = expression_clusters(np.where(low[:, None], 0.0, 9.0) + 1e-3 * noise, 2, seed=0)
    assert len(set(zip(found, low, strict=True))) == 2
    assert not expression_clusters(noise[:6], 2, seed=0).any()


def test_companions_come_from_every_other_cluster_of_the_section():
    section = torch.tensor([0] * 30 + [1] * 30)
    cluster = torch.arange(60) % 3
    draw = HardNegatives(section, cluster, 2)
    rows = torch.tensor([0, 31, 59])
    drawn = draw(rows).view(3, 2)
    assert (section[drawn] == section[rows, None]).all()
    for row, own in zip(drawn, rows, strict=True):
        assert {int(cluster[own]), *cluster[row].tolist()} == {0, 1, 2}


def test_companions_where_clusters_are_too_few():
    section, cluster = torch.tensor([0] * 10 + [1] * 10), torch.tensor([0] * 5 + [1] * 5 + [0] * 10)
    drawn = HardNegatives(section, cluster, 3)(torch.tensor([2, 15])).view(2, 3)
    assert (cluster[drawn[0]] == 1).all()
    assert (section[drawn[0]] == 0).all()
    assert (section[drawn[1]] == 1).all()


def test_it_learns_with_companions(sections):
    model = train(sections[:2], companions=3, epochs=4)
    assert pearson(sections[3].layers["truth"], model.predict(opened(sections[3])).mean)[0].mean() > 0.35


# ---------------------------------------------------------------------- the loss


def test_guessing_costs_the_logarithm_of_the_batch():
    same = torch.nn.functional.normalize(torch.ones(50, 8), dim=1)
    assert float(info_nce(same, same, temperature=0.1)) == pytest.approx(np.log(50), rel=1e-5)


def test_spots_that_are_alike_are_no_negatives():
    """Two pairs of identical spots: told apart they cost ln 2, not told apart nothing."""
    corners = torch.eye(2).repeat_interleave(2, dim=0)
    alike = torch.kron(torch.eye(2), torch.ones(2, 2)).bool().fill_diagonal_(False)
    assert float(info_nce(corners, corners, temperature=0.01)) == pytest.approx(np.log(2), rel=1e-5)
    assert float(info_nce(corners, corners, temperature=0.01, same=alike)) == pytest.approx(0, abs=1e-5)


def test_soft_targets_forgive_what_both_sides_confuse():
    corners = torch.eye(2).repeat_interleave(2, dim=0)
    assert float(info_nce(corners, corners, temperature=0.01, soft=True)) == pytest.approx(np.log(2), rel=1e-5)
    hard = torch.func.grad(lambda x: info_nce(x, x, temperature=0.1))(corners)
    soft = torch.func.grad(lambda x: info_nce(x, x, temperature=0.1, soft=True))(corners)
    assert float(soft.abs().max()) < 0.2 * float(hard.abs().max())


# ---------------------------------------------------------------------- presets, pixels, ablations


def test_presets_are_what_they_say():
    assert PRESETS["default"] == Options()
    published = PRESETS["published"]
    assert (published.spot, published.niche, published.cross) == pytest.approx((0.4, 0.3, 0.3))
    assert (published.image_encoder, published.epochs, published.batch_size) == ("resnet50", 100, 64)
    assert (published.warm_up, published.weight_decay, published.final_weight_decay) == (2, 0.04, 0.4)
    assert (published.learning_rate, published.temperature) == (5e-4 * 64 / 256, 0.1)
    assert (published.clusters, published.companions, published.niche_layers) == (6, 5, 6)
    assert published.learning_rate * published.final_rate == pytest.approx(1e-6)
    assert (published.rebuild, published.decoder, published.hidden_expression) == (0, 0, 0)
    assert (published.fusion, published.negatives) == ("released", "companions")
    assert not any([published.pretrained, published.decay_vectors, published.soft_targets])


def test_the_published_recipe_learns_from_frozen_features(sections):
    model = train(sections[:2], preset="published", image_encoder=None, epochs=3, width=32)
    found = st.tl.recall(sections[3], model, k=[10]).set_index("query")
    assert (found["recall"] > found["chance"]).all()
    assert (found.loc["image", "recall"] > 1.5 * found.loc["image", "chance"]).all()


def test_a_convolutional_network_is_trained_on_spot_pixels(two_sections, tmp_path):
    small = [adata[::12].copy() for adata in two_sections]
    for adata in small:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    genes = list(small[0].var_names[:20])
    model = train(small[:1], genes=genes, epochs=1, image_encoder="resnet10t", batch_size=8)
    assert list(model.config["features"]) == ["X_morphology_niche"]
    model.save(tmp_path / "model")
    for use in ("image", "fused"):
        np.testing.assert_array_equal(
            embedded(st.models.load(tmp_path / "model"), small[1], use), embedded(model, small[1], use)
        )


@pytest.mark.parametrize("change", [{"fusion": "concatenation"}, {"train_encoders": False}, {"rebuild": 0.0}])
def test_it_learns_without_a_part(sections, change):
    """And the fused embedding puts spots together that express the same."""
    model = train(sections[:3], **change)
    near = np.argsort(cdist(*[embedded(model, sections[3], "fused")] * 2), axis=1)[:, 1:6]
    truth = sections[3].layers["truth"]
    assert pearson(truth, truth[near].mean(axis=1))[0].mean() > 0.65


def test_frozen_encoders_stay_as_they_were_drawn(sections):
    model = train(sections[:2], epochs=3, train_encoders=False)
    from stpredict.models._base.network import network_state
    from stpredict.models._training.ensemble import seeded

    start = seeded(lambda: model.build_network(model.options, model.config, 15), model.seed).state_dict()
    trained = network_state(model.arrays, 0)
    frozen = [name for name in start if ".tokens." in name or ".gene_tokens." in name]
    assert frozen
    assert all(torch.equal(start[name], trained[name]) for name in frozen)
    assert not torch.equal(start["spot.image_head.project.weight"], trained["spot.image_head.project.weight"])


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"fusion": "magic"}, ValueError, "fusion must be one of"),
        ({"spot": 0.8, "niche": 0.4}, ValueError, "leave nothing for the fused loss"),
        ({"clusters": 3, "companions": 3}, ValueError, "clusters must be at least 4; it is 3"),
        ({"clusters": 0}, ValueError, "clusters must be positive"),
        ({"hidden_expression": 1.0}, ValueError, "hidden_expression must lie in"),
        ({"rebuild": -1}, ValueError, "rebuild must not be negative"),
        ({"features": ["X_fake"]}, ValueError, "no niche features"),
        ({"features": ["X_fake_niche"]}, ValueError, "no spot features"),
        ({"expression_key": "X_none"}, KeyError, "X_none"),
    ],
)
def test_bad_options_are_refused(sections, assert_same, kwargs, error, message):
    before = [adata.copy() for adata in sections]
    with pytest.raises(error, match=message):
        train(sections[:2], **kwargs)
    for one, other in zip(before, sections, strict=True):
        assert_same(one, other)


def test_only_st_align_fuses(sections):
    model = st.tl.train(sections[:2], method="cmrcnet", epochs=1, members=1, width=32, show_progress=False)
    assert model.embed(opened(sections[3]), use="expression").shape == (81, 32)
    with pytest.raises(ValueError, match="use must be one of 'image', 'expression'"):
        model.embed(opened(sections[3]), use="fused")
    ridge = st.tl.train(sections[:2], method="ridge")
    with pytest.raises(ValueError, match="use, for a model of method 'ridge', must be one of 'image'"):
        ridge.embed(opened(sections[3]), use="expression")
    with pytest.raises(TypeError, match="'ridge' has no space that image and expression share"):
        st.tl.recall(sections[3], ridge)
