"""Folders that appear whole or not at all."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Name of a folder to make, which takes the place of `path` if the block ends well; else nothing is left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        yield new
        take_place(new, path, old)


def take_place(new: Path, path: Path, old: Path) -> None:
    """Move `new` to `path`; what is there goes to `old`, and comes back if that fails or is interrupted."""
    try:
        if path.exists():
            path.replace(old)
        new.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.replace(path)
        raise
