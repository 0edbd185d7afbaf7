"""Every part of CMRCNet does what the paper has it for: small truths that fail where the part is taken out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._aligned.training import _Monitor, _warn_of_chance
from stpredict.models._data.rows import row_store
from stpredict.models.cmrcnet import PRESETS, CmrcNet, Options
from stpredict.models.cmrcnet._network import CmrcnetNetwork, Reconstruction
from stpredict.models.nn._fusion import CrossAttention, FusionBlock, ReleasedCrossAttention
from stpredict.models.nn._losses import soft_contrastive
from stpredict.models.nn._tokens import FeatureTokens, PatchTokens

WIDTH, GENES, IMAGE = 16, 10, 16
ON_FEATURES = replace(PRESETS["published"], image_encoder=None, width=WIDTH)
OURS = Options(width=WIDTH, feature_dropout=0.0)


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def network(options):
    torch.manual_seed(0)
    return CmrcnetNetwork(FeatureTokens([4, 6], options.width, dropout=0.0), GENES, options).eval()


def rebuilding(options):
    torch.manual_seed(0)
    return Reconstruction(IMAGE, GENES, options).eval()


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def contrast(image, gene, temperature, *, normalised):
    """Loss of every spot, written out."""
    image, gene = image.numpy().astype(np.float64), gene.numpy().astype(np.float64)
    if normalised:
        image, gene = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, gene))
    logits = gene @ image.T / temperature
    alike = (image @ image.T + gene @ gene.T) / 2
    targets = softmax(alike / temperature if normalised else alike * temperature)
    to_image, to_gene = np.log(softmax(logits)), np.log(softmax(logits.T))
    return -((targets * to_image).sum(axis=1) + (targets.T * to_gene).sum(axis=1)) / 2


# ---------------------------------------------------------------------- contrast


@pytest.mark.parametrize(("normalised", "temperature"), [(True, 0.3), (False, 1.0), (False, 0.5)])
def test_the_contrastive_loss_has_soft_targets_of_both_modalities(normalised, temperature):
    image, gene = drawn(7, 3), drawn(7, 3, seed=1)
    expected = contrast(image, gene, temperature, normalised=normalised)
    how = {"temperature": temperature, "normalised": normalised, "detached": True}
    each = soft_contrastive(image, gene, reduction="none", **how)
    np.testing.assert_allclose(each, expected, rtol=1e-4)
    assert float(soft_contrastive(image, gene, **how)) == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize("options", [OURS, ON_FEATURES], ids=["default", "published"])
def test_the_logarithm_is_taken_of_each_spot_as_published_and_of_the_mean_by_default(options):
    model, x, expression = network(replace(options, reconstruction=0.0, decoder=0.0)), 3 * drawn(9, 10), drawn(9, GENES)
    losses = model.losses(x, expression)
    each = contrast(
        model.image(x).detach(), model.gene(expression).detach(), options.temperature, normalised=options.normalise
    )
    of_mean, of_each = np.log1p(each.mean()), np.log1p(each).mean()
    assert of_mean - of_each > 1e-3  # the two can be told apart
    assert losses.total.item() == pytest.approx(of_each if options is ON_FEATURES else of_mean, rel=1e-4)
    assert losses.contrastive.item() == pytest.approx(each.mean(), rel=1e-4)


def test_the_loss_is_the_sum_of_its_terms_each_at_its_weight():
    options = replace(OURS, reconstruction=0.7, decoder=0.3, rebuilt=None, mask_share=0.0)
    model, x, expression = network(options), drawn(9, 10), drawn(9, GENES)
    losses = model.losses(x, expression)
    image, tokens = model.image(x), model.tokens(x)
    predicted, measured = model.decoder(image).detach().numpy(), expression.numpy()
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, measured.T, strict=True)]
    decoder = np.square(predicted - measured).mean() + 0.5 * (1 - np.mean(correlation))
    reconstruction = model.rebuild(tokens, expression, image).item()
    contrastive = contrast(image.detach(), model.gene(expression).detach(), 0.1, normalised=True).mean()
    assert losses.decoder.item() == pytest.approx(decoder, rel=1e-4)
    assert losses.reconstruction.item() == pytest.approx(reconstruction, rel=1e-5)
    expected = np.log1p(contrastive) + 0.7 * np.log1p(reconstruction) + 0.3 * decoder
    assert losses.total.item() == pytest.approx(expected, rel=1e-4)


def test_only_as_many_spots_are_rebuilt_as_wanted():
    model, x, expression = network(replace(OURS, rebuilt=3, mask_share=0.0)), drawn(9, 10), drawn(9, GENES)
    found = model.losses(x, expression).reconstruction
    first = model.rebuild(model.tokens(x[:3]), expression[:3], model.image(x[:3]))
    assert found.item() == pytest.approx(first.item(), rel=1e-5)


# ---------------------------------------------------------------------- masked reconstruction


def slopes(options, n_tokens=20):
    """Which numbers of image tokens the rebuilt embedding depends on (60 spots, tokens, width)."""
    block = rebuilding(options)
    with torch.no_grad():
        block.image.weight.copy_(torch.eye(IMAGE))
        block.hidden.copy_(drawn(options.width))
    tokens = drawn(60, n_tokens, IMAGE).requires_grad_()
    block(tokens, drawn(60, GENES, seed=1), drawn(60, options.width, seed=2)).backward()
    return tokens.grad != 0


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_the_rebuilt_embedding_never_sees_hidden_tokens(share):
    seen = slopes(replace(OURS, mask_share=share))
    assert (seen.all(dim=2).sum(dim=1) == 20 * (1 - share)).all()
    assert (seen.any(dim=2) == seen.all(dim=2)).all()
    assert share == 0 or seen.any(dim=2).float().mean(dim=0).std() > 0  # other tokens of every spot


def test_as_published_half_of_the_numbers_are_hidden_one_by_one():
    seen = slopes(ON_FEATURES)
    assert seen.float().mean() == pytest.approx(0.5, abs=0.02)
    assert seen.any(dim=2).all()
    assert not seen.all(dim=2).any()


@pytest.mark.parametrize("options", [OURS, ON_FEATURES], ids=["default", "published"])
def test_every_spot_is_rebuilt_from_its_own_genes(options):
    block = rebuilding(replace(options, mask_share=0.0))
    tokens, expression, image = drawn(5, 2, IMAGE), 3 * drawn(5, GENES, seed=1), drawn(5, WIDTH, seed=2)
    alone = [block(tokens[i : i + 1], expression[i : i + 1], image[i : i + 1]).item() for i in range(5)]
    assert np.std(alone) > 0.01
    assert block(tokens, expression, image).item() == pytest.approx(np.mean(alone), rel=1e-5)


def silent(block):
    """A fusion block that adds nothing."""
    for layer in (block.attention.out_proj, block.mlp[3], block.cross.own, block.cross.others):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def test_image_tokens_ask_gene_tokens():
    block = rebuilding(OURS)
    for layer in block.blocks:
        silent(layer)
    with torch.no_grad():  # all gene tokens get the same attention and are handed on as they are
        block.ask.in_proj_weight.copy_(torch.cat([torch.zeros(2 * WIDTH, WIDTH), torch.eye(WIDTH)]))
        block.ask.out_proj.weight.copy_(torch.eye(WIDTH))
    expression, image = drawn(4, GENES), drawn(4, WIDTH, seed=1)
    expected = (block.genes(expression).mean(dim=1) - image).square().mean()
    assert block(drawn(4, 3, IMAGE), expression, image).item() == pytest.approx(expected.item(), rel=1e-5)
    assert block.ask.num_heads == 4


def test_all_fusion_blocks_are_gone_through():
    block = rebuilding(OURS)
    given = drawn(4, 3, IMAGE), drawn(4, GENES), drawn(4, WIDTH, seed=1)
    errors = []
    for number in (None, 0, 1):
        if number is not None:
            silent(block.blocks[number])
        torch.manual_seed(0)
        errors.append(block(*given).item())
    assert len(set(errors)) == 3


@pytest.mark.parametrize("detached", [True, False])
def test_the_embedding_to_be_rebuilt_is_held_fixed_unless_published(detached):
    image = drawn(4, WIDTH).requires_grad_()
    block = rebuilding(replace(OURS, detach_targets=detached))
    error = block(drawn(4, 3, IMAGE).requires_grad_(), drawn(4, GENES), image)
    slope = torch.autograd.grad(error, image, allow_unused=True)[0]
    assert (slope is None) == detached
    assert PRESETS["published"].detach_targets is False


# ---------------------------------------------------------------------- fusion


def linear(layer, x):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def test_released_cross_attention_is_by_heads_on_what_was_activated():
    torch.manual_seed(0)
    block, x, y = (
        ReleasedCrossAttention(WIDTH, heads=8, dropout=0.25).eval(),
        4 * drawn(2, 5, WIDTH),
        drawn(2, 3, WIDTH),
    )
    q, k = (np.maximum(linear(layer, v.numpy()), 0) for layer, v in ((block.query, x), (block.key, y)))
    own, others = linear(block.own, q), linear(block.others, k)
    expected = own.copy()
    for head in range(8):
        part = slice(2 * head, 2 * head + 2)
        weights = softmax(q[..., part] @ k[..., part].transpose(0, 2, 1) / np.sqrt(2))
        expected[..., part] += weights @ others[..., part]
    np.testing.assert_allclose(block(x, y).detach(), expected, rtol=1e-4, atol=1e-5)


def test_released_cross_attention_drops_queries_and_keys_not_the_answer():
    block = ReleasedCrossAttention(WIDTH, heads=8, dropout=1.0).train()
    out = block(drawn(2, 5, WIDTH), drawn(2, 3, WIDTH))
    torch.testing.assert_close(out, (block.own.bias + block.others.bias).expand(2, 5, WIDTH))


def test_our_cross_attention_has_one_head_on_the_tokens_themselves():
    torch.manual_seed(0)
    block, x, y = CrossAttention(WIDTH, dropout=0.25).eval(), 4 * drawn(2, 5, WIDTH), drawn(2, 3, WIDTH, seed=1)
    q, k = (np.maximum(linear(layer, v.numpy()), 0) for layer, v in ((block.query, x), (block.key, y)))
    weights = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(WIDTH))
    expected = linear(block.own, x.numpy()) + weights @ linear(block.others, y.numpy())
    np.testing.assert_allclose(block(x, y).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("released", [True, False])
def test_a_fusion_block_adds_self_attention_feed_forward_and_cross_attention_in_turn(released):
    torch.manual_seed(0)
    block, x, y = FusionBlock(WIDTH, released=released).eval(), drawn(2, 5, WIDTH), drawn(2, 3, WIDTH, seed=1)
    normed = block.norm_attention(x)
    one = x + block.attention(normed, normed, normed)[0]
    two = one + block.mlp(block.norm_mlp(one))
    torch.testing.assert_close(block(x, y), two + block.cross(two, y))
    assert block.attention.num_heads == 8
    silent(block)
    torch.testing.assert_close(block(x, y), x)


@pytest.mark.parametrize("released", [True, False])
def test_dropout_of_self_attention_is_on_its_output_as_released_and_else_on_its_weights(released):
    block, x = FusionBlock(WIDTH, dropout=1.0, cross_dropout=0.0, released=released).train(), drawn(2, 5, WIDTH)
    nn.init.ones_(block.attention.out_proj.bias)
    for layer in (block.cross.own, block.cross.others):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    torch.testing.assert_close(block(x, x), x if released else x + 1)
    assert block.attention.dropout == (0.0 if released else 1.0)


def test_the_published_network_is_built_as_released():
    fusion = network(ON_FEATURES).rebuild.blocks
    assert len(fusion) == 1
    assert isinstance(fusion[0].cross, ReleasedCrossAttention)
    assert (fusion[0].cross.heads, fusion[0].cross.dropout.p) == (8, 0.25)
    assert network(ON_FEATURES).decoder is None
    assert [type(block.cross) for block in network(OURS).rebuild.blocks] == [CrossAttention, CrossAttention]
    small = replace(PRESETS["published"], image_encoder="vit_tiny_patch16_224", depth=2)
    blocks = CmrcNet.build_network(small, {"features": {}}, GENES).tokens.network.blocks
    assert [block.attn.num_heads for block in blocks] == [8, 8]
    assert PatchTokens("vit_tiny_patch16_224", size=32, depth=1).network.blocks[0].attn.num_heads == 3


def test_the_embedding_of_an_image_is_of_the_mean_of_its_tokens():
    model, x = network(OURS), drawn(4, 10)
    torch.testing.assert_close(model.image(x), model.image_head(model.tokens(x).mean(dim=1)))
    swapped = model.tokens.embed[1](x[:, 4:])
    torch.testing.assert_close(model.tokens(x)[:, 1], swapped)


# ---------------------------------------------------------------------- expression and read-out


def inputs(sections, **options):
    """What networks learn from, as one array of expression and the section of every spot."""
    opened = [open_sections(adata)[0] for adata in sections]
    model, genes = CmrcNet(seed=0, **options), list(sections[0].var_names)
    with row_store(opened) as store:
        made = model._inputs(model._table(opened, genes, [s.name for s in opened], store), opened, store)
        return made.tensors.genes[0].numpy(), made.table.section, made.table.expression


@pytest.fixture
def uneven(paired):
    """Two sections, the second with half of the genes three times as high."""
    sections = paired(2)
    sections[1].X[:, ::2] *= 3
    return sections


def test_genes_are_standardised_and_sections_aligned_before_networks_see_them(uneven):
    seen, section, _ = inputs(uneven)
    for number in (0, 1):
        np.testing.assert_allclose(seen[section == number].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(seen.std(axis=0), 1, rtol=1e-4)


def test_sections_stay_as_they_are_where_the_options_say_so(uneven):
    seen, section, _ = inputs(uneven, level_sections=False)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-4)
    assert np.abs(seen[section == 0].mean(axis=0)).max() > 0.2


def test_published_networks_see_log_expression(uneven):
    seen, section, _ = inputs(uneven, preset="published", image_encoder=None)
    for number, adata in enumerate(uneven):
        expected = open_sections(adata)[0].log_expression(list(adata.var_names))
        np.testing.assert_allclose(seen[section == number], expected, rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_where_ten_nearest_are_all_there_are_guessing_is_never_told_from_learning():
    _warn_of_chance("CMRCNet", 1.0, 1.0, 10)
    with pytest.raises(UserWarning, match="not left chance"):
        _warn_of_chance("CMRCNet", 0.5, 0.5, 20)


def test_held_out_contrast_is_of_whole_batches():
    monitor = object.__new__(_Monitor)
    monitor.size, seen = 4, []
    monitor.network = SimpleNamespace(contrastive=lambda image, gene: seen.append((image, gene)) or len(seen))
    rows = np.arange(9.0)[:, None]
    assert monitor._contrastive(rows, rows + 100) == 1.5  # of two batches; the spot that is left has none
    assert [image.shape for image, _ in seen] == [(4, 1)] * 2
    assert len({float(x) for image, _ in seen for x in image[:, 0]}) == 8
    assert all(bool((gene == image + 100).all()) for image, gene in seen)


def test_a_new_section_is_aligned_and_standardised_as_in_training(uneven):
    how = {"method": "cmrcnet", "epochs": 1, "members": 1, "width": 16, "show_progress": False}
    with pytest.warns(UserWarning, match="not left chance"):
        model = st.tl.train(uneven[:1], genes=list(uneven[0].var_names), **how)
    found = model.expression(open_sections(uneven[1])[0])[0]
    raw = open_sections(uneven[1])[0].log_expression(model.genes)
    np.testing.assert_allclose(found, (raw - raw.mean(axis=0)) / model.arrays["gene_sd"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("weighted", "neighbours"), [(True, 200), (True, 6), (False, 6)])
def test_a_prediction_is_the_weighted_mean_of_the_nearest_reference_spots(paired, weighted, neighbours):
    train, new = paired(2)
    how = {"method": "cmrcnet", "epochs": 1, "members": 1, "width": 16, "show_progress": False, "learning_rate": 0.01}
    options = {"weighted": weighted, "neighbours": neighbours, "temperature": 0.2}
    model = st.tl.train(train, genes=list(train.var_names), **how, **options)
    section = open_sections(new)[0]
    similarity = model.embed(section) @ model.arrays["bank"].astype(np.float32).T
    expression = model.arrays["expression"].astype(np.float32)
    expected = []
    for row in similarity:
        nearest = np.argsort(-row)[:neighbours]
        weights = np.exp(row[nearest] / 0.2) if weighted else np.ones(len(nearest))
        expected.append(weights @ expression[nearest] / weights.sum())
    np.testing.assert_allclose(model.predict(section).mean, expected, rtol=2e-3, atol=2e-3)
