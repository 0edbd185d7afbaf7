"""Many slides at once: here, one by one or in several processes, or on the workers of a Dask cluster."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict._core.docs import with_shared_texts
from stpredict._core.progress import progress_bar
from stpredict._core.settings import settings
from stpredict._core.version import __version__
from stpredict._genes.markers import marker_genes
from stpredict._genes.symbols import describe_missing, match
from stpredict._images.mask import check_tissue
from stpredict.io._grid import SPOT_PER_PITCH, check_grid
from stpredict.io._library import check_mpp
from stpredict.models._base.files import identity
from stpredict.tl._batch.dask import check_jobs, check_portable, dask_client, outcomes_of
from stpredict.tl._batch.drawn import drawn_gene
from stpredict.tl._batch.job import Job, Outcome
from stpredict.tl._batch.manifest import slides_of
from stpredict.tl._batch.recipe import lent_tools, recipe_of
from stpredict.tl._batch.report import RunFacts, write_report
from stpredict.tl._batch.results import Results, now
from stpredict.tl._given import given_genes, given_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd
    from torch import nn

    from stpredict.models import ExpressionModel
    from stpredict.tl._batch.manifest import Slide


@with_shared_texts
def predict_many(
    manifest: str | Path | Iterable[str | Path] | pd.DataFrame,
    model: ExpressionModel | str | Path,
    out: str | Path,
    *,
    mpp: float | None = None,
    pitch_um: float = 100.0,
    layout: Literal["hexagonal", "square"] = "hexagonal",
    min_tissue: float = 0.5,
    tissue: float | None = None,
    encoder: str | Path | nn.Module | Sequence[str | Path | nn.Module] | None = None,
    genes: Iterable[str] | None = None,
    std: bool = False,
    markers: str | Iterable[str] | Mapping[str, float] | None = None,
    n_jobs: int = 1,
    show_progress: bool | None = None,
) -> pd.DataFrame:
    """Predict the expression of many slides, each written to a store of its own.

    Every slide goes through `stpredict.read_wsi`, `stpredict.io.grid`, `stpredict.pp.tiles` and `stpredict.pp.encode`
    as in training, and `stpredict.tl.predict_expression`. Where a Dask ``Client`` is active, slides are spread over its
    workers, which must find the slides and `out` under the same paths; otherwise they are done here, one by one or
    `n_jobs` at a time.

    A slide that fails becomes a line of the report, and the others continue. The same call made again does only what
    is missing: slides that failed or were not reached, whose file was replaced, or that were done with other
    arguments. A result is written whole or not at all. A result that was edited or damaged no longer matches its
    digest and is made again, with a warning: edit copies only.

    Parameters
    ----------
    manifest
        A folder, of which all images are taken (or, if there are none, all stores); a list of paths; or a DataFrame, or
        the path of a CSV, with a column ``path`` (relative to the CSV) and where wanted ``slide``, the name of each,
        and ``mpp``, its microns per pixel, whatever its file says. Other columns, such as the patient, go to ``obs``,
        where the model looks for it. Stores (``.h5ad``, ``.zarr``) of
        sections with spots keep their spots. Of formats with several files per slide, list the main one.
    model
        What `stpredict.tl.train` returned, or what `stpredict.models.load` takes: the folder that ``model.save`` wrote, or
        ``"hf-hub:<repository>"``.
    out
        Folder for the results, made where it is missing.
    mpp
        Microns per pixel of slides of which neither the manifest says it nor the file.
    pitch_um, layout, min_tissue
        The pseudo-spots, as in `stpredict.io.grid`.
    tissue
        Threshold of the stain above which there is tissue, as in `stpredict.io.grid`, for slides that are pale or grey; by
        default one is found for every slide. Where a mask or outlines are needed, lay the spots of that slide with
        `stpredict.io.grid`, write them to a store and list that in the manifest.
    encoder
        The network that the training sections were encoded with, where it was not the default encoder; several, where
        the model learned from several. On a Dask cluster and with `n_jobs` above 1 a name or a path, not a module.
    genes
        Genes to predict, all known to the model; by default all that it learned from.
    %(std)s
    markers
        Find the tumour by these markers, as in `stpredict.tl.localize_tumor`.
    n_jobs
        Slides that are done at a time, each in a process of its own, which computes in one thread unless
        ``OMP_NUM_THREADS`` is set. Memory must hold as many. A script calls this below
        ``if __name__ == "__main__":``, since each process imports the script.
    %(show_progress)s

    Returns
    -------
    One line per slide: ``slide``, ``path``, ``status`` (``"done"``, ``"kept"`` from an earlier run, ``"failed"``),
    ``spots``, ``genes``, ``seconds``, ``mpp``, ``verdict`` (see `stpredict.tl.predict_expression`), ``error``, ``warnings`` and ``result``, the path of the store. Written to
    `out`: the same as ``report.csv``; ``report.html``, a table to sort and filter, with a picture of every slide and the map
    of one gene, the first of `genes` or one that pathologists know and the model predicts well, in the same colours on all
    slides; and ``<slide>.zarr``, what
    `stpredict.tl.predict_expression` returns with ``as_anndata=True``, with the manifest's columns in ``obs``, with
    `markers` the slots of `stpredict.tl.localize_tumor`, and in ``uns["slide_job"]`` how it was made.

    Raises
    ------
    FileExistsError
        If another run is writing to `out`, it is a file, or it holds something else under the name of a result.
    FileNotFoundError
        If there is no such manifest or model, or none of the slides exists.
    RuntimeError
        If the processes of `n_jobs` cannot start.
    TypeError, ValueError
        If the manifest is empty or names are not unique, the model does not know some of the genes or none of the
        markers, `encoder` is not the one of training, or an argument is out of range. Nothing has been done then.

    Examples
    --------
    >>> import stpredict as st, tempfile, tifffile
    >>> folder = tempfile.mkdtemp()
    >>> section = st.datasets.simulate()
    >>> pixels = section.uns["spatial"]["sim_1"]["images"]["hires"]
    >>> tifffile.imwrite(
    ...     f"{folder}/a.tif", pixels, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER"
    ... )
    >>> st.pp.tiles(section)
    >>> st.pp.encode(section, show_progress=False)
    >>> model = st.tl.train(section, genes=["ERBB2", "COL1A1"], method="ridge")
    >>> report = st.tl.predict_many(folder, model, f"{folder}/predicted", pitch_um=200, show_progress=False)
    >>> report[["slide", "status", "genes"]].values.tolist()
    [['a', 'done', 2]]
    >>> again = st.tl.predict_many(folder, model, f"{folder}/predicted", pitch_um=200, show_progress=False)
    >>> again["status"].tolist()
    ['kept']
    """
    slides = slides_of(manifest)
    grid: dict[str, Any] = {"pitch_um": float(pitch_um), "layout": layout, "min_tissue": float(min_tissue)}
    if tissue is not None:  # (left out otherwise, as in the records of earlier results)
        grid["tissue"] = _threshold(tissue)
    client = dask_client()
    check_jobs(n_jobs, client)
    check_portable(encoder, n_jobs, client)
    here = client is None and n_jobs == 1
    with lent_tools(encoder):
        job = _job(slides, model, Path(out).expanduser().absolute(), mpp, grid, encoder, genes, std, markers, here)
        return _run(job, slides, n_jobs, client, settings.progress if show_progress is None else show_progress)


def _run(job: Job, slides: Sequence[Slide], n_jobs: int, client: Any, show: bool) -> pd.DataFrame:
    """Do the slides, and report."""
    results = Results(job.out)
    started, start = now(), time.perf_counter()
    with results.alone():
        outcomes = {slide.name: job.kept(slide) for slide in slides}
        results.clear_unfinished()
        missing = [slide for slide in slides if outcomes[slide.name] is None]
        try:
            for outcome in _with_bar(outcomes_of(job, missing, n_jobs, client), len(slides), len(missing), show):
                outcomes[outcome.slide.name] = outcome
        finally:  # also when the user stops it
            results.clear_unfinished()
            ended = [outcomes[slide.name] or Outcome(slide, "not done") for slide in slides]
            run = RunFacts(started, time.perf_counter() - start, _facts(job, client), job.drawn)
            table = write_report(job.out, ended, run)
    return table


def _threshold(tissue: Any) -> float:
    """A threshold of the stain, checked."""
    if not isinstance(tissue, int | float | np.number):
        msg = (
            f"tissue= is one threshold of the stain for all slides, a number; got {type(tissue).__name__}. A mask or outlines "
            "are those of one slide: pass them to stpredict.io.grid, write what it returns to a .h5ad or .zarr store, and "
            "list that in the manifest in place of the image."
        )
        raise TypeError(msg)
    check_tissue(tissue)
    return float(tissue)


def _job(
    slides: Sequence[Slide],
    model: ExpressionModel | str | Path,
    out: Path,
    mpp: float | None,
    grid: dict[str, Any],
    encoder: Any,
    genes: Iterable[str] | None,
    std: bool,
    markers: Any,
    here: bool,
) -> Job:
    """What is to be done, checked."""
    check_mpp(mpp)
    check_grid(grid["pitch_um"], SPOT_PER_PITCH * grid["pitch_um"], grid["layout"], grid["min_tissue"])
    model = given_model(model)
    wanted = None if genes is None else _known_genes(genes, model)
    recipe = recipe_of(model, encoder, only_stores=all(slide.is_store for slide in slides), here=here)
    return Job(
        model=model,
        model_id=identity(model),
        recipe=recipe,
        out=out,
        mpp=mpp,
        grid=grid,
        predict={"genes": wanted, "std": bool(std)},
        markers=_known_markers(markers, wanted or model.genes),
        drawn=None if markers is not None else drawn_gene(model, wanted),
        settings=asdict(settings) | {"progress": False},
    )


def _known_genes(genes: Iterable[str], model: ExpressionModel) -> list[str]:
    wanted, _, unknown = given_genes(genes, model.vocabulary)
    if not wanted or unknown:
        msg = f"The model does not know all of the genes ({describe_missing(unknown) or 'none is given'}); see model.vocabulary."
        raise ValueError(msg)
    return wanted


def _known_markers(markers: Any, genes: Sequence[str]) -> Any:
    """Markers as JSON keeps them; at least one of them is predicted."""
    if markers is None:
        return None
    names = marker_genes(markers)
    if not match(names, genes):
        msg = f"None of the markers is among the predicted genes: {describe_missing(names)}."
        raise ValueError(msg)
    if isinstance(markers, str):
        return markers
    return {name: float(markers[name]) for name in names} if hasattr(markers, "items") else names


def _with_bar(outcomes: Iterator[Outcome], n: int, missing: int, show: bool) -> Iterator[Outcome]:
    failed = 0
    # (time left by the mean of all slides so far: they differ in size)
    how: dict[str, Any] = {"desc": "predict", "unit": "slide", "smoothing": 0, "disable": not show}
    with progress_bar(total=n, initial=n - missing, **how) as bar:
        for outcome in outcomes:
            failed += outcome.status == "failed"
            bar.set_postfix({"failed": failed} if failed else {}, refresh=False)
            bar.update()
            yield outcome


def _facts(job: Job, client: Any) -> dict[str, Any]:
    """What the report says of the run as a whole."""
    from importlib.metadata import version

    model = job.loaded_model()
    asked = {**job.grid, "mpp": job.mpp, **job.predict, "markers": job.markers}
    encoders = ", ".join(
        dict.fromkeys(str(one.get("encoder", key)) for key, one in model.config.get("features", {}).items())
    )
    return {
        "Model": f"{model.method}, {job.model_id}",
        "Encoder": model.config.get("encoder") or encoders or "none",
        "Parameters": ", ".join(f"{key}={value!r}" for key, value in asked.items() if value is not None),
        "Done on": "this machine" if client is None else f"a Dask cluster, {client.scheduler.address}",
        "Results": job.out,
        "Versions": ", ".join(
            [f"stpredict {__version__}", *(f"{name} {version(name)}" for name in ("anndata", "torch"))]
        ),
    }
