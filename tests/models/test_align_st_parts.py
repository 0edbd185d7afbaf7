"""Each part of ALIGN-ST does in the whole network what the paper says, on weights and inputs that tell the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stpredict._sections.open import open_sections
from stpredict.models._data.table import training_table
from stpredict.models.align_st import Options
from stpredict.models.align_st._genes import gene_space
from stpredict.models.align_st._network import AlignStNetwork, Described, GeneGraph, SlideTensors
from stpredict.models.align_st._slides import slide_tensors
from stpredict.models.align_st._training import expression

BARE = Options(width=8, axes=8, dropout=0.0, feature_dropout=0.0, refinement=0)
SPOTS, GENES = 10, 6


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def seeded(build):
    torch.manual_seed(0)
    return build().eval()


def network(channels=0, **options):
    return seeded(lambda: AlignStNetwork(5, 4, channels, replace(BARE, **options)))


def slide(nuclei=None):
    nobody = torch.full((SPOTS, 1), -1)
    return SlideTensors(random(SPOTS, 5), nobody, nobody, nuclei)


def genes(n=GENES):
    known = torch.ones(n, 3, dtype=torch.bool)
    return Described(random(n, 8, seed=1), torch.zeros(n), random(n, 3, 4, seed=2), known)


def set_to(layer, weight, bias=0.0):
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.as_tensor(bias).expand_as(layer.bias))


def all_ears(net):
    """A gene becomes what it hears."""
    set_to(net.graph.join, torch.cat([torch.zeros(8, 8), torch.eye(8)], dim=1))


def most_alike(vectors):
    """Row of the other vector with the largest cosine."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -2)
    return alike.argmax(axis=1)


# ---------------------------------------------------------------------- gene graph


def test_a_gene_with_one_neighbour_that_only_listens_is_predicted_as_that_neighbour():
    net, part, g = network(gene_neighbours=1), slide(), genes()
    all_ears(net)
    alone = network()
    alone.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("graph.")})
    plain = expression(alone, part, g, np.arange(GENES))
    like = most_alike(alone.described(g, None).detach().numpy())
    np.testing.assert_allclose(expression(net, part, g, np.arange(GENES)), plain[:, like], rtol=1e-5, atol=1e-6)


def test_an_unseen_gene_listens_to_seen_ones_only():
    net, part, g = network(gene_neighbours=1), slide(), genes()
    all_ears(net)
    g.coordinates[5] = g.coordinates[4]  # twins, neither of them seen
    out = expression(net, part, g, np.arange(4))
    seen = expression(network(), part, g, np.arange(4))[:, :4]
    np.testing.assert_allclose(out[:, 4], out[:, 5], rtol=1e-6)
    assert np.abs(out[:, 4:5] - seen).max(axis=0).min() < 1e-5


def test_the_gate_decides_how_much_a_gene_listens_to_each():
    """score · tanh(left(gene) · right(neighbour)), softmax over neighbours."""
    graph, pool = seeded(lambda: GeneGraph(8, 3)), random(4, 8)
    rows, weights = graph.attention(pool, pool, torch.arange(4))
    scores = [graph.score(torch.tanh(graph.left(pool[0]) * graph.right(pool[row]))) for row in rows[0]]
    torch.testing.assert_close(weights[0], torch.softmax(torch.cat(scores), dim=0))
    heard = sum(weight * pool[row] for weight, row in zip(weights[0], rows[0], strict=True))
    torch.testing.assert_close(graph(pool, pool, torch.arange(4))[0], graph.join(torch.cat([pool[0], heard])))


def taught(net, targets):
    return net.learn_from([(slide(), torch.arange(SPOTS), targets)], genes(), None)


def step(net, seed=0):
    torch.manual_seed(seed)
    return net.losses(torch.tensor([0]))


@pytest.mark.parametrize("per_step", [None, 2])
def test_a_step_and_a_prediction_give_a_gene_the_same_neighbours(per_step):
    """Of all seen genes, however few are drawn: where targets are what is predicted, a step has nothing to learn."""
    net = network(gene_neighbours=1, genes_per_step=per_step)
    all_ears(net)
    taught(net, torch.from_numpy(expression(net, slide(), genes(), np.arange(GENES))))
    for seed in range(5):
        assert step(net, seed).total.item() == pytest.approx(0, abs=1e-5)


