"""The command ``stpredict``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict._core.files import read_text, replacing
from stpredict._core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from pandas import DataFrame

DRAWN = ["ERBB2", "COL1A1", "CD74"]

OPTIONS = {
    "model": "--model",
    "out": "--out",
    "pitch_um": "--pitch-um",
    "mpp": "--mpp",
    "tissue": "--tissue",
    "genes": "--genes",
    "std": "--std",
    "encoder": "--encoder",
    "markers": "--markers",
    "n_jobs": "--jobs",
}
"""Arguments of `stpredict.tl.predict_many` and the options that stand for them."""

NAMED = re.compile(
    rf"""^({"|".join(OPTIONS)})(?:(=)(?=\S)|=|(?=\ must\ |\ is\ ))  # what a message begins with: mpp=50 µm, pitch_um must
    |(?<![\w(.])({"|".join(OPTIONS)})=(?=[,;.]|$|\ the\ )  # what it advises: Pass mpp=, tissue=; but not encode(mpp=)""",
    re.VERBOSE,
)
"""Where a message of the package surely names an argument."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="stpredict", description="Spatial gene expression from H&E slides, inside AnnData and SpatialData."
    )
    parser.add_argument("--version", action="version", version=f"stpredict {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser("demo", help="train, predict and find the tumour on simulated tissue, in a minute")
    demo.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    demo.add_argument("--seed", type=_seed, default=0, help="seed of the simulation (default: 0)")
    demo.set_defaults(run=lambda chosen: run_demo(chosen.out, seed=chosen.seed))
    _add_predict(commands)
    doctor = commands.add_parser("doctor", help="tell what is installed, which devices and encoders are at hand")
    doctor.set_defaults(run=run_doctor, out=None)
    chosen = parser.parse_args(arguments)
    if chosen.out is not None and chosen.out.exists() and not chosen.out.is_dir():
        parser.error(f"--out {chosen.out} is a file; name a folder.")
    try:
        return chosen.run(chosen) or 0
    except BadArguments as error:
        parser.error(str(error))


class BadArguments(Exception):
    """Arguments with which nothing can be done."""


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    predict = commands.add_parser("predict", help="predict the expression of many slides with a trained model")
    predict.add_argument("slides", type=Path, help="folder of slides, or CSV with a column 'path' (and slide, mpp, …)")
    predict.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="folder that model.save wrote, or hf-hub:<repository>"
    )
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    predict.add_argument("--pitch-um", type=float, default=100.0, metavar="UM", help="distance of spots (default: 100)")
    predict.add_argument("--mpp", type=float, metavar="UM", help="µm per pixel of slides that do not say it")
    predict.add_argument(
        "--tissue",
        type=_threshold,
        metavar="NUMBER",
        help="threshold of the stain on pale or grey slides (default: found)",
    )
    predict.add_argument("--genes", type=Path, metavar="FILE", help="genes to predict, one a line (default: all)")
    predict.add_argument("--std", action="store_true", help="write standard deviations too")
    predict.add_argument("--encoder", action="append", metavar="NAME", help="network that the model was trained with")
    predict.add_argument("--markers", metavar="SET", help="find the tumour by this marker set, such as breast")
    predict.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="slides at a time, each in a process (default: 1)"
    )
    predict.set_defaults(run=run_predict)


def run_predict(chosen: argparse.Namespace) -> int:
    """Predict a folder or table of slides; 0 if all are done, 1 if some failed, 130 if the user stopped it."""
    import stpredict as st
    from stpredict.tl._batch.report import summary

    if chosen.jobs < 1:
        msg = f"--jobs is 1 or more, not {chosen.jobs}."
        raise BadArguments(msg)
    names = ("pitch_um", "mpp", "tissue", "std", "encoder", "markers")
    try:
        genes = chosen.genes and read_text(chosen.genes).split()
        options = {name: getattr(chosen, name) for name in names} | {"genes": genes, "n_jobs": chosen.jobs}
        report = st.tl.predict_many(chosen.slides, chosen.model, chosen.out, **options)
    except (OSError, TypeError, ValueError) as error:
        raise BadArguments(in_options(str(error))) from error
    except KeyboardInterrupt:
        print(f"Stopped. The same command goes on from here; see {chosen.out / 'report.html'} for what is done.")
        return 130
    failed = report[report["status"] == "failed"]
    for slide, told in zip(failed["slide"], failed["error"], strict=True):
        print(f"{slide}: {in_options(told)}")
    print(f"{summary(report)}. See {chosen.out / 'report.html'}.")
    return int(len(failed) > 0)


def in_options(message: str) -> str:
    """A message of the package with the options of this command in place of the arguments that it names."""
    return NAMED.sub(lambda found: OPTIONS[found[1] or found[3]] + (" " if found[2] else ""), message)


def run_doctor(chosen: argparse.Namespace) -> None:
    """Tell what this installation has."""
    import stpredict as st

    st.doctor()


def run_demo(out: Path, *, seed: int = 0) -> None:
    """Train on three simulated sections, predict a fourth, find its tumour; results go to the folder `out`."""
    import matplotlib as mpl

    import stpredict as st

    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    *train, new = st.datasets.simulate(n_sections=4, seed=seed)
    for section in (*train, new):
        st.pp.tiles(section)
        st.pp.encode(section)
    genes = st.pp.gene_panel(train, n_top=1000)
    model = st.tl.train(train, method="ridge", genes=genes)
    st.tl.predict_expression(new, model, std=True)
    st.tl.localize_tumor(new, markers="breast", label_key="region")
    scores = st.tl.evaluate(new, metrics=["pcc", "ceiling"])

    model.save(out / "model")
    with replacing(out / "predicted.h5ad") as unfinished:
        new.write_h5ad(unfinished)
    st.pl.compare(new, genes=DRAWN, show=False, save=out / "compare.png")
    st.pl.tumor(new, show=False, save=out / "tumor.png")
    print(_summary(train, new, scores, out))


def _summary(train: list[AnnData], new: AnnData, scores: DataFrame, out: Path) -> str:
    """Five lines on what was done and how well."""
    table = scores.pivot_table(index="gene", columns="metric", values="value")
    mean = table.mean()
    (auroc,) = new.uns["tumor"]["auroc"].values()
    drawn = ", ".join(f"{gene} {table.loc[gene, 'pcc']:.2f}" for gene in DRAWN)
    return "\n".join(
        [
            f"Trained ridge on {len(train)} simulated sections of {len(train)} patients, {sum(a.n_obs for a in train)} spots.",
            f"Predicted {len(table)} genes at {new.n_obs} spots of a patient it never saw:",
            f"  mean PCC {mean['pcc']:.2f} of at most {mean['ceiling']:.2f} in such noisy counts; {drawn}.",
            f"Tumour by breast markers: {new.obs['tumor'].sum()} spots, AUROC {auroc:.2f} against the true tumour.",
            f"Written to {out}: predicted.h5ad, model/, compare.png, tumor.png.",
        ]
    )


def _threshold(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        msg = (
            f"a threshold of the stain is a number, not {text!r}. A mask or outlines are those of one slide: pass them to "
            "stpredict.io.grid in Python, write what it returns to a .h5ad or .zarr store, and list that in place of the image"
        )
        raise argparse.ArgumentTypeError(msg) from None


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        msg = f"a seed is 0 or more, not {seed}"
        raise argparse.ArgumentTypeError(msg)
    return seed
