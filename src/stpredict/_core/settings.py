"""Package-wide defaults: `stpredict.settings`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, Literal

from stpredict._core.files import expanded

if TYPE_CHECKING:
    from collections.abc import Iterator


def _default_cache() -> Path:
    """Folder of the user's caches; one in the folder of temporary files for users who have no home, as in containers."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "stpredict"
    try:
        return Path.home() / ".cache" / "stpredict"
    except RuntimeError:
        return Path(gettempdir()) / f"stpredict-{os.getuid()}"


def _default_data() -> Path:
    return Path(os.environ.get("STPREDICT_DATA") or "../shared/data")


@dataclass
class Settings:
    """Defaults used wherever a function's own argument is None.

    Attributes
    ----------
    device
        ``"auto"`` takes CUDA, then Apple's MPS, then the CPU; or any torch device name.
    precision
        ``"auto"`` is bfloat16 autocast on CUDA cards that compute in it (compute capability 8 and later), and to
        encode tiles also on CPUs that do; float32 elsewhere.
    batch_size
        Tiles per forward pass of an encoder. None takes 64 on a CPU and 256 on a GPU; a GPU that has no room for as many
        gets half, and so on.
    search
        How reference spots are searched: ``"exact"``, or ``"approximate"`` with faiss (``stpredict[faiss]``), which finds
        most of the nearest in banks of 50,000 spots and more, faster.
    seed
        Seed of all random numbers.
    progress
        Whether long work shows a progress bar.
    cache_dir
        Where unfinished feature extraction is kept so that it can resume.
    data_dir
        Folder of real sections for `stpredict.datasets` (environment variable ``STPREDICT_DATA``).
    max_image_pixels
        Images that must be decoded whole (JPEG, PNG) are refused above this many pixels.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    batch_size: int | None = None
    search: Literal["exact", "approximate"] = "exact"
    seed: int = 0
    progress: bool = True
    cache_dir: Path = None  # type: ignore[assignment]
    data_dir: Path = None  # type: ignore[assignment]
    max_image_pixels: int = 1_000_000_000

    def __post_init__(self) -> None:
        self.cache_dir = self.cache_dir or _default_cache()
        self.data_dir = self.data_dir or _default_data()

    def __setattr__(self, name: str, value: Any) -> None:
        known = {f.name for f in fields(self)}
        if name not in known:
            msg = f"settings has no {name!r}; it has {', '.join(sorted(known))}."
            raise AttributeError(msg)
        if name == "batch_size" and value is None:
            pass
        elif name in ("batch_size", "max_image_pixels") and not (isinstance(value, int) and value > 0):
            msg = f"settings.{name} must be a positive integer, got {value!r}."
            raise ValueError(msg)
        if name == "seed" and not (isinstance(value, int) and value >= 0):
            msg = f"settings.seed must be a non-negative integer, got {value!r}."
            raise ValueError(msg)
        if name == "precision" and value not in ("auto", "float32", "bfloat16"):
            msg = f"settings.precision must be 'auto', 'float32' or 'bfloat16', got {value!r}."
            raise ValueError(msg)
        if name == "search" and value not in ("exact", "approximate"):
            msg = f"settings.search must be 'exact' or 'approximate', got {value!r}."
            raise ValueError(msg)
        if name in ("cache_dir", "data_dir") and value is not None:
            value = expanded(value)
        super().__setattr__(name, value)

    def reset(self) -> None:
        """Return every setting to its default."""
        for f in fields(self):
            if f.name not in ("cache_dir", "data_dir"):
                setattr(self, f.name, f.default)
        self.cache_dir, self.data_dir = _default_cache(), _default_data()

    @contextmanager
    def override(self, **values: Any) -> Iterator[Settings]:
        """Change settings inside a ``with`` block only."""
        before = {name: getattr(self, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)


settings = Settings()
