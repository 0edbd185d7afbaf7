"""Files and folders that appear whole or not at all, and digests that tell whether they are still whole."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import re
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows has none: what a killed process left there stays until someone deletes it
    fcntl = None  # type: ignore[assignment]

from stpredict._core.warning import warn

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK, NEW, OLD = "lock", "new", "old"
"""What lies in a scratch folder: a locked file with the name of what is written, the new version, and the old one."""

SCRATCH = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)
LONGEST = 200
"""Bytes of a name that are repeated in the name of its scratch folder; a file's name has 255 at most."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

FEW = 16
"""Files up to which each is flushed to the disk alone, whatever else the system still has to write."""

TELLS_ERRORS = (5, 8)
"""The oldest Linux whose ``syncfs`` says that something could not be written."""

OWN_DISKS = frozenset({"ext4", "xfs", "btrfs", "f2fs", "tmpfs"})
"""File systems on which it does; on those of other machines or laid over another one it may not."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Name of a file or folder to make, which takes the place of `path` if the block ends well; else nothing is left of it.

    What is new is on the disk before it takes its place, in one step where the system has one. A process that is killed
    leaves the old version or the new one; what else it leaves is cleared up when `path` is next written. Raises OSError
    if it cannot be written, as on a full or read-only disk: the message names `path`, and what was there stays.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_up(path.parent, path.name)
        with scratch_folder(path) as scratch:
            yield scratch / NEW
            _flush(scratch / NEW)
            _take_place(scratch / NEW, path, scratch)
            _flush(path.parent, deep=False)
    except OSError as error:
        if (
            scratch is not None
            and error.errno not in NO_ROOM
            and not str(error.filename or "").startswith(str(scratch))
        ):
            raise
        if error.errno in NO_ROOM:
            msg = f"There is no room left for {path}, and nothing of it was kept ({error.strerror}). Free some, or choose another place."
        else:
            msg = f"{path} cannot be written ({error.strerror}), and nothing of it was kept. Choose another place."
        raise OSError(error.errno, msg) from error


@contextmanager
def tensor_errors(path: Path) -> Iterator[None]:
    """Raise what safetensors says of the disk while it writes `path`, such as that it is full, as the OSError it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number.group(1)) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def check_regular(path: Path) -> None:
    """Refuse what is there but no file: a folder, a pipe, which may wait for ever, or a device, which may never end.

    Raises
    ------
    OSError
        If it is; the message names it. What is missing is left to whoever opens it.
    """
    if path.exists() and not path.is_file():
        msg = f"{path} is no file but a folder, a pipe or a device."
        raise OSError(errno.EINVAL, msg)


def check_tree(folder: Path) -> None:
    """Refuse a folder that holds something else than files and folders.

    Raises OSError; the message names the first.
    """
    for inside, _, names in os.walk(folder):
        for name in names:
            check_regular(Path(inside, name))


def read_text(path: Path) -> str:
    """Content of a text file. Raises OSError if there is none, or something else has its name."""
    check_regular(path)
    return path.read_text(encoding="utf-8")


