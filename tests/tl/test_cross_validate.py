"""Cross-validation: fair folds, no leak that was planted gets through, and an interrupted run goes on."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as st
from stpredict._benchmark import jobs
from stpredict._core.warning import StpredictWarning
from stpredict.models import METHODS
from stpredict.models.baselines.ridge import Ridge

METHODS_USED = ["mean", "ridge", "knn"]
SHARED = {"metrics": ["pcc"], "show_progress": False}


@pytest.fixture
def sections(paired):
    """Four sections of three patients."""
    return paired(4, side=7, patients=["A", "A", "B", "C"])


def run(sections, methods=METHODS_USED, **options):
    """Cross-validate without a progress bar, on PCC alone."""
    return st.tl.cross_validate(sections, methods=methods, **SHARED | options)


def with_totals(sections):
    """The same, with what `pp.qc` records: that the few genes are all that was measured."""
    for adata in sections:
        adata.obs["total_counts"] = adata.X.sum(axis=1)
    return sections


# ---------------------------------------------------------------------- what it returns


def test_patients_are_held_out_whole_and_everything_is_scored(sections, assert_same):
    before = [adata.copy() for adata in sections]
    table = run(sections, markers={"mine": ["GENE3", "GENE4"]}, metrics=["pcc", "gene_structure"])
    for adata, old in zip(sections, before, strict=True):
        assert_same(adata, old)
    columns = ["method", "seed", "fold", "section", "panel", "gene", "target", "metric", "value"]
    assert table.columns.tolist() == columns
    held = table.groupby("fold")["section"].unique().map(list).to_dict()
    assert held == {"A": ["section0", "section1"], "B": ["section2"], "C": ["section3"]}
    assert table["method"].unique().tolist() == METHODS_USED
    assert table["panel"].unique().tolist() == ["HEG", "HVG", "mine", "all"]
    metrics = ["pcc", "gene_structure", "pcc_given_depth", "ceiling", "ceiling_sd", "pcc_of_ceiling"]
    assert table["metric"].unique().tolist() == metrics
    assert not table.duplicated(["method", "fold", "section", "panel", "gene", "metric"]).any()
    sizes = table.query("metric == 'pcc'").groupby(["method", "section", "panel"]).size().unstack("panel")
    assert (sizes == [15, 15, 15, 2]).to_numpy().all()


def test_numbers_are_those_of_training_and_evaluating_by_hand(sections):
    table = run(sections, ["ridge"], test=["A"], n_genes=6)
    genes = st.pp.gene_panel(sections[2:], n_top=6)
    model = st.tl.train(sections[2:], method="ridge", genes=genes)
    for adata in sections[:2]:
        st.tl.predict_expression(adata, model)
    by_hand = st.tl.evaluate(sections[:2], panels={"all": genes}, metrics=["pcc", "pcc_given_depth", "ceiling"])
    keys = ["section", "gene", "metric"]
    ours = table.query("panel == 'all' and gene != ''").set_index(keys)["value"]
    by_hand = by_hand.set_index(keys)["value"]
    assert len(ours) == len(by_hand) == 2 * 6 * 3
    np.testing.assert_allclose(ours, by_hand[ours.index], atol=1e-5)


def test_pearson_residuals_are_scored_as_by_hand(sections, tmp_path):
    run(sections, ["ridge"], test=["A"], n_genes=6, path=tmp_path)
    with pytest.raises(ValueError, match="results of another run: metrics, target differ"):
        run(sections, ["ridge"], test=["A"], n_genes=6, path=tmp_path, target="pearson_residuals")
    table = run(sections, ["ridge"], test=["A"], n_genes=6, metrics=None, target="pearson_residuals")
    assert set(table["target"]) == {"pearson_residuals"}
    genes = st.pp.gene_panel(sections[2:], n_top=6)
    model = st.tl.train(sections[2:], method="ridge", genes=genes)
    for adata in sections[:2]:
        st.tl.predict_expression(adata, model)
    keys = ["section", "gene", "metric"]
    by_hand = st.tl.evaluate(sections[:2], panels={"all": genes}, target="pearson_residuals").set_index(keys)["value"]
    ours = table.query("panel == 'all'").set_index(keys)["value"]
    assert set(ours.index) == set(by_hand.index)
    np.testing.assert_allclose(ours, by_hand[ours.index], atol=1e-4)


def test_what_predictions_say_of_themselves_is_scored_as_by_hand(sections):
    asked = ["stated_pcc", "stated_r", "stated_excess", "interval_coverage", "interval_level", "distance"]
    table = run(sections, ["mean", "ridge"], test=["A"], n_genes=6, metrics=asked)
    genes = st.pp.gene_panel(sections[2:], n_top=6)
    model = st.tl.train(sections[2:], method="ridge", genes=genes)
    for adata in sections[:2]:
        st.tl.predict_expression(adata, model, interval=0.9)
    keys = ["section", "gene", "metric"]
    by_hand = st.tl.evaluate(sections[:2], panels={"all": genes}, metrics=asked).set_index(keys)["value"]
    ours = table.query("panel == 'all' and method == 'ridge'").set_index(keys)["value"]
    assert len(by_hand) == 2 * (2 * 6 + 4)
    np.testing.assert_allclose(ours[by_hand.index], by_hand, atol=1e-5)
    assert "distance" not in set(table.query("method == 'mean'")["metric"])


def test_strong_features_near_the_ceiling_and_the_mean_at_zero(sections):
    pcc = run(sections).query("metric == 'pcc_of_ceiling' and panel == 'all'").groupby("method")["value"].mean()
    assert pcc["mean"] == 0
    assert pcc["ridge"] > 0.7
    assert pcc["ridge"] > pcc["knn"] > 0.3


def test_seeds_go_to_methods_that_have_chance(sections, monkeypatch):
    monkeypatch.setitem(METHODS, "dice", Dice)
    monkeypatch.setattr(jobs, "_alone", lambda _: warnings.catch_warnings())
    monkeypatch.setattr("stpredict._benchmark.jobs.fit", train_dice)
    monkeypatch.setattr("stpredict._benchmark.methods._check_arguments", lambda *_: None)
    table = run(sections, ["ridge", "dice"], seeds=(3, 4), test=["B"])
    assert table.groupby("method")["seed"].unique().map(list).to_dict() == {"dice": [3, 4], "ridge": [3]}
    scores = table.query("metric == 'pcc'").groupby(["method", "seed"])["value"].mean()
    assert scores["dice", 3] != scores["dice", 4]


class Dice(Ridge):
    seeded = True
    method = "dice"


def train_dice(sections, *, method, seed=None, **options):
    assert (seed is None) == (method == "ridge")
    model = TRAIN(sections, method="ridge", **options)
    if seed is not None:
        model.arrays["weights"] = np.random.default_rng(seed).permutation(model.arrays["weights"])
    return model


TRAIN = st.tl.train


def test_methods_by_label_with_arguments_of_their_own(sections):
    methods = {"both": {"method": "ridge"}, "spot": {"method": "ridge", "features": ["X_fake"]}}
    table = run(sections, methods, test="B")
    scores = table.query("metric == 'pcc' and panel == 'all'").groupby("method")["value"].mean()
    assert scores["both"] > scores["spot"] > 0


def test_the_same_numbers_from_one_object_and_in_parallel(sections):
    import anndata

    whole = anndata.concat(sections, label="library_id", keys=[f"section{i}" for i in range(4)], uns_merge="unique")
    whole.uns["spatial"] = {f"section{i}": sections[i].uns["spatial"][f"section{i}"] for i in range(4)}
    expected = run(sections, ["ridge"])
    pd.testing.assert_frame_equal(run(whole, ["ridge"]), expected, check_exact=True)
    pd.testing.assert_frame_equal(run(sections, ["ridge"], n_jobs=2), expected, check_exact=True)


@pytest.mark.parametrize("together", [False, True])
def test_spatialdata_is_taken_like_anndata(two_sections, together):
    import anndata

    for number, adata in enumerate(two_sections):
        features = np.random.default_rng(number).standard_normal((adata.n_obs, 3)).astype(np.float32)
        adata.obsm["X_fake"], adata.uns["X_fake"] = features, {"encoder": "fake", "encoder_hash": "f00d"}
        adata.obs_names = [f"{number}-{name}" for name in adata.obs_names]
    options = {"methods": ["ridge"], "genes": ["ERBB2", "EPCAM", "KRT8"]}
    expected = run(two_sections, **options)
    if together:
        keys = [next(iter(adata.uns["spatial"])) for adata in two_sections]
        whole = anndata.concat(two_sections, label="library_id", keys=keys, uns_merge="first")
        whole.uns["spatial"] = {k: v for adata in two_sections for k, v in adata.uns["spatial"].items()}
        data = st.io.to_spatialdata(whole, library_key="library_id")
    else:
        data = [st.io.to_spatialdata(adata) for adata in two_sections]
    np.testing.assert_allclose(run(data, **options)["value"], expected["value"], atol=1e-6)


def test_only_genes_that_all_sections_share_are_used(sections):
    sections[2] = sections[2][:, 2:].copy()
    table = run(sections, ["mean"])
    assert set(table["gene"]) - {""} == {f"GENE{i}" for i in range(2, 15)}


def test_markers_that_are_not_everywhere_are_told_of_where_the_user_is(sections):
    with pytest.warns(UserWarning, match="left out of 'markers': NOPE") as told:
        table = run(sections, ["mean"], markers=["GENE3", "NOPE"])
    assert told[0].filename == __file__
    assert set(table.query("panel == 'markers'")["gene"]) - {""} == {"GENE3"}


# ---------------------------------------------------------------------- leaks, planted


def test_one_section_under_two_patients_is_refused(sections):
    sections[3] = sections[0].copy()
    sections[3].obs["patient"] = "C"
    sections[3].uns["spatial"] = {"other": sections[0].uns["spatial"]["section0"]}
    with pytest.raises(ValueError, match=r"'section0' \(group 'A'\) and 'other' \(group 'C'\) share 49 spots"):
        run(sections)


def test_most_spots_of_a_section_under_another_patient_are_found_out_of_order(sections):
    sections[3] = sections[2][np.random.default_rng(0).permutation(49)[:25], ::-1].copy()
    sections[3].obs["patient"] = "C"
    with pytest.raises(ValueError, match=r"share 25 spots"):
        run(sections)


def test_one_section_twice_in_one_patient_is_no_leak(sections):
    sections[1] = sections[0].copy()
    assert run(sections, ["mean"])["section"].nunique() == 4


@pytest.fixture
def altered(sections):
    """The sections, with the counts of patient B replaced by others: other genes high, other depth."""
    other = [adata.copy() for adata in sections]
    noise = np.random.default_rng(0).poisson(50, other[2].shape)
    noise[:, :3] *= 40
    other[2].X = noise.astype(np.float32)
    return other


def test_the_held_out_counts_change_neither_panels_nor_predictions(sections, altered, monkeypatch):
    seen = {}

    def remember(section, mean, genes, *, panels, **_):
        seen["mean"], seen["genes"], seen["panels"] = mean, list(genes), panels
        return pd.DataFrame({"panel": ["all"], "gene": [""], "metric": ["pcc"], "value": [0.0]})

    monkeypatch.setattr(jobs, "score", remember)
    for method in ("mean", "ridge", "knn"):
        options = {"methods": [method], "test": ["B"], "n_genes": 8}
        run(sections, **options)
        before = dict(seen)
        run(altered, **options)
        assert seen["panels"] == before["panels"]
        assert seen["genes"] == before["genes"]
        np.testing.assert_array_equal(seen["mean"], before["mean"])


def test_a_method_that_asks_for_the_held_out_counts_gets_none(sections, monkeypatch):
    class Cheat(Ridge):
        def predict(self, section, genes=None):
            section.counts()
            return super().predict(section, genes)

    monkeypatch.setitem(METHODS, "ridge", Cheat)
    with pytest.raises(ValueError, match="no expression matrix") as caught:
        run(sections, ["ridge"])
    assert caught.value.__notes__ == ["While cross-validating: A, ridge, seed 0."]


@pytest.mark.parametrize("group_key", [None, "block"])
def test_split_sisters_are_told_of_once(sections, group_key):
    for number, adata in enumerate(with_totals(sections)):
        adata.obs["block"] = f"block {number}"
    with pytest.warns(
        UserWarning, match="SECTIONS OF ONE PATIENT ARE SPLIT.*patient A .*nothing about new patients"
    ) as told:
        table = run(sections, ["mean"], group_key=group_key)
    assert [warning.category for warning in told].count(StpredictWarning) == 1
    assert table["fold"].nunique() == 4


def test_nothing_is_told_where_no_sisters_are_split(sections):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="anndata")  # anndata 0.13 reads options that pandas 3 is about to drop
        run(with_totals([sections[0], *sections[2:]]), ["mean"], group_key=None)
        run(with_totals(sections), ["mean"])


@pytest.fixture
def reference(sections):
    """The counts of all patients' sections, without images."""
    counts = np.concatenate([adata.X for adata in sections])
    patients = np.concatenate([adata.obs["patient"] for adata in sections])
    return AnnData(
        counts, obs=pd.DataFrame({"patient": patients}, index=map(str, range(len(counts)))), var=sections[0].var
    )


