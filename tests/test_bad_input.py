"""Bad input: one clear error that names the mend, before work starts, with the AnnData unchanged."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as st

COUNTS_NEEDED = (
    "qc",
    "gene_panel",
    "train",
    "evaluate",
    "localize_tumor",
    "compare",
    "gene_correlation",
    "calibration",
)
IMAGE_NEEDED = ("tiles", "encode", "pl.tiles", "pl.retrieval")


@pytest.fixture(scope="module")
def prepared():
    adata = st.datasets.simulate(seed=2)
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    genes = list(adata.var_names[:20])
    look_alikes = st.tl.train(adata, method="knn", genes=genes)
    st.tl.retrieve(adata, look_alikes)
    return adata, st.tl.train(adata, genes=genes, method="ridge"), look_alikes


@pytest.fixture
def functions(prepared):
    reference, model, look_alikes = prepared
    return {
        "tiles": st.pp.tiles,
        "encode": lambda a: st.pp.encode(a, show_progress=False),
        "qc": st.pp.qc,
        "gene_panel": st.pp.gene_panel,
        "train": lambda a: st.tl.train(a, genes=["ERBB2", "COL1A1"], method="ridge"),
        "predict_expression": lambda a: st.tl.predict_expression(a, model),
        "evaluate": lambda a: st.tl.evaluate(a, predicted="truth", metrics="pcc"),
        "localize_tumor": lambda a: st.tl.localize_tumor(a, markers="breast", layer=None),
        "compare": lambda a: st.pl.compare(a, ["ERBB2"], predicted="truth", show=False),
        "gene_correlation": lambda a: st.pl.gene_correlation(a, predicted="truth", show=False),
        "calibration": lambda a: st.pl.calibration(a, predicted="truth", show=False),
        "retrieve": lambda a: st.tl.retrieve(a, look_alikes),
        "pl.retrieval": lambda a: st.pl.retrieval(a, reference, spots=0, n_neighbors=1, show=False),
        "pl.tiles": lambda a: st.pl.tiles(a, show=False),
    }


def dense(change):
    def apply(adata):
        values = adata.X.toarray()
        adata.X = change(values)

    return apply


def put(value):
    def change(values):
        values[0, 0] = value
        return values

    return change


def without_image(adata):
    adata.uns["spatial"]["sim_1"]["images"] = {}


def image_gone(adata):
    adata.uns["spatial"]["sim_1"]["metadata"]["source_image_path"] = "gone.tif"


def shifted(adata):
    adata.obsm["spatial"] = adata.obsm["spatial"] + 5000


def downscaled(adata):
    adata.obsm["spatial"] = adata.obsm["spatial"] * 0.2


def duplicated(adata):
    names = adata.var_names.to_numpy().copy()
    names[1] = names[0]
    adata.var_names = names


CASES = [
    *[(name, dense(put(np.nan)), "NaN or infinite") for name in COUNTS_NEEDED],
    *[(name, dense(put(-1)), "negative values") for name in COUNTS_NEEDED],
    *[(name, dense(np.log1p), r"fractional values.*layers\['counts'\]") for name in COUNTS_NEEDED],
    *[(name, without_image, "no H&E image") for name in IMAGE_NEEDED],
    *[(name, image_gone, "no image at gone.tif") for name in (*IMAGE_NEEDED, "qc")],
    *[(name, shifted, "outside the image of 2304 × 2304 px") for name in (*IMAGE_NEEDED, "qc")],
    *[(name, downscaled, "spot_diameter_fullres") for name in (*IMAGE_NEEDED, "qc")],
    *[
        (name, duplicated, "var_names_make_unique")
        for name in ("gene_panel", "train", "predict_expression", "evaluate")
    ],
]


@pytest.mark.parametrize(("name", "spoil", "match"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_spoiled_section(prepared, functions, name, spoil, match):
    adata = prepared[0].copy()
    spoil(adata)
    if name == "tiles":
        del adata.uns["tiles"]
    before = {slot: set(getattr(adata, slot)) for slot in ("obs", "obsm", "var", "layers", "uns")}
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        functions[name](adata)
    assert before == {slot: set(getattr(adata, slot)) for slot in before}


@pytest.mark.parametrize(
    "name", ["tiles", "encode", "qc", "gene_panel", "train", "predict_expression", "retrieve", "pl.tiles"]
)
def test_no_spots_at_all(prepared, functions, name):
    with pytest.raises(ValueError, match=r"no spots|No spot"):
        functions[name](prepared[0][:0].copy())


@pytest.mark.parametrize("name", ["train", "predict_expression", "retrieve", "evaluate", "localize_tumor"])
def test_one_spot_is_too_few_to_standardise(prepared, functions, name):
    with pytest.raises(ValueError, match=r"1 spot"):
        functions[name](prepared[0][:1].copy())


@pytest.mark.parametrize("data", ["slide.tif", None, 3])
def test_wrong_container(functions, data):
    """Where stores on disk are read, a name is that of a store which is not there."""
    for function in functions.values():
        with pytest.raises(
            (TypeError, FileNotFoundError), match=r"AnnData|There is no slide\.tif|pass the sections themselves"
        ):
            function(data)
