"""Blocks of ALIGN-ST's network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stpredict.models.align_st import Options, _network, _slides
from stpredict.models.align_st._network import (
    AlignStNetwork,
    Described,
    GeneGraph,
    NucleiAttention,
    NucleiBranch,
    PromptedText,
    SlideTensors,
    SpatialRefinement,
)
from stpredict.models.align_st._slides import _look_alikes, _padded
from stpredict.models.align_st._training import standardised

SMALL = Options(width=16, dropout=0.0, feature_dropout=0.0, axes=5, text_layers=2, prompts=3, gene_neighbours=2)


def seeded(build, seed=0):
    torch.manual_seed(seed)
    return build().eval()


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def slide(n=12, d=7, channels=5, seed=0):
    near = torch.from_numpy(np.random.default_rng(seed).integers(-1, n, (n, 4)))
    return SlideTensors(random(n, d, seed=seed), near, near.flip(0), random(n, channels, 16, 16, seed=seed))


def genes(n=9, facts=4, d=6, seed=1):
    known = torch.arange(facts)[None] < torch.arange(n)[:, None] % (facts + 1)
    return Described(random(n, 5, seed=seed), (torch.arange(n) % 2).float(), random(n, facts, d, seed=seed), known)


def network(options=SMALL, channels=0, seed=0):
    return seeded(lambda: AlignStNetwork(7, 6, channels, options), seed)


# ---------------------------------------------------------------------- nuclei


def test_nuclei_go_through_five_convolutions_of_three_by_three():
    branch = NucleiBranch(5, 32)
    convolutions = [module for module in branch.modules() if isinstance(module, nn.Conv2d)]
    assert [module.kernel_size for module in convolutions] == [(3, 3)] * 5
    assert branch(random(2, 5, 16, 16)).shape == (2, 16, 32)


def test_a_tile_asks_its_own_nuclei_and_adds_the_answer():
    block = seeded(lambda: NucleiAttention(5, 16))
    tile, maps = random(6, 16), random(6, 5, 16, 16)
    attention = block.attention(tile, block.branch(maps))
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(6))
    out = block(tile, maps)
    changed = maps.clone()
    changed[3] += 1
    moved = (block(tile, changed) - out).abs().amax(dim=1)
    assert moved[3] > 1e-4
    assert moved[[0, 1, 2, 4, 5]].max() < 1e-6
    with torch.no_grad():
        block.value.weight.zero_()
        block.value.bias.zero_()
    torch.testing.assert_close(block(tile, maps), tile)


def test_tiles_without_nuclei_all_get_the_same_answer():
    block, tile = seeded(lambda: NucleiAttention(5, 16)).train(), random(6, 16)
    answer = block(tile, torch.zeros(6, 5, 16, 16)) - tile
    torch.testing.assert_close(answer, answer[:1].expand(6, -1))


@pytest.mark.parametrize("at_once", [5, 12])
def test_large_sections_look_at_their_nuclei_in_parts(monkeypatch, at_once):
    """In prediction that is the same; in training gradients are those of the parts, whose statistics are counted once."""
    whole, here = network(channels=5), slide()
    tiles = whole.tiles(here)
    monkeypatch.setattr(_network, "SPOTS_AT_ONCE", at_once)
    torch.testing.assert_close(whole.tiles(here), tiles)
    parts = 3 if at_once == 5 else 1

    plain, kept = network(channels=5).train(), network(channels=5).train()
    look = plain.look(here.features)
    pairs = zip(look.tensor_split(parts), here.nuclei.tensor_split(parts), strict=True)
    plain.refine(torch.cat([plain.nuclei(*pair) for pair in pairs]), here.near, here.alike).square().sum().backward()
    kept.tiles(here).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), kept.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, msg=name)
    norm = [net.nuclei.branch.scale for net in (plain, kept)]
    assert torch.equal(norm[0].running_mean, norm[1].running_mean)
    assert norm[1].momentum == norm[0].momentum


def test_losses_of_large_sections_are_taken_of_a_few_genes_at_a_time(monkeypatch):
    def step():
        net = network(SMALL).train()
        rows = torch.arange(1, 12)
        net.learn_from([(slide(), rows, random(11, 9, seed=3))], genes(), None)
        torch.manual_seed(1)
        losses = net.losses(torch.tensor([0]))
        losses.total.backward()
        return losses, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    losses, gradients = step()
    monkeypatch.setattr(_network, "VALUES_AT_ONCE", 30)  # two of nine genes
    in_parts, same = step()
    for name, value in vars(losses).items():
        torch.testing.assert_close(getattr(in_parts, name), value)
    assert same.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, msg=name)


# ---------------------------------------------------------------------- text


def text(**options):
    return seeded(lambda: PromptedText(6, replace(SMALL, **options)))


def test_the_tissue_changes_a_gene_only_by_interaction():
    g = genes()
    one, other = random(12, 16), random(20, 16, seed=5)
    silent, listening = text(interaction=False), text()
    torch.testing.assert_close(silent(g.facts, g.known, one), silent(g.facts, g.known, other))
    assert (listening(g.facts, g.known, one) - listening(g.facts, g.known, other)).abs().max() > 1e-3


def test_no_share_is_no_interaction():
    g, tiles = genes(), random(12, 16)
    torch.testing.assert_close(
        text(alpha=0.0)(g.facts, g.known, tiles), text(interaction=False)(g.facts, g.known, tiles)
    )
    assert (text(alpha=0.5)(g.facts, g.known, tiles) - text(alpha=0.0)(g.facts, g.known, tiles)).abs().max() > 1e-3


def test_with_the_whole_share_text_prompts_do_not_count():
    g, tiles = genes(), random(12, 16)
    block = text(alpha=1.0)
    before = block(g.facts, g.known, tiles)
    with torch.no_grad():
        block.start[1:] += 3
    torch.testing.assert_close(block(g.facts, g.known, tiles), before)


def test_order_of_spots_and_of_facts_does_not_matter():
    g, tiles = genes(), random(12, 16)
    block = text()
    before = block(g.facts, g.known, tiles)
    torch.testing.assert_close(block(g.facts, g.known, tiles.flip(0)), before)
    torch.testing.assert_close(block(g.facts.flip(1), g.known.flip(1), tiles), before)


def test_facts_that_are_not_there_are_not_read():
    g, tiles = genes(), random(12, 16)
    block = text()
    before = block(g.facts, g.known, tiles)
    other = torch.where(g.known[..., None], g.facts, torch.tensor(9.0))
    torch.testing.assert_close(block(other, g.known, tiles), before)
    nothing = block(g.facts, torch.zeros_like(g.known), tiles)
    assert torch.isfinite(nothing).all()
    torch.testing.assert_close(nothing, nothing[:1].expand(9, -1))


def test_every_layer_has_its_own_fusion():
    block = text()
    assert len(block.layers) == len(block.asking) == len(block.across) == 2
    g, tiles = genes(), random(12, 16)
    block(g.facts, g.known, tiles).square().sum().backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in block.across)


# ---------------------------------------------------------------------- gene graph


def test_a_gene_never_listens_to_itself():
    graph, pool = seeded(lambda: GeneGraph(16, 4)), random(9, 16)
    itself = torch.arange(9)
    rows, weights = graph.attention(pool, pool, itself)
    assert rows.shape == weights.shape == (9, 4)
    assert (rows != itself[:, None]).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(9))
    every, _ = seeded(lambda: GeneGraph(16, 50)).attention(pool, pool, itself)
    assert every.shape == (9, 8)
    assert (every != itself[:, None]).all()


def test_a_gene_listens_to_those_most_like_it():
    pool = torch.cat([random(3, 16), 2 * random(3, 16) + 0.01 * random(3, 16, seed=3), random(3, 16, seed=4)])
    rows, _ = seeded(lambda: GeneGraph(16, 1)).attention(pool, pool, torch.arange(9))
    assert rows[:6, 0].tolist() == [3, 4, 5, 0, 1, 2]
    unseen, _ = seeded(lambda: GeneGraph(16, 1)).attention(pool[:2], pool, torch.tensor([-1, -1]))
    assert unseen[:, 0].tolist()[0] in (0, 3)


def test_a_gene_alone_listens_to_nobody():
    graph, pool = seeded(lambda: GeneGraph(16, 4)), random(1, 16)
    torch.testing.assert_close(graph(pool, pool, torch.tensor([0])), pool)  # as at the start, with nothing heard


def test_at_the_start_a_gene_stays_almost_as_it_is():
    graph, pool = seeded(lambda: GeneGraph(16, 4)), random(9, 16)
    assert (graph(pool, pool, torch.arange(9)) - pool).abs().max() < 0.3


# ---------------------------------------------------------------------- tissue


def test_without_neighbours_refinement_is_finite_and_local():
    block = seeded(lambda: SpatialRefinement(16, 2))
    tile, none = random(6, 16), torch.full((6, 3), -1)
    out = block(tile, none, none)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(block(tile[:1], none[:1], none[:1]), out[:1])


def test_refinement_takes_the_mean_over_neighbours():
    block = seeded(lambda: SpatialRefinement(16, 1))
    tile = random(6, 16)
    near = torch.full((6, 3), -1)
    near[0, :2] = torch.tensor([2, 4])
    joined = torch.cat([tile[0], (tile[2] + tile[4]) / 2, torch.zeros(16)])
    expected = tile[0] + nn.functional.gelu(block.layers[0](joined))
    torch.testing.assert_close(block(tile, near, torch.full((6, 1), -1))[0], expected)


def test_neighbours_of_a_graph_are_padded():
    from scipy.sparse import csr_matrix

    graph = csr_matrix(np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]]))
    assert _padded(graph).tolist() == [[1, 2], [0, -1], [-1, -1]]
    assert _padded(csr_matrix((2, 2))).tolist() == [[-1], [-1]]


@pytest.mark.parametrize(("n", "d"), [(1, 3), (4, 3), (90, 3), (90, 70)])
def test_look_alikes_are_others_of_the_section(n, d):
    values = random(n, d).numpy()
    values[: n // 3] = values[:1]  # twins
    rows = _look_alikes(values, 5)
    assert rows.shape == (n, 5)
    assert (rows != np.arange(n)[:, None]).all()
    assert ((rows >= 0).sum(axis=1) == min(5, n - 1)).all()
    assert (_look_alikes(values, 0) == -1).all()


# ---------------------------------------------------------------------- expression and losses


def test_expression_is_the_dot_product():
    net, tiles, g = network(), random(12, 16), random(9, 16, seed=2)
    torch.testing.assert_close(net.expression(tiles, g)[3, 4], tiles[3] @ g[4] / 4)


def test_measured_and_told_places_go_through_layers_of_their_own():
    net = network(replace(SMALL, text_layers=0, gene_neighbours=0))
    g = genes()
    out = net.described(g, random(12, 16))
    torch.testing.assert_close(out[0], net.place(g.coordinates[0]))
    torch.testing.assert_close(out[1], net.place_told(g.coordinates[1]))


def taught(options, *, unseen=True, targets=None, n=9):
    net = network(options)
    part, g = slide(), genes(n)
    rows = torch.tensor([0, 2, 3, 5, 7, 8, 11])
    targets = random(7, n, seed=3) if targets is None else targets
    told = Described(random(n, 5, seed=9), torch.ones(n), g.facts, g.known) if unseen else None
    return net.learn_from([(part, rows, targets)], g, told)


def loss(net, seed=0):
    torch.manual_seed(seed)
    return net.losses(torch.tensor([0]))


@pytest.mark.parametrize("unseen", [False, True])
def test_losses_are_on_the_genes_that_were_drawn(unseen):
    """The predecessor's released code compares predictions of drawn genes with targets of others."""
    options = replace(SMALL, genes_per_step=4)
    targets = random(7, 9, seed=3)
    before = loss(taught(options, unseen=unseen, targets=targets))
    torch.manual_seed(0)
    drawn = torch.randperm(9)[:4]
    others = torch.tensor([gene for gene in range(9) if gene not in drawn.tolist()])
    moved = targets.clone()
    moved[:, others] = targets[:, others.flip(0)]
    torch.testing.assert_close(loss(taught(options, unseen=unseen, targets=moved)).total, before.total)
    moved = targets.clone()
    moved[:, drawn] = targets[:, drawn.roll(1)]
    after = loss(taught(options, unseen=unseen, targets=moved))
    assert (after.mse - before.mse).abs() > 1e-4
    assert (after.correlation - before.correlation).abs() > 1e-4


