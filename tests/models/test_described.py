"""Models and histories say what they are when they are printed."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as st
from stpredict.models import History
from stpredict.models.baselines.ridge import Ridge


@pytest.fixture
def ridge(paired):
    return st.tl.train(paired(3, patients=["P0", "P1", "P1"]), method="ridge")


def facts_of(text):
    """What is told by its label; a remark may have several lines."""
    facts, label = {}, ""
    for line in text.split("\n")[1:]:
        if line.startswith("   "):
            facts[label] += "\n" + line.strip()
        else:
            label, told = line.strip().split("  ", 1)
            facts[label] = told.strip()
    return facts


def test_a_model_names_method_genes_features_scale_sections_patients_and_score(ridge):
    assert repr(ridge).split("\n")[0] == "Model of method 'ridge'"
    facts = facts_of(repr(ridge))
    assert facts["genes"].split(": ")[0] == "15"
    assert all(gene in facts["genes"] for gene in ridge.genes[:3])
    assert ridge.genes[3] not in facts["genes"]
    assert "X_fake (fake, 112 µm, 1 µm/px)" in facts["features"]
    assert "X_fake_niche (fake, 560 µm, 1 µm/px)" in facts["features"]
    assert facts["trained on"] == "3 sections (section0, section1, section2) of 2 patients, 243 spots"
    assert f"PCC {ridge.history.score:.2f}" in facts["held-out score"]
    assert "alpha = " in facts["remarks"]


def test_patients_are_not_told_where_none_were_named(paired):
    sections = paired(2)
    for section in sections:
        del section.obs["patient"]
    assert "patient" not in repr(st.tl.train(sections, method="mean"))


def test_a_saved_model_says_the_same(ridge, tmp_path):
    ridge.save(tmp_path / "model")
    assert repr(st.models.load(tmp_path / "model")) == repr(ridge)


def test_html_holds_the_same_facts_and_names_cannot_break_it(ridge):
    for label, told in facts_of(repr(ridge)).items():
        assert f">{label}</th>" in ridge._repr_html_()
        assert f">{'<br>'.join(told.splitlines())}</td>" in ridge._repr_html_()
    ridge.genes[0] = "<script>"
    assert "<script>" not in ridge._repr_html_()
    assert "&lt;script&gt;" in ridge._repr_html_()


def test_an_untrained_model_says_so():
    assert repr(Ridge()) == "Model of method 'ridge', not trained"
    assert "not trained" in Ridge()._repr_html_()


@pytest.mark.parametrize("method", sorted(st.models.METHODS))
def test_a_model_of_every_method_prints(method):
    assert repr(st.models.METHODS[method]()) == f"Model of method {method!r}, not trained"


def test_an_adapted_model_tells_what_it_was_trained_on_and_adapted_to(paired, ridge):
    new = paired(4)[3]
    new.obs["measured"] = np.arange(new.n_obs) < 30
    told = repr(st.tl.adapt(new, ridge, measured="measured"))
    assert "3 sections (section0, section1, section2) of 2 patients, 243 spots" in told
    assert "30 spots of 1 section (section3)" in told
    assert "each left out; before adapting" in told


def test_genes_that_a_model_did_not_learn_from_are_counted():
    model = st.models.METHODS["consensus"]()
    model.genes, model.arrays = list("ABCD"), {"weights": np.ones(1)}
    model.config = {"vocabulary": list("ABCDEF"), "history": {"values": {}, "notes": []}}
    assert facts_of(repr(model))["genes"] == "4: A, B, C, …; it also predicts 2 genes that it did not learn from"


def test_a_history_tells_score_remarks_and_values():
    history = History(
        {"val_pcc": [0.1, 0.25], "train_total": [2.0, 1.0], "best_epoch": [2]}, ["two epochs", "no folds"]
    )
    assert repr(history).split("\n") == [
        "Training history",
        "  held-out score  PCC 0.25, mean over genes on inner held-out spots",
        "  remarks         two epochs",
        "                  no folds",
        "  values          val_pcc, train_total (2 values); best_epoch (1 value)",
    ]
    assert ">two epochs<br>no folds</td>" in history._repr_html_()
    assert repr(History()) == "Training history"


def test_a_model_with_odd_values_from_a_file_can_still_be_printed(ridge):
    ridge.config["history"] = {"values": {"rmse_base": [], "rmse_adapted": []}, "notes": []}
    ridge.config["reference"] = {"n_studies": "many"}
    assert "held-out score" not in repr(ridge)
