"""Where slides are done: here, one by one, or on the workers of a Dask cluster."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from stpredict._core.files import NEW, scratch_folder
from stpredict.tl._batch.job import Outcome, brief

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


def check_portable(encoder: Any, client: Any) -> None:
    """Refuse modules as encoders on a cluster: they would travel with every slide.

    Raises
    ------
    TypeError
        If there is one.
    """
    several = encoder if isinstance(encoder, list | tuple) else [encoder]
    if client is not None and not all(one is None or isinstance(one, str | Path) for one in several):
        msg = "On a Dask cluster, pass encoder= as a name, or as a folder with config.json and model.safetensors."
        raise TypeError(msg)


def outcomes_of(job: Job, slides: Sequence[Slide], client: Any) -> Iterator[Outcome]:
    """Do `slides`, on the workers of `client` where there is one; outcomes in the order in which slides end."""
    if client is None or not slides:
        yield from map(job.run, slides)
    else:
        with _on_disk(job) as portable:
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
