"""Finished parts of an encoding on disk, from which a call that was cut short goes on."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.files import replacing, tell_damaged
from stpredict._core.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stpredict._sections.section import Section
    from stpredict.pp._encoders.windows import Windows

DIGEST_BYTES = 32


def resume_folder(tool: Any, section: Section, parts: list[np.ndarray], windows: list[Windows]) -> Path:
    """Where the parts of a section are kept: a name that differs wherever their features would."""
    identity = hashlib.sha256(section.centres.tobytes())
    for rows in parts:
        identity.update(rows.tobytes() + b"/")
    for kind in windows:
        identity.update(kind.centres.tobytes() + np.float64(kind.um).tobytes())
    identity.update(repr((section.image.fingerprint, tool.hash, section.mpp, tool.mpp)).encode())
    identity.update(repr(getattr(tool, "precision", None)).encode())
    return settings.cache_dir / "encode" / identity.hexdigest()[:24]


def save_part(folder: Path, number: int, features: Sequence[np.ndarray]) -> None:
    """Keep a part, with its digest at the end of the file.

    Without room for it, or where another process has resumed and cleared the folder, nothing is kept.
    """
    with suppress(OSError), replacing(folder / f"{number}.npy") as new:
        content = BytesIO()
        np.save(content, np.stack(features))
        new.write_bytes(content.getvalue() + _digest(folder, number, content.getvalue()))


def _digest(folder: Path, number: int, content: bytes) -> bytes:
    """Digest of a part; one that was made for another place has another."""
    return hashlib.sha256(f"{folder.name}/{number}\n".encode() + content).digest()


def load_part(folder: Path, number: int, shape: tuple[int, int]) -> np.ndarray | None:
    """Features (windows, spots, d) of a part; None where it is not there or was changed since it was kept.

    Parameters
    ----------
    folder, number
        Which part.
    shape
        Windows and spots that it has.

    Warns
    -----
    UserWarning
        If it was changed.
    """
    path = folder / f"{number}.npy"
    if not path.is_file():
        return None
    try:
        raw = path.read_bytes()
        if _digest(folder, number, raw[:-DIGEST_BYTES]) == raw[-DIGEST_BYTES:]:
            stored = np.load(BytesIO(raw[:-DIGEST_BYTES]))
            if stored.ndim == 3 and stored.shape[:2] == shape:
                return stored
    except (OSError, ValueError, EOFError):
        pass
    tell_damaged(f"Part {path} of an encoding that was cut short")
    return None
