from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat, read_h5ad

import stpredict as st
from stpredict._evaluation.metrics import pearson
from stpredict._sections.open import open_sections
from stpredict.datasets._simulated_counts import GENES
from stpredict.models._base import files
from stpredict.models.align_st import Options
from stpredict.models.align_st._options import PRESETS

FAST = {"method": "align_st", "show_progress": False, "epochs": 2, "members": 1, "width": 32}
SEEN = [gene for gene in GENES[:50] if gene not in ("KRT18", "CDK1")]


@pytest.fixture
def sections(paired):
    """Four sections of three patients, 60 genes with real symbols; features drive the counts."""
    out = paired(4, n_genes=60, patients=["A", "A", "B", "C"])
    for adata in out:
        adata.var_names = GENES[:60]
    return out


@pytest.fixture(scope="module")
def trained():
    """Models that tests only look at, trained once by their arguments."""
    models = {}

    def get(sections, **kwargs):
        key = repr(sorted(kwargs.items()))
        if key not in models:
            models[key] = train(sections[:3], **kwargs)
        return models[key]

    return get


def train(sections, **kwargs):
    return st.tl.train(sections, **{"genes": SEEN, **FAST, **kwargs})


def opened(adata):
    return open_sections(adata)[0]


def without_image(adata):
    adata = adata.copy()
    adata.obsm.clear()
    adata.uns.clear()
    adata.layers.clear()
    return adata


def programme_table(names, programme, *, d=6, noise=0.1, seed=0):
    """Embeddings that tell nothing but the programme of every gene."""
    rng = np.random.default_rng(seed)
    corner = {name: rng.standard_normal(d) for name in dict.fromkeys(programme)}
    values = np.array([corner[name] for name in programme]) + noise * rng.standard_normal((len(programme), d))
    return pd.DataFrame(values, index=names)


def score(model, adata, columns):
    """Mean PCC with the truth in these columns."""
    return pearson(adata.layers["truth"][:, list(columns)], model.predict(opened(adata)).mean)[0].mean()


# ---------------------------------------------------------------------- what it predicts


def test_seen_genes_of_an_unseen_section_are_predicted_near_the_truth(sections):
    model = train(sections[:3], epochs=15)
    truth = sections[3].layers["truth"][:, [GENES.index(gene) for gene in SEEN]]
    assert pearson(truth, model.predict(opened(sections[3])).mean)[0].mean() > 0.75
    values = model.history.values
    assert values["val_pcc"][values["best_epoch"][0] - 1] == max(values["val_pcc"])
    assert "inner folds hold out sections (3)" in model.history.notes[0]
    assert "9 hidden genes" in model.history.notes[0]


def test_genes_that_nobody_measured_are_predicted_and_told_apart(sections, trained, tmp_path):
    model, new = trained(sections), sections[3][:, :55].copy()
    asked = ["ERBB2", "KRT18", "CD45", "ENSG00000170312.17", "NOT_A_GENE"]  # seen, unseen, alias, id of CDK1
    with pytest.warns(UserWarning, match="does not know 1 of the genes asked for; they are NaN: NOT_A_GENE"):
        st.tl.predict_expression(new, model, genes=asked)
    assert list(new.var_names[new.var["predicted"]]) == ["ERBB2", "KRT18", "CDK1"]
    assert np.isfinite(new[:, "KRT18"].layers["predicted"]).all()
    frame = new.obsm["predicted_genes"]
    assert list(frame) == ["CD45", "NOT_A_GENE"]
    assert np.isfinite(frame["CD45"]).all()
    assert frame["NOT_A_GENE"].isna().all()
    assert np.ptp(frame["CD45"]) > 0
    told = pd.DataFrame(new.uns["predicted"]["unseen"]).set_index("genes")
    assert set(told.index) == {"KRT18", "CD45", "CDK1"}
    assert told["distance"].between(0, 2).all()
    new.write_h5ad(tmp_path / "new.h5ad")
    again = read_h5ad(tmp_path / "new.h5ad").uns["predicted"]["unseen"]
    assert again["genes"].tolist() == list(told.index)
    for name in ("distance", "reliability"):
        np.testing.assert_array_equal(again[name], told[name].astype(np.float32))


