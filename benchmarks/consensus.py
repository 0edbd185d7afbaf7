"""The default method beside all others, on every kind of task: is there one that one would regret not having chosen?

    python benchmarks/consensus.py [--tasks sections patient …] [--methods …] [--encoders morphology …] [--seeds 0 1 2] [--keep FOLDER]

Features are those of the default encoder, or of all that ``--encoders`` names, with niches of 336, 560, 1000 and 1600 µm; every
method may use all of them, and chooses on inner folds whether it does. ``sections``: C2 … C5 of her2st in turn, trained on B4 and the other sections of patient
C. ``patient``: C → B4, ``coarse``: C → A1, both at the coarse scale of A1's image, ``back``: B4 → C2 … C5. ``one``: a single section of patient C, C2, → C3. ``bulbs``: one bulb of
spatial transcriptomics → the other, both ways. ``colon``: one half of the roll → the other, both ways. ``simulated``: three
simulated patients → a fourth, half of whose expression no image shows. ``+ reference`` learns gene structure from the counts-only
sections of other patients.

Panels are chosen on training sections. "regret" is how far the default stays behind the best other method of the same row and panel.
The weights and constants of the default were chosen on other tasks (see docs/methods.md).
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from common import ENCODERS, C, halves, panels

import stpredict as st

WIDTHS = (560, 336, 1000, 1600)
METHODS = ("mean", "density", "ridge", "knn", "mixture", "cmrcnet", "st_align", "consensus")
TASKS = ("sections", "patient", "coarse", "back", "one", "bulbs", "colon", "simulated")


def encoded(adata, encoders, mpp=None):
    st.pp.tiles(adata, niche_um=WIDTHS)
    for encoder in encoders:
        st.pp.encode(adata, encoder, mpp=mpp, show_progress=False)
    return adata


@functools.cache
def her2st(name, encoders):
    return encoded(st.datasets.her2st(name), encoders)


def of_other_patients(test):
    """Counts-only sections of all patients but that of section `test`."""
    names = st.datasets.available("her2st_counts_only")
    return [st.datasets.her2st_counts_only(name) for name in names if not name.startswith(test[0])]


def folds(task, encoders):
    """Training sections and test section of every fold, and references without images."""
    if task in ("sections", "patient", "back", "one"):
        sections = {name: her2st(name, encoders) for name in ("B4", *C)}
        tests = {"sections": C, "patient": ("B4",), "back": C, "one": ("C3",)}[task]
        for test in tests:
            trained = {
                "sections": [name for name in sections if name != test],
                "patient": C,
                "back": ("B4",),
                "one": ("C2",),
            }[task]
            yield test, [sections[name] for name in trained], sections[test], of_other_patients(test)
    elif task == "coarse":
        test = encoded(st.datasets.her2st_midres("A1"), encoders)
        scale = next(iter(test.uns["tiles"].values()))["mpp"]
        yield "A1", [encoded(st.datasets.her2st(name), encoders, scale) for name in C], test, of_other_patients("A1")
    elif task == "bulbs":
        first, second = (encoded(st.datasets.mob(name), encoders) for name in ("MOB1", "MOB2"))
        yield "MOB2", [first], second, None
        yield "MOB1", [second], first, None
    elif task == "colon":
        left, right = halves(encoded(st.datasets.mouse_colon(), encoders), 0)
        yield "right", [left], right, None
        yield "left", [right], left, None
    else:
        *train, test = (encoded(adata, encoders) for adata in st.datasets.simulate(4, hidden=0.5))
        yield "P4", train, test, None


def scores(task, methods, encoders, seeds):
    for name, train, test, others in folds(task, encoders):
        chosen = panels(train)
        genes = list(dict.fromkeys(gene for panel in chosen.values() for gene in panel))
        shown = {panel: [gene for gene in of if gene in set(test.var_names)] for panel, of in chosen.items()}
        for method in methods:
            seeded = st.models.METHODS[method].seeded
            for reference in (None, others) if others and method != "mean" else (None,):
                for seed in seeds if seeded else seeds[:1]:
                    own = {"seed": seed} if seeded else {}
                    start = time.perf_counter()
                    model = st.tl.train(train, method=method, genes=genes, reference=reference, **own)
                    seconds = time.perf_counter() - start
                    predicted = st.tl.predict_expression(test, model, copy=True)
                    table = st.tl.evaluate(predicted, panels=shown, metrics=["pcc", "pcc_given_depth"])
                    mean = table.groupby(["metric", "panel"], sort=False)["value"].mean()
                    row = mean["pcc"].to_dict()
                    row |= {f"{panel}, given depth": value for panel, value in mean["pcc_given_depth"].items()}
                    row["seconds of training"] = seconds
                    told = method + (" + reference" if reference else "")
                    print(
                        f"# {task} {name} {told} seed {seed}: { ({k: round(v, 3) for k, v in row.items()}) }",
                        flush=True,
                    )
                    yield {"task": task, "test": name, "method": told, "seed": seed, **row}


def told(table: pd.DataFrame) -> None:
    """Print mean PCC per task and method, and how far the default stays behind the best other."""
    names = ("HEG", "HVG", "markers", "all")
    shown = [
        name for name in (*names, *(f"{panel}, given depth" for panel in names), "seconds of training") if name in table
    ]
    means = table.groupby(["task", "method"], sort=False)[shown].mean()
    for task in means.index.unique("task"):
        rows = means.loc[task]
        print(f"\n**{task}**\n\n| method | {' | '.join(shown)} |\n|---{'|---' * len(shown)}|")
        for method, row in rows.iterrows():
            print(f"| {method} | {' | '.join('–' if np.isnan(v) else f'{v:.3f}' for v in row)} |")
        for suffix in ("", " + reference"):
            same = rows[[method.endswith("+ reference") == bool(suffix) for method in rows.index]]
            if f"consensus{suffix}" in same.index and len(same) > 1:
                ours = same.loc[f"consensus{suffix}"]
                regret = (same.drop(f"consensus{suffix}").max() - ours).drop("seconds of training", errors="ignore")
                cells = " | ".join("–" if np.isnan(v) else f"{v:+.3f}" for v in regret)
                print(f"| regret{suffix} | {cells} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS[:1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, help="folder of finished tasks, which are not computed again")
    arguments = parser.parse_args()
    st.settings.progress = False
    warnings.filterwarnings("ignore")
    tables = []
    for task in arguments.tasks:
        kept = arguments.keep / f"{task}.csv" if arguments.keep else None
        if kept and kept.exists():
            tables.append(pd.read_csv(kept))
            continue
        table = pd.DataFrame(scores(task, arguments.methods, tuple(arguments.encoders), arguments.seeds))
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(kept, index=False)
        tables.append(table)
    told(pd.concat(tables, ignore_index=True))


if __name__ == "__main__":
    main()
