"""Genes that were never measured, on sections and patients that were never seen.

    python benchmarks/zero_shot.py [--design fair] [--sections C2 C3 C4 C5] [--seeds 0 1]
    python benchmarks/zero_shot.py --sections B4
    python benchmarks/zero_shot.py --design published
    python benchmarks/zero_shot.py --ablation --sections C2 C4 --seeds 0
    python benchmarks/zero_shot.py --default [--sections C2 C3 C4 C5 B4]
    python benchmarks/zero_shot.py --at-length FOLDER [--epochs 300] [--genes 250]

her2st: C2 … C5 are predicted in turn by models of the other sections (B4 and sisters of the same patient), B4 by models of
C2 … C5. ``fair``: a fifth of the 1,000 genes of highest mean in training is unseen, drawn by the seed alike from all
strata of expression; genes whose symbols share a stem (COL1A1, COL3A1) or whose names begin alike are never split.
``published``: the 250 of highest mean are unseen and the next 1,000 seen. No method gets counts of unseen genes from a
section with an image, except those *trained on them*; the reference is the counts-only sections of other patients.

Scores are means over unseen genes and sections: PCC; partial PCC given the mean map of all seen genes' predictions; and
partial PCC given log total counts. Below, differences with two 95 % intervals: Student's t over sections, which are few
and here of one patient; and by bootstrap over families of genes, which says how much hangs on the choice of genes and
nothing about other sections. Genes of one family are resampled together, since they are not independent.

``--out`` keeps the scores of every gene, and ``--from`` makes the tables of such a file again.

``--ablation``: the parts of the paper one by one in our network, text only, one network of 15 epochs each. ``--default``: the
default beside ALIGN-ST, both with the reference, and beside what is trained on the unseen genes with it.

``--at-length``: the published preset at its own length, trained on C2 and C3 alone and tested on C4, beside the default
without a reference and ridge's maps of similar genes. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import encoded

import stpredict as st
from stpredict._evaluation.units import student_interval
from stpredict._sections.anndata import section_from_anndata
from stpredict.models._data.features import design

ENCODERS = ("morphology", "efficientnet_lite0")
NAMES = ("B4", "C2", "C3", "C4", "C5")
N_GENES, N_HIGHEST, SHARE, STRATA = 1000, 250, 0.2, 10
SIMILAR = (10, 30)
LENGTH = ("C2", "C3", "C4")
"""Sections of the run at length: the last is tested."""
TAUGHT = tuple(f"{name}, trained on them" for name in ("ridge", "ridge with reference", "CMRCNet"))

DEFAULT = ("default, reference", "default with reference, trained on them")

FULL = {
    "nuclei": True,
    "text_layers": 2,
    "gene_neighbours": 8,
    "coordinates": False,
    "genes_per_step": 128,
    "members": 1,
}
ABLATION = {
    "the paper's parts, shortened": FULL,
    "no nuclei": FULL | {"nuclei": False},
    "no prompt interaction": FULL | {"interaction": False},
    "no gene graph": FULL | {"gene_neighbours": 0},
    "coordinates beside them": FULL | {"coordinates": True},
    "coordinates alone (default)": {"members": 1},
    "default and nuclei": {"members": 1, "nuclei": True},
    "default and gene graph": {"members": 1, "gene_neighbours": 8},
}


# ---------------------------------------------------------------------- designs


def families(genes: list[str]) -> list[list[str]]:
    """Genes that share the stem of their symbol or the first two words of their name."""
    names = st.datasets.genes().set_index("symbol")["name"].to_dict()
    parent = {gene: gene for gene in genes}

    def root(gene: str) -> str:
        while parent[gene] != gene:
            gene = parent[gene]
        return gene

    first: dict[str, str] = {}
    for gene in genes:
        words = names.get(gene, "").split()[:2]
        keys = ["s " + re.match(r"[A-Z]*", gene)[0]] if re.match(r"[A-Z]{3}", gene) else []
        for key in keys + (["n " + " ".join(words)] if len(words) == 2 else []):
            parent[root(gene)] = root(first.setdefault(key, gene))
    groups: dict[str, list[str]] = {}
    for gene in genes:
        groups.setdefault(root(gene), []).append(gene)
    return list(groups.values())


def fair(genes: list[str], seed: int) -> list[str]:
    """A fifth of `genes`, which are ordered by their mean: whole families, as many from each stratum."""
    stratum = {gene: i * STRATA // len(genes) for i, gene in enumerate(genes)}
    room = np.full(STRATA, round(SHARE * len(genes) / STRATA))
    groups = families(genes)
    unseen: list[str] = []
    for number in np.random.default_rng(seed).permutation(len(groups)):
        takes = np.bincount([stratum[gene] for gene in groups[number]], minlength=STRATA)
        if (takes <= room).all():
            room -= takes
            unseen += groups[number]
    return unseen


# ---------------------------------------------------------------------- scores


def standard(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; 0 where nothing but rounding is left."""
    values = values.astype(np.float64)
    values = values - values.mean(axis=0)
    size = values.std(axis=0)
    return np.where(size > 1e-6, values / np.where(size > 1e-6, size, 1), 0)