def test_unseen_genes_are_named_as_they_are_written(sections, trained):
    new = sections[3].copy()
    new.var_names = ["ENSG00000111057" if gene == "KRT18" else gene for gene in new.var_names]
    st.tl.predict_expression(new, trained(sections), genes=["KRT18", "CD45"])
    assert set(new.uns["predicted"]["unseen"]["genes"]) == {"ENSG00000111057", "CD45"}
    assert new.var_names[new.var["predicted"]].tolist() == ["ENSG00000111057"]


def test_seen_genes_alone_have_nothing_unseen(sections, trained, tmp_path):
    model, new = trained(sections), sections[3]
    st.tl.predict_expression(new, model)
    assert new.var["predicted"].sum() == len(SEEN)
    assert len(new.uns["predicted"]["unseen"]["genes"]) == 0
    new.write_h5ad(tmp_path / "new.h5ad")
    assert len(read_h5ad(tmp_path / "new.h5ad").uns["predicted"]["unseen"]["genes"]) == 0


def test_what_else_is_asked_for_changes_no_gene(sections, trained):
    for kwargs in ({}, {"text_layers": 1, "gene_neighbours": 3}):
        model, section = trained(sections, **kwargs), opened(sections[3])
        whole = model.predict(section, ["KRT18", "ERBB2", "MS4A1", *SEEN[1:9]])
        part = model.predict(section, ["MS4A1", "NOT_A_GENE", "ERBB2"])
        assert part.genes == ["MS4A1", "NOT_A_GENE", "ERBB2"]
        np.testing.assert_allclose(part.mean[:, [0, 2]], whole.mean[:, [2, 1]], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(part.std[:, [0, 2]], whole.std[:, [2, 1]])
        assert np.isnan([part.mean[:, 1], part.std[:, 1]]).all()
        assert part.unseen["genes"].tolist() == ["MS4A1"]
        assert (whole.std > 0).all()


def test_reliability_is_what_hidden_genes_reach(sections):
    """Three programmes, each driven by a feature, and genes that nothing drives; embeddings tell which is which."""
    names = [f"{gene}_unknown" for gene in GENES[:80]]
    programme = [str(i % 4) for i in range(80)]
    driven = np.array(programme) != "3"
    for number, adata in enumerate(sections):
        features = np.column_stack([adata.obsm["X_fake"][:, :3], np.zeros(81)])
        rate = 20 * np.exp(features[:, [int(name) for name in programme]])
        sections[number] = AnnData(np.random.default_rng(number).poisson(rate).astype(np.float32), obs=adata.obs)
        sections[number].var_names = names
        sections[number].obsm, sections[number].uns = adata.obsm, adata.uns
    table = programme_table(names, programme, noise=0.3)
    hidden = [names[i] for i in range(0, 80, 5)]
    seen = [name for name in names if name not in hidden]
    model = train(sections[:3], genes=seen, gene_embeddings=table, epochs=15)
    out = model.predict(opened(sections[3]), hidden)
    reached = pearson(opened(sections[3]).log_expression(hidden), out.mean)[0]
    assert (out.unseen["genes"] == hidden).all()
    follow = driven[::5]
    assert reached[follow].mean() > 0.5
    assert out.unseen["reliability"].mean() == pytest.approx(reached.mean(), abs=0.2)
    few = train(sections[:2], genes=seen[:30], gene_embeddings=table)
    assert np.isnan(few.predict(opened(sections[3]), hidden[-2:]).unseen["reliability"]).all()


def test_embedding_has_the_tiles_of_all_members(sections):
    model = train(sections[:2], members=2)
    assert model.embed(opened(sections[3])).shape == (81, 64)
    with pytest.raises(ValueError, match="'align_st', must be one of 'image'"):
        model.embed(opened(sections[3]), use="expression")


# ---------------------------------------------------------------------- seeds, storage, resuming


def test_the_same_seed_gives_the_same_model_and_another_another(sections):
    asked = ["ERBB2", "KRT18"]
    one, same, other = (train(sections[:2], seed=s).predict(opened(sections[3]), asked).mean for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_training_leaves_global_randomness_alone(sections):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(sections[:2], epochs=1, text_layers=1)
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.parametrize("own", [False, True])
def test_a_stored_model_predicts_bit_for_bit_the_same(sections, tmp_path, own):
    table = programme_table(GENES, [str(i % 7) for i in range(len(GENES))], d=12) if own else None
    how = {"text_layers": 1, "gene_neighbours": 3, "members": 2}
    model = train(sections[:2], gene_embeddings=table, **how)
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    assert (again.options, again.vocabulary, again.genes) == (model.options, model.vocabulary, model.genes)
    assert again.history == model.history
    for genes in (None, ["CD3D", "ERBB2"]):
        before, after = (one.predict(opened(sections[3]), genes) for one in (model, again))
        np.testing.assert_array_equal(before.mean, after.mean)
        np.testing.assert_array_equal(before.std, after.std)
        for name in ("distance", "reliability"):
            np.testing.assert_array_equal(before.unseen[name], after.unseen[name])
    assert ("ABL1" in again.vocabulary) != own


def fewer_names(stored):
    stored.config["vocabulary"] = stored.config["vocabulary"][:-1]


def other_order(stored):
    stored.config["vocabulary"] = stored.config["vocabulary"][::-1]


def a_name_twice(stored):
    stored.config["vocabulary"][-1] = stored.config["vocabulary"][0]


def fewer_coordinates(stored):
    stored.arrays["gene_coordinates"] = stored.arrays["gene_coordinates"][:-1]


def fewer_axes(stored):
    stored.arrays["gene_coordinates"] = stored.arrays["gene_coordinates"][:, :-1]


def no_level(stored):
    del stored.arrays["gene_level"]


def more_members(stored):
    stored.config["options"]["members"] = 2


def wrong_reliability(stored):
    stored.arrays["reliability"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    "damage",
    [
        fewer_names,
        other_order,
        a_name_twice,
        fewer_coordinates,
        fewer_axes,
        no_level,
        more_members,
        wrong_reliability,
    ],
)
def test_a_damaged_model_is_refused(sections, trained, tmp_path, damage):
    trained(sections).save(tmp_path / "model")
    stored = files.read(tmp_path / "model")
    damage(stored)
    files.write(tmp_path / "model", stored)
    with pytest.raises(ValueError, match=r"is damaged: .*save it again"):
        st.models.load(tmp_path / "model")


def test_nothing_is_unpickled(sections, trained, tmp_path, monkeypatch):
    import pickle

    trained(sections).save(tmp_path / "model")
    monkeypatch.setattr(pickle, "Unpickler", None)
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "loads", None)
    assert st.models.load(tmp_path / "model").method == "align_st"
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize(("cut_at", "left"), [(3, [2, 3, 4, 0, 1, 2, 3, 4]), (8, [2, 3, 4])])
def test_an_interrupted_training_goes_on_to_the_same_numbers(sections, tmp_path, monkeypatch, cut_at, left):
    from stpredict.models._training.loop import _Module

    how = {"epochs": 5, "learning_rate": 1e-4}  # so low that the fifth epoch is the best
    expected = train(sections[:2], **how).predict(opened(sections[3]), ["ERBB2", "KRT18"])
    start, epochs = _Module.on_train_epoch_start, []

    def cut_short(self):
        epochs.append(self.current_epoch)
        if len(epochs) == cut_at:
            raise OSError(28, "No space left")
        start(self)

    monkeypatch.setattr(_Module, "on_train_epoch_start", cut_short)
    with pytest.raises(OSError, match="No space left"):
        train(sections[:2], checkpoint=tmp_path / "run", **how)
    cut_at = 99
    epochs.clear()
    resumed = train(sections[:2], checkpoint=tmp_path / "run", **how)
    resumed = resumed.predict(opened(sections[3]), ["ERBB2", "KRT18"])
    np.testing.assert_array_equal(resumed.mean, expected.mean)
    np.testing.assert_array_equal(resumed.std, expected.std)
    np.testing.assert_array_equal(resumed.unseen["reliability"], expected.unseen["reliability"])
    assert epochs == left


def test_a_checkpoint_of_other_options_or_data_is_refused(sections, tmp_path):
    train(sections[:2], checkpoint=tmp_path / "run")
    for others, kwargs in ((sections[:2], {"alpha": 0.3}), (sections[1:3], {}), (sections[:2], {"seed": 3})):
        with pytest.raises(ValueError, match="is of a run on other data or with other options"):
            train(others, checkpoint=tmp_path / "run", **kwargs)


def test_progress_goes_to_the_error_stream_and_only_if_wanted(sections, capfd):
    train(sections[:2])
    assert capfd.readouterr() == ("", "")
    train(sections[:2], show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "val_pcc" in err


# ---------------------------------------------------------------------- expression without images


@pytest.mark.filterwarnings("ignore:Fewer than 20 genes")
def test_genes_that_only_a_reference_measures_are_predicted(sections):
    """They have no name that says anything, so that co-expression is all there is."""
    *known, reference = sections
    names = [f"{gene}_unknown" for gene in GENES[:60]]
    for adata in sections:
        adata.var_names = names
    new = known.pop()
    reference = without_image(reference)
    model = train([adata[:, :45].copy() for adata in known], genes=names[:45], reference=reference, epochs=15)
    assert model.vocabulary == names
    assert model.config["reference"] == {"n_studies": 1, "n_spots": 81, "n_genes": 45}
    out = model.predict(opened(new), names)
    pcc = pearson(new.layers["truth"], out.mean)[0]
    assert pcc[45:].mean() > 0.8 * pcc[:45].mean() > 0.5
    assert out.unseen["genes"].tolist() == names[45:]


@pytest.mark.filterwarnings("ignore:Fewer than 20 genes")
def test_seen_genes_that_no_reference_measures_are_placed_by_training(sections):
    *known, new, reference = sections
    names = [f"{gene}_unknown" for gene in GENES[:60]]
    for adata in sections:
        adata.var_names = names
    model = train(known, genes=names, reference=without_image(reference)[:, 10:].copy(), epochs=15)
    assert model.config["reference"]["n_genes"] == 50
    pcc = pearson(new.layers["truth"], model.predict(opened(new)).mean)[0]
    assert pcc[:10].mean() > 0.8 * pcc[10:].mean() > 0.5


def test_a_list_of_references_equals_one_object_with_their_names(sections):
    one, other = (without_image(adata) for adata in sections[2:])
    joined = concat([one, other], keys=["one", "other"], label="library_id", index_unique="-")
    apart, together = (train(sections[:2], reference=given) for given in ([one, other], joined))
    assert apart.config["reference"] == together.config["reference"]
    assert apart.config["reference"]["n_studies"] == 2
    assert apart.vocabulary == together.vocabulary
    for name in ("gene_level", "gene_sd", "gene_nearest"):
        np.testing.assert_allclose(together.arrays[name], apart.arrays[name], atol=1e-4)


def test_references_are_left_alone(sections, assert_same):
    reference = without_image(sections[2])
    before = reference.copy()
    train(sections[:2], reference=reference)
    assert_same(reference, before)


def not_counts(adata):
    adata.X = np.log1p(adata.X)
    return adata


def other_genes(adata):
    adata.var_names = [f"Mouse{i}" for i in range(adata.n_vars)]
    return adata


def all_the_same(adata):
    adata.X = np.full_like(adata.X, 7)
    return adata


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda adata: [], "reference is empty; pass objects with raw counts"),
        (not_counts, r"reference\[0\]: .*raw counts"),
        (other_genes, r"reference\[0\] measures none of the 48 genes to learn \(it has Mouse0, Mouse1, Mouse2, …\)"),
        (all_the_same, "genes .*vary in the references"),
        (lambda adata: adata[:1].copy(), r"reference\[0\] has fewer than two spots or cells"),
    ],
)
def test_unfit_references_are_refused(sections, damage, message):
    with pytest.raises(ValueError, match=message):
        train(sections[:2], reference=damage(without_image(sections[2])))


