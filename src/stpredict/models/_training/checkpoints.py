"""Lightning checkpoints as safetensors and JSON: nothing is pickled, so nothing is unpickled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

TENSORS = "tensors.safetensors"
REST = "rest.json"


class SafeCheckpointIO(CheckpointIO):
    """Writes a checkpoint as a folder, in one step."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` in place of what is at `path`."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, torch.Tensor] = {}
        rest = _pack(checkpoint, tensors)
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            new, old = Path(scratch) / "new", Path(scratch) / "old"
            new.mkdir()
            save_file(tensors, new / TENSORS)
            (new / REST).write_text(json.dumps(rest), encoding="utf-8")
            if path.exists():
                path.replace(old)
            new.replace(path)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(path)
        try:
            rest = json.loads((path / REST).read_text(encoding="utf-8"))
            return _unpack(rest, load_file(path / TENSORS))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            msg = f"The checkpoint at {path} is damaged ({error}); delete it to train from the start."
            raise ValueError(msg) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        shutil.rmtree(path, ignore_errors=True)


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON of `value`; its tensors go to `tensors`. Containers become [kind, …], so that keys may be numbers."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return ["tensor", name]
    if isinstance(value, dict):
        return ["dict", [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["tuple" if isinstance(value, tuple) else "list", [_pack(item, tensors) for item in value]]
    if value is None or isinstance(value, (bool, int, float, str)):
        return ["value", value]
    if isinstance(value, Path):
        return ["value", str(value)]
    msg = f"A checkpoint cannot hold {type(value).__name__}."
    raise TypeError(msg)


def _unpack(packed: Any, tensors: dict[str, torch.Tensor]) -> Any:
    kind, value = packed
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value}
    if kind in ("list", "tuple"):
        items = [_unpack(item, tensors) for item in value]
        return items if kind == "list" else tuple(items)
    return value
