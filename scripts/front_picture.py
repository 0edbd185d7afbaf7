"""The picture of the README and of the documentation's first page, into ``docs/_static/overview.jpg``.

    python scripts/front_picture.py

Simulated tissue: three patients to learn from, a fourth to predict, on which nothing but the image is looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

import stpredict as st

TARGET = Path(__file__).parents[1] / "docs" / "_static" / "overview.jpg"
GENE = "ERBB2"


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    out = parser.parse_args().out
    mpl.use("Agg")
    st.settings.progress = False
    *train, new = st.datasets.simulate(4)
    for adata in [*train, new]:
        st.pp.tiles(adata)
        st.pp.encode(adata)
    model = st.tl.train(train, genes=st.pp.gene_panel(train, n_top=1000))
    st.tl.predict_expression(new, model)
    st.tl.localize_tumor(new, markers="breast", label_key="region", tumor_labels=["tumor"])

    figure, axes = plt.subplots(1, 4, figsize=(15, 3.5), layout="constrained")
    spare = plt.figure().subplots(1, 4)  # for panels of the same functions that are left out
    st.pl.compare(new, GENE, size=1.4, ax=[axes[0], axes[1], spare[0]])
    st.pl.tumor(new, ax=[axes[2], spare[1], spare[2]])
    st.pl.trust(new, ax=[spare[1], spare[3], axes[3]])
    axes[3].texts[0].remove()  # names of genes, too small here
    (auroc,) = new.uns["tumor"]["auroc"].values()
    titles = [
        f"measured: {GENE}",
        f"predicted from the image: {axes[1].get_title().removeprefix('predicted, ').split(' (')[0]}",
        f"called tumour from the image: AUROC {auroc:.2f}",
        f"trust: {axes[3].get_title()}",
    ]
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title, size=12)
    figure.savefig(out, dpi=110, pil_kwargs={"quality": 88})
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