# ---------------------------------------------------------------------- embeddings of the user


def test_own_embeddings_of_any_width_whose_names_are_aliases(sections):
    programme = [str(i % 5) for i in range(60)]
    table = programme_table(GENES[:60], programme, d=9)
    table.columns = [f"protein {i}" for i in range(9)]
    names = [{"ERBB2": "HER2", "KRT18": "ENSG00000111057"}.get(gene, gene) for gene in table.index]
    model = train(sections[:3], gene_embeddings=table.set_axis(names))
    assert set(model.vocabulary) == {*SEEN, *GENES[50:60], "ENSG00000111057", "CDK1"}
    assert model.arrays["gene_told"][: len(SEEN)].sum() == 0
    plain = train(sections[:3], gene_embeddings=table)
    genes = ["ERBB2", "KRT18", "CDK1"]
    for one, other in zip(
        model.predict(opened(sections[3]), ["ERBB2"]).mean.T,
        plain.predict(opened(sections[3]), ["ERBB2"]).mean.T,
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    a, b = sections[3].copy(), sections[3].copy()
    st.tl.predict_expression(a, model, genes=genes)
    st.tl.predict_expression(b, plain, genes=genes)
    np.testing.assert_array_equal(a.layers["predicted"], b.layers["predicted"])


def test_a_gene_is_known_by_one_name_only(sections):
    """A table that has both names of a gene of training places no second gene."""
    table = programme_table([*GENES[:60], "HER2"], [str(i % 5) for i in range(61)])
    model = train(sections[:2], gene_embeddings=table)
    assert "HER2" not in model.vocabulary
    assert model.predict(opened(sections[3]), ["ERBB2"]).unseen["genes"].tolist() == []


def test_embeddings_of_too_few_seen_genes_place_no_others(sections):
    table = programme_table([*SEEN[:19], "KRT18"], [str(i % 5) for i in range(20)])
    with pytest.warns(UserWarning, match="Fewer than 20 genes have both an embedding and a measured place.*1 genes"):
        model = train(sections[:2], gene_embeddings=table)
    assert model.vocabulary == SEEN
    with pytest.warns(UserWarning, match="does not know 1 of the genes asked for; they are NaN: KRT18"):
        st.tl.predict_expression(sections[3], model, genes=["ERBB2", "KRT18"])
    assert sections[3].obsm.keys() >= {"X_fake"}
    assert np.isfinite(sections[3][:, "ERBB2"].layers["predicted"]).all()
    assert np.isnan(sections[3][:, "KRT18"].layers["predicted"]).all()


def test_mouse_genes_are_learned_and_no_others_predicted(sections):
    names = [gene.capitalize() for gene in GENES[:60]]
    for adata in sections:
        adata.var_names = names
    with pytest.warns(UserWarning, match="25470 genes that have an embedding only cannot be predicted"):
        model = train(sections[:2], genes=names[:50])
    assert score(model, sections[3], range(50)) > 0.4
    with pytest.raises(ValueError, match=r"knows none of the genes asked for \(ERBB3, Krt5 .*human gene is KRT5"):
        st.tl.predict_expression(sections[3], model, genes=["ERBB3", "Krt5"])
    with pytest.warns(UserWarning, match="cannot be predicted"):
        text = train(sections[:2], genes=names[:50], preset="published", nuclei=False, epochs=1)
    assert text.predict(opened(sections[3])).genes == names[:50]


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"ERBB2": [1.0, 2.0]}, TypeError, "must be a DataFrame with gene names as index, got dict"),
        (pd.DataFrame({"gene": ["ERBB2"], "x": [1.0]}), TypeError, "column 'gene' is not"),
        (pd.DataFrame({"x": [1.0, np.nan], "y": 1.0}, index=["A", "B"]), ValueError, r"1 genes are not finite \(B\)"),
        (pd.DataFrame({"x": [1.0], "y": 1.0}), TypeError, "must be names of genes, got 0"),
        (pd.DataFrame({"x": [1.0, 2], "y": 1.0}, index=["A", "A"]), ValueError, r"more than once \(A\)"),
    ],
)
def test_embeddings_that_are_none_are_refused_before_work(sections, table, error, message, monkeypatch):
    monkeypatch.setattr(st.models.METHODS["align_st"], "learn_reference", None)
    with pytest.raises(error, match=message):
        train(sections[:2], gene_embeddings=table, reference=sections[2])


