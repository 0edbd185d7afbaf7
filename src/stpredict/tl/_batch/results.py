"""The folder of results: one store per slide, there whole or not at all, and one run at a time."""

from __future__ import annotations

import json
import os
import shutil
import socket
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from stpredict._core import keys
from stpredict._core.files import take_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata import AnnData

UNFINISHED = ".unfinished-"
LOCK = ".lock"
OWNER = ".running.json"
ALIVE = "alive"


class Results:
    """A folder of results.

    Parameters
    ----------
    folder
        The folder; it is made where it is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, name: str) -> Path:
        """Where the result of a slide lies."""
        return self.folder / f"{name}.zarr"

    @contextmanager
    def place(self, name: str) -> Iterator[Path]:
        """Where to write the result of a slide: beside its place, to which it moves in one step when the block ends well.

        Raises
        ------
        OSError
            If it cannot be written, as on a full disk. What was there stays, and nothing half-written is left.
        """
        beside = self.folder / f"{UNFINISHED}{uuid4().hex[:12]}"
        beside.mkdir()
        try:
            (beside / ALIVE).touch()
            yield beside / "new"
            if not (beside / ALIVE).exists():  # a later run took this one for dead, and cleared up after it
                msg = f"{beside} was removed by another run while it was written."
                raise OSError(msg)
            take_place(beside / "new", self.path(name), beside / "old")
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def record(self, name: str) -> dict[str, Any] | None:
        """How the result of a slide was made; None where there is none.

        Raises
        ------
        FileExistsError
            If something else has its place.
        """
        path = self.path(name)
        if not path.exists():
            return None
        try:
            return _read_record(path)
        except (OSError, KeyError, ValueError, TypeError) as error:
            msg = f"{path} is no result of stpredict.tl.predict_many, and is not overwritten. Move it, or choose another out."
            raise FileExistsError(msg) from error

    def clear_unfinished(self) -> None:
        """Remove what a run or a worker that was killed left behind."""
        for path in self.folder.glob(f"{UNFINISHED}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder. The lock is the operating system's: it goes when this process does.

        Raises
        ------
        FileExistsError
            If another run has the folder, or it is a file.
        """
        from filelock import FileLock, Timeout

        if self.folder.exists() and not self.folder.is_dir():
            msg = f"out={self.folder} is a file; name a folder."
            raise FileExistsError(msg)
        self.folder.mkdir(parents=True, exist_ok=True)
        owner = self.folder / OWNER
        try:
            lock = FileLock(self.folder / LOCK).acquire(timeout=0)
        except Timeout:
            msg = (
                f"{self.folder} is in use by another run{_told(owner)}. Wait until it has ended, or choose another out."
            )
            raise FileExistsError(msg) from None
        with lock:
            owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": now()}))
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)


def _told(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text())
        return f" (process {found['pid']} on {found['host']}, since {found['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_store(path: Path, adata: AnnData) -> None:
    """Write a result."""
    import zarr
    from anndata.io import write_elem

    write_elem(zarr.open_group(path, mode="w"), "/", adata)


def _read_record(path: Path) -> dict[str, Any]:
    import zarr
    from anndata.io import read_elem

    group = zarr.open_group(path, mode="r")
    record = dict(read_elem(group[f"uns/{keys.SLIDE_JOB}"]))
    if group["X"].shape != (record["spots"], record["genes"]):
        msg = f"{path} is incomplete."
        raise ValueError(msg)
    return record


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step."""
    beside = path.with_name(f"{UNFINISHED}{uuid4().hex[:12]}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def now() -> str:
    """The time, in words."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def is_same(record: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether a result was made as `wanted`; what is wanted to be "" is not known any more."""
    return all(not value or record.get(key) == value for key, value in wanted.items())
