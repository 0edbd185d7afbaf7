"""Would another method, as one more part, make the default better? Measured on other tasks than benchmarks/consensus.py.

    python benchmarks/further_part.py [--tasks near far] [--methods st_align density] [--seed 0]

``near``, the patient is known: C2 + C4 → C5, C3 + C5 → C2 and C4 → C2 of her2st, and the upper and lower half of the colon, each
→ the other. ``far``, another patient: A1 → B4 and A1 → C2 at A1's scale, with and without the counts-only sections of all patients but
those two as references. The default encoder, niches of 336, 560, 1000 and 1600 µm. Predictions of the default and of the other
method (of ST-Align, one network) are standardised per gene and averaged; the share is the weight of the other.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from common import halves, panels, table
from consensus import encoded

import stpredict as st

ENCODER = ("morphology",)
SHARES = (0.0, 0.2, 0.4, 1.0)


def near():
    """Name, training sections, test section and references of every task."""
    sections = {name: encoded(st.datasets.her2st(name), ENCODER) for name in ("C2", "C3", "C4", "C5")}
    for trained, test in ((("C2", "C4"), "C5"), (("C3", "C5"), "C2"), (("C4",), "C2")):
        yield f"{' + '.join(trained)} → {test}", [sections[name] for name in trained], sections[test], None
    upper, lower = halves(encoded(st.datasets.mouse_colon(), ENCODER), 1)
    yield "colon, upper → lower", [upper], lower, None
    yield "colon, lower → upper", [lower], upper, None


def far():
    """As `near`."""
    a1 = encoded(st.datasets.her2st_midres("A1"), ENCODER)
    scale = next(iter(a1.uns["tiles"].values()))["mpp"]
    names = st.datasets.available("her2st_counts_only")
    for name in ("B4", "C2"):
        test = encoded(st.datasets.her2st(name), ENCODER, scale)
        others = [st.datasets.her2st_counts_only(other) for other in names if other[0] not in ("A", name[0])]
        yield f"A1 → {name}", [a1], test, None
        yield f"A1 → {name}, with references", [a1], test, others


def predicted(method, train, test, genes, reference, seed):
    """Predictions, standardised per gene."""
    how = {"seed": seed} if st.models.METHODS[method].seeded else {}
    if method == "st_align":
        how["members"] = 1
    model = st.tl.train(train, method=method, genes=genes, reference=reference, **how)
    values = st.tl.predict_expression(test, model, copy=True).layers["predicted"].astype(np.float64)
    return (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=("near", "far"), default=("near", "far"))
    parser.add_argument("--methods", nargs="+", default=("st_align", "density"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    st.settings.progress = False
    warnings.filterwarnings("ignore")
    rows = []
    for name, train, test, reference in (
        task for kind in arguments.tasks for task in {"near": near, "far": far}[kind]()
    ):
        chosen = panels(train)
        genes = list(dict.fromkeys(gene for panel in chosen.values() for gene in panel))
        shown = {panel: [gene for gene in of if gene in set(test.var_names)] for panel, of in chosen.items()}
        ours = predicted("consensus", train, test, genes, reference, arguments.seed)
        for method in arguments.methods:
            other = predicted(method, train, test, genes, reference, arguments.seed)
            for share in SHARES:
                mixed = test.copy()
                mixed.layers["predicted"] = ((1 - share) * ours + share * other).astype(np.float32)
                scores = st.tl.evaluate(mixed, panels=shown, metrics=["pcc"]).groupby("panel")["value"].mean()
                rows.append(
                    [name, method, share, *(scores.get(panel, np.nan) for panel in ("HEG", "HVG", "markers", "all"))]
                )
                print("#", *rows[-1], flush=True)
    table(["task", "with", "share", "HEG", "HVG", "markers", "all"], rows, digits=3)


if __name__ == "__main__":
    main()