def test_results_of_other_embeddings_are_not_taken_for_those_of_these(sections, tmp_path):
    """However large the tables and however small the difference."""
    table = programme_table(GENES[:60], [str(i % 5) for i in range(60)])
    other = table.copy()
    other.iloc[30, 3] += 1

    def validate(embeddings):
        spec = FAST | {"gene_embeddings": embeddings}
        methods = {"text": {name: value for name, value in spec.items() if name != "show_progress"}}
        return st.tl.cross_validate(
            sections[1:], methods=methods, genes=SEEN, path=tmp_path / "results", show_progress=False
        )

    first = validate(table)
    pd.testing.assert_frame_equal(validate(table.copy()), first)
    with pytest.raises(ValueError, match="holds results of another run: method 'text' differ"):
        validate(other)


# ---------------------------------------------------------------------- odd genes and sections


@pytest.mark.parametrize(
    "kwargs", [{}, {"text_layers": 1, "gene_neighbours": 3}, {"genes_per_step": 1, "gene_neighbours": 3}]
)
def test_constant_genes_and_genes_without_annotation_do_no_harm(sections, kwargs):
    for adata in sections:
        adata.X[:, 0] = 0
        adata.var_names = ["NOBODY_KNOWS" if gene == "GRB7" else gene for gene in adata.var_names]
    genes = ["NOBODY_KNOWS" if gene == "GRB7" else gene for gene in SEEN]
    out = train(sections[:2], genes=genes, **kwargs).predict(opened(sections[3]), [*genes, "KRT18"])
    assert np.isfinite([out.mean, out.std]).all()
    np.testing.assert_allclose(out.mean[:, 0], 0, atol=0.02)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_genes_are_learned(sections, n):
    with pytest.warns(UserWarning, match="cannot be predicted"):
        model = train(sections[:2], genes=SEEN[:n], gene_neighbours=3)
    assert score(model, sections[3], [GENES.index(gene) for gene in SEEN[:n]]) > 0.4
    assert ("val_unseen" in model.history.values) == (n >= 5)


