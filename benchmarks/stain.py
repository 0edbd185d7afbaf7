"""Does stain normalisation help across patients, bulbs and encoders?

    python benchmarks/stain.py [--encoders morphology efficientnet_lite0]

Ridge, with features of every section as they are and after ``pp.encode(stain_norm="macenko")``: her2st patient C → B4
and B4 → C2, and olfactory bulb MOB1 ↔ MOB2. Gene panels are chosen on the training sections: the 50 genes of highest
mean (HEG), the 250 most variable (HVG), the markers and 1,000 genes. Scores are means of Pearson correlation over genes.
"""

from __future__ import annotations

import argparse
import time

from common import C, cell, panels

import stpredict as st

NORMS = (None, "macenko")


def prepared(adata, names):
    """A section with the features of every encoder, with and without normalised stains."""
    st.pp.tiles(adata)
    for name in names:
        for norm in NORMS:
            st.pp.encode(adata, name, key_added=key_of(name, norm), stain_norm=norm, show_progress=False)
    return adata


def key_of(name, norm):
    return f"X_{name}_{norm or 'plain'}"


def folds(names, sections):
    """(title, training sections, test section)."""
    train = [prepared(st.datasets.her2st(name), names) for name in sections]
    other = prepared(st.datasets.her2st("B4"), names)
    yield "her2st C → B4", train, other
    yield f"her2st B4 → {sections[0]}", [other], train[0]
    first, second = (prepared(st.datasets.mob(name), names) for name in ("MOB1", "MOB2"))
    yield "MOB1 → MOB2", [first], second
    yield "MOB2 → MOB1", [second], first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["morphology"], metavar="NAME")
    parser.add_argument("--sections", nargs="+", default=list(C), metavar="NAME", help="sections of patient C")
    arguments = parser.parse_args()
    start = time.time()
    print("| fold | encoder | stains | HEG | HVG | markers | all |\n|---|---|---|---|---|---|---|")
    for title, train, test in folds(arguments.encoders, arguments.sections):
        chosen = panels(train)
        genes = list(dict.fromkeys(gene for panel in chosen.values() for gene in panel))
        measured = {name: [gene for gene in panel if gene in set(test.var_names)] for name, panel in chosen.items()}
        for name in arguments.encoders:
            for norm in NORMS:
                key = key_of(name, norm)
                model = st.tl.train(train, method="ridge", genes=genes, features=[key, f"{key}_niche"])
                st.tl.predict_expression(test, model)
                scores = st.tl.evaluate(test, panels=measured, metrics=["pcc"])
                mean = scores.groupby("panel")["value"].mean().reindex(["HEG", "HVG", "markers", "all"])
                print(f"| {title} | {name} | {norm or 'as they are'} | {' | '.join(map(cell, mean))} |", flush=True)
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
