"""How much each common mistake of evaluation inflates the scores of one and the same model, on real sections.

    python benchmarks/pitfalls.py

Ridge and kNN on the default encoder, her2st: four sections of patient C, one of patient B. Every row changes one thing
about the evaluation and nothing about the model; the row it has to be held against comes first in its block. Numbers are
mean PCC over the 50 genes of highest mean (HEG) and over the 250 most variable ones (HVG), chosen on training sections,
per gene and section, then averaged over genes and sections. All rows of a block are about the same genes, except where
the choice of genes is what they are about.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.neighbors import NearestNeighbors, radius_neighbors_graph

import stpredict as st
from stpredict._evaluation.metrics import pearson_given_depth

METHODS = ("ridge", "knn")
C = ("C2", "C3", "C4", "C5")
N_FOLDS = 5


def load(name: str):
    adata = st.datasets.her2st(name)
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() >= 50].copy()
    st.pp.tiles(adata)
    st.pp.encode(adata, show_progress=False)
    return adata


def measured(adata, genes, counts=None) -> np.ndarray:
    """log1p CP10k of `genes`."""
    counts = adata.X.toarray() if counts is None else counts
    scaled = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4)
    return scaled[:, adata.var_names.get_indexer(genes)]


def pcc(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Per gene; 0 where one side is constant."""
    a, b = (values - values.mean(axis=0) for values in (truth, predicted))
    length = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.where(length > 1e-9, (a * b).sum(axis=0) / np.maximum(length, 1e-9), 0)


def mse(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.square(truth - predicted).mean())


def zero_to_one(values: np.ndarray) -> np.ndarray:
    spread = np.ptp(values, axis=0)
    return (values - values.min(axis=0)) / np.where(spread > 0, spread, 1)


def smoothed(adata, values: np.ndarray) -> np.ndarray:
    """Mean over each spot and its eight neighbours."""
    centres = adata.obsm["spatial"]
    pitch = np.median(NearestNeighbors(n_neighbors=2).fit(centres).kneighbors()[0][:, 0])
    graph = radius_neighbors_graph(centres, 1.5 * pitch, include_self=True)
    return np.asarray(graph @ values) / np.asarray(graph.sum(axis=1))


class Fold:
    """Sections to train and one to test on; panels of training (or of the fold `like`), and what methods predict."""

    def __init__(self, train: list, test, like: Fold | None = None) -> None:
        self.test = test
        there = set(test.var_names).intersection(*(adata.var_names for adata in train))
        self.top = [gene for gene in st.pp.gene_panel(train, n_top=1000) if gene in there]
        self.panels = {"HEG": self.top[:50], "HVG": self.among(st.pp.gene_panel(train, kind="hvg", n_top=250), there)}
        if like is not None:
            self.panels = {name: self.among(genes, there) for name, genes in like.panels.items()}
        own_top = self.among(st.pp.gene_panel(test, n_top=1000), there)
        own_hvg = self.among(st.pp.gene_panel(test, kind="hvg", n_top=250), there)
        self.own_panels = {"HEG": own_top[:50], "HVG": own_hvg}
        self.genes = list(dict.fromkeys([*self.top, *own_top, *self.panels["HEG"], *self.panels["HVG"]]))
        self.predicted = {method: self._predict(train, method) for method in METHODS}
        self.measured = measured(test, self.genes)

    @staticmethod
    def among(genes: list[str], there: set[str]) -> list[str]:
        return [gene for gene in genes if gene in there]

    def _predict(self, train, method) -> np.ndarray:
        model = st.tl.train(train, method=method, genes=self.genes)
        return st.tl.predict_expression(self.test, model, as_anndata=True)[:, self.genes].X

    def columns(self, genes: list[str]) -> np.ndarray:
        return pd.Index(self.genes).get_indexer(genes)

    def score(self, method: str, panel: str, *, truth=None, predicted=None, panels=None) -> float:
        columns = self.columns((panels or self.panels)[panel])
        truth = self.measured if truth is None else truth
        predicted = self.predicted[method] if predicted is None else predicted
        return float(pcc(truth[:, columns], predicted[:, columns]).mean())