def test_one_section_is_enough(sections):
    model = train(sections[:1])
    assert "strips of the one section" in model.history.notes[0]
    assert score(model, sections[3], [GENES.index(gene) for gene in SEEN]) > 0.4
    assert model.predict(opened(sections[3]), ["KRT18"]).mean.std() > 0


def test_spots_without_neighbours_and_sections_of_few_spots(sections):
    far = sections[0]
    far.obsm["spatial"][0] += 1e5
    few = sections[1][:4].copy()
    assert opened(far).neighbours()[0].nnz == 0
    model = train([far, few, sections[2]], feature_neighbours=7)
    for adata in (far, few, sections[3][:2].copy()):
        assert np.isfinite(model.predict(opened(adata), ["KRT18", "ERBB2"]).mean).all()


def test_spots_of_few_counts_are_not_learned_from(sections):
    """Nor are sections that have no others."""
    poor = sections[1].copy()
    poor.X = np.minimum(poor.X, 0)
    poor.X[:, 3] = 2
    half = sections[0].copy()
    half.X[:40] = poor.X[:40]
    model = train([half, poor, sections[2]])
    assert model.config["n_spots"] == 41 + 81
    other = half.copy()
    other.X[:40] = poor.X[40:80] * 3
    same = train([other, poor, sections[2]])
    a, b = (one.predict(opened(sections[3]), ["ERBB2", "KRT18"]).mean for one in (model, same))
    np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------- nuclei


