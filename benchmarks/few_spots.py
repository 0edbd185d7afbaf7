"""What a few measured spots are worth: a trained model adapted to them, beside interpolation between them.

    python benchmarks/few_spots.py spots [--method cmrcnet] [--draws 5] [--keep FOLDER]
    python benchmarks/few_spots.py sections [--method cmrcnet]

``spots``: of each section of her2st that a model has not seen, 1, 5, 10 and 20 % of the spots are measured, drawn at
random, and all methods are scored on the same other spots. Sections are C2 … C5 in turn, trained on B4 and the other
sections of patient C; and B4, trained on patient C. Rows:

- *unadapted*: the trained model.
- *spatial kNN*: mean of the k nearest measured spots, weighted by 1 / distance², k chosen by left-out measured spots.
- *kriging*: ordinary kriging, exponential covariance, range and nugget by marginal likelihood.
- *kriging + image*: the same plus a ridge regression on image features, learned on the measured spots alone, both at
  once (a linear kernel), their shares by marginal likelihood.
- *adapted*: `tl.adapt`.

``sections``: a model trained on patient B is adapted to one whole section of patient C and tested on the other three;
beside it models trained on that section alone, and on both patients together.

Panels are chosen on the training sections. Intervals are 95 % t intervals of paired differences over sections × draws;
draws of one section are not independent, so they say little about other sections.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from common import FEATURES, C, her2st, panels
from scipy import stats

import stpredict as st
from stpredict._sections.open import open_sections

PERCENT = (1, 5, 10, 20)
KNN = (1, 2, 3, 4, 6, 8, 12, 16, 32)
RANGES = (0.5, 1, 2, 4, 8, 16)
NOISE = (0.03, 0.1, 0.3, 1, 3, 10, 30)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MIN_COUNTS = 50


def spots(arguments):
    """Scores of every method at every share of measured spots: section, draw, percent, method, panel, PCC and MSE."""
    sections = {str(adata.obs["section"].iloc[0]): adata for adata in her2st()[0]}
    for test in arguments.test:
        new = sections[test]
        train = [adata for name, adata in sections.items() if name != test]
        chosen, model = trained(train, arguments, test)
        shown = {name: [g for g in chosen[name] if g in set(new.var_names)] for name in ("HEG", "HVG")}
        genes = list(dict.fromkeys(gene for panel in shown.values() for gene in panel))
        deep = np.flatnonzero(np.asarray(new.X.sum(axis=1)).ravel() >= MIN_COUNTS)
        for percent in PERCENT:
            for draw in range(arguments.draws):
                few = np.random.default_rng([draw, percent]).choice(
                    deep, max(2, round(percent / 100 * len(deep))), False
                )
                mask = np.isin(np.arange(new.n_obs), few)
                for method, values in predictions(new, model, mask, genes).items():
                    for row in scored(new, values, ~mask, genes, shown):
                        yield {"section": test, "draw": draw, "percent": percent, "method": method, **row}


def trained(train, arguments, name, features=FEATURES):
    """Panels, and the base model; kept under ``--keep``."""
    chosen = panels(train)
    genes = list(dict.fromkeys(gene for panel in chosen.values() for gene in panel))
    genes = [gene for gene in genes if all(gene in adata.var_names for adata in train)]
    path = arguments.keep / f"{arguments.method}_{name}" if arguments.keep else None
    if path and path.exists():
        return chosen, st.models.load(path)
    seed = {"seed": 0, "show_progress": False} if st.models.METHODS[arguments.method].seeded else {}
    model = st.tl.train(train, method=arguments.method, genes=genes, features=features, **seed)
    if path:
        model.save(path)
    return chosen, model


def predictions(new, model, mask, genes):
    """Every method's prediction (spots, genes)."""
    section = open_sections(new)[0]
    new.obs["measured"] = mask
    measured = section.log_expression(genes)[mask].astype(float)
    places = section.centres / section.lattice.pitch_px
    away = np.linalg.norm(places[:, None] - places[None], axis=2)
    image = np.concatenate([section.features(key) for key in FEATURES], axis=1)
    image = (image - image.mean(axis=0)) / np.maximum(image.std(axis=0), 1e-6)
    linear = image @ image.T / image.shape[1]
    adapted = st.tl.adapt(new, model, measured="measured")
    return {
        "unadapted": model.predict(section, genes).mean,
        "spatial kNN": nearest(away, measured, mask),
        "kriging": kriged(away, measured, mask),
        "kriging + image": kriged(away, measured, mask, linear),
        "adapted": adapted.predict(section, genes).mean,
    }


def nearest(away, measured, mask):
    """Mean of the k nearest measured spots, weighted by 1 / distance²."""

    def mean(distances, k):
        order = np.argsort(distances, axis=1)[:, :k]
        weights = 1 / np.square(np.maximum(np.take_along_axis(distances, order, axis=1), 0.3))
        return np.einsum("sk,skg->sg", weights / weights.sum(axis=1, keepdims=True), measured[order])

    others = away[np.ix_(mask, mask)] + np.diag(np.full(len(measured), 1e6))
    several = [k for k in KNN if k < len(measured)]
    left_out = [np.square(measured - mean(others, k)).mean() for k in several]
    return mean(away[:, mask], several[int(np.argmin(left_out))])


