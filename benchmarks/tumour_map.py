"""Tumour map of a patient the model never saw, on a coarse image: her2st_midres A1, trained on B4 and C2 … C5.

    python benchmarks/tumour_map.py

The training slides are read at the coarse image's scale. AUROC and average precision (AP) of invasive or in situ
cancer against the other labelled spots (undetermined ones left out); intervals are 95 % of 2,000 bootstrap samples of
spots, stratified by class: they say nothing about other patients.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

import stpredict as st


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    new = st.datasets.her2st_midres("A1")
    train = [st.datasets.her2st(name) for name in ("B4", "C2", "C3", "C4", "C5")]
    st.pp.tiles(new)
    scale = new.uns["tiles"][next(iter(new.uns["tiles"]))]["mpp"]
    for adata in [*train, new]:
        st.pp.tiles(adata)
        st.pp.encode(adata, mpp=scale, show_progress=False)
    top = st.pp.gene_panel(train, n_top=1000)
    markers = st.pp.gene_panel(train, kind="markers", markers="breast")
    label = new.obs["label"].astype(str)
    known = (new.obs["label"].notna() & (label != "undetermined")).to_numpy()
    truth = label.str.contains("cancer").to_numpy()[known]

    maps = {}
    for method in ("consensus", "ridge", "knn", "mixture", "density", "cmrcnet", "st_align"):
        model = st.tl.train(train, method=method, genes=list(dict.fromkeys([*top, *markers])))
        st.tl.predict_expression(new, model)
        st.tl.localize_tumor(new, markers="breast")
        maps[f"markers predicted by {method}"] = new.obs["tumor_score"].to_numpy()
        panels = {"HEG": top[:50], "all": top, "breast markers": markers}
        panels = {name: [g for g in panel if g in set(new.var_names)] for name, panel in panels.items()}
        pcc = st.tl.evaluate(new, panels=panels, metrics=["pcc"]).groupby("panel", sort=False)["value"].mean()
        print(f"{method}: mean PCC " + ", ".join(f"{name} {value:.2f}" for name, value in pcc.items()))
    st.tl.localize_tumor(new, markers="breast", layer=None)
    maps["markers measured"] = new.obs["tumor_score"].to_numpy()
    names = list(new.uns["X_morphology"]["feature_names"])
    for feature in ("nucleus_count", "hematoxylin"):
        maps[f"{feature} in the spot window"] = new.obsm["X_morphology"][:, names.index(feature)]
    maps["measured total counts"] = np.asarray(new.X.sum(axis=1)).ravel()

    print(
        f"\n{known.sum()} labelled spots, {truth.sum()} of them tumour\n\n| map | AUROC (95 % interval) | AP |\n|---|---|---|"
    )
    rng = np.random.default_rng(0)
    tumour, other = np.flatnonzero(truth), np.flatnonzero(~truth)
    for name, score in maps.items():
        values = score[known]
        draws = []
        for _ in range(2000):
            rows = np.concatenate([rng.choice(tumour, len(tumour)), rng.choice(other, len(other))])
            draws.append(roc_auc_score(truth[rows], values[rows]))
        low, high = np.quantile(draws, [0.025, 0.975])
        auroc, precision = roc_auc_score(truth, values), average_precision_score(truth, values)
        print(f"| {name} | {auroc:.2f} ({low:.2f}–{high:.2f}) | {precision:.2f} |")


if __name__ == "__main__":
    main()