def test_losses_are_those_of_the_paper():
    options = replace(SMALL, text_layers=0, gene_neighbours=0)
    net = taught(options, unseen=False)
    part, rows, targets = net._sections[0]
    out = net.expression(net.tiles(part), net.described(genes(), None))[rows]
    pcc = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(out.T, targets.T, strict=True)])
    expected = nn.functional.mse_loss(out, targets) + 0.5 * (1 - pcc.mean())
    torch.testing.assert_close(loss(net).total, expected, rtol=1e-4, atol=1e-5)


def test_genes_without_text_are_left_out_of_the_loss_as_unseen():
    net = taught(SMALL)
    net._unseen.coordinates[2:] = torch.nan
    some = loss(net)
    net._unseen.coordinates[:] = torch.nan
    none = loss(net)
    seen = loss(taught(SMALL, unseen=False))
    torch.testing.assert_close(none.mse, (1 - SMALL.as_unseen) * seen.mse)
    assert some.total > none.total
    none.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_standardised_expression():
    values = np.array([[1.0, 5, 2], [3, 5, 2.0001], [5, 5, 2]], dtype=np.float32)
    out = standardised(values)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-6)
    assert out[:, 0].std() == pytest.approx(1)
    assert not out[:, 1].any()
    assert np.abs(out[:, 2]).max() < 1e-3
    assert standardised(values[:0]).shape == (0, 3)


