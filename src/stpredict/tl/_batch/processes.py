"""Slides in several processes of this machine, which only the caller can reach: through pipes that have no name."""

from __future__ import annotations

import os
import signal
from collections import deque
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any

from stpredict._core.device import LOCAL_RANK
from stpredict.tl._batch.job import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

    from stpredict.tl._batch.job import Job
    from stpredict.tl._batch.manifest import Slide

SPAWN = get_context("spawn")
"""Processes that begin anew: a copy of this one would hang where threads of it hold a lock."""


class Worker:
    """A process that does one slide after another; it says when it is ready, and then what became of each slide."""

    def __init__(self, job: Job, number: int) -> None:
        self.number = number
        self.slide: Slide | None = None
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(job, number, theirs), daemon=True)
        with _one_thread():
            self.process.start()
        theirs.close()

    def give(self, slide: Slide) -> None:
        """Have it do a slide."""
        self.slide = slide
        with suppress(OSError):  # (it has died, which the next look at its pipe tells)
            self.pipe.send(slide)

    def end(self) -> int | None:
        """End the process, whatever it does; returns its exit code."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        return self.process.exitcode


def outcomes_in_processes(job: Job, slides: Sequence[Slide], n: int) -> Iterator[Outcome]:
    """Do `slides` in `n` processes; outcomes in the order in which slides end.

    A slide whose process is killed is a failed one, and the others go on in a new process. Raises RuntimeError if the
    processes cannot start.
    """
    waiting = deque(slides)
    workers: dict[Any, Worker] = {}

    def start(number: int) -> None:
        worker = Worker(job, number)
        workers[worker.pipe] = worker

    try:
        for number in range(min(n, len(slides))):
            start(number)
        while workers:
            for pipe in connection.wait(list(workers)):
                worker = workers[pipe]
                try:
                    outcome = worker.pipe.recv()  # None: it is ready
                except (EOFError, OSError):
                    del workers[pipe]
                    worker.process.join(5)
                    outcome = _killed(worker)
                    if waiting:
                        start(worker.number)
                else:
                    if waiting:
                        worker.give(waiting.popleft())
                    else:
                        workers.pop(pipe).end()
                if outcome is not None:
                    yield outcome
    finally:
        for worker in workers.values():
            worker.end()


def _killed(worker: Worker) -> Outcome:
    code = worker.end()
    if worker.slide is None:
        msg = (
            f"The processes for n_jobs cannot start (exit code {code}). In a script, call predict_many below "
            "if __name__ == '__main__':, since each process imports the script."
        )
        raise RuntimeError(msg)
    why = f"Its process was killed (exit code {code}), most often because memory ran out; run it again with fewer jobs."
    return Outcome(worker.slide, "failed", error=why)


def _work(job: Job, number: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller, who ends this process
    Thread(target=_end_with_caller, daemon=True).start()
    os.environ.setdefault(LOCAL_RANK, str(number))
    with suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            pipe.send(job.run(pipe.recv()))


def _end_with_caller() -> None:
    """End this process when the caller has ended, even if it was killed, so that nothing is written after."""
    if caller := parent_process():
        connection.wait([caller.sentinel])
        os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that start in this block compute in one thread each, unless ``OMP_NUM_THREADS`` says otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    missing = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
