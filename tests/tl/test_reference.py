"""`tl.train(reference=…)`: what sections and cells without images add to a model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as st
from stpredict._sections.open import open_sections

GENES = [f"GENE{i}" for i in range(15)]
METHODS = ["mean", "density", "ridge", "knn", "mixture"]


def without_image(adata):
    """Counts and nothing else, as an atlas of single cells comes."""
    adata.obsm.clear()
    adata.uns.clear()
    adata.layers.clear()
    return adata


def predicted(model, adata):
    return model.predict(open_sections(adata)[0])


def truth_pcc(model, adata):
    st.tl.predict_expression(adata, model)
    adata.layers["counts"] = adata.X
    pairs = zip(adata.layers["truth"].T, adata.layers["predicted"].T, strict=True)
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])


@pytest.mark.parametrize("method", ["ridge", "knn", "mixture"])
def test_few_shallow_training_spots_profit(paired, method):
    """32 spots of 500 counts, and three deep sections without images: nearer to the known truth."""
    names = [f"GENE{i}" for i in range(60)]
    train = paired(2, side=4, n_genes=60, depth=500)
    *others, new = paired(6, side=12, n_genes=60)[2:]
    references = [without_image(adata) for adata in others]
    plain = st.tl.train(train, method=method, genes=names)
    helped = st.tl.train(train, method=method, genes=names, reference=references)
    assert truth_pcc(helped, new) > truth_pcc(plain, new) + 0.03


@pytest.mark.parametrize("method", METHODS)
def test_it_is_stored_read_and_the_same_again(paired, tmp_path, method):
    *train, new, other = paired(4)
    references = [without_image(other)]
    model = st.tl.train(train, method=method, genes=GENES, reference=references)
    model.save(tmp_path / "model")
    read = st.models.load(tmp_path / "model")
    again = st.tl.train(train, method=method, genes=GENES, reference=references)
    expected = predicted(model, new)
    for one in (read, again):
        np.testing.assert_array_equal(predicted(one, new).mean, expected.mean)
        np.testing.assert_array_equal(predicted(one, new).std, expected.std)
    assert read.config["reference"] == {"n_studies": 1, "n_spots": 81, "n_genes": 15}
    assert np.isfinite(expected.mean).all()
    assert (expected.std > 0).all()


def test_without_reference_nothing_of_it_is_in_a_model(paired):
    model = st.tl.train(paired(2), genes=GENES, method="ridge")
    learned = {name for name in model.arrays if not name.startswith(("domain_", "held_out_"))}
    assert learned == {"weights", "intercept", "residual_sd"}
    assert "reference" not in model.config
    assert model.structure is None


def test_a_damaged_structure_is_refused(paired, tmp_path):
    from stpredict.models._base import files

    *train, other = paired(3)
    model = st.tl.train(train, genes=GENES, reference=without_image(other), method="ridge")
    for name in ("reference_axes", "reference_scale"):
        arrays = {key: values for key, values in model.arrays.items() if key != name}
        files.write(tmp_path / name, files.Stored(model.method, model.genes, model.config, arrays))
        with pytest.raises(ValueError, match=r"is damaged: .*reference_.* missing or of wrong shape"):
            st.models.load(tmp_path / name)


def test_a_subset_of_genes_is_predicted_as_among_all(paired):
    *train, new, other = paired(4)
    model = st.tl.train(train, genes=GENES, reference=without_image(other), method="ridge")
    section = open_sections(new)[0]
    everything, some = model.predict(section), model.predict(section, ["GENE9", "NEW", "GENE2"])
    np.testing.assert_array_equal(some.mean[:, [0, 2]], everything.mean[:, [9, 2]])
    assert np.isnan(some.mean[:, 1]).all()


def test_the_error_is_that_of_corrected_predictions(paired):
    *train, new, other = paired(6, side=5, depth=500)
    model = st.tl.train(train, genes=GENES, reference=without_image(other), method="ridge")
    measured = open_sections(new)[0].log_expression(GENES)
    error = np.sqrt(np.square(predicted(model, new).mean - measured).mean(axis=0))
    assert model.arrays["residual_sd"].mean() == pytest.approx(error.mean(), rel=0.3)


def test_references_are_left_alone_and_may_lack_genes(paired, assert_same):
    *train, one, other = paired(4)
    references = [without_image(one)[:, 3:].copy(), without_image(other)[:, 2:].copy()]
    before = [adata.copy() for adata in references]
    with pytest.warns(UserWarning, match="2 of the model's 15 genes are not measured"):
        model = st.tl.train(train, genes=GENES, reference=references, method="ridge")
    for adata, copy in zip(references, before, strict=True):
        assert_same(adata, copy)
    assert model.config["reference"]["n_genes"] == 13


def test_sections_in_one_object_are_studies(paired):
    import anndata

    *train, one, other = paired(4)
    together = anndata.concat([without_image(one), without_image(other)], keys=["one", "other"], label="library_id")
    apart = st.tl.train(train, genes=GENES, reference=[one, other], method="ridge")
    joined = st.tl.train(train, genes=GENES, reference=together, method="ridge")
    assert joined.config["reference"]["n_studies"] == 2
    np.testing.assert_allclose(joined.arrays["reference_variances"], apart.arrays["reference_variances"], rtol=1e-5)


@pytest.mark.parametrize("method", ["ridge", "align_st"])
@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_references_on_disk_teach_the_same(paired, tmp_path, method, ending):
    """As a path or in backed mode, dense or sparse, cells of two studies lying mixed."""
    import anndata
    from scipy import sparse

    *train, one, other = paired(4)
    cells = anndata.concat([without_image(one), without_image(other)], keys=["one", "other"], label="library_id")
    cells = cells[np.random.default_rng(0).permutation(cells.n_obs)].copy()
    cells.X = sparse.csr_matrix(cells.X) if method == "align_st" else cells.X
    path = tmp_path / f"atlas{ending}"
    (cells.write_h5ad if ending == ".h5ad" else cells.write_zarr)(path)
    how = {"method": method, "genes": GENES, "min_counts": 1}
    how |= {"epochs": 1, "members": 1, "show_progress": False} if method == "align_st" else {}
    model = st.tl.train(train, reference=cells, **how)
    given = [path, [str(path)]] + ([anndata.read_h5ad(path, backed="r")] if ending == ".h5ad" else [])
    for reference in given:
        learned = st.tl.train(train, reference=reference, **how)
        assert learned.config["reference"] == model.config["reference"]
        assert learned.config["reference"]["n_studies"] == 2
        for name, values in model.arrays.items():
            np.testing.assert_array_equal(learned.arrays[name], values, err_msg=name)


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_counts_stored_by_columns_are_sorted_by_rows_once(tmp_path, monkeypatch, ending):
    """Moved a few values at a time, and no longer read as a whole for every block of rows."""
    import anndata
    from scipy import sparse

    from stpredict._sections import by_rows, references
    from stpredict._sections.open import Where

    sorted_anew = []
    make = by_rows._sorted_by_rows
    monkeypatch.setattr(by_rows, "_sorted_by_rows", lambda *given: sorted_anew.append(1) or make(*given))
    monkeypatch.setattr(by_rows, "AT_ONCE", 100)
    monkeypatch.setattr(references, "ROWS", 9)
    counts = sparse.random(50, 30, 0.4, format="lil", random_state=0, data_rvs=lambda n: 1.0 + np.arange(n) % 7)
    counts[12], counts[:, 4] = 0, 0  # a row and a column without counts
    cells = anndata.AnnData(counts.tocsc(), obs=pd.DataFrame({"study": list("ab") * 25}, index=map(str, range(50))))
    path = tmp_path / f"atlas{ending}"
    (cells.write_h5ad if ending == ".h5ad" else cells.write_zarr)(path)
    given = [path] + ([anndata.read_h5ad(path, backed="r")] if ending == ".h5ad" else [])
    for number, one in enumerate(given, 1):
        (reference,) = references.open_references(one, Where("study"))
        for _ in range(2):
            read = sparse.vstack([part for _, part in reference.counts()], format="csr")
            np.testing.assert_array_equal(read.toarray(), counts.toarray())
        assert read.has_sorted_indices
        assert len(sorted_anew) == number
        kept = np.arange(50) % 20 > 14
        few = sparse.vstack([part for _, part in reference.take(kept).counts()], format="csr")
        np.testing.assert_array_equal(few.toarray(), counts.toarray()[kept])


def test_no_room_to_sort_counts_by_rows_is_said(monkeypatch):
    import errno
    import os

    from stpredict._sections import by_rows

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"no room left for counts that are stored by columns .*tocsr"):
        by_rows._in_file(3, np.dtype(np.int32))


def test_bad_counts_on_disk_are_refused(paired, tmp_path):
    import anndata

    train, cells = paired(2)
    cells = without_image(cells)
    cells.X = np.log1p(cells.X)
    cells.write_h5ad(tmp_path / "logged.h5ad")
    for reference in (tmp_path, anndata.read_h5ad(tmp_path / "logged.h5ad", backed="r")):
        with pytest.raises(ValueError, match="X holds fractional values"):
            st.tl.train(train, genes=GENES, reference=reference, method="ridge")


def test_bad_references_are_refused_before_training(paired, assert_same):
    train = paired(2)
    before = train[0].copy()
    with pytest.raises(ValueError, match="reference is empty; pass objects with raw counts, or leave it out"):
        st.tl.train(train, genes=GENES, reference=[], method="ridge")
    with pytest.raises(TypeError, match="Expected an AnnData or a SpatialData, got int"):
        st.tl.train(train, genes=GENES, reference=3, method="ridge")
    with pytest.raises(FileNotFoundError, match=r"There is no .*atlas\.h5ad"):
        st.tl.train(train, genes=GENES, reference="no/atlas.h5ad", method="ridge")
    logged = without_image(paired(3)[2])
    logged.X = np.log1p(logged.X)
    with pytest.raises(ValueError, match=r"reference\[0\]: X holds fractional values"):
        st.tl.train(train, genes=GENES, reference=logged, method="ridge")
    assert_same(train[0], before)


def test_other_patients_without_images_help_on_an_unseen_patient(real):
    """her2st C → B4: expression of other patients lifts ridge from .12 / .23 to .21 / .26 (here from three of the four sections).

    B4 is shallow, and nearly all that can be predicted there is how many counts a spot has; see docs/benchmarks_reference.md.
    """
    train, new = [real("her2st", name) for name in ("C3", "C4", "C5")], real("her2st", "B4")
    references = [real("her2st_counts_only", name) for name in ("A1", "C1", "D1", "E1", "F1", "G2", "H1")]
    for adata in (*train, new):
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    top = st.pp.gene_panel(train, n_top=1000)
    panels = {"HEG": top[:50], "HVG": st.pp.gene_panel(train, kind="hvg", n_top=250)}
    panels = {name: [gene for gene in panel if gene in new.var_names] for name, panel in panels.items()}
    scores = {}
    for word, given in (("plain", None), ("helped", references)):
        st.tl.predict_expression(new, st.tl.train(train, genes=top, reference=given, method="ridge"))
        scores[word] = st.tl.evaluate(new, panels=panels, metrics=["pcc"]).groupby("panel")["value"].mean()
    assert scores["helped"]["HEG"] > max(0.19, scores["plain"]["HEG"] + 0.06)
    assert scores["helped"]["HVG"] > max(0.25, scores["plain"]["HVG"] + 0.02)


@pytest.mark.parametrize("method", ["ridge", "knn"])
def test_predictions_are_drawn_to_the_structure_by_the_distance_of_the_section(paired, method):
    """Features are standardised within a section, so moving all of them moves its distance and nothing else."""
    *train, new, other = paired(5)
    model = st.tl.train(train, method=method, genes=GENES, reference=without_image(other))
    structure, model.structure = model.structure, None
    plain = predicted(model, new).mean
    model.structure = structure
    for moved in (0, 5):
        for key in ("X_fake", "X_fake_niche"):
            new.obsm[key] = new.obsm[key] + np.float32(moved)
        places = np.stack([np.hstack([a.obsm["X_fake"], a.obsm["X_fake_niche"]]).mean(axis=0) for a in train])
        scale = np.mean(
            [np.hstack([a.obsm["X_fake"], a.obsm["X_fake_niche"]]).var(axis=0) for a in train], axis=0, dtype=float
        )
        here = np.hstack([new.obsm["X_fake"], new.obsm["X_fake_niche"]]).mean(axis=0)
        usual = np.mean([((a - b) ** 2 / scale).mean() for i, a in enumerate(places) for b in places[:i]])
        away = np.mean([((here - place) ** 2 / scale).mean() for place in places]) / usual
        assert (away > 100) == bool(moved)
        np.testing.assert_allclose(predicted(model, new).mean, structure.apply(plain, away), rtol=1e-3, atol=1e-4)