@pytest.fixture(scope="module")
def _small(_simulated):
    adata = _simulated[0].copy()
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    st.pp.nuclei(adata, show_progress=False)
    return [adata[rows].copy() for rows in (slice(0, None, 4), slice(1, None, 4))]


@pytest.fixture
def small(_small):
    """Two quarters of the spots of a simulated section, with features and nuclei."""
    return [adata.copy() for adata in _small]


def test_nuclei_are_asked_and_stored(small, tmp_path):
    model = train(small[:1], nuclei=True)
    assert model.config["n_channels"] == 5
    model.save(tmp_path / "model")
    again = st.models.load(tmp_path / "model")
    before, after = (one.predict(opened(small[1]), ["KRT18", "ERBB2"]) for one in (model, again))
    np.testing.assert_array_equal(before.mean, after.mean)
    moved = small[1].copy()
    (library,) = moved.uns["nuclei"]
    moved.uns["nuclei"][library]["table"] = np.asarray(moved.uns["nuclei"][library]["table"])[:0]
    nothing = model.predict(opened(moved), ["KRT18", "ERBB2"]).mean
    assert np.isfinite(nothing).all()
    assert np.abs(nothing - before.mean).max() > 1e-3


def test_sections_without_any_nucleus_are_learned_from(small):
    for adata in small:
        (library,) = adata.uns["nuclei"]
        adata.uns["nuclei"][library]["table"] = np.asarray(adata.uns["nuclei"][library]["table"])[:0]
    asked = train(small[:1], nuclei=True, members=1).predict(opened(small[1]))
    without = train(small[:1], nuclei=False, members=1).predict(opened(small[1]))
    assert asked.mean.std(axis=0).min() > 0
    np.testing.assert_allclose(asked.mean.mean(axis=0), without.mean.mean(axis=0), atol=0.5)


