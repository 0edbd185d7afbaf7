"""Sentences of a model's card, from configurations written by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stpredict.models._base.card import model_card

MADE = {
    "encoder": "morphology",
    "encoder_hash": "f00d",
    "mpp": 0.5,
    "n_features": 4,
    "spot_um": 112.0,
    "niche_um": 560.0,
}
REACHED = np.stack([np.arange(10) / 10, np.full(10, 0.2), np.full(10, 0.6)])


def config_of(sections="ab", groups="PQ", made=MADE, **more):
    features = {"X": made, "X_niche": made, "X_niche_900": made | {"niche_um": 900.0}}
    return {"features": features, "sections": list(sections), "groups": list(groups), "n_spots": 1200} | more


def adapted(base, **more):
    return {"features": base["features"], "base": {"config": base}, "sections": ["new"], "n_spots": 81} | more


def model(config, *, arrays=None, provenance=None, is_judged=True):
    trust = SimpleNamespace(reliability=is_judged or None, expected=lambda _, genes: (REACHED[:, genes], None))
    genes = [f"G{i}" for i in range(10)]
    return SimpleNamespace(
        config=config, method="ridge", genes=genes, arrays=arrays or {}, provenance=provenance or {}, trust=trust
    )


def card(config, *, licence="mit", how=None, **more):
    return model_card(model(config, **more), "lab/breast", licence=licence, **(how or {}))


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        (
            config_of(),
            [
                "# breast\n",
                "Predicts the expression of 10 genes from H&E images. Made",
                "| sections | 2 |\n| patients | 2 |\n| spots | 1,200 |\n| genes | 10 (",
                "| encoder morphology | weights `f00d`; windows of 112 µm, 560 µm, 900 µm; 0.5 µm per pixel |",
                'predict_many("slides", model, "predicted")\n',
                "on sections held out of training: 0.45 on average over genes (0.09 to 0.81 for the middle 80 % of genes)",
                "is 0.20 to 0.60 on average",
                "- Only 2 patients: what",
                "names the sections and patients of training",
                "## Licence\n\nThe model: mit.\n\n",
                "This repository with its commit (`lab/breast@<commit>`)",
            ],
        ),
        (config_of("abc", "PQR"), ["on patients held out of training: 0.45"]),
        (
            config_of("abc", "abc"),
            [
                "| patients | not told |",
                "on sections held out",
                "- Not told how many patients:",
                "the sections of training",
            ],
        ),
        (config_of("a", "P"), ["on strips of the only section held out", "- Only 1 patient: what"]),
        (config_of(made=MADE | {"stain_norm": "macenko"}), ["0.5 µm per pixel; stains normalised (macenko) |"]),
        (config_of(made=MADE | {"niche": "ring 2"}), ["windows of ring 2, ring 2, ring 2;"]),
        (
            config_of(made=MADE | {"encoder": "resnet50"}),
            [
                'model, "predicted", encoder=network)',
                "`network` is the encoder named below",
                "per pixel; licence not known to stpredict |",
                "Weights of the encoder `resnet50`, which are not in this repository: not known to stpredict; ask its makers.",
            ],
        ),
        (
            config_of(made={"n_features": 4}),
            [
                "| features of their own | `X`, `X_niche`, `X_niche_900` |",
                "`adata.obsm` needs",
                "st.tl.predict_expression(adata, model)",
            ],
        ),
        (
            adapted(config_of("abc", "PQR")),
            [
                "| sections | 3 |\n| patients | 3 |\n| spots | 1,200 |",
                "| adapted to | 81 measured spots of 1 section |",
                "out of training and on measured spots left out of the adaptation: 0.45",
                "- Holds what was measured on 81 spots that it was adapted to",
            ],
        ),
        (
            adapted(adapted(config_of())) | {"sections": ["c", "d"]},
            ["| spots | 1,200 |", "81 measured spots of 2 sections |"],
        ),
        (
            config_of(has_bank=False, without_bank={"inner_pcc": [0.5, 0.25]}),
            [
                "it would predict better: on inner held-out spots the mean correlation is 0.250 without and 0.500 with them."
            ],
        ),
        (
            config_of(has_bank=False, without_bank={"inner_pcc": [0.25, 0.25]}),
            ["it predicts as well as with them: the mean correlation is 0.250 without and 0.250 with them."],
        ),
        (
            adapted(config_of(options={"image_encoder": "efficientnet_lite0", "pretrained": True})),
            [
                "| network on pixels | `efficientnet_lite0`, from published weights, trained along |",
                "It contains weights that began as `efficientnet_lite0`: Apache-2.0.",
            ],
        ),
    ],
)
def test_the_card_says(config, lines):
    text = card(config)
    for line in lines:
        assert line in text


def test_the_card_does_not_say():
    plain = card(config_of("abc", "PQR"))
    for word in (
        "adapted",
        "Holds",
        "network",
        "Only",
        "licence",
        "normalised",
        "permits",
        "Weights",
        "began",
        "not told how",
    ):
        assert word not in plain.replace("not told |", "")
    assert "began" not in card(config_of(options={"image_encoder": "resnet50", "pretrained": False}))
    assert "Nothing is known" in card(config_of(), is_judged=False)
    assert "and patients" not in card(config_of("ab", "ab"))
    along = card(config_of(made=MADE | {"encoder": "resnet50"}, options={"image_encoder": "resnet50"}))
    assert "Weights of the encoder" not in along
    assert "began as `resnet50`: see the licence of these." in along


def test_what_the_makers_say_is_in_the_card():
    text = card(config_of(), licence="CC-BY-4.0", how={"tissue": "human breast", "cite": "Doe", "has_permission": True})
    for line in (
        "from H&E images of human breast. Made",
        "| tissue | human breast |",
        "license: cc-by-4.0\n",
        "- human breast\n",
        "The model: cc-by-4.0. Its makers say that the holder",
        "## Cite\n\nDoe\n",
    ):
        assert line in text
    held = {
        "bank_expression": np.zeros((1500, 2)),
        "expression": np.zeros((20, 2)),
        "no_expressions": np.zeros((9999, 2)),
    }
    assert "Holds the expression of 1,500 training spots" in card(config_of(), arrays=held)


@pytest.mark.parametrize("licence", ["", "mit licence", None, 3, "-x"])
def test_a_licence_that_is_none_is_refused(licence):
    with pytest.raises(ValueError, match="is no name of a licence"):
        card(config_of(), licence=licence)


@pytest.mark.parametrize("tissue", ["", "  ", "a\nb"])
def test_a_tissue_is_one_line(tissue):
    with pytest.raises(ValueError, match="should be one line"):
        card(config_of(), how={"tissue": tissue})


def test_what_is_not_the_makers_to_pass_on_is_refused():
    with pytest.raises(ValueError, match="STPath was trained by others"):
        card(config_of(), provenance={"model": "STPath"})
    card(adapted(config_of()), provenance={"model": "STPath"})
    restricted = config_of(made=MADE | {"encoder": "uni2-h"})
    with pytest.raises(ValueError, match=r"'uni2-h', whose licence .* forbids derivatives"):
        card(restricted)
    assert 'encoder="uni2-h")' in card(restricted, how={"has_permission": True})
