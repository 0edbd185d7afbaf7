from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.models.cmrcnet import Options
from stpredict.models.cmrcnet._network import Reconstruction
from stpredict.models.nn._fusion import CrossAttention
from stpredict.models.nn._losses import correlation, expression_loss, soft_contrastive
from stpredict.models.nn._tokens import FeatureTokens, GeneTokens, PatchTokens, turn_and_flip

HOW = {"temperature": 0.1, "normalised": True, "detached": True}


def vectors(n, d, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32))


@pytest.mark.parametrize("normalised", [True, False])
def test_guessing_costs_the_logarithm_of_the_batch(normalised):
    same, gene = torch.ones(32, 8), vectors(32, 8)
    loss = soft_contrastive(same, gene, temperature=1.0, normalised=normalised, detached=True)
    # every image looks the same: gene → image is a pure guess; image → gene cannot tell spots apart either
    guess = torch.full((32, 32), 1 / 32)
    alike = (same @ same.T + gene @ gene.T) / 2
    assert -(guess * torch.log(guess)).sum(1).mean() == pytest.approx(np.log(32))
    assert alike.shape == (32, 32)
    if normalised:
        assert soft_contrastive(same, same, **HOW) == pytest.approx(np.log(32), abs=1e-5)
    assert torch.isfinite(loss)


def test_matched_pairs_cost_less_than_shuffled_ones():
    image = vectors(64, 16)
    matched = soft_contrastive(image, image, **HOW)
    shuffled = soft_contrastive(image, image.roll(1, dims=0), **HOW)
    assert matched < 0.5 < np.log(64) < shuffled


def test_published_contrast_is_cross_entropy_with_soft_targets_both_ways():
    image, gene = vectors(5, 3), vectors(5, 3, seed=1)
    found = soft_contrastive(image, gene, temperature=1.0, normalised=False, detached=False)
    logits = (gene @ image.T).numpy()
    alike = ((image @ image.T + gene @ gene.T) / 2).numpy()
    targets = np.exp(alike) / np.exp(alike).sum(1, keepdims=True)

    def cost(x, t):
        return -(t * (x - np.log(np.exp(x).sum(1, keepdims=True)))).sum(1).mean()

    assert float(found) == pytest.approx((cost(logits, targets) + cost(logits.T, targets.T)) / 2, rel=1e-5)


def test_targets_held_fixed_get_no_gradient_of_their_own():
    image = vectors(8, 4).requires_grad_()
    gene = vectors(8, 4, seed=1)
    grads = []
    for detached in (True, False):
        loss = soft_contrastive(image, gene, temperature=0.1, normalised=True, detached=detached)
        grads.append(torch.autograd.grad(loss, image)[0])
    assert not torch.allclose(*grads)


def test_expression_loss_of_a_perfect_and_of_a_useless_prediction():
    measured = vectors(50, 6)
    assert expression_loss(measured, measured) == pytest.approx(0, abs=1e-5)
    assert expression_loss(-measured, measured) == pytest.approx(4 * float(measured.square().mean()) + 1, rel=1e-5)
    expected = [np.corrcoef(measured[:, 0], measured[:, 1])[0, 1]]
    np.testing.assert_allclose(correlation(measured[:, :1], measured[:, 1:2]), expected, rtol=1e-5)
    assert correlation(torch.ones(9, 1), vectors(9, 1)) == 0


def test_tiles_are_turned_and_mirrored_all_eight_ways_and_nothing_else():
    torch.manual_seed(0)
    tile = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2)
    out = turn_and_flip(tile.expand(200, 1, 2, 2))
    seen = {tuple(x.flatten().tolist()) for x in out}
    turned = [torch.rot90(tile, k, dims=(2, 3)) for k in range(4)]
    assert seen == {tuple(x.flatten().tolist()) for t in turned for x in (t, t.flip(3))}
    assert len(seen) == 8


class Seen(torch.nn.Module):
    """Stands for a network and gives back what it is shown, as one feature map."""

    def forward_features(self, x):
        return x