def random_spots(sections: dict) -> dict[str, dict[str, np.ndarray]]:
    """Section → method → predictions of spots whose neighbours, of the same section, were trained on."""
    genes = sorted(set.intersection(*(set(adata.var_names) for adata in sections.values())))
    top = [gene for gene in st.pp.gene_panel(list(sections.values()), n_top=1500) if gene in set(genes)]
    rng = np.random.default_rng(0)
    part = {name: rng.permutation(adata.n_obs) % N_FOLDS for name, adata in sections.items()}
    out = {name: {m: np.zeros((adata.n_obs, len(top))) for m in METHODS} for name, adata in sections.items()}
    for fold in range(N_FOLDS):
        train = [adata[part[name] != fold].copy() for name, adata in sections.items()]
        for method in METHODS:
            model = st.tl.train(train, method=method, genes=top)
            for name, adata in sections.items():
                predicted = st.tl.predict_expression(adata, model, as_anndata=True)[:, top].X
                out[name][method][part[name] == fold] = predicted[part[name] == fold]
    return {name: {m: pd.DataFrame(v, columns=top) for m, v in of.items()} for name, of in out.items()}


def row(label: str, value) -> None:
    """One line of the table; `value` maps a method and a panel to a number."""
    cells = [" / ".join(f"{value(method, panel):.2f}" for panel in ("HEG", "HVG")) for method in METHODS]
    print(f"| {label} | {' | '.join(cells)} |", flush=True)


def block(title: str) -> None:
    print(f"\n**{title}**\n\n| PCC, HEG / HVG | {' | '.join(METHODS)} |\n|---|---|---|")


def over(folds: list[Fold], **options):
    """Mean over folds of their scores; options are functions of the fold."""
    return lambda method, panel: np.mean(
        [
            fold.score(
                method, panel, **{k: f(fold) if k != "predicted" else f(fold, method) for k, f in options.items()}
            )
            for fold in folds
        ]
    )


def splits(sister: list[Fold], one: list[Fold], to_c: list[Fold], to_b: list[Fold], spots: dict) -> None:
    def at_random(folds, names):
        def value(method, panel):
            scores = []
            for fold, name in zip(folds, names, strict=True):
                genes = [gene for gene in fold.panels[panel] if gene in spots[name][method]]
                scores.append(pcc(measured(fold.test, genes), spots[name][method][genes].to_numpy()).mean())
            return np.mean(scores)

        return value

    block("What is held out: tested on C2 … C5")
    row("the patient (trained on B4)", over(to_c))
    row("the section (trained on one sister)", over(one))
    row("the section (trained on its sisters and B4)", over(sister))
    row("spots at random (one in five)", at_random(sister, C))
    block("What is held out: tested on B4")
    row("the patient (trained on C2 … C5)", over(to_b))
    row("spots at random (one in five)", at_random(to_b, ["B4"]))


def choices(sister: list[Fold], to_b: list[Fold]) -> None:
    for title, folds in (("C2 … C5, unseen sections", sister), ("B4, unseen patient", to_b)):
        block(f"Which genes: {title}")
        row("chosen on training sections", over(folds))
        row("HEG and HVG of the test section itself", over(folds, panels=lambda fold: fold.own_panels))

        def best(method, panel, folds=folds):
            columns = [fold.columns(fold.panels[panel]) for fold in folds]
            scores = [pcc(f.measured[:, c], f.predicted[method][:, c]) for f, c in zip(folds, columns, strict=True)]
            return np.mean([np.sort(s)[-50 if panel == "HVG" else -10 :].mean() for s in scores])

        row("the best fifth of each panel, by test PCC", best)


def targets(sister: list[Fold], to_b: list[Fold]) -> None:
    rng = np.random.default_rng(0)
    depths = [np.median(np.asarray(f.test.X.sum(axis=1))) for f in (*sister, *to_b)]
    shares = dict(zip(map(id, sister), depths[-1] / np.array(depths[:-1]), strict=True))
    thinned = {id(f): rng.binomial(f.test.X.toarray().astype(int), shares[id(f)]) for f in sister}
    block("What the truth is: C2 … C5, unseen sections")
    row("measured, raw log1p CP10k", over(sister))
    row("smoothed over eight neighbours", over(sister, truth=lambda f: smoothed(f.test, f.measured)))
    both = {"truth": lambda f: smoothed(f.test, f.measured), "predicted": lambda f, m: smoothed(f.test, f.predicted[m])}
    row("both sides smoothed", over(sister, **both))
    scaled = {"truth": lambda f: zero_to_one(f.measured), "predicted": lambda f, m: zero_to_one(f.predicted[m])}
    row("both sides min–maxed", over(sister, **scaled))
    row(
        "the same, counts thinned to the depth of B4",
        over(sister, truth=lambda f: measured(f.test, f.genes, thinned[id(f)])),
    )
    print("\nMSE of ridge, HVG, C2 … C5: ", end="")
    columns = [f.columns(f.panels["HVG"]) for f in sister]
    pairs = [(f.measured[:, c], f.predicted["ridge"][:, c]) for f, c in zip(sister, columns, strict=True)]
    flat = np.mean([mse(t, np.tile(t.mean(axis=0), (len(t), 1))) for t, _ in pairs])
    print(
        f"log1p CP10k {np.mean([mse(t, p) for t, p in pairs]):.3f} (a constant at the test mean {flat:.3f}); ", end=""
    )
    print(f"min–maxed {np.mean([mse(zero_to_one(t), zero_to_one(p)) for t, p in pairs]):.3f}")
    for title, folds in (("C2 … C5", sister), ("B4, from C", to_b)):
        block(f"Depth as a rival: {title}")
        everywhere = "measured total counts, as the prediction of every gene"
        for label, options in (("the model", {}), (everywhere, {"predicted": depth_everywhere})):
            row(f"{label}: log1p CP10k", over(folds, **options))
            row(f"{label}: log1p CP10k, given depth", given_depth(folds, **options))
            row(f"{label}: Pearson residuals", over(folds, truth=residuals, **options))


