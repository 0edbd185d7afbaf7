"""Do marker genes find the tumour? Measured expression against pathologist labels, section by section.

    python benchmarks/tumour_markers.py

prints the table "Marker sets" of docs/benchmarks_tumour.md. Needs the labelled her2st sections (docs/data.md).
"""

from __future__ import annotations

import argparse
import warnings

import pandas as pd
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import stpredict as st

MARKERS = {"breast": "breast", "ERBB2": ["ERBB2"], "carcinoma": "carcinoma"}


def row(section: str) -> dict[str, str]:
    """One line of the table."""
    adata = st.datasets.her2st_counts_only(section)
    for name, markers in MARKERS.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The tumour scores")
            st.tl.localize_tumor(adata, markers=markers, layer=None, label_key="label", key_added=name)
    labels = adata.obs["label"].astype(str)
    known = ~labels.isin(["nan", "undetermined"])
    truth = labels.str.contains("invasive|in situ")[known]
    totals = adata.X.sum(axis=1).A1[known]
    found = {name: {key: only(adata.uns[name][key]) for key in ("auroc", "two_groups")} for name in MARKERS}
    return {
        "section": section,
        "spots": str(adata.n_obs),
        "tumour": f"{truth.mean():.0%}",
        **{name: f"{result['auroc']:.3f}" for name, result in found.items()},
        "total counts": f"{roc_auc_score(truth, totals):.3f}",
        "AP": f"{only(adata.uns['breast']['average_precision']):.3f}",
        "call": f"{balanced_accuracy_score(truth, adata.obs['breast'][known]):.3f}",
        "two groups": "yes" if found["breast"]["two_groups"] else "no",
    }


def only(by_section: dict) -> float:
    """The value of the only section."""
    (value,) = by_section.values()
    return value


def main() -> None:
    """Print the table as Markdown."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    table = pd.DataFrame([row(section) for section in st.datasets.available("her2st_counts_only")])
    for line in (table.columns, ["---"] * table.shape[1], *table.to_numpy()):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