def test_references_of_the_held_out_patient_are_left_out_of_its_fold(sections, reference, monkeypatch):
    given = []

    def train(sections, *, reference=None, **options):
        given.append(None if reference is None else sorted(set(reference[0].obs["patient"])))
        return TRAIN(sections, **options)

    monkeypatch.setattr("stpredict._benchmark.jobs.fit", train)
    methods = {"with": {"method": "mean"}, "without": {"method": "mean", "reference": None}}
    run(sections, methods, reference=reference)
    assert given == [["B", "C"], None, ["A", "C"], None, ["A", "B"], None]


@pytest.mark.parametrize("claim", ["other", "none"])
def test_references_that_hide_a_section_are_refused(sections, reference, claim):
    alone = reference[reference.obs["patient"] == "B"].copy()
    if claim == "other":
        alone.obs["patient"] = "Z"
    else:
        del alone.obs["patient"]
    told = "Z" if claim == "other" else "none"
    with pytest.raises(
        ValueError, match=rf"Reference 0 \(group {told}\) holds 49 spots of section 'section2' \(group 'B'\)"
    ):
        run(sections, ["mean"], reference=[alone])


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_references_on_disk_count_as_those_in_memory(sections, reference, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(
        "stpredict._sections.references.ROWS", 20
    )  # patients lie in several blocks, some have none of one
    order = np.argsort(np.random.default_rng(0).random(len(reference)) + (reference.obs["patient"] == "C"))
    mixed = reference[order].copy()
    getattr(mixed, "write_h5ad" if ending == ".h5ad" else "write_zarr")(tmp_path / f"all{ending}")
    table = run(sections, ["ridge"], reference=mixed)
    assert not table["value"].equals(run(sections, ["ridge"])["value"])
    pd.testing.assert_frame_equal(run(sections, ["ridge"], reference=tmp_path / f"all{ending}"), table)
    pd.testing.assert_frame_equal(run(sections, ["ridge"], reference=[tmp_path]), table)


def test_references_on_disk_that_hide_a_section_are_refused(sections, reference, tmp_path):
    alone = reference[reference.obs["patient"] == "B"].copy()
    alone.obs["patient"] = "Z"
    alone.write_h5ad(tmp_path / "alone.h5ad")
    with pytest.raises(ValueError, match=r"Reference 0 \(group Z\) holds 49 spots of section 'section2' \(group 'B'\)"):
        run(sections, ["mean"], reference=[tmp_path / "alone.h5ad"])


# ---------------------------------------------------------------------- interruption


@pytest.fixture
def dies_after(monkeypatch):
    """Make training fail after some jobs, and count the jobs."""
    state = {"left": None, "done": 0}

    def train(*args, **kwargs):
        if state["left"] is not None and state["left"] <= state["done"]:
            raise KeyboardInterrupt
        state["done"] += 1
        return TRAIN(*args, **kwargs)

    monkeypatch.setattr("stpredict._benchmark.jobs.fit", train)
    return state


def test_an_interrupted_run_goes_on_to_the_same_numbers(sections, tmp_path, dies_after):
    whole = run(sections)
    dies_after.update(left=4, done=0)
    with pytest.raises(KeyboardInterrupt):
        run(sections, path=tmp_path / "cv")
    finished = sorted(p.name for p in (tmp_path / "cv").iterdir())
    assert len([name for name in finished if name.endswith(".parquet")]) == 4
    assert not [name for name in finished if name.endswith(".tmp")]
    dies_after.update(left=None, done=0)
    pd.testing.assert_frame_equal(run(sections, path=tmp_path / "cv"), whole, check_exact=True)
    assert dies_after["done"] == 9 - 4
    dies_after.update(left=0, done=0)
    pd.testing.assert_frame_equal(run(sections, path=tmp_path / "cv"), whole, check_exact=True)


def test_methods_seeds_and_groups_may_be_added(sections, tmp_path, dies_after):
    run(sections, ["mean"], path=tmp_path, test=["A"])
    run(sections, ["mean", "ridge"], path=tmp_path, test=["A", "B"])
    assert dies_after["done"] == 1 + 3


def test_a_damaged_result_is_made_again(sections, tmp_path):
    whole = run(sections, ["mean"], path=tmp_path)
    next(tmp_path.glob("*.parquet")).write_bytes(b"half of a file")
    pd.testing.assert_frame_equal(run(sections, ["mean"], path=tmp_path), whole)


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (lambda s: s[1].X.__setitem__((0, 0), 77), {}, "sections differ"),
        (lambda s: s[1].obsm["X_fake"].__setitem__((0, 0), 77), {}, "sections differ"),
        (lambda s: s.pop(), {}, "groups, sections differ"),
        (lambda s: None, {"n_genes": 5}, "n_genes differ"),
        (lambda s: None, {"genes": ["GENE1", "GENE2"]}, "genes differ"),
        (lambda s: None, {"min_counts": 60}, "min_counts differ"),
        (lambda s: None, {"methods": {"mean": {"method": "ridge"}}}, "method 'mean' differ"),
    ],
)
def test_results_of_another_run_are_not_mixed_in(sections, tmp_path, change, options, told):
    run(sections, ["mean"], path=tmp_path, test=["A"])
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())
    change(sections)
    with pytest.raises(ValueError, match=rf"results of another run: {told}\. Pass what it was made with"):
        run(sections, **{"methods": ["mean"], "path": tmp_path} | options)
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == before


