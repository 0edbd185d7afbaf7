"""Expression without images: what counts-only sections of other patients add to every method, on her2st.

    python benchmarks/reference.py [--methods ridge knn mixture density] [--out scores.csv]

Trained with and without ``reference=``, the counts-only sections of all patients but the one that is tested. Folds: C2
… C5 in turn, trained on B4 and the other sections of patient C; patient C → B4; B4 → patient C; B4 and C2 … C5 → A1 of
patient A, all read at the coarse scale of that section's image. Panels as in accuracy.py, chosen on training sections.

*given depth* is the PCC of what is left of measured and predicted values after a regression of each on the measured log
total of the spots and its square: how much of a gene is predicted beyond how many counts a spot has. *residuals* is the
PCC with scanpy's analytic Pearson residuals in place of log1p CP10k.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
from common import panels
from common import table as printed

import stpredict as st

METHODS = ("ridge", "knn", "mixture", "density")
PANELS = ("HEG", "HVG", "markers", "all")
COLUMNS = {"pcc": "PCC", "pcc_given_depth": "given depth", "residuals": "residuals"}
C = ("C2", "C3", "C4", "C5")


def encoded(adata, mpp=None):
    st.pp.tiles(adata)
    st.pp.encode(adata, mpp=mpp, show_progress=False)
    return adata


def folds():
    """(kind, training sections, test section) of every fold."""
    sections = {name: encoded(st.datasets.her2st(name)) for name in ("B4", *C)}
    for name in C:
        yield "unseen section C2 … C5", [adata for n, adata in sections.items() if n != name], sections[name]
    yield "unseen patient C → B4", [sections[n] for n in C], sections["B4"]
    for name in C:
        yield "unseen patient B → C", [sections["B4"]], sections[name]
    coarse = encoded(st.datasets.her2st_midres("A1"))
    scale = next(iter(coarse.uns["tiles"].values()))["mpp"]
    yield "unseen patient B, C → A1", [encoded(adata, scale) for adata in sections.values()], coarse


def other_patients(test):
    """Counts-only sections of all patients but that of `test`."""
    several = [st.datasets.her2st_counts_only(name) for name in st.datasets.available("her2st_counts_only")]
    return [adata for adata in several if adata.obs["patient"].iloc[0] != test.obs["patient"].iloc[0]]


def scored(train, test, method, reference) -> pd.DataFrame:
    """Scores of one method, per panel."""
    chosen = panels(train)
    genes = list(dict.fromkeys(gene for panel in chosen.values() for gene in panel))
    model = st.tl.train(train, method=method, genes=genes, reference=reference)
    st.tl.predict_expression(test, model)
    measured = {name: [g for g in panel if g in set(test.var_names)] for name, panel in chosen.items()}
    scores = st.tl.evaluate(test, panels=measured, metrics=["pcc", "pcc_given_depth"])
    residuals = st.tl.evaluate(test, panels=measured, metrics=["pcc"], target="pearson_residuals")
    table = pd.concat([scores, residuals.assign(metric="residuals")])
    return table.groupby(["panel", "metric"])["value"].mean().unstack("metric").loc[list(PANELS)].reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path, help="write every score to this CSV")
    arguments = parser.parse_args()
    start, tables = time.time(), []
    for kind, train, test in folds():
        for method in arguments.methods:
            for word, reference in (("none", None), ("other patients", other_patients(test))):
                scores = scored(train, test, method, reference)
                section = str(test.obs["section"].iloc[0])
                tables.append(scores.assign(fold=kind, section=section, method=method, reference=word))
    table = pd.concat(tables, ignore_index=True)
    if arguments.out:
        table.to_csv(arguments.out, index=False)
    print(f"{time.time() - start:.0f} s\n")
    for kind, part in table.groupby("fold", sort=False):
        mean = part.groupby(["method", "reference", "panel"])[list(COLUMNS)].mean()
        print(f"**{kind}**\n")
        of_row = {
            (method, word): mean.loc[(method, word)].loc[list(PANELS)]
            for method in arguments.methods
            for word in ("none", "other patients")
        }
        printed(
            ["method", "reference", "score", *PANELS],
            [[*names, COLUMNS[c], *own[c]] for c in COLUMNS for names, own in of_row.items()],
        )


if __name__ == "__main__":
    main()
