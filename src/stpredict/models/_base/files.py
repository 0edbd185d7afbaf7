"""Models on disk: a folder with ``model.safetensors`` (arrays) and ``model.json`` (everything else)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.files import recovered, replacing, tensor_errors
from stpredict._core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stpredict.models._base.contract import Contract

FORMAT = 1
ARRAYS = "model.safetensors"
REST = "model.json"
MAX_JSON_BYTES = 256 * 2**20
MAPPED_BYTES = 256 * 2**20
"""Files of arrays from this size on are not read but mapped: what is not used takes no memory."""


@dataclass(frozen=True)
class Stored:
    """A model's content."""

    method: str
    genes: list[str]
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]


def identity(model: Contract | Stored) -> str:
    """16 hexadecimal digits that differ between models that differ in anything."""
    digest = hashlib.sha256(json.dumps([model.method, model.genes, model.config], sort_keys=True).encode())
    for name, array in sorted(model.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def write(path: str | Path, model: Stored) -> None:
    """Write `model` to the folder `path` in one step, in place of a model that is there.

    Raises FileExistsError if `path` holds something else than a model.
    """
    from safetensors.numpy import save_file

    path = recovered(Path(path))
    if path.exists() and not (path.is_dir() and {p.name for p in path.iterdir()} <= {ARRAYS, REST}):
        msg = f"{path} exists and is not a model; choose another path."
        raise FileExistsError(msg)
    rest = {
        "format": FORMAT,
        "stpredict": __version__,
        "method": model.method,
        "id": identity(model),
        "config": model.config,
        "genes": model.genes,
    }
    with replacing(path) as new:
        new.mkdir()
        with tensor_errors(new / ARRAYS):
            save_file({name: np.asarray(array, order="C") for name, array in model.arrays.items()}, new / ARRAYS)
        (new / REST).write_text(json.dumps(rest, indent=1), encoding="utf-8")


def read(path: str | Path) -> Stored:
    """Read a model's content, checked against the identity that was written with it.

    Raises FileNotFoundError if there is no model at `path`; ValueError if its files are damaged, or of a newer format.
    """
    from safetensors import SafetensorError

    path = recovered(Path(path))
    for name in (REST, ARRAYS):
        if not (path / name).is_file():
            msg = f"There is no model at {path}: {name} is missing. Pass the folder that model.save wrote."
            raise FileNotFoundError(msg)
    rest = _read_json(path / REST)
    try:
        arrays = _read_arrays(path / ARRAYS)
    except (SafetensorError, ValueError, KeyError) as error:
        msg = f"{path / ARRAYS} is damaged ({error}); save the model again."
        raise ValueError(msg) from error
    stored = Stored(rest["method"], rest["genes"], rest["config"], arrays)
    if identity(stored) != rest["id"]:
        msg = (
            f"The model at {path} is damaged: its two files do not belong together, or one was changed; save it again."
        )
        raise ValueError(msg)
    return stored


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.stat().st_size < MAPPED_BYTES:
        from safetensors.numpy import load_file

        return load_file(path)
    from safetensors.torch import load_file as load_tensors

    return {name: tensor.numpy() for name, tensor in load_tensors(path).items()}


def _read_json(path: Path) -> dict[str, Any]:
    expected: dict[str, type] = {"format": int, "method": str, "id": str, "config": dict, "genes": list}
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            msg = f"{path.stat().st_size} bytes are too many"
            raise ValueError(msg)
        rest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rest, dict):
            msg = "it is no object"
            raise ValueError(msg)
        for name, kind in expected.items():
            if not isinstance(rest.get(name), kind):
                msg = f"{name!r} is missing or wrong"
                raise ValueError(msg)
        if not all(isinstance(gene, str) for gene in rest["genes"]):
            msg = "'genes' are not all names"
            raise ValueError(msg)
    except (ValueError, RecursionError) as error:
        msg = f"{path} is damaged ({error}); save the model again."
        raise ValueError(msg) from error
    if rest["format"] != FORMAT:
        msg = f"{path} has format {rest['format']}, this version of stpredict reads {FORMAT}; update stpredict."
        raise ValueError(msg)
    return rest


def check_shapes(stored: Stored, shapes: Mapping[str, tuple[str | int, ...]], path: str | Path) -> None:
    """Refuse arrays that are missing, not needed, or do not fit each other, the genes or the design.

    A dimension is a number, or a letter: those of the same letter must agree. ``"g"`` is the number of genes and ``"d"`` the width of the design.
    """
    known: dict[str, Any] = {"g": len(stored.genes), "d": stored.config.get("n_design")}
    wrong = set(shapes) ^ set(stored.arrays)
    for name in set(shapes) - wrong:
        letters, shape = shapes[name], stored.arrays[name].shape
        if len(letters) != len(shape) or any(
            (x if isinstance(x, int) else known.setdefault(x, n)) != n for x, n in zip(letters, shape, strict=True)
        ):
            wrong.add(name)
    if wrong:
        msg = f"The model at {path} is damaged: {', '.join(sorted(wrong))} missing or of wrong shape; save it again."
        raise ValueError(msg)