def test_a_folder_of_something_else_is_left_alone(sections, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no results of this version"):
        run(sections, path=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


# ---------------------------------------------------------------------- bad input


def only_one_patient(sections):
    for adata in sections:
        adata.obs["patient"] = "A"


def one_spot(sections):
    sections[2] = sections[2][:1].copy()


def shallow(sections):
    sections[2].X[:] = 0
    sections[2].X[:, 0] = 5


def no_patients(sections):
    del sections[1].obs["patient"]


def two_patients(sections):
    sections[1].obs["patient"] = ["A"] * 20 + ["Z"] * 29


def other_genes(sections):
    sections[1].var_names = [f"ENSG{i}" for i in range(15)]


def logged(sections):
    sections[3].X = np.log1p(sections[3].X)


def lost_features(sections):
    del sections[3].obsm["X_fake"], sections[3].obsm["X_fake_niche"]


@pytest.mark.parametrize(
    ("damage", "options", "error", "message"),
    [
        (only_one_patient, {}, ValueError, "at least two of them; all sections are of A"),
        (one_spot, {}, ValueError, r"'section2' has only 1 spot\(s\)"),
        (shallow, {}, ValueError, "'section2' has 0 spots with min_counts=50 counts; 3 are needed"),
        (no_patients, {}, KeyError, r"'section1' has no obs\['patient'\]"),
        (two_patients, {}, ValueError, "must have one value in all of section 'section1'; it has A, Z"),
        (other_genes, {}, ValueError, r"share no gene name \(section0: GENE0.*section1: ENSG0"),
        (logged, {}, ValueError, "fractional values"),
        (lost_features, {}, ValueError, r"different image features.*section3: none"),
        (list, {"methods": ["ridge", "magic"]}, ValueError, "method of 'magic' must be one of 'consensus', 'mean'"),
        (list, {"methods": []}, ValueError, "No methods given"),
        (list, {"methods": {"a": {"features": "X_fake"}}}, ValueError, "'a' needs a 'method'"),
        (
            list,
            {"methods": {"a": {"method": "mean", "genes": []}}},
            ValueError,
            "'a' sets genes, which it cannot: all methods share it",
        ),
        (list, {"methods": {"a": {"method": "mean", "reference": 1}}}, ValueError, "pass reference= to the function"),
        (list, {"methods": {"a": {"method": "mean", "epochs": 3}}}, TypeError, "takes no epochs"),
        (
            list,
            {"methods": {"a": {"method": "mean", "checkpoint": "x"}}},
            ValueError,
            "sets checkpoint, which it cannot",
        ),
        (list, {"test": ["B", "Z"]}, ValueError, "no group 'Z' to hold out; there are A, B, C"),
        (list, {"test": []}, ValueError, "test is empty"),
        (list, {"genes": ["GENE0", "NOPE"]}, ValueError, "not all sections measure NOPE"),
        (list, {"genes": []}, ValueError, "genes is empty"),
        (list, {"n_genes": 0}, ValueError, "n_genes must be a positive integer"),
        (list, {"markers": ["NOPE"]}, ValueError, "None of the markers in 'markers'"),
        (list, {"markers": {"all": ["GENE0"]}}, ValueError, "name of a panel of its own"),
        (list, {"metrics": ["r2"]}, ValueError, "metric must be one of"),
        (list, {"target": "counts"}, ValueError, "target must be one of 'log1p', 'pearson_residuals'; got 'counts'"),
        (
            list,
            {"metrics": ["pcc", "mse"], "target": "pearson_residuals"},
            ValueError,
            "'mse' cannot be computed with target='pearson_residuals'",
        ),
        (list, {"seeds": []}, ValueError, "seeds must be one or more non-negative integers"),
        (list, {"n_jobs": 0}, ValueError, "n_jobs must be a positive integer"),
    ],
)
def test_bad_input_ends_before_anything_is_trained(sections, dies_after, damage, options, error, message):
    damage(sections)
    with pytest.raises(error, match=message):
        run(sections, **{"methods": METHODS_USED} | options)
    assert dies_after["done"] == 0


# ---------------------------------------------------------------------- real sections


def test_real_sections_of_the_bulb(real):
    """MOB1 and MOB2 with cheap features: mean colour of the spots' surroundings."""
    sections = [real("mob", "MOB1"), real("mob", "MOB2")]
    for number, adata in enumerate(sections):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
        adata.obs["patient"] = f"bulb {number}"
    table = run(sections, ["density", "ridge"], n_genes=50)
    pcc = table.query("metric == 'pcc' and panel == 'HEG'").groupby(["method", "fold"])["value"].mean()
    assert (pcc["ridge"] > pcc["density"]).all()
    assert (pcc["ridge"] > 0.35).all()


def test_methods_that_learn_from_pixels_need_no_features(two_sections):
    small = [adata[::10].copy() for adata in two_sections]
    pixels = {"image_encoder": "vit_tiny_patch16_224", "depth": 1, "epochs": 1, "batch_size": 8, "members": 1}
    table = st.tl.cross_validate(
        small, methods={"pixels": {"method": "cmrcnet", **pixels}}, test=["P2"], n_genes=20, metrics=["pcc"]
    )
    assert table["metric"].isin(["pcc", "pcc_given_depth", "ceiling", "ceiling_sd", "pcc_of_ceiling"]).all()
    with pytest.raises(ValueError, match="no image features"):
        st.tl.cross_validate(small, methods=["cmrcnet"], n_genes=20)
