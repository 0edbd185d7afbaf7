"""What it costs to pass a model on without the expression of single training spots.

python benchmarks/without_bank.py [--methods cmrcnet st_align consensus] [--test C3 C5 B4] [--genes 1000]
"""

from __future__ import annotations

import argparse
import time
import warnings

from common import C

import stpredict as st


def encoded(name: str):
    adata = st.datasets.her2st(name)
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    return adata


def reached(new, model) -> tuple[float, float]:
    """Mean PCC over the 50 genes of highest mean, and over all."""
    genes = [gene for gene in model.genes if gene in new.var_names]
    st.tl.predict_expression(new, model)
    scores = st.tl.evaluate(new, panels={"HEG": genes[:50], "all": genes}, metrics="pcc")
    means = scores.groupby("panel")["value"].mean()
    return float(means["HEG"]), float(means["all"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=["cmrcnet", "st_align", "consensus"])
    parser.add_argument("--test", nargs="+", default=["C3", "C5", "B4"])
    parser.add_argument("--genes", type=int, default=1000)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    sections = {name: encoded(name) for name in dict.fromkeys([*C, *chosen.test])}
    for name in chosen.test:
        train = [sections[other] for other in C if other != name]
        genes = st.pp.gene_panel(train, n_top=chosen.genes)
        for method in chosen.methods:
            start = time.perf_counter()
            model = st.tl.train(train, method=method, genes=genes, show_progress=False)
            took = time.perf_counter() - start
            inner = model.config["without_bank"]["inner_pcc"]
            with_bank, without = (reached(sections[name].copy(), one) for one in (model, model.without_bank()))
            print(
                f"{name} {method:9} {took:5.1f} s  inner {inner[0]:.3f} → {inner[1]:.3f}  HEG {with_bank[0]:.3f} → "
                f"{without[0]:.3f}  all {with_bank[1]:.3f} → {without[1]:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
