"""What is written stands whole or not at all, whenever its process is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stpredict._core import files

WRITER = """
import sys
from pathlib import Path
from stpredict._core import files

if sys.argv[2] == "two steps":
    files._exchanged = lambda one, other: False
number = 0
while True:
    with files.replacing(Path(sys.argv[1])) as new:
        new.mkdir()
        for part in "ab":
            (new / part).write_text(str(number) * 1000)
    if number == 0:
        print("first", flush=True)
    number = (number + 1) % 10
"""


def write(path, text):
    with files.replacing(path) as new:
        new.mkdir()
        (new / "a").write_text(text)


@pytest.mark.parametrize("steps", ["one step", "two steps"])
@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path, steps, kills):
    rng, path = random.Random(0), tmp_path / "model"
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, steps], stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as run:
            assert run.stdout.readline() == "first\n"
            time.sleep(rng.random() * 0.05)
            run.send_signal(signal.SIGKILL)
        files.recovered(path)
        one, other = ((path / part).read_text() for part in "ab")
        assert one == other
        assert len(one) == 1000
    write(path, "last")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    for name in ("read", "written"):
        path = tmp_path / name
        write(path, "old")
        if (pid := os.fork()) == 0:
            rename = type(path).rename

            def killed(self, target, rename=rename):
                rename(self, target)
                if target.name == files.OLD:
                    os.kill(os.getpid(), signal.SIGKILL)

            type(path).rename = killed
            write(path, "new")
            os._exit(0)
        os.waitpid(pid, 0)
        assert not path.exists()
    assert (files.recovered(tmp_path / "read") / "a").read_text() == "old"
    write(tmp_path / "written", "newer")
    assert (tmp_path / "written" / "a").read_text() == "newer"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["read", "written"]


def test_what_a_living_process_writes_is_not_cleared_up(tmp_path):
    with files.replacing(tmp_path / "a") as new:
        new.mkdir()
        write(tmp_path / "a", "of another")
        files.clear_up(tmp_path)
        (new / "a").write_text("mine")
    assert (tmp_path / "a" / "a").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems flush file by file")
@pytest.mark.parametrize(("release", "synced", "n_flushed"), [("6.1", 0, 1), ("6.1", -1, 202), ("4.18", 0, 202)])
def test_many_files_are_flushed_in_one_step_where_that_tells_errors(tmp_path, monkeypatch, release, synced, n_flushed):
    flushed, asked = [], []

    class Library:
        renameat2 = None

        @staticmethod
        def syncfs(file):
            asked.append(file)
            return synced

    monkeypatch.setattr(files, "_libc", Library)
    monkeypatch.setattr(files.platform, "release", lambda: release)
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(str(Path(f"/proc/self/fd/{file}").readlink())))
    with files.replacing(tmp_path / "store") as new:
        for number in range(100):
            (new / str(number)).mkdir(parents=True)
            (new / str(number) / "a").touch()
    assert len(asked) == (release == "6.1")
    assert flushed[-1] == str(tmp_path)  # (the name of the store)
    assert len(flushed) == n_flushed  # files, folders, the store and its folder
    if n_flushed > 1:
        assert flushed.index(str(new / "7" / "a")) < flushed.index(str(new / "7")) < flushed.index(str(new))


def test_few_files_do_not_wait_for_the_whole_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_flushed_at_once", lambda folder: pytest.fail("the whole file system was flushed"))
    write(tmp_path / "model", "new")
    assert (tmp_path / "model" / "a").read_text() == "new"


def test_names_as_long_as_the_system_allows(tmp_path):
    for text in ("one", "two"):
        files.write_text(tmp_path / ("x" * 255), text)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["two"]


def test_a_folder_that_cannot_be_made_is_named_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Nothing can be written in the folder .*file/inside \(Not a directory\)"):
        files.check_writable(tmp_path / "file" / "inside")


def test_a_digest_tells_any_change(tmp_path):
    write(tmp_path / "a", "text")
    whole = files.digest(tmp_path / "a")
    (tmp_path / "a" / "a").write_text("next")
    assert files.digest(tmp_path / "a") != whole
    (tmp_path / "a" / "a").rename(tmp_path / "a" / "b")
    (tmp_path / "a" / "b").write_text("text")
    assert files.digest(tmp_path / "a") != whole


def test_the_package_needs_no_home(tmp_path):
    code = "import pathlib, stpredict as st; print(st.settings.cache_dir)"
    code = "import pathlib\ndef none(*_): raise RuntimeError('no home')\npathlib.Path.home = none\n" + code
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    for more, expected in (({}, f"stpredict-{os.getuid()}"), ({"XDG_CACHE_HOME": str(tmp_path)}, str(tmp_path))):
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment | more, capture_output=True, text=True, check=True
        )
        assert expected in run.stdout


def test_pipes_and_devices_are_no_files(tmp_path):
    from stpredict._core.files import check_tree, digest, read_text

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        for read in (read_text, digest):
            with pytest.raises(OSError, match=f"{name} is no file but a folder, a pipe or a device"):
                read(tmp_path / name)
    with pytest.raises(OSError, match="is no file but"):
        check_tree(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing")