def test_parts_that_are_off_are_not_there():
    plain = network(Options(width=16, axes=5))
    assert plain.nuclei is None
    assert plain.text is None
    assert plain.graph is None
    assert network(replace(SMALL, coordinates=False)).place is None
    assert network(channels=5).nuclei is not None


def test_look_alikes_are_found_once_for_the_same_features(monkeypatch):
    """As long as a section is among the last ones, and never for other features."""
    seen = []
    find = _slides._find_look_alikes
    monkeypatch.setattr(_slides, "_found", {})
    monkeypatch.setattr(_slides, "_find_look_alikes", lambda *given: seen.append(given) or find(*given))
    sections = [np.random.default_rng(seed).standard_normal((20, 4)).astype(np.float32) for seed in range(3)]
    first = [_look_alikes(features, 3) for features in sections]
    again = [_look_alikes(features.copy(), 3) for features in sections]
    assert len(seen) == 3
    for one, other, features in zip(first, again, sections, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, find(features, 3))
    assert _look_alikes(sections[0], 2).shape == (20, 2)
    moved = sections[0].copy()
    moved[0] += 5
    assert not np.array_equal(_look_alikes(moved, 3), first[0])
    monkeypatch.setattr(_slides, "KEPT", 1)
    _look_alikes(sections[1], 3)
    _look_alikes(sections[2], 3)
    assert len(seen) == 6
