"""How well a model knows when it is not to be believed: stated against reached correlation, intervals, verdicts.

python benchmarks/trust.py [--method ridge] [--genes 1000] [--parts known new kinds patients] [--features X_morphology]

Of spot features alone (``--features X_morphology``), verdicts are those of networks that look at the pixels of tiles, which are
described by the same numbers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from common import C
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

import stpredict as st
from stpredict._sections.anndata import section_from_anndata
from stpredict.datasets._real import read_section

if TYPE_CHECKING:
    from stpredict.models._base.model import ExpressionModel
    from stpredict.models._trust.trust import Judgement

COARSE = 3.2
"""µm per pixel at which her2st_midres A1 is."""

BULB = 3.43
"""µm per pixel of the first scan of the bulbs; the second is a little finer."""


def encoded(adata: AnnData, mpp: float | None = None) -> AnnData:
    st.pp.tiles(adata)
    st.pp.encode(adata, mpp=mpp, show_progress=False)
    return adata


def trained(sections: list[AnnData], chosen: argparse.Namespace):
    options = {} if chosen.method in ("ridge", "knn", "mixture", "density") else {"show_progress": False}
    options |= {"features": chosen.features} if chosen.features else {}
    genes = st.pp.gene_panel(sections, n_top=chosen.genes)
    start = time.perf_counter()
    model = st.tl.train(sections, method=chosen.method, genes=genes, **options)
    print(f"    {time.perf_counter() - start:.1f} s of training", end="")
    start = time.perf_counter()
    for section in sections:
        model.judge(section_from_anndata(section))
    print(f", {time.perf_counter() - start:.2f} s to judge the same sections")
    return model


def scored(model, adata: AnnData, what: str) -> None:
    """One line: what was stated of a section, and what was reached."""
    new = adata.copy()
    st.tl.predict_expression(new, model, interval=0.9, std=True)
    known = new.var["predicted_reliability"].notna().to_numpy()
    scores = st.tl.evaluate(new, metrics=["pcc", "coverage"]).pivot_table(
        index="gene", columns="metric", values="value"
    )
    reached = scores["pcc"].reindex(new.var_names[known]).to_numpy()
    stated = new.var["predicted_reliability"].to_numpy()[known]
    totals = np.asarray(new.X.sum(axis=1)).ravel()
    counts = new[:, known].X.toarray()
    truth = np.log1p(1e4 * counts / np.maximum(totals, 1)[:, None])
    rows = totals >= 50
    low, high = (new.layers[f"predicted_{end}"][:, known] for end in ("lower", "upper"))
    inside = ((truth >= low) & (truth <= high))[rows]
    top = stated > np.median(stated)
    r = np.corrcoef(stated, reached)[0, 1] if stated.std() > 0 else np.nan
    domain = new.uns["predicted"]["domain"]
    halves = f"{reached[top].mean():.3f} / {reached[~top].mean():.3f}" if top.any() else "–"
    print(
        f"{what:18} {domain['verdict']:8} {domain['distance']:5.2f}  stated {stated.mean():.3f}  reached {reached.mean():.3f}"
        f"  r over genes {r:.2f}  upper / lower half {halves}  intervals hold {inside.mean():.3f}"
        f"  by std {scores['coverage'].mean():.3f}"
    )


def known(chosen: argparse.Namespace) -> None:
    """Sections of a patient, or halves of a section, that training has seen others of."""
    sections = {name: encoded(st.datasets.her2st(name)) for name in C}
    for name in C:
        scored(trained([sections[other] for other in C if other != name], chosen), sections[name], f"C → {name}")
    bulbs = {name: encoded(st.datasets.mob(name)) for name in ("MOB1", "MOB2")}
    for name, other in (("MOB2", "MOB1"), ("MOB1", "MOB2")):
        model = trained([bulbs[other]], chosen)
        scored(model, bulbs[name], f"{other} → {name}")
        scored(model, second_scan(name), f"{other} → {name}, second scan")
    colon = encoded(st.datasets.mouse_colon())
    x = colon.obsm["spatial"][:, 0]
    gap = 800 / colon.uns["tiles"]["mouse_colon_d0"]["mpp"]
    left, right = colon[x < np.median(x) - gap].copy(), colon[x > np.median(x) + gap].copy()
    scored(trained([left], chosen), right, "colon left → right")
    scored(trained([right], chosen), left, "colon right → left")


def second_scan(name: str) -> AnnData:
    """A bulb as another microscope saw it: the same spots and counts."""
    return encoded(read_section("mob_splotch", name), BULB)


def new_patients(chosen: argparse.Namespace) -> None:
    sections = {name: encoded(st.datasets.her2st(name)) for name in (*C, "B4")}
    scored(trained([sections[name] for name in C], chosen), sections["B4"], "C → B4")
    model = trained([sections["B4"]], chosen)
    for name in C:
        scored(model, sections[name], f"B4 → {name}")
    coarse = [encoded(st.datasets.her2st(name), COARSE) for name in C]
    scored(trained(coarse, chosen), encoded(st.datasets.her2st_midres("A1")), "C → A1")


def changed_slides(name: str, folder: Path, mpp: float):
    """Copies of a section's slide, each changed in one way, with its spots and the name of the change."""
    from skimage.color import hed2rgb, rgb2hed

    adata = st.datasets.her2st(name)
    (library,) = adata.uns["spatial"].values()
    slide = Image.open(library["metadata"]["source_image_path"]).convert("RGB")
    own = library["scalefactors"]["microns_per_pixel"]
    xy = adata.obsm["spatial"]

    def swapped(pixels: np.ndarray) -> np.ndarray:
        out = np.empty_like(pixels)
        for row in range(0, len(pixels), 1000):
            out[row : row + 1000] = np.clip(hed2rgb(rgb2hed(pixels[row : row + 1000])[..., [1, 0, 2]]), 0, 1) * 255
        return out

    def resized(factor: float) -> Image.Image:
        return slide.resize([round(side * factor) for side in slide.size], Image.Resampling.BICUBIC)

    small = np.asarray(slide.reduce(4))
    blurred = Image.fromarray(gaussian_filter(small, (2 / own, 2 / own, 0))).resize(slide.size)
    yield "blurred 8 µm", section_on(blurred, xy, own, folder, 1.0, mpp)
    yield "stains exchanged", section_on(Image.fromarray(swapped(np.asarray(slide))), xy, own, folder, 1.0, mpp)
    yield "half size", section_on(resized(0.5), xy * 0.5, own, folder, 0.5, mpp)
    yield "double size", section_on(resized(2.0), xy * 2.0, own, folder, 2.0, mpp)


