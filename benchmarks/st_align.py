"""Which parts of ST-Align earn their place: prediction, recall and domains of sections that it was not trained on.

    python benchmarks/st_align.py [--seeds 0 1 2] [--only LABEL …]
    python benchmarks/st_align.py published --checkpoint FOLDER [--epochs 100] [--end-to-end]

One network of at most 20 epochs per model, trained on B4 and three sections of patient C (her2st); C2 and C4 in turn are predicted (mean PCC
of the 50 highest-expressed and the 250 most variable genes of the training sections), and their images asked for their
own expression (recall@10). The same models divide A1, another patient with a pathologist's labels, by their fused and
their image embedding (k-means of ``tl.domains``; adjusted Rand index). All slides are read at A1's scale of 3.19 µm per
pixel, so numbers are not those of ``benchmarks/cmrcnet.py accuracy``. Each change is of the default alone; ``±`` is the
standard deviation over seeds.

``published`` trains the published preset once at its own length, without C2 and on frozen features (or, with
``--end-to-end``, a ResNet-50 on the tiles), and gives the same scores. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from common import encoded

import stpredict as st
from stpredict._evaluation.labels import read_labels

ENCODERS = ("morphology", "efficientnet_lite0")
CHANGES = {
    "default, one network": {},
    "no cross-scale loss": {"spot": 0.5, "niche": 0.5},
    "encoders not trained": {"train_encoders": False},
    "concatenation, no fusion": {"fusion": "concatenation"},
    "nothing rebuilt": {"rebuild": 0.0},
    "own cluster among negatives": {"clusters": 1},
    "five companions": {"companions": 5},
    "hard targets": {"soft_targets": False},
    "no decoder": {"decoder": 0.0},
}


def slides():
    test = st.datasets.her2st_midres("A1")
    st.pp.tiles(test)
    scale = next(iter(test.uns["tiles"].values()))["mpp"]
    names = ("B4", "C2", "C3", "C4", "C5")
    sections = {name: encoded(st.datasets.her2st(name), ENCODERS, [560.0], mpp=scale) for name in names}
    test = encoded(test, ENCODERS, [560.0], mpp=scale)
    return sections, test[np.asarray(test.X.sum(axis=1)).ravel() >= 50].copy()


def one(train, new, a1, change, seed) -> dict[str, float]:
    """Scores of one model."""
    a1_genes = set(a1.var_names)
    top = [gene for gene in st.pp.gene_panel(train, n_top=1000) if gene in a1_genes]
    variable = [gene for gene in st.pp.gene_panel(train, kind="hvg", n_top=250) if gene in a1_genes]
    genes = list(dict.fromkeys([*top, *variable]))
    how = {"group_key": None, "members": 1, "epochs": 20, "seed": seed, "show_progress": False, **change}
    model = st.tl.train(train, method="st_align", genes=genes, **how)
    st.tl.predict_expression(new, model)
    panels = {
        name: [g for g in panel if g in set(new.var_names)]
        for name, panel in {"HEG": top[:50], "HVG": variable}.items()
    }
    pcc = st.tl.evaluate(new, panels=panels, metrics=["pcc"]).groupby("panel")["value"].mean()
    found = st.tl.recall(new, model, k=[10]).groupby("query")["recall"].mean()
    scores = {"HEG": pcc["HEG"], "HVG": pcc["HVG"], "recall@10": found["image"]}
    labels = a1.obs["label"]
    sizes = labels[pd.notna(read_labels(labels))].value_counts()
    for use in ("fused", "image"):
        st.tl.embed(a1, model, use=use)
        n = int((sizes >= 5).sum())
        st.tl.domains(a1, n_domains=n, seed=seed, label_key="label")
        scores[f"ARI A1, {use}"] = a1.uns["domains"]["ari"]
    return scores


def published(arguments: argparse.Namespace) -> None:
    """One run of the published preset."""
    sections, a1 = slides()
    start = time.time()
    train = [adata for name, adata in sections.items() if name != "C2"]
    change = {"preset": "published", "epochs": arguments.epochs, "checkpoint": arguments.checkpoint}
    if not arguments.end_to_end:
        change["image_encoder"] = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*sister")
        scores = one(train, sections["C2"], a1, change, arguments.seeds[0])
    print("| " + " | ".join(scores) + " |\n|" + "---|" * len(scores))
    print("| " + " | ".join(f"{score:.3f}" for score in scores.values()) + " |")
    print(f"\n{time.time() - start:.0f} s, at most {arguments.epochs} epochs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("run", nargs="?", choices=["changes", "published"], default="changes")
    parser.add_argument("--checkpoint", type=Path, help="folder in which an interrupted run of 'published' goes on")
    parser.add_argument("--epochs", type=int, default=100, help="of 'published'")
    parser.add_argument("--end-to-end", action="store_true", help="train the image encoder of 'published' too")
    arguments = parser.parse_args()
    if arguments.run == "published":
        published(arguments)
        return
    start, rows = time.time(), []
    sections, a1 = slides()
    print("| change | HEG | HVG | recall@10 | ARI A1, fused | ARI A1, image |\n|---|---|---|---|---|---|", flush=True)
    for label in arguments.only:
        for seed in arguments.seeds:
            for test in ("C2", "C4"):
                train = [adata for name, adata in sections.items() if name != test]
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*sister|.*has not left chance")
                    rows.append({"change": label, "seed": seed} | one(train, sections[test], a1, CHANGES[label], seed))
        told = pd.DataFrame(rows).query("change == @label").drop(columns="change").groupby("seed").mean()
        print(f"| {label} | " + " | ".join(f"{told[c].mean():.3f} ± {told[c].std(ddof=0):.3f}" for c in told) + " |")
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
