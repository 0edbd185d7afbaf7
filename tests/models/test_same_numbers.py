"""A model of a fixed seed gives the numbers that it gave before: no change of the code moves them unnoticed.

They lie in ``same_numbers.json``. Where a change is meant to move them, write them again by
``python tests/models/test_same_numbers.py``, and say in the changelog what moved and why.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

import stpredict as st

GENES = ["EPCAM", "KRT8", "KRT18", "ERBB2", "COL1A1", "COL3A1", "VIM", "ACTA2"]
GENES += ["CD3E", "CD8A", "PTPRC", "MKI67", "ADIPOQ", "FABP4", "GAPDH", "ACTB"]
SHORT = {"members": 1, "epochs": 3}

TRAINED = {
    "density": {"method": "density"},
    "ridge": {"method": "ridge"},
    "ridge with reference": {"method": "ridge", "reference": True},
    "knn": {"method": "knn"},
    "mixture": {"method": "mixture"},
    "cmrcnet": {"method": "cmrcnet", **SHORT},
    "cmrcnet, published parts": {"method": "cmrcnet", "preset": "published", "image_encoder": None, **SHORT},
    "st_align": {"method": "st_align", **SHORT},
    "align_st": {"method": "align_st", **SHORT},
    "consensus": {"method": "consensus"},
    "consensus with reference": {"method": "consensus", "reference": True},
}

KEPT = Path(__file__).with_name("same_numbers.json")


def made(patient: int, side: int = 10) -> AnnData:
    """Counts that follow three waves across a square lattice, and features that show the waves and noise."""
    rng, shared = np.random.default_rng(patient), np.random.default_rng(99)
    row, column = np.divmod(np.arange(side**2), side)
    waves = np.column_stack([np.sin(row / 3 + patient), np.cos(column / 2), np.sin((row + column) / 4)])
    counts = rng.poisson(np.exp(0.6 * waves @ shared.normal(size=(3, len(GENES))) + 1.5)).astype(np.float32)
    spots = pd.DataFrame(
        {"section": f"S{patient}", "patient": f"P{patient}"}, index=[f"{patient}-{i}" for i in range(side**2)]
    )
    adata = AnnData(csr_matrix(counts), spots, pd.DataFrame(index=GENES))
    seen = waves @ shared.normal(size=(3, 8))
    adata.obsm["X_seen"] = (seen + rng.normal(scale=0.5, size=seen.shape)).astype(np.float32)
    adata.obsm["X_seen_niche"] = (seen / 2 + rng.normal(scale=0.5, size=seen.shape)).astype(np.float32)
    adata.obsm["spatial"] = np.column_stack([column, row]) * 20.0 + 10
    adata.uns["spatial"] = {
        f"S{patient}": {
            "images": {"hires": np.full((200, 200, 3), 200, dtype=np.uint8)},
            "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 11.0},
            "metadata": {"spot_pitch_um": 100.0},
        }
    }
    return adata


def numbers(name: str) -> dict[str, float]:
    """What a model of two patients says of a third."""
    how = dict(TRAINED[name])
    reference = [made(3), made(4)] if how.pop("reference", False) else None
    features = ["X_seen", "X_seen_niche"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = st.tl.train(
            [made(0), made(1)], genes=GENES, features=features, reference=reference, min_counts=1, **how
        )
        new = made(2)
        st.tl.predict_expression(new, model)
        scores = st.tl.evaluate(new)
    predicted = np.asarray(new.layers["predicted"], dtype=float)
    told = {
        "mean": predicted.mean(),
        "deviation": predicted.std(),
        "first": predicted[0, 0],
        "last": predicted[-1, -1],
        "gene by gene": predicted[:, ::2].mean() - predicted[:, 1::2].mean(),
        "spot by spot": predicted[::2].mean() - predicted[1::2].mean(),
        "distance of spots": new.obs["predicted_distance"].mean(),
        "distance of the section": new.uns["predicted"]["domain"]["distance"],
        "reliability": new.var["predicted_reliability"].mean(),
        "its lower end": new.var["predicted_reliability_lower"].mean(),
        "its upper end": new.var["predicted_reliability_upper"].mean(),
    }
    return {key: float(value) for key, value in told.items()} | scores.groupby("metric")["value"].mean().to_dict()


@pytest.mark.parametrize("name", TRAINED)
def test_numbers_are_those_of_before(name):
    assert numbers(name) == pytest.approx(json.loads(KEPT.read_text())[name], rel=1e-3, abs=1e-4, nan_ok=True)


if __name__ == "__main__":
    kept = {name: {key: float(f"{value:.6g}") for key, value in numbers(name).items()} for name in TRAINED}
    KEPT.write_text(json.dumps(kept, indent=2) + "\n")