def test_nuclei_that_were_not_looked_for_stop_training_before_it_starts(sections, monkeypatch):
    from stpredict.models.align_st import _training

    monkeypatch.setattr(_training, "choose_epochs", None)
    for kwargs in ({"nuclei": True}, {"preset": "published"}):
        with pytest.raises(ValueError, match=r"nuclei of section 'section0' are not known: run stpredict.pp.nuclei"):
            train(sections[:2], **kwargs)


def test_nuclei_that_were_not_looked_for_stop_prediction(small):
    model = train(small[:1], nuclei=True)
    del small[1].uns["nuclei"]
    with pytest.raises(ValueError, match=r"are not known: run stpredict.pp.nuclei"):
        st.tl.predict_expression(small[1], model)
    assert "predicted" not in small[1].layers


# ---------------------------------------------------------------------- options


def test_presets_are_what_they_say():
    assert PRESETS["default"] == Options()
    published = PRESETS["published"]
    assert (published.nuclei, published.text_layers, published.coordinates) == (True, 4, False)
    assert (published.interaction, published.gene_neighbours, published.members) == (True, 8, 1)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"preset": "magic"}, ValueError, "preset must be one of 'default', 'published'"),
        ({"temperature": 1}, TypeError, "no option temperature; it has .*text_layers"),
        ({"width": 12}, ValueError, "width must be a multiple of 8"),
        ({"alpha": 1.1}, ValueError, r"alpha must lie in \[0, 1\]"),
        ({"dropout": 1.0}, ValueError, r"dropout must lie in \[0, 1\)"),
        ({"text_layers": -1}, ValueError, "text_layers must not be negative"),
        ({"genes_per_step": 0}, ValueError, "genes_per_step must be positive"),
        ({"coordinates": False}, ValueError, "leave nothing that describes a gene"),
        ({"seed": -1}, ValueError, "seed must be a non-negative integer"),
    ],
)
def test_bad_options_are_refused_before_work(sections, kwargs, error, message):
    with pytest.raises(error, match=message):
        train(sections[:2], **kwargs)


def test_other_methods_take_no_gene_embeddings(sections):
    table = programme_table(GENES[:60], ["a"] * 60)
    with pytest.raises(TypeError, match=r"'ridge' takes no gene_embeddings.*'st_align' or 'align_st'"):
        st.tl.train(sections[:2], method="ridge", gene_embeddings=table)


def test_stores_on_disk_are_refused_with_the_way_out(sections, tmp_path):
    sections[0].write_h5ad(tmp_path / "one.h5ad")
    with pytest.raises(TypeError, match="cannot stream sections from disk: pass the sections themselves"):
        train(tmp_path)


