"""Weights in an archive that ``torch.export.save`` wrote, mapped as they lie there: the program in it is not loaded."""

from __future__ import annotations

import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import torch

INDEX = "/data/weights/model_weights_config.json"
MAX_INDEX_BYTES = 64 * 2**20
FLOAT32 = 7
"""What the archive's index calls float32."""


def exported_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Parameters of an exported program by name, float32, mapped from the disk.

    Raises ValueError if the archive is damaged, of an older layout, or its parameters are of another type.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            (index,) = (name for name in entries if name.endswith(INDEX))
            if entries[index].file_size > MAX_INDEX_BYTES:
                msg = "its index is too large"
                raise ValueError(msg)
            config = json.loads(archive.read(index))["config"]
        folder = index.rpartition("/")[0]
        return {
            name: torch.from_numpy(_mapped(path, entries[f"{folder}/{meta['path_name']}"], meta))
            for name, meta in config.items()
        }
    except (ValueError, KeyError, TypeError, struct.error, zipfile.BadZipFile) as error:
        msg = f"{path} is damaged, or not of the layout of torch 2.8 and later ({error}); get it again."
        raise ValueError(msg) from error


def _mapped(path: Path, entry: zipfile.ZipInfo, meta: dict[str, Any]) -> np.ndarray:
    """One parameter, float32, mapped with copy on write."""
    told = meta["tensor_meta"]
    shape = tuple(int(size["as_int"]) for size in told["sizes"])
    strides = tuple(int(stride["as_int"]) for stride in told["strides"])
    plain = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    if told["dtype"] != FLOAT32 or meta["use_pickle"] or strides != plain or int(told["storage_offset"]["as_int"]):
        msg = f"{meta['path_name']} is no plain float32 tensor"
        raise ValueError(msg)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != 4 * int(np.prod(shape)):
        msg = f"{meta['path_name']} has {entry.file_size} bytes, which are not {shape}"
        raise ValueError(msg)
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        name_length, extra_length = struct.unpack("<26x2H", file.read(30))
    start = entry.header_offset + 30 + name_length + extra_length
    return np.memmap(path, np.float32, "c", start, shape)
