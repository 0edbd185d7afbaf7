"""Lightning checkpoints as safetensors and JSON: nothing is pickled, so nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from stpredict._core.files import digest, read_text, recovered, replacing, tensor_errors

TENSORS = "tensors.safetensors"
REST = "rest.json"


class SafeCheckpointIO(CheckpointIO):
    """Writes a checkpoint as a folder, in one step."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` in place of what is at `path`."""
        from safetensors.torch import save_file

        tensors: dict[str, torch.Tensor] = {}
        rest = _pack(checkpoint, tensors)
        with replacing(Path(path)) as new:
            new.mkdir()
            with tensor_errors(new / TENSORS):
                save_file(tensors, new / TENSORS)
            kept = {"sha256": _digest(rest, new / TENSORS), "rest": rest}
            (new / REST).write_text(json.dumps(kept), encoding="utf-8")

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = recovered(Path(path))
        try:
            kept = json.loads(read_text(path / REST))
            if kept["sha256"] != _digest(kept["rest"], path / TENSORS):
                msg = "its content is not what was written, or it is of an earlier version"
                raise ValueError(msg)
            return _unpack(kept["rest"], load_file(path / TENSORS))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            msg = f"The checkpoint at {path} is damaged ({error}); delete it to train from the start."
            raise ValueError(msg) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        shutil.rmtree(path, ignore_errors=True)


def latest(folder: Path | None, name: str) -> Path | None:
    """The checkpoint `name` in `folder`, where there is one to go on from."""
    path = None if folder is None else recovered(folder / name)
    return path if path is not None and path.exists() else None


def _digest(rest: Any, tensors: Path) -> str:
    return hashlib.sha256((json.dumps(rest) + digest(tensors)).encode()).hexdigest()


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