def check_writable(folder: str | Path) -> None:
    """Refuse a folder in which nothing can be written; it is made where it is missing.

    Raises OSError; the message names it.
    """
    probe = Path(folder) / ".writable"
    try:
        with replacing(probe) as new:
            new.touch()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        msg = f"Nothing can be written in the folder {folder} ({why}). Choose another place."
        raise OSError(error.errno, msg) from error
    probe.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Folder beside `path` that is gone when the block ends, or once `clear_up` finds that its process has died."""
    while True:
        folder = Path(mkdtemp(prefix=f".{_short(path.name)}.", suffix=".tmp", dir=path.parent))
        with suppress(FileNotFoundError):  # another process found it before it was locked, and took it for left behind
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if _locked(lock) is not False and (folder / LOCK).exists():
                break
            os.close(lock)
    try:
        os.write(lock, path.name.encode("utf-8", "surrogateescape"))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_up(folder: Path, name: str | None = None) -> None:
    """Remove what processes that were killed left in `folder` of the file `name`, or of all; old versions come back.

    An old version lies aside where the system cannot exchange two names in one step, and the process was killed between
    moving the old one away and the new one in.
    """
    beginning = "." if name is None else f".{_short(name)}."
    with suppress(OSError):
        for scratch in sorted(folder.iterdir()):
            rest = scratch.name.removeprefix(beginning)
            if SCRATCH.fullmatch(scratch.name) and (name is None or re.fullmatch(r"[a-z0-9_]{8}\.tmp", rest)):
                _clear(scratch)


def recovered(path: Path) -> Path:
    """`path`; where it is missing, the old version that a killed process had moved aside is back."""
    if not os.path.lexists(path):
        clear_up(path.parent, path.name)
    return path


def _clear(scratch: Path) -> None:
    """Remove a scratch folder whose process has died; an old version in it comes back first, if nothing has its place."""
    try:
        if not scratch.is_dir() or {p.name for p in scratch.iterdir()} - {LOCK, NEW, OLD}:
            return
        lock = os.open(scratch / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return
    try:
        if not _locked(lock):
            return
        name = os.read(lock, 4096).decode("utf-8", "surrogateescape")
        if name and (scratch / OLD).exists() and not os.path.lexists(scratch.parent / name):
            (scratch / OLD).rename(scratch.parent / name)
        shutil.rmtree(scratch, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(lock)


def _locked(file: int) -> bool | None:
    """Whether the file could be locked; None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _short(name: str) -> str:
    raw = name.encode("utf-8", "surrogateescape")
    return name if len(raw) <= LONGEST else hashlib.sha256(raw).hexdigest()[:32]


def _take_place(new: Path, path: Path, scratch: Path) -> None:
    """Move `new` to `path`; what was there ends in the scratch folder, or comes back if that fails or is interrupted."""
    if new.is_file() and not path.is_dir():
        new.replace(path)
        return
    last: OSError
    for _ in range(100):  # another process may take the place in between
        try:
            if not os.path.lexists(path):
                new.rename(path)
                return
            if _exchanged(new, path):
                return
            _in_two_steps(new, path, scratch / OLD)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            if not new.exists():
                raise
            last = error
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            last = error
        else:
            return
    raise last


def _in_two_steps(new: Path, path: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    try:
        path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists() and not os.path.lexists(path):
            old.rename(path)
        raise


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or its disk cannot."""
    renameat2 = getattr(_libc(), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(exchange)) == 0:
        return True
    if (code := ctypes.get_errno()) == errno.ENOENT:
        raise FileNotFoundError(code, os.strerror(code), str(other))
    return False


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    except OSError:
        return None


def _flush(path: Path, *, deep: bool = True) -> None:
    """Have the system write a file, or a folder and what it holds, to the disk."""
    inside = sorted(path.rglob("*"), reverse=True) if deep and path.is_dir() and not path.is_symlink() else []
    if len(inside) > FEW and _flushed_at_once(path):
        return
    for one in (*inside, path):
        _flush_one(one)


def _flushed_at_once(folder: Path) -> bool:
    """Have Linux write the whole file system of a folder in one step; False where it cannot, or would not tell an error.

    For a store of 300 small files that takes a hundredth of the time of doing so file by file.
    """
    syncfs = getattr(_libc(), "syncfs", None)
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    if syncfs is None or found is None or (int(found[1]), int(found[2])) < TELLS_ERRORS:
        return False
    try:
        if _file_system(folder) not in OWN_DISKS:
            return False
        file = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        return bool(syncfs(file) == 0)
    finally:
        os.close(file)


def _file_system(folder: Path) -> str:
    """Kind of file system that Linux says a folder is on; empty where it does not."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return next((mount[mount.index("-") + 1] for mount in mounts if mount[2] == number), "")


def _flush_one(path: Path) -> None:
    file = -1
    try:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
    except OSError as error:
        if error.errno in (*NO_ROOM, errno.EIO):
            raise
    finally:
        if file >= 0:
            os.close(file)


def expanded(path: str | Path) -> Path:
    """`path` with ``~`` as the home folder.

    Raises ValueError if there is no such home, as for users of containers that have none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        msg = f"{path} cannot be found: {error} Give the path without '~'."
        raise ValueError(msg) from error


# ---------------------------------------------------------------------- digests


def tell_damaged(what: str) -> None:
    """Warn, at the user's line, that something kept earlier is made anew because its digest is not what it was."""
    warn(f"{what} is damaged, or of an earlier version, and is made anew.")


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    total = hashlib.sha256()
    if not path.is_dir():
        check_regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    for inner in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{inner.relative_to(path).as_posix()} {digest(inner)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()
