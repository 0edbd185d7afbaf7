"""Every part of ST-Align does what the method says of it, on values known by construction."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from torch import nn

import stpredict as st
from stpredict._sections.niches import niche_matrix
from stpredict._sections.open import open_sections
from stpredict.models._aligned.expression import usable_spots
from stpredict.models._training.loop import Plan, train_network
from stpredict.models.nn._losses import info_nce, paired_info_nce
from stpredict.models.nn._tokens import FeatureTokens
from stpredict.models.st_align import Options
from stpredict.models.st_align._network import Fusion, StAlignNetwork
from stpredict.models.st_align._released import Answer, ReleasedFusion

QUICK = {"method": "st_align", "epochs": 1, "members": 1, "width": 16, "show_progress": False}
HARD = {"soft_targets": False, "hidden_expression": 0.0}
RELEASED = HARD | {"fusion": "released", "rebuild": 0.0, "gene_tokens": 8}
COMPANIONS = {"negatives": "companions", "companions": 2, "clusters": 3}
GENES = [f"GENE{i}" for i in range(15)]


def network(**options):
    """A network of 4 spot features, 3 niche features and 5 genes, without dropout."""
    torch.manual_seed(0)
    spot, niche = (FeatureTokens([n], 16, dropout=0.0, norm=False) for n in (4, 3))
    return StAlignNetwork(spot, niche, n_inputs=5, n_genes=5, options=Options(width=16, **options)).eval()


def batch(n=12, *, cluster=None, section=None):
    """Arguments of `losses`: images, expression of spots and niches, measured expression, section and cluster."""
    torch.manual_seed(1)
    values = [torch.randn(n, columns) for columns in (4, 3, 5, 5)]
    section, cluster = (torch.arange(n) if a is None else a for a in (section, cluster))
    return [*values, values[2], section, cluster]


def fit(sections, **options):
    return st.tl.train(sections, genes=GENES, **QUICK | options)


def opened(adata):
    return open_sections(adata)[0]


# ---------------------------------------------------------------------- fusion


@pytest.mark.parametrize(("kind", "last"), [(lambda: Fusion(16, 16), "head"), (lambda: ReleasedFusion(16), "norm")])
def test_either_side_asks_the_other(kind, last):
    fusion = kind().eval()
    setattr(fusion, last, nn.Identity())
    image, genes, others = torch.randn(3, 2, 8, 16)
    whole, new_genes, new_image = fusion(image, genes), fusion(image, others), fusion(others, genes)
    for changed in (whole - new_genes, whole - new_image):
        for half in changed.split(8, dim=-1):
            assert half.abs().amax() > 1e-3


def test_an_answer_in_the_released_fusion_holds_nothing_of_the_asker():
    """Where there is one token to ask, all get the same answer; an asker that was added would show."""
    answer = Answer(16, dropout=0.1).eval()(torch.randn(1, 4, 16), torch.randn(1, 1, 16))
    torch.testing.assert_close(answer, answer[:, :1].expand(-1, 4, -1))


def test_released_tokens_are_normalised_after_they_are_joined():
    tokens = ReleasedFusion(16).eval()(*torch.randn(2, 3, 8, 16))
    assert tokens.shape == (3, 8, 16)
    torch.testing.assert_close(tokens.mean(dim=2), torch.zeros(3, 8), atol=1e-5, rtol=0)
    assert tokens.std(dim=2, correction=0).min() > 0.9


def test_released_heads_are_four_and_two_times_as_wide_as_a_token():
    heads = network(**RELEASED).spot
    for head in (heads.image_head, heads.gene_head, heads.fused_head):
        assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [(64, 8 * 16), (32, 64)]


@pytest.mark.parametrize("options", [{}, RELEASED])
def test_expression_that_is_not_known_does_not_matter(options):
    scale = network(**options).spot
    image, genes, others = torch.randn(6, 4), torch.randn(6, 5), torch.randn(6, 5)
    known = torch.arange(6) < 3
    one, other = scale.align(image, genes, known)[2], scale.align(image, others, known)[2]
    torch.testing.assert_close(one[3:], other[3:])
    assert (one[:3] - other[:3]).abs().amax(dim=1).min() > 1e-3


def test_training_hides_expression_from_the_fusion_alone():
    new = batch()
    new[2], new[3] = torch.randn(2, 12, 5)
    for hidden, same in ((0.9999, True), (0.0, False)):
        model = network(hidden_expression=hidden)
        one, other = model.losses(*batch()), model.losses(*new)
        assert torch.allclose(one.fused, other.fused) == same
        assert not torch.allclose(one.spot, other.spot)


# ---------------------------------------------------------------------- losses


def test_every_loss_has_its_weight():
    losses = network(spot=0.2, niche=0.5, decoder=0.7, rebuild=1.3).losses(*batch())
    parts = [losses.spot, losses.niche, losses.fused, losses.decoder, losses.rebuilt]
    expected = sum(weight * part for weight, part in zip((0.2, 0.5, 0.3, 0.7, 1.3), parts, strict=True))
    torch.testing.assert_close(losses.total, expected)
    assert all(part > 0.1 for part in parts)


@pytest.mark.parametrize("options", [HARD, RELEASED])
def test_what_is_aligned(options):
    """Image and expression of the spot, those of the niche, and the fused spot and the fused niche."""
    model, (spot, niche, genes, around, *rest) = network(**options), batch()
    known = torch.ones(12, dtype=torch.bool)
    a, b = model.spot.align(spot, genes, known), model.niche.align(niche, around, known)
    fused = [nn.functional.normalize(x, dim=1) for x in (a[2], b[2])]
    losses = model.losses(spot, niche, genes, around, *rest)
    for found, pair in ((losses.spot, a[:2]), (losses.niche, b[:2]), (losses.fused, fused)):
        torch.testing.assert_close(found, info_nce(*pair, temperature=0.1))


def test_spots_of_one_cluster_of_a_section_are_not_told_apart():
    one, two = torch.zeros(12, dtype=torch.int64), torch.arange(12) % 2
    for section, cluster, alone in ((one, one, True), (two, one, False), (one, two, False)):
        losses = network(**HARD).losses(*batch(section=section, cluster=cluster))
        for loss in (losses.spot, losses.niche, losses.fused):
            assert (float(loss.detach()) == pytest.approx(0, abs=1e-5)) == alone
    losses = network(**HARD, clusters=1).losses(*batch(section=one, cluster=one))
    assert min(losses.spot, losses.niche, losses.fused) > 0.1


def test_soft_targets_are_as_sharp_as_the_temperature():
    """Two spots unlike each other: the least that a soft target costs is its own entropy, which the temperature gives."""
    share = 1 / (1 + np.exp(-1 / 0.5))
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    apart = torch.eye(2)
    assert float(info_nce(apart, apart, temperature=0.5, soft=True)) == pytest.approx(entropy, rel=1e-5)


def test_images_and_expression_of_spot_and_niche_are_rebuilt():
    """Layers that rebuild zeros are wrong by the mean square of each input."""
    model = network(**HARD)
    for part in model.rebuild:
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    values = batch()
    expected = sum(values[i].square().mean() for i in range(4)) / 4
    torch.testing.assert_close(model.losses(*values).rebuilt, expected)
    assert network(**RELEASED).losses(*values).rebuilt == 0


# ---------------------------------------------------------------------- companions


def test_paired_negatives_cost_what_they_must():
    corners = torch.eye(4)
    away = corners.roll(1, dims=1)[:, None].expand(-1, 5, -1)
    expected = np.log(1 + 5 * np.exp(-1 / 0.5))
    assert float(paired_info_nce(corners, corners, away, temperature=0.5)) == pytest.approx(expected, rel=1e-5)
    same = corners[:, None].expand(-1, 5, -1)
    assert float(paired_info_nce(corners, corners, same, temperature=0.5)) == pytest.approx(np.log(6), rel=1e-5)


def test_companions_count_by_their_expression_and_their_niche():
    """Of 12 rows the last 8 are companions of the first 4; how their own spots look is asked by nobody."""
    model = network(**RELEASED | COMPANIONS)
    before = model.losses(*batch())
    for i, name, moves in ((0, "spot", False), (2, "spot", True), (1, "niche", False), (3, "niche", True)):
        values = batch()
        values[i][4:] = torch.randn_like(values[i][4:])
        assert torch.allclose(getattr(model.losses(*values), name), getattr(before, name)) != moves
    values = batch()
    values[1][4:] = torch.randn(8, 3)
    assert not torch.allclose(model.losses(*values).fused, before.fused)


def test_companions_of_other_clusters_join_every_batch(paired, monkeypatch):
    seen, losses = [], StAlignNetwork.losses

    def recorded(self, *values, **how):
        seen.append(values[-2:])
        return losses(self, *values, **how)

    monkeypatch.setattr(StAlignNetwork, "losses", recorded)
    fit(paired(2), batch_size=20, **RELEASED | COMPANIONS)
    section, cluster = seen[0]
    assert len(section) == 20 * 3
    own = slice(20), slice(20, None)
    theirs = cluster[own[1]].view(20, 2)
    assert (section[own[1]].view(20, 2) == section[own[0], None]).all()
    assert (theirs != cluster[own[0], None]).all()
    assert (theirs[:, 0] != theirs[:, 1]).all()


def test_negatives_that_are_companions_need_some():
    for wrong in ({"companions": 0, "soft_targets": False}, {"companions": 2}):
        with pytest.raises(ValueError, match="needs companions of 1 or more and soft_targets=False"):
            Options(negatives="companions", **wrong).check()


# ---------------------------------------------------------------------- niches and read-out


def test_niche_expression_leaves_out_spots_of_few_counts(paired):
    sections = paired(3)
    for adata in sections:
        adata.X[40] = 0
        adata.X[40, 0] = 30
    model = fit(sections[:2])

    def centred(adata):
        section = opened(adata)
        usable = usable_spots(section, 50)
        assert usable.sum() == 80
        values = section.log_expression(GENES)
        values = values - values[usable].mean(axis=0)
        members = (niche_matrix(section).toarray() > 0) & usable
        return np.stack([values[row].mean(axis=0) for row in members]), usable

    training = np.concatenate([means[usable] for means, usable in map(centred, sections[:2])])
    np.testing.assert_allclose(model.arrays["niche_sd"], training.std(axis=0), rtol=1e-4)
    found = model.expression(opened(sections[2]))[1]
    np.testing.assert_allclose(found, centred(sections[2])[0] / model.arrays["niche_sd"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_prediction_is_the_mean_of_the_nearest_reference_spots(paired, weighted):
    sections = paired(3)
    model, section = fit(sections[:2], neighbours=7, weighted=weighted), opened(sections[2])
    similarity = model.embed(section, use="image") @ model.arrays["bank"].astype(np.float32).T
    expression = model.arrays["expression"].astype(np.float64)
    expected = []
    for row in similarity:
        nearest = np.argsort(-row)[:7]
        weights = np.exp(row[nearest] / 0.1) if weighted else np.ones(7)
        expected.append(weights @ expression[nearest] / weights.sum())
    np.testing.assert_allclose(model.predict(section).mean, expected, rtol=2e-3, atol=2e-3)


# ---------------------------------------------------------------------- optimiser and weights


@dataclass
class Loss:
    total: torch.Tensor


class Still(nn.Module):
    """Learns nothing, so that only weight decay moves it."""

    def __init__(self, *, decay_vectors):
        super().__init__()
        self.decay_vectors = decay_vectors
        self.layer, self.norm = nn.Linear(3, 2), nn.LayerNorm(2)
        nn.init.ones_(self.layer.bias)

    def losses(self, x):
        return Loss(0 * self.norm(self.layer(x)).sum())


@pytest.mark.parametrize("decayed", [True, False])
def test_weight_decay_spares_biases_and_norms_where_asked(decayed):
    still = Still(decay_vectors=decayed)
    before = still.layer.weight.detach().clone()
    plan = Plan(2, 4, learning_rate=0.1, weight_decay=0.2, seed=0, final_rate=0.1, final_weight_decay=0.4)
    train_network(still, [torch.randn(8, 3)], plan)
    assert (still.layer.weight.abs() < 0.95 * before.abs()).all()
    for vector in (still.layer.bias, still.norm.weight):
        assert bool((vector < 0.95).all()) == decayed
        assert bool((vector == 1).all()) != decayed


def test_the_published_networks_spare_biases_and_norms():
    assert network().decay_vectors
    assert not network(**RELEASED, decay_vectors=False).decay_vectors


@pytest.mark.parametrize("method", ["st_align", "cmrcnet"])
def test_published_weights_that_cannot_be_had_end_training_at_once(paired, monkeypatch, tmp_path, method):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"image_encoder='resnet50' cannot be had: .*\. Train with pretrained=False"):
        st.tl.train(paired(2), method=method, genes=GENES, image_encoder="resnet50", pretrained=True, epochs=1)
    assert time.monotonic() - start < 10  # (the first use of timm is slow where it is not imported yet)