def section_on(slide: Image.Image, xy: np.ndarray, own: float, folder: Path, size: float, mpp: float) -> AnnData:
    import tifffile

    path = folder / "slide.tif"
    tifffile.imwrite(path, np.asarray(slide), photometric="rgb", tile=(512, 512))
    uns = dict(st.read_wsi(path, own).uns)
    (library,) = uns["spatial"].values()
    library["scalefactors"]["spot_diameter_fullres"] = 100 * size / own
    obs = pd.DataFrame(index=[f"spot{i}" for i in range(len(xy))])
    return encoded(AnnData(obs=obs, obsm={"spatial": np.asarray(xy, float)}, uns=uns), mpp)


def tiles_of(kind: str, own: float, folder: Path, mpp: float, n: int = 30):
    for path in sorted((st.settings.data_dir / "unlabelled_HE" / kind).rglob("*.*"))[:n]:
        if path.suffix in (".jpg", ".png", ".tif"):
            tile = Image.open(path).convert("RGB")
            line = np.arange(50 / own, tile.width - 50 / own, 60 / own)
            yield section_on(tile, np.stack(np.meshgrid(line, line), -1).reshape(-1, 2), own, folder, 1.0, mpp)


def kinds(chosen: argparse.Namespace) -> None:
    """Slides of another kind, under models of breast."""
    judged: dict[str, list[Judgement]] = {}

    def judge(model: ExpressionModel, adata: AnnData, what: str) -> None:
        judged.setdefault(what, []).append(model.judge(section_from_anndata(adata)))

    with tempfile.TemporaryDirectory() as folder:
        sections = {name: encoded(st.datasets.her2st(name)) for name in C}
        mpp = float(sections["C2"].uns["X_morphology"]["mpp"])
        others = {
            "colorectal tiles": list(tiles_of("crchisto", 0.5, Path(folder), mpp)),
            "nuclei tiles": list(tiles_of("monuseg", 0.25, Path(folder), mpp)),
            "mouse colon": [encoded(st.datasets.mouse_colon(), mpp)],
        }
        for name in C:
            model = trained([sections[other] for other in C if other != name], chosen)
            slides = [(what, adata) for what, several in others.items() for adata in several]
            for what, adata in [("held out", sections[name]), *slides, *changed_slides(name, Path(folder), mpp)]:
                judge(model, adata, what)
        coarse = [encoded(st.datasets.her2st(name), BULB) for name in C]
        model = trained(coarse, chosen)
        for name in ("MOB1", "MOB2"):
            judge(model, encoded(st.datasets.mob(name)), "olfactory bulb")
            judge(model, second_scan(name), "bulb, second scan")
    own = judged.pop("held out")
    told("held out", own)
    for what, others in judged.items():
        told(what, others, own)
    told("all of these", [one for others in judged.values() for one in others], own)