def depth_everywhere(fold: Fold, _=None) -> np.ndarray:
    return np.repeat(np.log1p(np.asarray(fold.test.X.sum(axis=1))), len(fold.genes), axis=1)


def residuals(fold: Fold) -> np.ndarray:
    """scanpy's analytic Pearson residuals of the test section."""
    import scanpy as sc

    values = sc.experimental.pp.normalize_pearson_residuals(fold.test, inplace=False)["X"]
    return np.nan_to_num(values[:, fold.test.var_names.get_indexer(fold.genes)])


def given_depth(folds: list[Fold], predicted=None):
    """Mean over folds of the correlation of what depth leaves of both sides."""

    def value(method, panel):
        scores = []
        for fold in folds:
            columns = fold.columns(fold.panels[panel])
            values = fold.predicted[method] if predicted is None else predicted(fold)
            totals = np.asarray(fold.test.X.sum(axis=1)).ravel()
            scores.append(pearson_given_depth(fold.measured[:, columns], values[:, columns], totals).mean())
        return np.mean(scores)

    return value


def pooled(sister: list[Fold], last: Fold) -> None:
    folds = [*sister, last]
    block("Over which spots: B4 and C2 … C5, each held out")
    row("per section, then averaged", over(folds))

    def together(value):
        def score(method, panel):
            genes = [g for g in folds[0].panels[panel] if all(g in f.genes for f in folds)]
            truth, predicted = zip(
                *[(f.measured[:, f.columns(genes)], value(f, method, genes)) for f in folds], strict=True
            )
            return pcc(np.concatenate(truth), np.concatenate(predicted)).mean()

        return score

    row("spots of all sections pooled", together(lambda f, m, genes: f.predicted[m][:, f.columns(genes)]))
    shuffled = np.random.default_rng(0)

    def means(fold, _, genes):
        truth = fold.measured[:, fold.columns(genes)]
        return truth.mean(axis=0) + shuffled.normal(0, 1e-3, truth.shape)

    row("pooled, where every spot gets its section's mean (PCC 0 in every section)", together(means))


def intervals(sister: list[Fold], to_c: list[Fold], to_b: list[Fold]) -> None:
    """Ridge minus kNN, HVG: how sure one feels depends on what is counted."""

    def differences(fold):
        columns = fold.columns(fold.panels["HVG"])
        a, b = (pcc(fold.measured[:, columns], fold.predicted[method][:, columns]) for method in METHODS)
        return a - b

    def told(values):
        reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        return f"{np.mean(values):+.3f} ± {reach:.3f}"

    print("\n**How many units: ridge minus kNN, HVG, mean and 95 % interval**\n\n| over | difference |\n|---|---|")
    print(f"| 250 genes of C2 | {told(differences(sister[0]))} |")
    print(f"| 4 sections of one patient | {told([differences(fold).mean() for fold in sister])} |")
    by_patient = [np.mean([differences(fold).mean() for fold in folds]) for folds in (to_c, to_b)]
    print(f"| 2 patients, each unseen | {told(by_patient)} |")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    start = time.time()
    sections = {name: load(name) for name in ("B4", *C)}
    sister = [Fold([a for n, a in sections.items() if n != name], sections[name]) for name in C]
    following = zip(C, (*C[1:], C[0]), sister, strict=True)
    one = [Fold([sections[other]], sections[name], like) for name, other, like in following]
    to_c = [Fold([sections["B4"]], sections[name], like) for name, like in zip(C, sister, strict=True)]
    to_b = [Fold([sections[name] for name in C], sections["B4"])]
    splits(sister, one, to_c, to_b, random_spots(sections))
    choices(sister, to_b)
    targets(sister, to_b)
    pooled(sister, to_b[0])
    intervals(sister, to_c, to_b)
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