def test_features_of_another_encoder_are_refused(sections, trained):
    model = trained(sections)
    sections[3].uns["X_fake"]["encoder_hash"] = "0ther"
    with pytest.raises(ValueError, match="encoder_hash"):
        model.predict(opened(sections[3]))


# ---------------------------------------------------------------------- tissue


@pytest.fixture(scope="module")
def tissue():
    """Three sections to learn from, one to predict, and two of others without images."""
    sections = st.datasets.simulate(4)
    for adata in sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    return sections, [without_image(adata) for adata in st.datasets.simulate(2, seed=7)]


def half_hidden(sections, **kwargs):
    """Mean PCC of seen genes, and of the unseen half of every programme, in the section left out."""
    *known, new = sections
    programme = new.var["truth_programme"].astype(str)
    driven = programme.index[~programme.isin(["housekeeping", "none"])]
    unseen = {gene for name in programme[driven].unique() for gene in driven[programme[driven] == name][::2]}
    seen = [gene for gene in new.var_names if gene not in unseen]
    model = st.tl.train(known, method="align_st", genes=seen, seed=0, show_progress=False, **kwargs)
    out = model.predict(opened(new), list(driven))
    pcc = pearson(opened(new).log_expression(list(driven)), out.mean)[0]
    hidden = driven.isin(unseen)
    assert set(out.unseen["genes"]) == unseen
    return pcc[~hidden].mean(), pcc[hidden].mean()


def test_unseen_genes_of_a_programme_are_predicted_where_a_reference_measures_them(tissue):
    sections, references = tissue
    seen, unseen = half_hidden(sections, reference=references)
    assert seen > 0.5
    assert unseen > 0.9 * seen


def test_unseen_genes_of_a_programme_are_predicted_where_embeddings_tell_it(tissue):
    sections, _ = tissue
    programme = sections[0].var["truth_programme"].astype(str)
    seen, unseen = half_hidden(sections, gene_embeddings=programme_table(programme.index, programme, d=16, noise=0.5))
    assert seen > 0.5
    assert unseen > 0.8 * seen


def test_unseen_genes_of_a_programme_are_predicted_by_half_from_real_annotations(tissue):
    """Names and Gene Ontology terms tell the simulated programme of every second gene only."""
    seen, unseen = half_hidden(tissue[0])
    assert seen > 0.5
    assert unseen > 0.4 * seen


def test_reliability_tells_genes_that_only_text_knows_from_those_that_a_reference_measures(tissue):
    sections, references = tissue
    *known, new = sections
    programme = new.var["truth_programme"].astype(str)
    driven = programme.index[~programme.isin(["housekeeping", "none"])]
    hidden = [gene for name in programme[driven].unique() for gene in driven[programme[driven] == name][::2]]
    absent = hidden[::2]
    references = [adata[:, ~adata.var_names.isin(absent)].copy() for adata in references]
    seen = [gene for gene in new.var_names if gene not in hidden]
    how = {"method": "align_st", "genes": seen, "seed": 0, "members": 1, "show_progress": False}
    model = st.tl.train(known, reference=references, **how)
    told = model.predict(opened(new), hidden).unseen
    promised = dict(zip(told["genes"], told["reliability"], strict=True))
    text, measured = (np.mean([promised[g] for g in hidden if (g in absent) == by]) for by in (True, False))
    assert text < measured - 0.1
    pcc = pearson(opened(new).log_expression(absent), model.predict(opened(new), absent).mean)[0]
    assert text < pcc.mean() + 0.1  # a promise that is not too high


def test_without_coordinates_only_genes_with_text_are_known(sections):
    """What describes a gene is then its text alone, so others cannot be told apart."""
    reference = sections[2].copy()
    reference.var_names = [*reference.var_names[:-1], "NOT_A_GENE"]
    how = {"reference": [reference], "genes": list(sections[0].var_names[:-5])}
    assert "NOT_A_GENE" in train(sections[:2], **how).vocabulary
    model = train(sections[:2], coordinates=False, text_layers=1, genes_per_step=8, **how)
    unseen = model.vocabulary[len(model.genes) :]
    assert "NOT_A_GENE" not in unseen
    assert len(unseen) > 100
    assert model._facts(unseen)[1].any(axis=1).all()
