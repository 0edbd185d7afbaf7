"""Values of ALIGN-ST's parts that are worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stpredict.models.align_st import Options, _network
from stpredict.models.align_st._genes import (
    GeneSpace,
    gene_space,
    moments,
    own_coordinates,
    own_correlation,
    text_of,
    within_sections,
)
from stpredict.models.align_st._network import AlignStNetwork, Described, NucleiBranch, PromptedText, SlideTensors
from stpredict.models.align_st._slides import _find_look_alikes
from stpredict.models.align_st._training import Lesson, _held, _Monitor, _teach, standardised

SMALL = Options(width=16, dropout=0.0, feature_dropout=0.0, axes=5, refinement=0)


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def network(channels=0, **options):
    torch.manual_seed(0)
    return AlignStNetwork(7, 6, channels, replace(SMALL, **options)).eval()


def slide(n=12, channels=0):
    nobody = torch.full((n, 1), -1)
    return SlideTensors(random(n, 7), nobody, nobody, random(n, channels, 16, 16) if channels else None)


def genes(n=9, seed=1):
    return Described(
        random(n, 5, seed=seed), torch.zeros(n), random(n, 3, 6, seed=seed), torch.ones(n, 3, dtype=torch.bool)
    )


def told(n=9):
    return replace(genes(n, seed=4), from_text=torch.ones(n))


def losses(net, seen, unseen=None):
    net.learn_from([(slide(), torch.arange(1, 12), random(11, 9, seed=3))], seen, unseen)
    torch.manual_seed(1)
    return net.losses(torch.tensor([0]))


# ---------------------------------------------------------------------- network


def test_layers_have_the_sizes_of_stored_models():
    convolutions = [part for part in NucleiBranch(5, 24).modules() if isinstance(part, nn.Conv2d)]
    assert [part.weight.shape[:2] for part in convolutions] == [(16, 5), (32, 16), (32, 32), (64, 32), (24, 64)]
    assert [part.stride[0] for part in convolutions] == [1, 2, 1, 2, 1]
    text = PromptedText(6, replace(SMALL, width=64, prompts=60, text_layers=1))
    assert text.layers[0].linear1.out_features == 128
    for start in (text.start, text.visual):
        assert start.std().item() == pytest.approx(0.02, rel=0.05)
    net = network()
    assert (net.look[1].out_features, net.look[4].in_features) == (32, 32)


@pytest.mark.parametrize(("at_once", "parts"), [(5, 3), (12, 1)])
def test_nuclei_are_looked_at_once_more_on_the_way_back_in_large_sections_only(monkeypatch, at_once, parts):
    calls, forward = [], NucleiBranch.forward
    monkeypatch.setattr(NucleiBranch, "forward", lambda self, maps: calls.append(len(maps)) or forward(self, maps))
    monkeypatch.setattr(_network, "SPOTS_AT_ONCE", at_once)
    net = network(channels=2)
    with torch.no_grad():
        net.tiles(slide(channels=2))
    assert len(calls) == parts
    calls.clear()
    net.tiles(slide(channels=2)).sum().backward()
    assert len(calls) == (1 if parts == 1 else 2 * parts)


@pytest.mark.parametrize(("at_once", "calls"), [(99, 1), (98, 4), (30, 10), (5, 18)])
def test_genes_are_predicted_together_as_far_as_their_values_fit(monkeypatch, at_once, calls):
    """Eleven spots and nine genes: all, or as many at a time as fit, at least one, and once more on the way back."""
    monkeypatch.setattr(_network, "VALUES_AT_ONCE", at_once)
    net, seen = network(), []
    expression = net.expression
    net.expression = lambda tiles, few: seen.append(len(few)) or expression(tiles, few)
    losses(net, genes()).total.backward()
    assert len(seen) == calls


def test_the_loss_weighs_genes_as_seen_and_as_if_unseen():
    both = losses(network(as_unseen=0.25), genes(), told())
    one, other = losses(network(), genes()), losses(network(), told())
    for name in ("mse", "correlation", "total"):
        mixed = 0.75 * getattr(one, name) + 0.25 * getattr(other, name)
        torch.testing.assert_close(getattr(both, name), mixed)


def test_genes_without_coordinates_have_no_loss_as_if_unseen():
    alone = {"coordinates": False, "text_layers": 1}
    torch.testing.assert_close(losses(network(**alone), genes(), told()).total, losses(network(**alone), genes()).total)


def test_genes_that_a_step_did_not_draw_speak_without_dropout(monkeypatch):
    net = network(text_layers=1, interaction=False, dropout=0.5, gene_neighbours=2, genes_per_step=1).train()
    heard = []
    graph = net.graph.forward
    monkeypatch.setattr(net.graph, "forward", lambda own, pool, itself: heard.append(pool) or graph(own, pool, itself))
    losses(net, genes())
    assert net.training
    torch.manual_seed(1)
    drawn = torch.randperm(9)[0].item()
    rest = [gene for gene in range(9) if gene != drawn]
    net.eval()
    torch.testing.assert_close(heard[0][1:], net.described(genes().take(torch.tensor(rest)), None).detach())


def test_shares_of_losses_may_be_none_or_all():
    for name in ("alpha", "as_unseen"):
        for value in (0, 1):
            Options(**{name: value}).check()
        for value in (-0.01, 1.01):
            with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\]"):
                Options(**{name: value}).check()


def test_look_alikes_are_the_nearest_and_minus_one_where_there_are_none():
    points = np.array([[0.0], [1], [5]], dtype=np.float32)
    assert _find_look_alikes(points, 4).tolist() == [[1, 2, -1, -1], [0, 2, -1, -1], [1, 0, -1, -1]]
    assert _find_look_alikes(points[:2], 1).tolist() == [[1], [0]]
    assert _find_look_alikes(points, 0).tolist() == [[-1]] * 3


# ---------------------------------------------------------------------- genes

SPACE = GeneSpace(
    names=["A", "B", "C", "D"],
    coordinates=np.array([[1, 0], [0, 1], [1, 1], [2, 0]], dtype=np.float32),
    variance=np.array([3, 0.5], dtype=np.float32),
    from_text=np.array([0, 0, 1, 0], dtype=np.float32),
    level=np.array([1, 2, 3, 4], dtype=np.float32),
    sd=np.array([1, 2, 0.5, 4], dtype=np.float32),
    nearest=np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32),
    by_text=np.full((4, 2), np.nan, dtype=np.float32),
)


class Spots:
    """Spots of two sections, as a `Table`."""

    def __init__(self, expression, section=(0, 0, 1, 1), row=(0, 2, 0, 1)):
        self.expression = np.array(expression, dtype=np.float32)
        self.section, self.row = np.array(section), np.array(row)
        self.design = self.group = self.section

    def __len__(self):
        return len(self.section)

    def of_sections(self):
        return [(number, np.flatnonzero(self.section == number)) for number in np.unique(self.section)]

    def section_means(self, values):
        return np.array([values[rows].mean(axis=0) for _, rows in self.of_sections()])


COUNTS = Spots([[1, 2, 0.01], [3, 6, 0.01], [10, 1, 0.01], [20, 11, 0.01]])
"""Within sections gene 0 lies 1, 1, 5, 5 beside its mean, gene 1 lies 2, 2, 5, 5, and gene 2 does not vary."""


def test_expression_is_taken_within_sections():
    np.testing.assert_allclose(within_sections(COUNTS), [[-1, -2, 0], [1, 2, 0], [-5, -5, 0], [5, 5, 0]], atol=1e-7)
    found = moments(COUNTS, ["A", "B", "C"])
    np.testing.assert_allclose(found["level"], [8.5, 5, 0.01], rtol=1e-6)  # means of 2 and 15, and of 4 and 6
    np.testing.assert_allclose(np.exp(found["log_sd"][:2]), [13**0.5, 14.5**0.5], rtol=1e-6)
    r = 54 / (52 * 58) ** 0.5
    np.testing.assert_allclose(own_correlation(COUNTS)[:2, :2], [[1, r], [r, 1]], rtol=1e-5)


def test_genes_that_vary_together_share_one_axis_and_further_ones_are_empty():
    table = Spots([[0.1, 0.2, 7], [0.3, 0.6, 7], [0.1, 0.2, 7], [0.3, 0.6, 7]])
    frame = own_coordinates(table, ["A", "B", "C"], 5)
    np.testing.assert_allclose(frame.abs(), [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(frame.attrs["variance"], [2, 0, 0, 0, 0], atol=1e-6)
    space = gene_space(table, ["A", "B", "C"], axes=5)
    np.testing.assert_allclose(np.abs(space.coordinates[:, 0]), [5**0.5, 5**0.5, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(space.variance, [2, 0, 0, 0, 0], atol=1e-6)


def test_programmes_count_by_their_variance_beside_the_distance():
    np.testing.assert_allclose(SPACE.trusted(1.0), SPACE.coordinates * [0.75, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(SPACE.trusted(0.0), SPACE.coordinates, rtol=1e-5)


def test_seen_genes_stay_and_of_the_others_those_that_are_named():
    part = SPACE.only({"D"}, 2)
    assert part.names == ["A", "B", "D"]
    assert part.level.tolist() == [1, 2, 4]
    assert part.variance is SPACE.variance


def test_genes_of_embeddings_have_the_names_of_training_and_are_there_once():
    table = pd.DataFrame({"x": [1, 2, 3, 4]}, index=["HER2", "KRT18", "ERBB2", "NOBODY"])
    found = text_of(["ERBB2", "CDK1"], table)
    assert found["x"].to_dict() == {"ERBB2": 3, "KRT18": 2, "NOBODY": 4}


# ---------------------------------------------------------------------- training


def test_expression_is_standardised_unless_a_gene_hardly_varies():
    values = np.array([[0, 0, 1], [1, 0.001, 1]], dtype=np.float32)
    np.testing.assert_allclose(standardised(values), [[-1, -0.0005, 0], [1, 0.0005, 0]], rtol=1e-5)


@pytest.mark.parametrize("by_text", [False, True])
def test_a_network_learns_from_the_spots_of_each_section_and_from_text_where_it_tells(by_text):
    space = (
        replace(SPACE, by_text=np.array([[np.nan, np.nan], [3, 4], [5, 6], [7, 8]], np.float32)) if by_text else SPACE
    )
    given = []
    facts = np.arange(6.0).reshape(3, 1, 2), np.ones((3, 1), dtype=bool)
    lesson = Lesson(COUNTS, ["one", "two"], space, facts, SMALL)
    _teach(SimpleNamespace(learn_from=lambda *what: given.extend(what)), lesson, COUNTS, space, np.array([1, 0]))
    sections, seen, unseen = given
    assert [section[0] for section in sections] == ["one", "two"]
    assert [section[1].tolist() for section in sections] == [[0, 2], [0, 1]]
    np.testing.assert_allclose(sections[1][2], [[-1, -1], [1, 1]])
    assert seen.coordinates.tolist() == [[1, 0], [0, 1]]
    assert seen.facts.tolist() == [[[2, 3]], [[0, 1]]]
    assert (unseen is not None) == by_text
    if by_text:
        assert unseen.coordinates[1].tolist() == [3, 4]
        assert unseen.from_text.tolist() == [1, 1]


def test_a_lesson_is_told_from_any_other():
    part = SlideTensors(random(2, 3), torch.zeros(2, 1), torch.zeros(2, 1))
    facts = np.ones((3, 1, 2)), np.ones((3, 1), dtype=bool)
    lesson = Lesson(COUNTS, [part], SPACE, facts, SMALL)
    others = [
        replace(lesson, options=replace(SMALL, alpha=0.4)),
        replace(lesson, facts=(2 * facts[0], facts[1])),
        replace(lesson, facts=None),
        replace(lesson, space=replace(SPACE, by_text=SPACE.coordinates)),
        replace(lesson, slides=[replace(part, near=part.near + 1)]),
        replace(lesson, slides=[replace(part, nuclei=random(2, 2))]),
        replace(lesson, table=Spots(COUNTS.expression + 1)),
    ]
    assert replace(lesson).identity() == lesson.identity()
    assert len({lesson.identity(), *(other.identity() for other in others)}) == 8


UP, DOWN = [0.0, 1, 0, 1], [1.0, 0, 1, 0]
"""Predictions that follow genes which rise from spot to spot, and those that are the wrong way round."""


def monitor(known, predicted, n_seen=2):
    """Of three genes, the last of them hidden."""
    found = _Monitor(None, [], COUNTS, None, np.array([0, 1, 1])[: len(known)], np.array(known), n_seen=n_seen)
    found.predicted = lambda genes=None: np.array(predicted, dtype=np.float32).T
    return found


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([True, True, True], {"val_pcc": -0.5, "val_seen": 0, "val_unseen": -1}),
        ([True, False, True], {"val_pcc": 0, "val_seen": 1, "val_unseen": -1}),
        ([False, False, True], {"val_pcc": -0.5, "val_seen": 0, "val_unseen": -1}),
        ([True, True, False], {"val_pcc": 0, "val_seen": 0}),
        ([False, True, False], {"val_pcc": -1, "val_seen": -1}),
    ],
)
def test_seen_and_hidden_genes_that_are_known_count_alike(known, expected):
    assert monitor(known, [UP, DOWN, DOWN])() == pytest.approx(expected, abs=1e-6)


def test_held_out_predictions_are_put_on_the_scale_of_expression():
    held = np.array([False, True, True, False, True, True])
    found = _held(
        Lesson(COUNTS, [], SPACE, None, SMALL), monitor([True, True, True], [UP, DOWN, UP]), held, SPACE, np.arange(3)
    )
    assert found.rows.tolist() == [1, 2, 4, 5]
    np.testing.assert_allclose(found.predicted[:, 0], [1, 2, 1, 2])  # level 1, deviation 1
    np.testing.assert_allclose(found.predicted[:, 1], [4, 2, 4, 2])  # level 2, deviation 2
    assert np.isnan(found.predicted[:, 2]).all()
