"""Where computation runs, in which precision, and giving memory back to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from stpredict._core.checks import one_of
from stpredict._core.settings import settings

if TYPE_CHECKING:
    import torch


LOCAL_RANK = "LOCAL_RANK"
"""Environment variable with the number of a process that is one of several on its machine; torchrun sets it, too."""


def resolve_device(device: str | None = None) -> torch.device:
    """Torch device for `device` or, where it is None, the setting; ``"auto"`` takes CUDA, then MPS, then the CPU.

    Raises ValueError if there is no such device here.
    """
    import torch

    wanted = device or settings.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(wanted)
    except RuntimeError as error:
        msg = f"There is no device {wanted!r}; use 'auto', 'cpu', 'cuda' or 'cuda:<n>'."
        raise ValueError(msg) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        msg = f"Device {wanted!r} was asked for but no CUDA GPU is visible; use device='cpu' or 'auto'."
        raise ValueError(msg)
    return found


def resolve_devices(device: str | None = None) -> list[torch.device]:
    """Devices that share work on which none depends on another: every visible GPU for ``"cuda"``, else the one.

    A process that is one of several on its machine, by torchrun, ``n_jobs`` or as a worker of Dask, takes one GPU.
    """
    import torch

    found = resolve_device(device)
    if found.type != "cuda" or found.index is not None:
        return [found]
    own = _own_gpu()
    return [torch.device("cuda", number) for number in (range(torch.cuda.device_count()) if own is None else [own])]


def _own_gpu() -> int | None:
    """Number of the GPU that is this process's share; None where it has them all."""
    import torch

    if LOCAL_RANK in os.environ:
        return int(os.environ[LOCAL_RANK]) % torch.cuda.device_count()  # (a process may be shown its own only)
    if "distributed.worker" in sys.modules:
        from distributed import get_worker

        try:
            get_worker()
        except ValueError:
            return None
        return 0  # (dask-cuda shows every worker its own GPU first)
    return None


def resolve_precision(precision: str | None, device: torch.device, *, inference: bool = False) -> str:
    """``"float32"`` or ``"bfloat16"``.

    ``"auto"`` is bfloat16 on CUDA cards that compute in it, for `inference` also on CPUs that do, and else float32.
    """
    wanted = precision or settings.precision
    one_of(wanted, ("auto", "float32", "bfloat16"), "precision")
    if wanted != "auto":
        return wanted
    fast = (device.type == "cuda" and _gpu_has_bfloat16(device)) or (
        inference and device.type == "cpu" and _cpu_has_bfloat16()
    )
    return "bfloat16" if fast else "float32"


def _gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether the card itself multiplies in bfloat16; torch emulates it, slowly, on NVIDIA's before capability 8."""
    import torch

    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16; it can always emulate it, slowly."""
    import torch

    told: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(told.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))


def _forget_threads() -> None:
    """Have torch compute in one thread in a process that was forked: its other threads are gone, and it waits for them."""
    if one := getattr(sys.modules.get("torch"), "set_num_threads", None):
        one(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def release() -> None:
    """Give freed memory back, where the C library keeps it (glibc).

    Large arrays of ever other sizes leave holes that it keeps for later: without this, work on a slide of 100,000 ×
    100,000 pixels comes to hold half a gigabyte more than it uses.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # other systems
        return None