def test_tiles_are_turned_and_mirrored_in_training_and_only_there():
    patches = PatchTokens("vit_tiny_patch16_224", size=32, depth=1)
    patches.network = Seen()
    tile = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = (tile - patches.mean) / patches.sd
    upright = shown.flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches.eval()(tile.expand(5, 3, 32, 32)), upright.expand(5, -1, -1))
    turned = [torch.rot90(shown, k, dims=(2, 3)) for k in range(4)]
    ways = torch.cat([x.flatten(2).transpose(1, 2) for t in turned for x in (t, t.flip(3))])
    torch.manual_seed(0)
    out = patches.train()(tile.expand(100, 3, 32, 32))
    same = (out[:, None] - ways[None]).abs().amax(dim=(2, 3)) < 1e-5
    assert same.sum(dim=1).tolist() == [1] * 100
    assert same.any(dim=0).all()


def test_each_feature_vector_is_a_token_of_its_own():
    tokens = FeatureTokens([4, 6], 16, dropout=0.0)
    x, other = vectors(3, 10), vectors(3, 10)
    other[:, 4:] += 1
    assert tokens(x).shape == (3, 2, 16)
    torch.testing.assert_close(tokens(x)[:, 0], tokens(other)[:, 0])
    assert (tokens(x)[:, 1] - tokens(other)[:, 1]).abs().mean() > 0.05
    torch.testing.assert_close(tokens(x).mean(dim=2), torch.zeros(3, 2), atol=1e-5, rtol=0)  # one length for all


def test_networks_of_pixels_and_genes_give_the_stated_tokens():
    genes = GeneTokens(30, 16).eval()
    torch.testing.assert_close(genes(vectors(3, 30)).flatten(1), genes.layer(vectors(3, 30)))
    assert genes(vectors(3, 30)).shape == (3, 8, 16)
    patches = PatchTokens("vit_tiny_patch16_224", size=32, depth=1)
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert patches(pixels).shape == (2, 5, patches.width)


def test_gene_tokens_keep_mean_and_variance():
    torch.manual_seed(0)
    tokens = GeneTokens(500, 64).eval()(vectors(200, 500)).detach()
    assert abs(float(tokens.mean())) < 0.3
    assert 0.5 < float(tokens.std()) < 1.2


@pytest.mark.parametrize(("n_tokens", "hidden"), [(4, 2), (5, 3), (1, 1)])
def test_whole_tokens_are_hidden(n_tokens, hidden):
    torch.manual_seed(0)
    block = Reconstruction(16, 10, Options(width=16, mask="tokens", mask_share=0.5))
    block.hidden.data.fill_(7)
    masked = block._masked(vectors(20, 16)[:, None].expand(20, n_tokens, 16))
    assert ((masked == 7).all(dim=2).sum(dim=1) == hidden).all()


def test_single_numbers_are_hidden():
    torch.manual_seed(0)
    block = Reconstruction(16, 10, Options(width=16, mask="elements", mask_share=0.25))
    zeros = (block._masked(torch.ones(100, 50, 16)) == 0).float()
    assert float(zeros.mean()) == pytest.approx(0.25, abs=0.01)
    assert float(zeros.mean(dim=2).max()) < 1


def test_fusion_layers_share_weights_only_as_published():
    own, shared = (Reconstruction(16, 10, Options(width=16, shared_fusion=s)) for s in (False, True))
    assert (len(own.blocks), len(shared.blocks)) == (2, 1)
    asked = vectors(4, 16)[:, None], vectors(4, 10), vectors(4, 16)
    own.load_state_dict(shared.state_dict() | {f"blocks.1.{k}": v for k, v in shared.blocks[0].state_dict().items()})
    losses = []
    for network in (own, shared):
        torch.manual_seed(0)
        losses.append(float(network.eval()(*asked)))
    assert losses[0] == pytest.approx(losses[1])  # the one block is gone through twice


def test_cross_attention_adds_the_others_to_oneself():
    block = CrossAttention(8, dropout=0.0).eval()
    x, y = vectors(2, 8)[:, None], vectors(2, 8, seed=1)[:, None]
    torch.testing.assert_close(block(x, y), block.own(x) + block.others(y))  # one token gets all the attention
