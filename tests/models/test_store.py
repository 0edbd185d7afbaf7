from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import stpredict as st
from stpredict._sections.open import open_sections
from stpredict.models._base import files


@pytest.fixture
def saved(paired, tmp_path):
    model = st.tl.train(paired(3), genes=["GENE1", "GENE4"], method="ridge")
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("method", ["mean", "density", "ridge", "knn"])
def test_a_loaded_model_predicts_bit_for_bit_the_same(paired, tmp_path, method):
    train, new = paired(3)[:2], open_sections(paired(3)[2])[0]
    model = st.tl.train(train, method=method, genes=["GENE1", "GENE4", "GENE9"])
    model.save(tmp_path / "deep" / "model")
    again = st.models.load(tmp_path / "deep" / "model")
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.history == model.history
    assert files.identity(again) == files.identity(model)
    before, after = model.predict(new), again.predict(new)
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.std, after.std)
    assert after.genes == ["GENE1", "GENE4", "GENE9"]


def test_large_models_are_mapped_and_are_the_same(paired, tmp_path, monkeypatch):
    train, new = paired(3)[:2], open_sections(paired(3)[2])[0]
    path = tmp_path / "model"
    model = st.tl.train(train, method="knn")
    model.save(path)
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    again = st.models.load(path)
    assert not any(array.flags.owndata for array in again.arrays.values() if array.size)
    np.testing.assert_array_equal(again.predict(new).mean, model.predict(new).mean)
    again.arrays["expression"] += 1  # changes no file
    again = st.models.load(path)
    again.save(path)
    np.testing.assert_array_equal(st.models.load(path).predict(new).mean, model.predict(new).mean)
    content = (path / "model.safetensors").read_bytes()
    for damaged in (content[:-100], content[:50], b"", content[:-100] + bytes(100)):
        (path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            st.models.load(path)


def test_models_of_usual_size_are_read_whole_and_do_not_follow_their_file(saved):
    model = st.models.load(saved)
    before = {name: array.copy() for name, array in model.arrays.items()}
    with (saved / "model.safetensors").open("r+b") as file:
        file.seek(0, 2)
        n = file.tell()
        file.seek(n // 2)
        file.write(bytes(n - n // 2))
    for name, array in model.arrays.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("options", [{"method": "ridge"}, {"method": "cmrcnet", "epochs": 2, "members": 1}])
def test_the_same_training_writes_the_same_files(paired, tmp_path, options):
    for name in ("one", "other"):
        st.tl.train(paired(3), genes=["GENE1", "GENE4"], seed=3, **options).save(tmp_path / name)
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_identity_tells_models_apart(paired):
    sections = paired(3)
    first, same, other = (st.tl.train(sections, genes=g, method="ridge") for g in (["GENE1"], ["GENE1"], ["GENE2"]))
    assert files.identity(first) == files.identity(same)
    assert files.identity(first) != files.identity(other)


def test_saving_replaces_a_model_and_leaves_nothing_else(paired, saved):
    st.tl.train(paired(3), method="mean", genes=["GENE2"]).save(saved)
    assert st.models.load(saved).method == "mean"
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_saving_never_replaces_something_else(paired, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    model = st.tl.train(paired(2), method="mean", genes=["GENE2"])
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(FileExistsError, match="is not a model; choose another path"):
            model.save(path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_failed_save_leaves_the_old_model(paired, saved, monkeypatch):
    model = st.tl.train(paired(3), method="mean", genes=["GENE2"])
    model.config["odd"] = object()
    with pytest.raises(TypeError):
        model.save(saved)
    assert st.models.load(saved).method == "ridge"
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_an_untrained_model_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="not trained"):
        st.models.METHODS["ridge"]().save(tmp_path / "model")


def edit_json(path, **changes):
    rest = json.loads((path / "model.json").read_text())
    rest.update(changes)
    (path / "model.json").write_text(json.dumps(rest))


def bad_json(path):
    (path / "model.json").write_text('{"format": 1, "method"')


def not_an_object(path):
    (path / "model.json").write_text("[1, 2]")


def deep_json(path):
    (path / "model.json").write_text("[" * 100_000)


def no_bytes(path):
    (path / "model.json").write_bytes(b"\xff\xfe\x00")


def lacking_genes(path):
    edit_json(path, genes=None)


def odd_genes(path):
    edit_json(path, genes=[1, 2])


def truncated(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def empty(path):
    (path / "model.safetensors").write_bytes(b"")


def flipped(path):
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 0xFF
    file.write_bytes(bytes(content))


def tampered_config(path):
    edit_json(path, config={})


def renamed_gene(path):
    edit_json(path, genes=["GENE1", "GENE5"])


@pytest.mark.parametrize(
    "damage",
    [
        bad_json,
        not_an_object,
        deep_json,
        no_bytes,
        lacking_genes,
        odd_genes,
        truncated,
        empty,
        flipped,
        tampered_config,
        renamed_gene,
    ],
)
def test_damage_is_one_clear_error(saved, damage):
    damage(saved)
    with pytest.raises(ValueError, match=r"is damaged.*save.* again"):
        st.models.load(saved)


def test_newer_formats_and_unknown_methods_are_told(saved):
    edit_json(saved, format=2)
    with pytest.raises(ValueError, match=r"has format 2.*update stpredict"):
        st.models.load(saved)
    stored = files.Stored("oracle", ["A"], {}, {"x": np.zeros(1)})
    files.write(saved, stored)
    with pytest.raises(
        ValueError, match="is a 'oracle'; this version of stpredict knows consensus, mean, density, ridge, knn"
    ):
        st.models.load(saved)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_missing_files_are_told(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        st.models.load(saved)


def test_arrays_that_do_not_fit_are_refused_even_when_signed(saved):
    stored = files.read(saved)
    for arrays in (
        {**stored.arrays, "weights": stored.arrays["weights"][:-1]},
        {**stored.arrays, "weights": stored.arrays["weights"][:, :1]},
        {k: v for k, v in stored.arrays.items() if k != "intercept"},
        {**stored.arrays, "more": np.zeros(2)},
    ):
        files.write(saved, files.Stored(stored.method, stored.genes, stored.config, arrays))
        with pytest.raises(ValueError, match="missing or of wrong shape"):
            st.models.load(saved)


def test_loading_as_another_method_points_to_load(saved):
    with pytest.raises(ValueError, match=r"is a 'ridge', not a 'mean'; use stpredict.models.load"):
        st.models.METHODS["mean"].load(saved)
    assert st.models.METHODS["ridge"].load(saved).genes == ["GENE1", "GENE4"]


def test_files_are_plain_safetensors_and_json(saved):
    arrays = load_file(saved / "model.safetensors")
    learned = {name for name in arrays if not name.startswith(("domain_", "held_out_"))}
    assert learned == {"weights", "intercept", "residual_sd"}
    rest = json.loads((saved / "model.json").read_text())
    assert rest["config"]["features"]["X_fake"]["encoder"] == "fake"
    save_file(arrays, saved / "model.safetensors")
    assert st.models.load(saved).genes == ["GENE1", "GENE4"]


def test_a_configuration_of_no_model_is_one_clear_error(saved):
    stored = files.read(saved)
    rest = json.loads((saved / "model.json").read_text())
    del rest["config"]["features"]
    rest["method"] = "cmrcnet"
    rest["id"] = files.identity(files.Stored("cmrcnet", stored.genes, rest["config"], stored.arrays))
    (saved / "model.json").write_text(json.dumps(rest))
    with pytest.raises(ValueError, match=r"The model at .* is damaged: model.json describes no model of method"):
        st.models.load(saved)
