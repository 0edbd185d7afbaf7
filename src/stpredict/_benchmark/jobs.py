"""The jobs of a study: train on some sections, predict others from their images alone, and score."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._benchmark import duplicates
from stpredict._benchmark.methods import FIXED, seeded
from stpredict._benchmark.panels import choose_panels
from stpredict._benchmark.store import ResultStore
from stpredict._core.device import resolve_device
from stpredict._core.progress import progress_bar
from stpredict._core.settings import settings
from stpredict._evaluation.scoring import INTERVAL, in_other_units, noise_ceilings, score
from stpredict._evaluation.stated import Stated
from stpredict._sections.open import Where, open_sections, table_of
from stpredict.models._base.contract import UNITS
from stpredict.models.fit import fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stpredict._benchmark.study import Study
    from stpredict._core.typing import Data
    from stpredict._sections.section import Section
    from stpredict.models import Prediction

GIB = 2**30
WORKER_GIB = 1.5
"""What a worker takes before it holds any data: the interpreter and its libraries."""


@dataclass(frozen=True)
class Split:
    """Sections to train and to test on, by number; where panels are chosen; and what the table says of it."""

    fold: str
    train: list[int]
    test: list[int]
    pool: list[int]
    labels: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    split: Split
    label: str
    seed: int

    @property
    def name(self) -> str:
        labels = "".join(f", {key} {value}" for key, value in self.split.labels.items())
        return f"{self.split.fold}{labels}, {self.label}, seed {self.seed}"


def run(
    study: Study, splits: Sequence[Split], *, path: str | Path | None, n_jobs: int | None, show_progress: bool | None
) -> pd.DataFrame:
    """Do every job of `splits` × methods × seeds that `path` does not have yet, and put all tables together."""
    from joblib import Parallel, parallel_config

    store = ResultStore(path, study.plan(), study.specs)
    jobs = [
        _Job(split, label, seed)
        for split in splits
        for label, spec in study.specs.items()
        for seed in (study.seeds if seeded(spec) else study.seeds[:1])
    ]
    tables = {job.name: table for job in jobs if (table := store.load(job.name)) is not None}
    missing = [job for job in jobs if job.name not in tables]
    workers = min(_workers(study, n_jobs), max(len(missing), 1))
    show = settings.progress if show_progress is None else show_progress
    options = {"inner_max_num_threads": 1, "mmap_mode": "c"} if workers > 1 else {}
    with (
        warnings.catch_warnings(),
        progress_bar(total=len(jobs), initial=len(tables), desc="cross-validate", unit="job", disable=not show) as bar,
        parallel_config(backend="loky" if workers > 1 else "sequential", **options),
    ):
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning, "joblib")  # it grew, and was replaced
        pool = Parallel(n_jobs=workers, return_as="generator_unordered")
        for name, table in pool(_calls(study, missing)):
            store.save(name, table)
            tables[name] = table
            bar.update()
    return pd.concat([_labelled(job, tables[job.name]) for job in jobs], ignore_index=True)


def _labelled(job: _Job, table: pd.DataFrame) -> pd.DataFrame:
    table = table.copy()
    for i, (name, value) in enumerate(
        {"method": job.label, "seed": job.seed, "fold": job.split.fold, **job.split.labels}.items()
    ):
        table.insert(i, name, value)
    return table


def _workers(study: Study, n_jobs: int | None) -> int:
    """As asked; for None one per core, as far as free memory holds a worker and twice the data, or one on a GPU."""
    if n_jobs is not None:
        if not isinstance(n_jobs, int) or n_jobs < 1:
            msg = f"n_jobs must be a positive integer, or None for as many as cores and memory allow; got {n_jobs!r}."
            raise ValueError(msg)
        return n_jobs
    from joblib import cpu_count

    if any(seeded(spec) for spec in study.specs.values()) and resolve_device().type != "cpu":
        return 1
    held = sum(map(_bytes, study.data))
    return max(1, min(cpu_count(), int(_free_bytes() / (WORKER_GIB * GIB + 2 * held))))


def _bytes(data: Data) -> int:
    adata = table_of(data)
    counts = adata.X.data.nbytes if hasattr(adata.X, "indptr") else getattr(adata.X, "nbytes", 0)
    return counts + sum(getattr(values, "nbytes", 0) for values in adata.obsm.values())


def _free_bytes() -> float:
    import os

    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return np.inf


def _calls(study: Study, jobs: Sequence[_Job]) -> Iterator[Any]:
    """Delayed jobs; what the jobs of one split share is made once, when the first is due."""
    from joblib import delayed

    prepared: tuple[Split | None, _Prepared | None] = (None, None)
    for job in jobs:
        if prepared[0] is not job.split:
            prepared = (job.split, _prepare(study, job.split))
        spec = study.specs[job.label]
        yield delayed(_run_job)(job.name, prepared[1], spec, job.seed if seeded(spec) else None, asdict(settings))


@dataclass(frozen=True)
class _Prepared:
    """What the jobs of one split share. Panels were chosen on training sections, and references hold none of the group."""

    train: list[Data]
    test: dict[str, Data]
    panels: dict[str, list[str]]
    ceilings: dict[str, pd.DataFrame]
    options: dict[str, Any]
    scoring: dict[str, Any]


def _prepare(study: Study, split: Split) -> _Prepared:
    pool = [study.data[i] for i in split.pool]
    panels = choose_panels(
        pool, study.shared, study.genes, study.n_genes, study.markers, study.min_counts, table_key=study.where.table_key
    )
    genes = list(dict.fromkeys(gene for names in panels.values() for gene in names))
    test = {study.names[i]: study.data[i] for i in split.test}
    shallow = {"min_counts": study.min_counts, "seed": settings.seed}
    ceilings = {
        name: noise_ceilings(_section(one, study.where.table_key), genes, **shallow)
        for name, one in test.items()
        if "ceiling" in study.metrics
    }
    options: dict[str, Any] = {
        "genes": genes,
        "features": study.features,
        "group_key": study.group_key,
        "min_counts": study.min_counts,
        "library_key": study.where.library_key,
        "table_key": study.where.table_key,
    }
    if references := duplicates.without_group(study.references, split.fold, study.group_key):
        options["reference"] = references
    scoring = {"panels": panels, "metrics": study.metrics, "target": study.target, **shallow}
    return _Prepared([study.data[i] for i in split.train], test, panels, ceilings, options, scoring)


def _run_job(
    name: str, shared: _Prepared, spec: dict[str, Any], seed: int | None, values: dict[str, Any]
) -> tuple[str, pd.DataFrame]:
    """Train what is to be trained, predict the held-out sections from their images alone, and score."""
    options = shared.options | spec | ({} if seed is None else {"seed": seed})
    options = {key: value for key, value in options.items() if key != "reference" or value is not None}
    with _alone(seeded(spec)), settings.override(**values | {"progress": False}):
        try:
            return name, _job_table(shared, options)
        except Exception as error:
            error.add_note(f"While cross-validating: {name}.")
            raise


def _job_table(shared: _Prepared, options: dict[str, Any]) -> pd.DataFrame:
    model = options.get(FIXED) or fit(shared.train, **options)
    tables = []
    for name, data in shared.test.items():
        section = _section(data, options["table_key"])
        prediction = model.predict(section.without_counts(options["group_key"]), options["genes"])
        rate = partial(
            score, section, prediction.mean, prediction.genes, std=prediction.std, stated=_stated(prediction)
        )
        table = rate(ceilings=shared.ceilings.get(name), **shared.scoring)
        tables.append(table if prediction.units == UNITS else in_other_units(table))
        tables[-1].insert(0, "section", name)
    return pd.concat(tables, ignore_index=True)


def _stated(prediction: Prediction) -> Stated:
    """What the prediction says of itself."""
    judged, reached = prediction.judgement, prediction.reached
    return Stated(
        pcc=None if reached is None else reached[0],
        ends=None
        if prediction.errors is None
        else (prediction.end("lower", INTERVAL), prediction.end("upper", INTERVAL)),
        level=INTERVAL,
        distance=np.nan if judged is None else judged.distance,
    )


def _section(data: Data, table_key: str | None) -> Section:
    (section,) = open_sections(data, Where(table_key=table_key))
    return section


@contextmanager
def _alone(torch_too: bool) -> Iterator[None]:
    """One thread, so that numbers do not depend on how many jobs run beside."""
    from threadpoolctl import threadpool_limits

    if torch_too:
        import torch  # noqa: F401  loaded now, so that the limit reaches it
    with threadpool_limits(1):
        yield
