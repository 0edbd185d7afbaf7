"""Slides in several processes: order, deaths, threads, and that nobody else can reach them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

from stpredict.tl._batch.processes import outcomes_in_processes

JOB = SimpleNamespace(run=eval)
"""A job that any process can import, whose slides are expressions."""


def test_every_slide_has_its_outcome_and_a_killed_process_is_one_that_failed():
    before = set(multiprocessing.active_children())
    slides = ["1 + 1", "__import__('os').kill(__import__('os').getpid(), 9)", "2 + 2", "3 + 3"]
    values = list(outcomes_in_processes(JOB, slides, 2))
    assert sorted(value for value in values if isinstance(value, int)) == [2, 4, 6]
    (failed,) = [value for value in values if not isinstance(value, int)]
    assert (failed.slide, failed.status) == (slides[1], "failed")
    assert "Its process was killed (exit code -9)" in failed.error
    assert set(multiprocessing.active_children()) <= before


def test_processes_listen_to_nobody_and_compute_in_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    sockets = "[c.status for c in __import__('psutil').Process(__import__('os').{}()).net_connections('inet')]"
    slides = [sockets.format("getpid"), sockets.format("getppid"), "__import__('torch').get_num_threads()"]
    theirs, ours, threads = outcomes_in_processes(JOB, slides, 1)
    assert theirs == []
    assert "LISTEN" not in ours
    assert threads == 1
    assert "OMP_NUM_THREADS" not in os.environ


def test_processes_end_when_the_caller_stops():
    before = set(multiprocessing.active_children())
    outcomes = outcomes_in_processes(JOB, ["1", "__import__('time').sleep(60)", "__import__('time').sleep(60)"], 2)
    assert next(outcomes) == 1
    assert len(set(multiprocessing.active_children()) - before) == 2
    outcomes.close()
    assert set(multiprocessing.active_children()) <= before


KILLED = """
import os
from types import SimpleNamespace
from stpredict.tl._batch.processes import outcomes_in_processes

if __name__ == "__main__":
    for pid in outcomes_in_processes(SimpleNamespace(run=eval), ["__import__('os').getpid()", "__import__('time').sleep(60)"], 1):
        print(pid, flush=True)
        os.kill(os.getpid(), 9)
"""


def test_processes_end_when_the_caller_is_killed():
    import psutil

    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(10)


def test_a_script_without_main_is_told_how_to_call(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "call predict_many below if __name__ == '__main__':" in done.stderr.splitlines()[-1]