def test_genes_that_a_step_did_not_draw_are_heard_but_do_not_learn():
    """Both drawn genes hear others; joined by their own part alone, nothing would reach the layer otherwise."""
    net = network(gene_neighbours=1, genes_per_step=1)
    all_ears(net)
    taught(net, random(SPOTS, GENES, seed=4))
    step(net).total.backward()
    assert net.place.weight.grad is None or not net.place.weight.grad.any()
    assert net.graph.join.weight.grad.abs().max() > 0


# ---------------------------------------------------------------------- nuclei


def test_the_answer_of_the_nuclei_is_added_to_the_tile():
    net, part = network(channels=2, nuclei=True), slide(random(SPOTS, 2, 16, 16))
    answer = torch.arange(8.0)
    set_to(net.nuclei.value, torch.zeros(8, 8), answer)
    torch.testing.assert_close(net.tiles(part), net.look(part.features) + answer)


def test_a_tile_asks_its_nuclei_by_scaled_products():
    """Query ½, key and value as they are: the mean of what the nuclei say, each weighted by exp(½ · its sum / √8)."""
    net, maps = network(channels=2, nuclei=True), random(SPOTS, 2, 16, 16)
    set_to(net.nuclei.query, torch.zeros(8, 8), 0.5)
    set_to(net.nuclei.key, torch.eye(8))
    set_to(net.nuclei.value, torch.eye(8))
    said = net.nuclei.branch(maps)
    weight = torch.exp(0.5 * said.sum(dim=2, keepdim=True) / 8**0.5)
    expected = net.look(slide().features) + (weight * said).sum(dim=1) / weight.sum(dim=1)
    torch.testing.assert_close(net.tiles(slide(maps)), expected)


# ---------------------------------------------------------------------- prompted text


@pytest.mark.parametrize("coordinates", [True, False])
def test_text_is_added_to_the_place_or_stands_alone(coordinates):
    net, g, tiles = network(text_layers=1, coordinates=coordinates), genes(), random(SPOTS, 8)
    expected = net.text(g.facts, g.known, tiles) + (net.place(g.coordinates) if coordinates else 0)
    torch.testing.assert_close(net.described(g, tiles), expected)
    other = replace(g, facts=g.facts.roll(1, dims=0))
    assert (net.described(other, tiles) - expected).abs().amax(dim=1).min() > 1e-3


def test_visual_prompts_ask_the_tiles_and_replace_their_share_of_the_text_prompts():
    """Where all tiles say the same, what the visual prompts hear is known whatever they ask."""
    net, g = network(text_layers=1, alpha=0.25, prompts=2), genes()
    tile = random(8, seed=5)
    ask, across = net.text.asking[0], net.text.across[0]
    set_to(across, random(8, 8, seed=6), random(8, seed=7))
    heard = ask.out_proj(ask.in_proj_weight[16:] @ tile + ask.in_proj_bias[16:])
    prompts = 0.25 * across(net.text.visual + heard) + 0.75 * net.text.start[1:]
    silent = network(text_layers=1, interaction=False, prompts=2)
    silent.load_state_dict(net.state_dict())
    with torch.no_grad():
        silent.text.start[1:] = prompts
    torch.testing.assert_close(
        net.text(g.facts, g.known, tile.expand(SPOTS, 8)), silent.text(g.facts, g.known, tile.expand(SPOTS, 8))
    )


# ---------------------------------------------------------------------- spatial refinement