def partial(a: np.ndarray, b: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    """Correlation of columns, given one map or none."""
    a, b = standard(a), standard(b)
    if given is not None:
        given = standard(given[:, None])
        a, b = (standard(x - given * (x * given).mean(axis=0)) for x in (a, b))
    return (a * b).mean(axis=0)


def similar(maps: pd.DataFrame, embeddings: pd.DataFrame, unseen: list[str], k: int) -> pd.DataFrame:
    """Mean of the standardised maps of the `k` seen genes most alike."""
    seen = [gene for gene in maps if gene in embeddings.index]
    told = [gene for gene in unseen if gene in embeddings.index]
    alike = embeddings.loc[told].to_numpy() @ embeddings.loc[seen].to_numpy().T
    rows = np.argsort(-alike, axis=1)[:, :k]
    values = standard(maps[seen].to_numpy())
    out = pd.DataFrame({gene: values[:, row].mean(axis=1) for gene, row in zip(told, rows, strict=True)})
    return out.reindex(columns=unseen)


# ---------------------------------------------------------------------- one section


def predicted(model, section, genes) -> pd.DataFrame:
    new = st.tl.predict_expression(section, model, genes=genes, as_anndata=True)
    return new.to_df().reindex(columns=genes)


def references(held: str) -> list:
    names = st.datasets.available("her2st_counts_only")
    return [st.datasets.her2st_counts_only(name) for name in names if name[0] != held[0]]


def maps(train, test, seen, unseen, held, seed) -> dict[str, pd.DataFrame]:
    """Maps of the unseen genes by every method; the mean map of seen genes is `None`'s."""
    from sklearn.linear_model import RidgeCV

    how = {"seed": seed, "show_progress": False, "group_key": None}
    ridge = predicted(st.tl.train(train, method="ridge", genes=seen + unseen, group_key=None), test, seen + unseen)
    reference = references(held)
    by_text = st.tl.train(train, method="align_st", genes=seen, **how)
    by_both = st.tl.train(train, method="align_st", genes=seen, reference=reference, **how)
    text = st.pp.gene_embeddings(seen + unseen)
    together = st.pp.gene_embeddings(seen + unseen, source="coexpression", reference=reference)
    keys = [key for key in test.obsm if key.startswith("X_")]
    x = [design(section_from_anndata(section), keys) for section in (*train, test)]
    y = [np.log1p(np.asarray(section.X.sum(axis=1)).ravel()) for section in train]
    total = RidgeCV(10.0 ** np.arange(1, 6)).fit(np.concatenate(x[:-1]), np.concatenate([standard(v) for v in y]))
    names = list(test.uns["X_morphology_560"]["feature_names"])
    nuclei = np.asarray(test.obsm["X_morphology_560"])[:, names.index("nucleus_count")]

    def everywhere(one: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(np.repeat(one[:, None], len(unseen), axis=1), columns=unseen)

    mean = standard(ridge[seen].to_numpy()).mean(axis=1)
    out = {
        None: everywhere(mean),
        "mean of seen genes": everywhere(mean),
        "predicted total counts": everywhere(total.predict(x[-1])),
        "nuclei density": everywhere(nuclei),
    }
    for k in SIMILAR:
        out[f"{k} similar genes, text, ridge"] = similar(ridge[seen], text, unseen, k)
        out[f"{k} similar genes, text, ALIGN-ST"] = similar(predicted(by_text, test, seen), text, unseen, k)
    out["ALIGN-ST, text"] = predicted(by_text, test, unseen)
    for k in SIMILAR:
        out[f"{k} similar genes, co-expression, ridge"] = similar(ridge[seen], together, unseen, k)
        own = predicted(by_both, test, seen)
        out[f"{k} similar genes, co-expression, ALIGN-ST"] = similar(own, together, unseen, k)
    out["ALIGN-ST, reference"] = predicted(by_both, test, unseen)
    return out | {TAUGHT[0]: ridge[unseen]} | taught(train, test, seen + unseen, unseen, reference, seed)


def taught(train, test, genes, unseen, reference, seed) -> dict[str, pd.DataFrame]:
    """Maps of the unseen genes by methods that were trained on them, the reference included."""
    how = {"genes": genes, "group_key": None}
    ridge = st.tl.train(train, method="ridge", reference=reference, **how)
    cmrcnet = st.tl.train(train, method="cmrcnet", seed=seed, show_progress=False, **how)
    return {label: predicted(model, test, unseen) for label, model in zip(TAUGHT[1:], (ridge, cmrcnet), strict=True)}


def default(train, test, seen, unseen, held, seed) -> dict[str, pd.DataFrame]:
    """Maps of the unseen genes by what has the reference."""
    how = {"reference": references(held), "group_key": None}
    ridge = predicted(st.tl.train(train, method="ridge", genes=seen, group_key=None), test, seen)
    mean = standard(ridge.to_numpy()).mean(axis=1)
    out = {None: pd.DataFrame(np.repeat(mean[:, None], len(unseen), axis=1), columns=unseen)}
    models = {
        DEFAULT[0]: ("consensus", seen),
        "ALIGN-ST, reference": ("align_st", seen),
        TAUGHT[1]: ("ridge", seen + unseen),
        DEFAULT[1]: ("consensus", seen + unseen),
    }
    for label, (method, genes) in models.items():
        own = {} if method == "ridge" else {"seed": seed, "show_progress": False}
        out[label] = predicted(st.tl.train(train, method=method, genes=genes, **how, **own), test, unseen)
    return out


def ablated(train, test, seen, unseen, held, seed) -> dict[str, pd.DataFrame]:
    ridge = predicted(st.tl.train(train, method="ridge", genes=seen, group_key=None), test, seen)
    mean = standard(ridge.to_numpy()).mean(axis=1)
    out = {None: pd.DataFrame(np.repeat(mean[:, None], len(unseen), axis=1), columns=unseen)}
    for label, options in ABLATION.items():
        start = time.time()
        how = {"seed": seed, "show_progress": False, "group_key": None, "epochs": 15}
        out[label] = predicted(st.tl.train(train, method="align_st", genes=seen, **how, **options), test, unseen)
        print(f"{held}, {label}: {time.time() - start:.0f} s", flush=True)
    return out


def at_length(train, test, seen, unseen, seed, arguments) -> dict[str, pd.DataFrame]:
    """Maps of the unseen genes by the published preset, by the default, and by similar genes."""
    ridge = predicted(st.tl.train(train, method="ridge", genes=seen, group_key=None), test, seen)
    mean = standard(ridge.to_numpy()).mean(axis=1)
    common = pd.DataFrame(np.repeat(mean[:, None], len(unseen), axis=1), columns=unseen)
    out = {None: common, "mean of seen genes": common}
    out["10 similar genes, text, ridge"] = similar(ridge, st.pp.gene_embeddings(seen + unseen), unseen, 10)
    how = {"method": "align_st", "genes": seen, "seed": seed, "group_key": None}
    start = time.time()
    default = st.tl.train(train, show_progress=False, **how)
    print(f"default: {time.time() - start:.0f} s", flush=True)
    start, folder = time.time(), arguments.at_length
    published = st.tl.train(train, preset="published", epochs=arguments.epochs, checkpoint=folder, **how)
    print(f"published: {time.time() - start:.0f} s", *published.history.notes, sep="\n", flush=True)
    return out | {"default": predicted(default, test, unseen), "published": predicted(published, test, unseen)}


def scored(train, test, held, seed, arguments) -> pd.DataFrame:
    """One row per gene and method."""
    ordered = st.pp.gene_panel(train, n_top=arguments.genes + (N_HIGHEST if arguments.design == "published" else 0))
    ordered = [gene for gene in ordered if gene in set(test.var_names)]
    unseen = fair(ordered, seed) if arguments.design == "fair" else ordered[:N_HIGHEST]
    seen = [gene for gene in ordered if gene not in set(unseen)]
    if arguments.at_length:
        made = at_length(train, test, seen, unseen, seed, arguments)
    else:
        how = ablated if arguments.ablation else default if arguments.default else maps
        made = how(train, test, seen, unseen, held, seed)
    measured = section_from_anndata(test).log_expression(unseen)
    totals = np.asarray(test.X.sum(axis=1)).ravel()
    deep = totals >= 50
    common, varies = made.pop(None).to_numpy()[deep, 0], measured[deep].std(axis=0) > 0
    rows = []
    for label, table in made.items():
        values = table.to_numpy()
        could = varies & np.isfinite(values).all(axis=0)
        scores = {
            "pcc": partial(measured[deep], values[deep]),
            "partial": partial(measured[deep], values[deep], common),
            "partial_total": partial(measured[deep], values[deep], np.log1p(totals[deep])),
        }
        rows.append(pd.DataFrame({"gene": unseen, "method": label, "section": held, "seed": seed, **scores})[could])
    return pd.concat(rows)


# ---------------------------------------------------------------------- tables


def told(table: pd.DataFrame, against: list[tuple[str, str]]) -> None:
    shared = table.groupby(["gene", "section", "seed"])["method"].transform("nunique") == table["method"].nunique()
    n = table.loc[shared].groupby("method").size().iloc[0]
    lost = table.loc[~shared, ["gene", "section", "seed"]].drop_duplicates()
    print(f"\n{n} times an unseen gene in a section; {len(lost)} more that not every method could predict\n")
    print("| method | PCC | partial, given the mean map | partial, given total counts |\n|---|---|---|---|")
    for label, rows in table[shared].groupby("method", sort=False):
        print(f"| {label} | " + " | ".join(f"{rows[s].mean():.3f}" for s in ("pcc", "partial", "partial_total")) + " |")
    wide = table[shared].pivot_table(index=["gene", "section", "seed"], columns="method", values=["pcc", "partial"])
    n = table["section"].nunique()
    over = f"over {n} sections" if n > 1 else "one section"
    heads = [f"{score}, {over} | over gene families" for score in ("PCC", "partial, given the mean map")]
    print(f"\n| difference | {' | '.join(heads)} |\n|---|---|---|---|---|")
    for a, b in against:
        cells = [cell for score in ("pcc", "partial") for cell in intervals(wide[score][a] - wide[score][b])]
        print(f"| {a} − {b} | {' | '.join(cells)} |")


def intervals(differences: pd.Series) -> tuple[str, str]:
    """Mean over genes, then sections: with its interval over sections, and the interval over families of genes."""
    table = differences.dropna().rename("value").reset_index()
    kin = {gene: number for number, group in enumerate(families(sorted(set(table["gene"])))) for gene in group}
    parts = table.groupby(["section", table["gene"].map(kin).rename("family")])["value"].agg(["sum", "count"])
    sums, counts = (parts[what].unstack("family", fill_value=0).to_numpy() for what in ("sum", "count"))
    mean, low, high = student_interval(sums.sum(axis=1) / counts.sum(axis=1))
    drawn = np.random.default_rng(0).multinomial(sums.shape[1], np.full(sums.shape[1], 1 / sums.shape[1]), 2000)
    means = (drawn @ sums.T / np.maximum(drawn @ counts.T, 1)).mean(axis=1)
    reach = f" ({low:+.3f} to {high:+.3f})" if len(sums) > 1 else ""
    return f"{mean:+.3f}{reach}", "{:+.3f} to {:+.3f}".format(*np.quantile(means, [0.025, 0.975]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", choices=["fair", "published"], default="fair")
    parser.add_argument("--sections", nargs="+", choices=NAMES, default=["C2", "C3", "C4", "C5"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--default", action="store_true")
    parser.add_argument(
        "--at-length", type=Path, metavar="FOLDER", help="the published preset; checkpoints are kept there"
    )
    parser.add_argument("--epochs", type=int, default=300, help="of --at-length")
    parser.add_argument("--genes", type=int, default=N_GENES, help="genes of highest mean, seen and unseen")
    parser.add_argument("--out", type=Path, help="keep the scores of every gene in this CSV")
    parser.add_argument("--from", dest="made", type=Path, nargs="+", help="tables of such files, nothing is trained")
    arguments = parser.parse_args()
    start = time.time()
    table = measured(arguments, start) if arguments.made is None else pd.concat(map(pd.read_csv, arguments.made))
    if arguments.out:
        table.to_csv(arguments.out, index=False)
    if arguments.at_length:
        told(table, [("published", other) for other in ("default", "10 similar genes, text, ridge")])
    elif arguments.ablation:
        labels = list(ABLATION)
        told(
            table,
            [(labels[0], label) for label in labels[1:4]] + [(labels[5], label) for label in (labels[0], *labels[6:])],
        )
    elif arguments.default:
        told(table, [(DEFAULT[0], other) for other in ("ALIGN-ST, reference", TAUGHT[1], DEFAULT[1])])
    else:
        ours = {"text": "ALIGN-ST, text", "co-expression": "ALIGN-ST, reference"}
        pairs = [
            (label, f"{k} similar genes, {kind}, {base}")
            for kind, label in ours.items()
            for k in SIMILAR
            for base in ("ridge", "ALIGN-ST")
        ]
        told(table, [*pairs, *((label, other) for label in ours.values() for other in TAUGHT)])
    print(f"\n{time.time() - start:.0f} s")


def measured(arguments, start: float) -> pd.DataFrame:
    """Train and score everything that is asked for."""
    names = LENGTH if arguments.at_length else NAMES
    sections = {name: encoded(st.datasets.her2st(name), ENCODERS, [560.0]) for name in names}
    if arguments.ablation or arguments.at_length:
        for section in sections.values():
            st.pp.nuclei(section, show_progress=False)
    tables = []
    for held in LENGTH[-1:] if arguments.at_length else arguments.sections:
        train = [sections[name] for name in names if name != held]
        for seed in arguments.seeds:
            tables.append(scored(train, sections[held], held, seed, arguments))
            print(f"{held}, seed {seed}: {time.time() - start:.0f} s", flush=True)
    return pd.concat(tables)


if __name__ == "__main__":
    main()
