"""Where slides are done: here, one by one or in several processes, or on the workers of a user's Dask cluster."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from stpredict._core.files import NEW, scratch_folder
from stpredict.tl._batch.job import Outcome, brief
from stpredict.tl._batch.processes import outcomes_in_processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stpredict.tl._batch.job import Job
    from stpredict.tl._batch.manifest import Slide


def dask_client() -> Any:
    """The active Dask client; None where there is none."""
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    try:
        return Client.current()
    except ValueError:
        return None


def check_jobs(n_jobs: Any, client: Any) -> None:
    """Refuse a number of processes that is none, or one beside an active Dask client."""
    if not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs < 1:
        msg = f"n_jobs must be a positive integer; got {n_jobs!r}."
        raise ValueError(msg)
    if n_jobs > 1 and client is not None:
        msg = "A Dask client is active, whose workers do the slides; leave n_jobs out, or close the client first."
        raise ValueError(msg)


def check_portable(encoder: Any, n_jobs: int, client: Any) -> None:
    """Refuse modules as encoders in other processes: they would travel with every slide."""
    elsewhere = client is not None or n_jobs > 1
    several = encoder if isinstance(encoder, list | tuple) else [encoder]
    if elsewhere and not all(one is None or isinstance(one, str | Path) for one in several):
        where = "On a Dask cluster" if client is not None else "With n_jobs above 1"
        msg = f"{where}, pass encoder= as a name, or as a folder with config.json and model.safetensors."
        raise TypeError(msg)


def outcomes_of(job: Job, slides: Sequence[Slide], n_jobs: int, client: Any) -> Iterator[Outcome]:
    """Do `slides`, on the workers of `client` where there is one; outcomes in the order in which slides end."""
    if (client is None and n_jobs == 1) or not slides:
        yield from map(job.run, slides)
        return
    with _on_disk(job) as portable:
        if client is None:
            yield from outcomes_in_processes(portable, slides, n_jobs)
        else:
            yield from _on_workers(portable, slides, client)


def _on_workers(job: Job, slides: Sequence[Slide], client: Any) -> Iterator[Outcome]:
    """One task per slide. A task whose worker was killed ends in an outcome, too."""
    from distributed import as_completed

    token = uuid4().hex
    tasks = {client.submit(job.run, slide, key=("predict", slide.name, token), retries=0): slide for slide in slides}
    try:
        for task in as_completed(tasks):
            try:
                yield task.result()
            except Exception as error:  # noqa: BLE001 (whatever the cluster raises for a slide, the others go on)
                yield Outcome(tasks[task], "failed", error=brief(error))
    finally:
        client.cancel(list(tasks))


@contextmanager
def _on_disk(job: Job) -> Iterator[Job]:
    """The job with its model in a folder, from which every worker reads it once, also one that starts later."""
    with scratch_folder(job.out / "model") as folder:
        job.loaded_model().save(folder / NEW)
        yield replace(job, model=folder / NEW)
