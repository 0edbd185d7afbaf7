"""The folder of results: one store per slide, there whole or not at all, and one run at a time."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict._core import keys
from stpredict._core.files import check_writable, clear_up, digest, recovered, replacing, tell_damaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOCK = ".lock"
OWNER = ".running.json"

MARK = {"stpredict": "predict_many"}
DIGEST = "stpredict_sha256"
ROOTS = ("zarr.json", ".zattrs")
"""Files that hold the attributes of a store's root, of either version of zarr."""


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
        with replacing(self.path(name)) as new:
            yield new

    def record(self, name: str) -> dict[str, Any] | None:
        """How the result of a slide was made; None where there is none, or one that was changed since it was written.

        Raises
        ------
        FileExistsError
            If something else has its place.

        Warns
        -----
        UserWarning
            If it was changed.
        """
        path = recovered(self.path(name))
        if not path.exists():
            return None
        try:
            if not _is_whole(path):
                tell_damaged(f"The result of slide {name!r} in {self.folder}")
                return None
            return _read_record(path)
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            msg = f"{path} is no result of stpredict.tl.predict_many, and is not overwritten. Move it, or choose another out=."
            raise FileExistsError(msg) from error

    def clear_unfinished(self) -> None:
        """Remove what a run or a worker that was killed left behind."""
        clear_up(self.folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder. The lock is the operating system's: it goes when this process does.

        Raises FileExistsError if another run has the folder, or it is a file.
        """
        from filelock import FileLock, Timeout

        if self.folder.exists() and not self.folder.is_dir():
            msg = f"out={self.folder} is a file; name a folder."
            raise FileExistsError(msg)
        check_writable(self.folder)
        owner = self.folder / OWNER
        try:
            lock = FileLock(self.folder / LOCK).acquire(timeout=0)
        except Timeout:
            msg = f"{self.folder} is in use by another run{_told(owner)}. Wait until it has ended, or choose another out=."
            raise FileExistsError(msg) from None
        except OSError as error:
            why = "a folder has its name" if (self.folder / LOCK).is_dir() else error.strerror
            msg = f"The lock {self.folder / LOCK} cannot be taken ({why}). Remove it, or choose another out=."
            raise OSError(error.errno, msg) from error
        with lock:
            with suppress(OSError):  # (it only names this run to others, and may be something else, or on a full disk)
                owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": now()}))
            try:
                yield
            finally:
                with suppress(OSError):
                    owner.unlink(missing_ok=True)


def _told(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text())
        return f" (process {found['pid']} on {found['host']}, since {found['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def begin_store(path: Path) -> None:
    """Make the store of a result, which has nothing yet."""
    import zarr

    zarr.open_group(path, mode="w")


def seal_store(path: Path) -> None:
    """Mark a result that is written, with the digest of all of its files among the attributes of its root."""
    import zarr

    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    group.attrs.update(MARK)
    group.attrs.update({DIGEST: _digest(path)})


def _is_whole(path: Path) -> bool:
    """Whether a result is what was written. Raises ValueError if it is none of ours."""
    import zarr

    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    if not MARK.items() <= attributes.items() and f"{keys.SLIDE_JOB}" not in zarr.open_group(path / "uns", mode="r"):
        msg = f"{path} was not written by stpredict.tl.predict_many."
        raise ValueError(msg)
    return attributes.get(DIGEST) == _digest(path)


def _digest(path: Path) -> str:
    """Digest of a store without the attribute that holds it."""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path).as_posix()
        total.update(f"{name} {_root(file) if name in ROOTS else digest(file)}\n".encode())
    return total.hexdigest()


def _root(file: Path) -> str:
    """What the root's file of attributes says beside the digest."""
    content = json.loads(file.read_text(encoding="utf-8"))
    (content if file.name == ".zattrs" else content["attributes"]).pop(DIGEST, None)
    return json.dumps(content, sort_keys=True)


def _read_record(path: Path) -> dict[str, Any]:
    import zarr
    from anndata.io import read_elem

    group = zarr.open_group(path, mode="r")
    record = dict(read_elem(group[f"uns/{keys.SLIDE_JOB}"]))
    values = group["X"]
    if not isinstance(values, zarr.Array) or values.shape != (record["spots"], record["genes"]):
        msg = f"{path} is incomplete."
        raise ValueError(msg)
    return record


def now() -> str:
    """The time, in words."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def is_same(record: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether a result was made as `wanted`; what is wanted to be "" is not known any more."""
    return all(not value or record.get(key) == value for key, value in wanted.items())