def kriged(away, measured, mask, image=None):
    """Mean, plus a Gaussian process of what differs from it, with one covariance for all standardised genes."""
    n, level = len(measured), measured.mean(axis=0)
    values = measured - level
    scaled = values / np.where(values.std(axis=0) > 0, values.std(axis=0), 1)
    best = (np.inf, None)
    for share in SHARES if image is not None else (0.0,):
        for reach in RANGES if share < 1 else (1,):
            each = (1 - share) * np.exp(-away / reach) + (share * image if share else 0)
            for noise in NOISE:
                inside = each[np.ix_(mask, mask)] + noise * np.eye(n)
                fit = np.linalg.solve(inside, scaled)
                size = np.maximum((scaled * fit).sum(axis=0) / n, 1e-9)
                cost = n * np.log(size).mean() + np.linalg.slogdet(inside)[1]
                if cost < best[0]:
                    best = (cost, each[:, mask] @ np.linalg.solve(inside, values))
    return level + best[1]


def scored(new, values, rest, genes, shown):
    """Mean PCC and MSE of every panel over the spots `rest`."""
    layer = np.full(new.shape, np.nan, dtype=np.float32)
    layer[:, new.var_names.get_indexer(genes)] = values
    new.layers["tried"] = layer
    scores = st.tl.evaluate(
        new[rest].copy(), predicted="tried", panels=shown, metrics=["pcc", "mse"], min_counts=MIN_COUNTS
    )
    del new.layers["tried"]
    mean = scores.groupby(["panel", "metric"], sort=False)["value"].mean()
    return [{"panel": panel, "pcc": mean[panel, "pcc"], "mse": mean[panel, "mse"]} for panel in shown]


def sections(arguments):
    """Patient B's model adapted to one section of patient C, tested on the others of C."""
    all_sections = {str(adata.obs["section"].iloc[0]): adata for adata in her2st()[0]}
    b4 = all_sections["B4"]
    chosen, base = trained([b4], arguments, "from_B4")
    for name in C:
        one = all_sections[name]
        models = {
            "unadapted": base,
            "trained on the section": trained([one], arguments, f"from_{name}")[1],
            "trained on both": trained([b4, one], arguments, f"from_B4_{name}")[1],
            "adapted": st.tl.adapt(one, base),
        }
        for test in C:
            if test == name:
                continue
            new = all_sections[test]
            section = open_sections(new)[0]
            shown = {
                panel: [g for g in chosen[panel] if all(g in m.genes for m in models.values())]
                for panel in ("HEG", "HVG")
            }
            genes = list(dict.fromkeys(gene for panel in shown.values() for gene in panel))
            for method, model in models.items():
                values = model.predict(section, genes).mean
                for row in scored(new, values, np.ones(new.n_obs, dtype=bool), genes, shown):
                    yield {"section": test, "draw": name, "percent": "whole section", "method": method, **row}


def told(table: pd.DataFrame, title: str) -> None:
    """Print mean PCC of every method, then what *adapted* is better by."""
    shares, methods = list(dict.fromkeys(table["percent"])), list(dict.fromkeys(table["method"]))
    name = {share: f"{share} %" if isinstance(share, int) else share for share in shares}
    print(f"\n**{title}**\n\n| measured | method | PCC HEG | PCC HVG | MSE HVG |\n|---|---|---|---|---|")
    mean = table.groupby(["method", "percent", "panel"])[["pcc", "mse"]].mean()
    for share in shares:
        for method in methods:
            pcc = [mean.loc[(method, share, panel), "pcc"] for panel in ("HEG", "HVG")]
            cells = [*(f"{value:.3f}" for value in pcc), f"{mean.loc[(method, share, 'HVG'), 'mse']:.2f}"]
            print(f"| {name[share]} | {method} | {' | '.join(cells)} |")
    wide = table.pivot_table(index=["percent", "panel", "section", "draw"], columns="method", values="pcc")
    print(f"\n| adapted − | panel | {' | '.join(name.values())} |\n{'|---' * (len(shares) + 2)}|")
    for method in methods:
        for panel in ("HEG", "HVG") if method != "adapted" else ():
            cells = [difference(wide.loc[(s, panel), "adapted"] - wide.loc[(s, panel), method]) for s in shares]
            print(f"| {method} | {panel} | {' | '.join(cells)} |")


def difference(values: pd.Series) -> str:
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f}; {(values > 0).sum()} of {len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["spots", "sections"])
    parser.add_argument("--method", default="cmrcnet", help="of the base model")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--test", nargs="+", choices=[*C, "B4"], default=[*C, "B4"], help="for spots")
    parser.add_argument("--keep", type=Path, help="folder for base models, so that they are trained once")
    arguments = parser.parse_args()
    start = time.time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the correction is mostly a guess|.*not measured in all sections")
        warnings.filterwarnings("ignore", message=".*CMRCNet has not left chance|.*left out there")
        table = pd.DataFrame({"spots": spots, "sections": sections}[arguments.part](arguments))
    if arguments.part == "sections":
        told(table, f"{arguments.method} of patient B, adapted to one section of patient C, on the other three")
    for title, names in (("unseen section, C2 … C5", C), ("unseen patient, C → B4", ("B4",))):
        part = table[table["section"].isin(names)]
        if arguments.part == "spots" and len(part):
            told(part, f"{arguments.method}, {title}")
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
