"""Spatial domains from image, expression and both, on sections that no representation was trained on.

    python benchmarks/domains.py her2st_midres [--seeds 0 1 2 3 4] [--clustering kmeans] [--refine]
    python benchmarks/domains.py simulated [--region-scale 2] [--hidden 0.6]
    python benchmarks/domains.py mouse_colon
    python benchmarks/domains.py mob [--figure mob2.png]

Every representation in ``FIXED`` and ``LEARNED`` is clustered into as many domains as there are labels with five spots, each
test section by itself; tables hold the mean and, over seeds, the standard deviation of the adjusted Rand index (ARI) and
of the normalised mutual information (NMI), and the mean recall of every label.

``her2st_midres``: A1 and its pathologist's labels, spots with 50 counts; to train on, B4 and C2 … C5. ``simulated``: two
sections of patients that the four to train on are not from; ``domain`` is the true region without the spots on borders,
``region`` that of all spots. ``mouse_colon``: the right half of the roll, the left one to train on, without a strip as
wide as the niche between them; its labels are clusters of the expression itself, so they judge images only.
``mob``: MOB2 and MOB1, each by a model of the other, and their layers, which were drawn by hand on the images.

``--clustering`` compares ways to make a fixed number of clusters: k-means as in ``tl.domains``, Gaussian mixtures on ten
principal components (one covariance for all, or each its own) and Leiden, its resolution searched.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import encoded
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

import stpredict as st
from stpredict._evaluation.agreement import agreement
from stpredict._evaluation.labels import read_labels
from stpredict._sections.anndata import section_from_anndata
from stpredict.datasets._real import read_section

ENCODERS = ("morphology", "efficientnet_lite0")
MIN_COUNTS, MIN_SPOTS, COMPONENTS, GENES = 50, 5, 30, 2000


# ---------------------------------------------------------------------- representations


def components(values: np.ndarray, n: int = COMPONENTS) -> np.ndarray:
    return PCA(min(n, *values.shape), random_state=0).fit_transform(values)


def unit(values: np.ndarray) -> np.ndarray:
    """Scale a block to unit total variance, so that none outweighs another because it is wide."""
    centred = values - values.mean(axis=0)
    return centred / np.sqrt((centred**2).sum(axis=1).mean())


def around(adata, values: np.ndarray, times: int = 1) -> np.ndarray:
    """Mean over a spot and its neighbours on the lattice."""
    graph = section_from_anndata(adata).neighbours() + sparse.eye(adata.n_obs)
    mean = sparse.diags(1 / np.asarray(graph.sum(axis=1)).ravel()) @ graph
    for _ in range(times):
        values = mean @ values
    return values


def image(adata, part: str = "") -> np.ndarray:
    """Principal components of the features of all encoders, of the spot or (``"_niche"``) of the niche."""
    keys = [f"X_{name}_560{part}" for name in ENCODERS if f"X_{name}_560" in adata.obsm]
    blocks = []
    for key in keys:
        values = np.asarray(adata.obsm[key], dtype=float)
        spread = values.std(axis=0)
        blocks.append(unit((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)))
    return components(np.hstack(blocks))


def expression(adata) -> np.ndarray:
    """Principal components of the most variable genes, log1p of counts per 10,000, as scanpy makes them."""
    import scanpy as sc

    copy = adata.copy()
    sc.pp.filter_genes(copy, min_cells=3)
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    sc.pp.highly_variable_genes(copy, n_top_genes=min(GENES, copy.n_vars))
    sc.pp.pca(copy, n_comps=min(COMPONENTS, copy.n_obs - 1))
    return copy.obsm["X_pca"]


def joined(*blocks: np.ndarray) -> np.ndarray:
    return np.hstack([unit(block) for block in blocks])


def both(adata) -> np.ndarray:
    return joined(image(adata), expression(adata))


FIXED = {
    "image": lambda test: image(test),
    "image, niche": lambda test: image(test, "_niche"),
    "image, spot and niche": lambda test: joined(image(test), image(test, "_niche")),
    "expression PCA": lambda test: expression(test),
    "expression + graph": lambda test: around(test, expression(test)),
    "expression + graph, twice": lambda test: around(test, expression(test), 2),
    "concatenation": lambda test: both(test),
    "concatenation + graph": lambda test: around(test, both(test)),
    "expression + graph, image": lambda test: joined(around(test, expression(test)), image(test)),
    "concatenation, spot and graph": lambda test: joined(both(test), around(test, both(test))),
}
"""Label → function of the section to divide that returns (spots, d); no seed changes it, so that it is made once."""

MODELS: dict = {}


def aligned(use: str, **options):
    """Embedding of an ST-Align model, one network of at most 20 epochs, that learned from other sections; it is trained once per seed."""

    def embedding(train, test, seed):
        which = (id(train), seed, tuple(options.items()))
        if which not in MODELS:
            genes = st.pp.gene_panel(train, n_top=1000)
            MODELS[which] = st.tl.train(
                train,
                method="st_align",
                genes=genes,
                seed=seed,
                group_key=None,
                members=1,
                show_progress=False,
                **options,
            )
        st.tl.embed(test, MODELS[which], use=use, key_added="aligned")
        return test.obsm["aligned"]

    return embedding


LEARNED = {f"ST-Align, {use}": aligned(use) for use in ("image", "expression", "fused")} | {
    "ST-Align, fused by concatenation": aligned("fused", fusion="concatenation")
}
"""Label → function of the sections to train on, the section to divide, and a seed, that returns (spots, d)."""

REPRESENTATIONS = [*FIXED, *LEARNED]


def represented(label: str, train, test, seed: int) -> np.ndarray:
    return np.asarray(FIXED[label](test) if label in FIXED else LEARNED[label](train, test, seed))


# ---------------------------------------------------------------------- clustering


def kmeans(adata, key: str, n: int, seed: int, *, refine: bool = False) -> np.ndarray:
    st.tl.domains(adata, use_rep=key, n_domains=n, seed=seed, refine=refine, key_added="found")
    return adata.obs["found"].astype(str).to_numpy()


def mixture(kind: str):
    def cluster(adata, key, n, seed):
        model = GaussianMixture(n, covariance_type=kind, n_init=10, reg_covar=1e-4, random_state=seed)
        points = components(adata.obsm[key], 10)
        return model.fit_predict(points / points.std(axis=0)[0]).astype(str)

    return cluster


def leiden(adata, key: str, n: int, seed: int) -> np.ndarray:
    """Search the resolution by bisection; the number of domains that comes nearest is taken."""
    low, high, best = 0.01, 4.0, None
    for _ in range(12):
        middle = np.sqrt(low * high)
        st.tl.domains(adata, use_rep=key, resolution=middle, seed=seed, key_added="found")
        found = adata.uns["found"]["n_domains"]
        if best is None or abs(found - n) < abs(best[0] - n):
            best = found, adata.obs["found"].astype(str).to_numpy()
        if found == n:
            break
        low, high = (middle, high) if found < n else (low, middle)
    return best[1]


CLUSTERING = {"kmeans": kmeans, "gmm tied": mixture("tied"), "gmm full": mixture("full"), "leiden": leiden}


# ---------------------------------------------------------------------- data
# Pairs of sections to train on and the section to divide, and the columns of its labels.


def deep(adata):
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() >= MIN_COUNTS].copy()


def her2st_midres(arguments):
    test = st.datasets.her2st_midres("A1")
    st.pp.tiles(test)
    scale = next(iter(test.uns["tiles"].values()))["mpp"]
    train = [st.datasets.her2st(name) for name in ("B4", "C2", "C3", "C4", "C5")]
    *train, test = (encoded(adata, ENCODERS, [560.0], mpp=scale) for adata in (*train, test))
    return [(train, deep(test))], ["label"]


def simulated(arguments):
    sections = st.datasets.simulate(6, hidden=arguments.hidden, region_scale=arguments.region_scale)
    sections = [encoded(adata, ENCODERS[:1], [560.0]) for adata in sections]
    train = sections[:4]
    return [(train, test) for test in sections[4:]], ["domain", "region"]


def mouse_colon(arguments):
    whole = encoded(st.datasets.mouse_colon(), ENCODERS, [560.0])
    x = whole.obsm["spatial"][:, 0]
    distance = (x - np.median(x)) * next(iter(whole.uns["tiles"].values()))["mpp"]
    return [([whole[distance < -280].copy()], whole[distance > 280].copy())], ["label"]


def mob(arguments):
    first, second = (encoded(deep(read_section("mob_splotch", name)), ENCODERS, [560.0]) for name in ("MOB1", "MOB2"))
    return [([first], second), ([second], first)], ["label"]


DATA = {f.__name__: f for f in (her2st_midres, simulated, mouse_colon, mob)}


# ---------------------------------------------------------------------- tables and figure


def scored(pairs, label_keys, arguments) -> pd.DataFrame:
    rows = []
    for label in arguments.representations:
        for number, (train, test) in enumerate(pairs):
            for seed in arguments.seeds:
                if label in LEARNED or seed == arguments.seeds[0]:
                    test.obsm["rep"] = represented(label, train, test, seed)
                rows += clustered(test, label_keys, arguments, {"rep": label, "section": number, "seed": seed})
    return pd.DataFrame(rows)


def clustered(test, label_keys, arguments, about) -> list[dict]:
    rows = []
    for label_key in label_keys:
        labels = test.obs[label_key]
        named = pd.notna(read_labels(labels))
        sizes = labels[named].value_counts()
        n = int((sizes >= MIN_SPOTS).sum())
        for name in arguments.clustering:
            ways = {name: {}} | (
                {f"{name}, refined": {"refine": True}} if arguments.refine and name == "kmeans" else {}
            )
            for way, options in ways.items():
                found = CLUSTERING[name](test, "rep", n, about["seed"], **options)
                score = agreement(found[named], labels[named].astype(str).to_numpy())
                recall = dict(zip(score.pop("labels"), score.pop("recall"), strict=True))
                rows.append({**about, "labels": label_key, "n": n, "clustering": way, **score, **recall})
    return rows


def told(table: pd.DataFrame) -> None:
    measures = [c for c in table.columns if c not in ("rep", "section", "seed", "labels", "n", "clustering")]
    for (label_key, way), part in table.groupby(["labels", "clustering"], sort=False):
        shown = [m for m in measures if m not in ("ari", "nmi", "n_labelled") and part[m].notna().any()]
        counted = part.groupby("section")["n_labelled"].first().sum()
        print(f"\n**{label_key}, {way}** ({part['n'].max()} domains, {counted:.0f} labelled spots)\n")
        print(f"| representation | ARI | NMI | recall: {' | '.join(shown)} |\n{'|---' * (len(shown) + 3)}|")
        for label, rows in part.groupby("rep", sort=False):
            seeds = rows.groupby("seed")[measures].mean()
            cells = [f"{seeds[m].mean():.3f} ± {seeds[m].std(ddof=0):.3f}" for m in ("ari", "nmi")]
            print(f"| {label} | {' | '.join([*cells, *(f'{seeds[m].mean():.2f}' for m in shown)])} |")


def drawn(train, test, arguments) -> None:
    import matplotlib.pyplot as plt

    names = arguments.representations
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 5), layout="constrained", squeeze=False)
    for ax, label in zip(axes[0], names, strict=True):
        test.obsm["rep"] = represented(label, train, test, arguments.seeds[0])
        st.tl.domains(test, use_rep="rep", n_domains=arguments.domains, seed=arguments.seeds[0])
        st.pl.domains(test, ax=ax, alpha_img=0)
        ax.set_title(label, size=11)
    figure.savefig(arguments.figure, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(DATA))
    parser.add_argument("--representations", nargs="+", choices=REPRESENTATIONS, default=REPRESENTATIONS)
    parser.add_argument("--clustering", nargs="+", choices=list(CLUSTERING), default=["kmeans"])
    parser.add_argument("--refine", action="store_true", help="k-means also with the vote of neighbours on the tissue")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--hidden", type=float, default=0.6, help="of the simulation")
    parser.add_argument("--region-scale", type=float, default=2.0, help="of the simulation")
    parser.add_argument("--figure", type=Path, help="draw the domains of the first test section")
    parser.add_argument("--domains", type=int, default=5, help="of the figure")
    arguments = parser.parse_args()
    start = time.time()
    pairs, label_keys = DATA[arguments.dataset](arguments)
    if arguments.figure:
        drawn(*pairs[0], arguments)
    told(scored(pairs, label_keys, arguments))
    print(f"\n{arguments.dataset}, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