def told(what: str, judged: list[Judgement], own: list[Judgement] | None = None) -> None:
    """One line: verdicts of some slides, and how well their distance tells them from those of the `own` kind."""
    verdicts, away = [one.verdict for one in judged], [one.distance for one in judged]
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in ("inside", "edge", "outside"))
    line = f"{what:18} {counts}; distance {min(away):.2f} to {max(away):.2f}"
    if own:
        slides = [[one.distance for one in kind] for kind in (own, judged)]
        spots = [np.concatenate([one.spots for one in kind]) for kind in (own, judged)]
        of_slides, of_spots = (
            roc_auc_score(np.repeat([0, 1], [len(kind) for kind in values]), np.concatenate(values))
            for values in (slides, spots)
        )
        line += f"; AUROC of slides {of_slides:.3f}, of spots {of_spots:.3f}"
    print(line)


def patients(chosen: argparse.Namespace) -> None:
    """Intervals of one patient's sections on another patient's, by counts alone: the mean of training as prediction.

    Each also with an allowance: errors spread further by levels of genes that differ between patients.
    """
    names = [(st.datasets.her2st_counts_only, name) for name in st.datasets.available("her2st_counts_only")]
    names += [(partial(read_section, "her2st_counts_more"), n) for n in st.datasets.available("her2st_counts_more")]
    sections = [read(name) for read, name in names if name[0] in "DEFGH"]
    genes = sorted(set.intersection(*(set(adata.var_names) for adata in sections)))
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for adata in sections:
        totals = np.asarray(adata.X.sum(axis=1)).ravel()
        counts = adata[totals >= 50, genes].X.toarray()
        of_patient = found.setdefault(str(adata.obs["patient"].iloc[0]), [])
        of_patient.append((np.log1p(1e4 * counts / totals[totals >= 50, None]), totals))
    allowances, held = (0.0, 0.2, 0.3, 0.4), []
    for patient, own in found.items():
        values = [some for some, _ in own]
        top = np.argsort(-np.concatenate(values).mean(axis=0))[: chosen.genes]
        values = [some[:, top] for some in values]
        others = [np.concatenate(values[:i] + values[i + 1 :]).mean(axis=0) for i in range(len(values))]
        errors = np.concatenate([some - mean for some, mean in zip(values, others, strict=True)])
        low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95], axis=0)
        mean = np.concatenate(values).mean(axis=0)
        for other, theirs in found.items():
            if other != patient:
                new = np.concatenate([some[:, top] for some, _ in theirs])
                wider = [[np.hypot(end - middle, 1.645 * by) for end in (low, high)] for by in allowances]
                ends = [(np.maximum(mean + middle - down, 0), mean + middle + up) for down, up in wider]
                held.append([((new >= lower) & (new <= upper)).mean() for lower, upper in ends])
                depths = [np.median(np.concatenate([totals for _, totals in of])) for of in (own, theirs)]
                told = "  ".join(f"{share:.3f}" for share in held[-1])
                print(f"{patient} → {other}  depth {depths[0]:.0f} → {depths[1]:.0f}  intervals hold {told}")
    for by, shares in zip(allowances, np.transpose(held), strict=True):
        print(
            f"allowance {by}: {shares.mean():.3f} on average, {shares.min():.3f} to {shares.max():.3f}; of {len(shares)} pairs "
            f"{np.sum(shares < 0.85)} below .85, {np.sum(shares > 0.95)} above .95"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ridge")
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--features", nargs="+", help="obsm keys to learn from; by default all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    for part in chosen.parts:
        print(f"== {part}, {chosen.method}, {chosen.genes} genes", flush=True)
        PARTS[part](chosen)


PARTS = {"known": known, "new": new_patients, "kinds": kinds, "patients": patients}

if __name__ == "__main__":
    main()