@pytest.mark.parametrize("which", ["near", "alike"])
def test_a_tile_with_one_neighbour_that_only_listens_copies_it(which):
    """In a layer that reads nothing but one kind of neighbours, a tile gets GELU of its neighbour on top."""
    net, part = network(refinement=1), slide()
    neighbours = torch.arange(SPOTS).roll(3)[:, None]
    place = {"near": 1, "alike": 2}[which]
    blocks = [torch.zeros(8, 8)] * 3
    blocks[place] = torch.eye(8)
    set_to(net.refine.layers[0], torch.cat(blocks, dim=1))
    tile = net.look(part.features)
    expected = tile + nn.functional.gelu(tile.roll(3, dims=0))
    torch.testing.assert_close(net.tiles(replace(part, **{which: neighbours})), expected)
    torch.testing.assert_close(net.tiles(part), tile)


def test_layers_reach_neighbours_of_neighbours():
    chain = torch.arange(-1, SPOTS - 1)[:, None]  # each spot listens to the one before
    part = replace(slide(), near=chain)
    moved = replace(part, features=part.features.clone())
    moved.features[0] += 3
    for layers in (1, 2, 3):
        net = network(refinement=layers)
        change = (net.tiles(moved) - net.tiles(part)).abs().amax(dim=1)
        assert (change > 1e-5).tolist() == [True] * (layers + 1) + [False] * (SPOTS - layers - 1)


def test_neighbours_are_those_of_the_lattice_and_the_look_alikes_those_of_the_features(paired):
    (section,) = open_sections(paired(1))  # nine by nine spots
    order = np.random.default_rng(0).permutation(len(section))
    features = np.empty((len(section), 3), dtype=np.float32)
    features[order] = np.arange(81)[:, None] // 2  # one spot after another of `order` look the same
    tensors = slide_tensors(section, features, alike=1, nuclei=None)
    around = set(tensors.near[40].tolist()) - {-1}
    assert {31, 39, 41, 49} <= around <= {30, 31, 32, 39, 41, 48, 49, 50}
    assert tensors.alike[order[:80:2], 0].tolist() == order[1:80:2].tolist()


# ---------------------------------------------------------------------- level and deviation of unseen genes


@pytest.fixture(scope="module")
def known_moments():
    """Thirty genes of which text says level and deviation, by its first two numbers; three more that only text knows."""
    rng = np.random.default_rng(0)
    names = [f"G{i}" for i in range(30)]
    level, sd = rng.uniform(1, 4, 33), np.exp(rng.uniform(-1.5, 0, 33))
    text = pd.DataFrame({"a": level, "b": np.log(sd)}, index=[*names, "N0", "N1", "N2"])
    waves = rng.standard_normal((400, 30))
    values = level[:30] + sd[:30] * (waves - waves.mean(axis=0)) / waves.std(axis=0)
    return names, values.astype(np.float32), text, level, sd


def test_level_and_deviation_of_genes_that_only_text_knows_follow_from_text(known_moments, paired):
    names, values, text, level, sd = known_moments
    sections = open_sections(paired(1, side=20))
    table = training_table(sections, ["A"], genes=[f"GENE{i}" for i in range(15)], keys=["X_fake"], min_counts=0)
    table = replace(table, expression=values[: len(table)])
    space = gene_space(table, names, text=text, axes=4)
    assert space.names[30:] == ["N0", "N1", "N2"]
    np.testing.assert_allclose(space.level[30:], level[30:], atol=0.1)
    np.testing.assert_allclose(space.sd[30:], sd[30:], rtol=0.1)


def test_predictions_of_unseen_genes_lie_around_their_level_by_their_deviation(attentive):
    adata, model = attentive
    (section,) = open_sections(adata)
    unseen = model.vocabulary[len(model.genes) + 3]
    row = model.vocabulary.index(unseen)
    before = model.predict(section, [unseen])
    kept = dict(model.arrays)
    try:
        for name, to in (("gene_level", kept["gene_level"] + 5), ("gene_sd", kept["gene_sd"] * 3)):
            model.arrays[name] = to
        after = model.predict(section, [unseen])
    finally:
        model.arrays.update(kept)
    around = before.mean[:, 0] - kept["gene_level"][row]
    np.testing.assert_allclose(after.mean[:, 0], kept["gene_level"][row] + 5 + 3 * around, rtol=1e-4)
    np.testing.assert_allclose(after.std, 3 * before.std, rtol=1e-5)
